"""The capability flags: bits as OTP has them, sets that BEAMs accept, no bit that must not go out."""

from __future__ import annotations

from node.wire.flags import (
    INTERNAL,
    MANDATORY,
    MANDATORY_25,
    OUR_FLAGS,
    Flag,
    expand,
    missing,
    negotiate,
    our_flags,
)


def test_sets_are_those_of_the_otp_sources() -> None:
    # Sums taken from dist.hrl of OTP 25 and dist.h of OTP 28.
    assert MANDATORY_25 == 0x1070F94
    assert MANDATORY == 0x1070F94 | 0x2000000 | 1 << 34
    assert Flag.MANDATORY_25_DIGEST == 1 << 26
    assert Flag.ALTACT_SIG == 1 << 37


def test_no_internal_bit_is_ever_announced() -> None:
    assert OUR_FLAGS & INTERNAL == 0
    assert our_flags(visible=True, extra=(1 << 64) - 1) & INTERNAL == 0
    assert not our_flags(extra=int(Flag.NAME_ME)) & Flag.NAME_ME
    assert not any(flag & INTERNAL for flag in Flag)


def test_only_what_is_handled_is_announced() -> None:
    for absent in (Flag.DIST_HDR_ATOM_CACHE, Flag.FRAGMENTS, Flag.ATOM_CACHE, Flag.NAME_ME, Flag.PUBLISHED):
        assert not OUR_FLAGS & absent
    assert our_flags(visible=True) & Flag.PUBLISHED
    assert OUR_FLAGS & Flag.DIST_MONITOR and OUR_FLAGS & Flag.DIST_MONITOR_NAME
    assert missing(OUR_FLAGS) == []


def test_the_digest_stands_for_the_set_of_25_and_for_no_more() -> None:
    assert expand(int(Flag.MANDATORY_25_DIGEST)) & MANDATORY_25 == MANDATORY_25
    assert missing(int(Flag.MANDATORY_25_DIGEST)) == ["UNLINK_ID", "V4_NC"]
    assert missing(int(Flag.MANDATORY_25_DIGEST | Flag.UNLINK_ID | Flag.V4_NC)) == []


def test_missing_flags_are_named_one_by_one() -> None:
    assert missing(MANDATORY & ~Flag.MAP_TAG) == ["MAP_TAG"]
    assert missing(0, 1 << 50) == [hex(1 << 50)]
    assert len(missing(0)) == MANDATORY.bit_count()


def test_negotiation_expands_before_the_and() -> None:
    short = int(Flag.MANDATORY_25_DIGEST | Flag.UNLINK_ID | Flag.V4_NC | Flag.SPAWN | Flag.FRAGMENTS | Flag.NAME_ME)
    both = negotiate(OUR_FLAGS, short)
    assert both & MANDATORY == MANDATORY
    assert both & Flag.SPAWN and not both & Flag.FRAGMENTS and not both & Flag.NAME_ME
    assert both == negotiate(short, OUR_FLAGS)
