"""The handshake machine: two of them in memory, every split, every refusal by its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from node.errors import HandshakeRefused, LocalProtocolError, RemoteProtocolError
from node.wire.flags import MANDATORY_25, OUR_FLAGS, Flag, our_flags
from node.wire.framing import frame
from node.wire.handshake import AliveAsked, Handshake, HandshakeDone, PeerNamed, State, digest

A, B = "a@127.0.0.1", "b@127.0.0.1"


def initiator(**options: Any) -> Handshake:
    given: dict[str, Any] = {"peer_name": B, "flags": OUR_FLAGS, "creation": 11, "cookie": lambda name: "k"}
    return Handshake(options.pop("our_name", A), **{**given, "challenge": 1234, "now": 0.0, **options})


def acceptor(**options: Any) -> Handshake:
    given: dict[str, Any] = {"flags": our_flags(visible=True), "creation": 22, "cookie": lambda name: "k"}
    return Handshake(options.pop("our_name", B), **{**given, "challenge": 4_000_000_000, "now": 0.0, **options})


def talk(
    one: Handshake, other: Handshake, status: str = "ok", go_on: bool = True, step: int = 10_000, **named: Any
) -> tuple[list[Any], list[Any]]:
    """Carry bytes both ways, `step` at a time, until nothing moves; answer the questions; return the events."""
    events: tuple[list[Any], list[Any]] = ([], [])
    moved = True
    while moved:
        moved = False
        for source, target in ((one, other), (other, one)):
            data = source.data_to_send()
            for at in range(0, len(data), step):
                target.receive_data(data[at : at + step], 0.0)
                moved = True
            for side, seen in ((one, events[0]), (other, events[1])):
                while (event := side.next_event()) is not None:
                    seen.append(event)
                    moved = True
                    if isinstance(event, PeerNamed):
                        side.accept(status, **named)
                    elif isinstance(event, AliveAsked):
                        side.answer_alive(go_on)
    return events


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("header", [2, 4])
def test_two_nodes_agree(step: int, header: int) -> None:
    one, other = initiator(header=header), acceptor(header=header)
    left, right = talk(one, other, step=step)
    common = OUR_FLAGS
    assert left == [HandshakeDone(B, 22, common, A, 11, True)]
    assert right == [
        PeerNamed(A, OUR_FLAGS, 11, False),
        HandshakeDone(A, 11, common, B, 22, False),
    ]
    assert one.state is other.state is State.DONE
    assert one.get_timer() is None and other.get_timer() is None


@pytest.mark.parametrize("status", ["ok", "ok_simultaneous", "alive"])
def test_statuses_that_go_on(status: str) -> None:
    one, other = initiator(), acceptor()
    left, right = talk(one, other, status=status)
    assert isinstance(left[-1], HandshakeDone) and isinstance(right[-1], HandshakeDone)
    assert any(isinstance(event, AliveAsked) for event in left) == (status == "alive")


@pytest.mark.parametrize("status", ["nok", "not_allowed"])
def test_statuses_that_end_it(status: str) -> None:
    one, other = initiator(), acceptor()
    with pytest.raises(HandshakeRefused) as refused:
        talk(one, other, status=status)
    assert refused.value.reason == status
    assert refused.value.peer == B
    assert other.state is State.REFUSED


def test_alive_is_denied_by_the_peer() -> None:
    one, other = initiator(), acceptor()
    with pytest.raises(HandshakeRefused) as refused:
        talk(one, other, status="alive", go_on=False)
    assert refused.value.reason == "alive"
    assert one.state is other.state is State.REFUSED


def test_switch_to_four_byte_frames_at_any_split() -> None:
    behind = b"\0\0\0\0" + b"\0\0\0\x05hello"
    for role in (0, 1):
        one, other = initiator(), acceptor()
        if role == 0:  # the acceptor sends frames right behind its ack
            other.receive_data(one.data_to_send(), 0.0)
            other.next_event()
            other.accept("ok")
            one.receive_data(other.data_to_send(), 0.0)
            other.receive_data(one.data_to_send(), 0.0)
            last, target = other.data_to_send() + behind, one
        else:  # an initiator that does not wait for the ack
            other.receive_data(one.data_to_send(), 0.0)
            other.next_event()
            other.accept("ok")
            one.receive_data(other.data_to_send(), 0.0)
            last, target = one.data_to_send() + behind, other

        for cut in range(len(last) + 1):
            copied = copy.deepcopy(target)
            copied.receive_data(last[:cut], 0.0)
            assert (copied.state is State.DONE) == (cut >= len(last) - len(behind))
            copied.receive_data(last[cut:], 0.0)
            assert isinstance(copied.next_event(), HandshakeDone)
            assert copied.take_leftover() == behind


def test_a_name_is_given_to_a_client_without_one() -> None:
    one, other = initiator(our_name="127.0.0.1"), acceptor()
    left, right = talk(one, other, status="named", name="x1@127.0.0.1", creation=77)
    assert left[-1] == HandshakeDone(B, 22, left[-1].flags, "x1@127.0.0.1", 77, True)
    assert right[0] == PeerNamed("127.0.0.1", right[0].flags, 0, True)
    assert right[0].flags & Flag.NAME_ME and not right[0].flags & Flag.PUBLISHED
    assert right[-1].peer_name == "x1@127.0.0.1" and right[-1].peer_creation == 77
    assert not left[-1].flags & Flag.NAME_ME


def test_a_name_on_another_host_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        talk(initiator(our_name="127.0.0.1"), acceptor(), status="named", name="x1@other", creation=77)


def test_naming_a_peer_that_has_a_name_is_our_mistake_and_changes_nothing() -> None:
    one, other = initiator(), acceptor()
    other.receive_data(one.data_to_send(), 0.0)
    for wrong in ("named", "true", ""):
        with pytest.raises(LocalProtocolError):
            other.accept(wrong, name="x@y", creation=1)
    other.accept("ok")
    assert other.state is State.WAIT_REPLY


def refusal(make: Callable[[], Any]) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as refused:
        make()
    return refused.value


def test_refused_for_a_flag_says_which() -> None:
    lacking = OUR_FLAGS & ~Flag.V4_NC
    one, other = initiator(flags=lacking, mandatory=0), acceptor()
    error = refusal(lambda: talk(one, other))
    assert (error.reason, error.peer) == ("flags", A) and "V4_NC" in error.detail
    assert other.data_to_send() == frame(b"snot_allowed")
    error = refusal(lambda: talk(initiator(), acceptor(flags=lacking, mandatory=0)))
    assert (error.reason, error.peer) == ("flags", B) and "V4_NC" in error.detail


def test_refused_for_the_cookie_on_both_sides() -> None:
    one, other = initiator(cookie=lambda name: "wrong"), acceptor()
    error = refusal(lambda: talk(one, other))
    assert (error.reason, error.peer) == ("cookie", A)
    error = refusal(one.receive_eof)
    assert error.reason == "cookie" and "probably" in error.detail
    # an acceptor that lets everybody in, but can't prove the cookie itself
    one, other = initiator(), acceptor()
    other.receive_data(one.data_to_send(), 0.0)
    other.accept("ok")
    one.receive_data(other.data_to_send(), 0.0)
    error = refusal(lambda: one.receive_data(frame(b"a" + digest(1234, "other")), 0.0))
    assert error.reason == "cookie"


def test_refused_for_names() -> None:
    error = refusal(lambda: talk(initiator(peer_name="c@127.0.0.1"), acceptor()))
    assert error.reason == "name" and B in error.detail
    error = refusal(lambda: talk(initiator(our_name="d@h"), acceptor(our_name="d@h")))
    assert error.reason == "name" and "our own" in error.detail
    assert refusal(lambda: initiator(peer_name=A)).reason == "name"
    error = refusal(lambda: talk(initiator(), acceptor(allowed=lambda name: False)))
    assert error.reason == "not_allowed"


@pytest.mark.parametrize(
    "name", [b"", b"a", b"@", b"a@", b"@b", b"a@b@c", b"a b@c", b"a\n@b", b"\x9b@b", b"a@" + b"b" * 255]
)
def test_peer_names_that_are_none(name: bytes) -> None:
    other = acceptor()
    body = b"N" + OUR_FLAGS.to_bytes(8, "big") + bytes(4) + len(name).to_bytes(2, "big") + name
    error = refusal(lambda: other.receive_data(frame(body), 0.0))
    assert error.reason == "name"
    assert str(error).isprintable() and len(str(error)) < 500


def test_names_beyond_ascii() -> None:
    left, right = talk(initiator(our_name="jö@h"), acceptor())
    assert right[0].name == "jö@h" and left[-1].our_name == "jö@h"
    with pytest.raises(LocalProtocolError):
        initiator(our_name="жук@h")
    assert refusal(lambda: talk(initiator(cookie=lambda name: "жук"), acceptor())).reason == "cookie"


def test_extra_bytes_behind_the_name_are_ignored() -> None:
    other = acceptor()
    body = b"N" + OUR_FLAGS.to_bytes(8, "big") + bytes(4) + b"\0\3a@b" + b"from the future"
    other.receive_data(frame(body), 0.0)
    assert other.next_event() == PeerNamed("a@b", OUR_FLAGS, 0, False)


def old_name(flags: int, name: bytes = b"a@b") -> bytes:
    return frame(b"n" + b"\0\5" + (flags & 0xFFFFFFFF).to_bytes(4, "big") + name)


def test_the_old_name_and_its_complement() -> None:
    other = acceptor()
    other.receive_data(old_name(OUR_FLAGS), 0.0)
    assert other.next_event() == PeerNamed("a@b", OUR_FLAGS & 0xFFFFFFFF, 0, False)
    other.accept("ok")
    other.data_to_send()
    complement = b"c" + (OUR_FLAGS >> 32).to_bytes(4, "big") + (99).to_bytes(4, "big")
    reply = b"r" + (7).to_bytes(4, "big") + digest(4_000_000_000, "k")
    other.receive_data(frame(complement) + frame(reply), 0.0)
    done = other.next_event()
    assert isinstance(done, HandshakeDone)
    assert done.peer_creation == 99 and done.flags == OUR_FLAGS
    assert other.data_to_send() == frame(b"a" + digest(7, "k"))


def test_the_old_name_without_its_complement_or_flags() -> None:
    other = acceptor()
    other.receive_data(old_name(OUR_FLAGS), 0.0)
    other.accept("ok")
    with pytest.raises(RemoteProtocolError):
        other.receive_data(frame(b"r" + bytes(4) + digest(4_000_000_000, "k")), 0.0)
    other = acceptor()
    other.receive_data(old_name(OUR_FLAGS), 0.0)
    other.accept("ok")
    error = refusal(lambda: other.receive_data(frame(b"c" + bytes(8)), 0.0))
    assert error.reason == "flags" and "V4_NC" in error.detail
    error = refusal(lambda: acceptor().receive_data(old_name(MANDATORY_25 & ~Flag.HANDSHAKE_23), 0.0))
    assert error.reason == "version"
    one, other = initiator(), acceptor()
    other.receive_data(one.data_to_send(), 0.0)
    other.accept("ok")
    with pytest.raises(RemoteProtocolError):  # a complement nobody waits for
        other.receive_data(frame(b"c" + bytes(8)), 0.0)


@pytest.mark.parametrize("make", [initiator, acceptor])
def test_deadline(make: Callable[..., Handshake]) -> None:
    shake = make(setup_time=7.0)
    assert shake.get_timer() == 7.0
    shake.handle_timer(6.9)
    error = refusal(lambda: shake.handle_timer(7.0))
    assert error.reason == "timeout" and "7 s" in error.detail
    assert shake.get_timer() is None
    slow = make(setup_time=7.0)  # a byte now and then does not move the deadline
    assert refusal(lambda: slow.receive_data(b"\0", 7.5)).reason == "timeout"


def test_what_the_end_of_the_stream_means() -> None:
    assert refusal(initiator().receive_eof).reason == "closed"
    assert refusal(acceptor().receive_eof).reason == "closed"
    one, other = initiator(), acceptor()
    other.receive_data(one.data_to_send(), 0.0)
    other.accept("ok")
    assert "another node" in refusal(other.receive_eof).detail
    one, other = initiator(), acceptor()
    talk(one, other)
    one.receive_eof()  # no longer the handshake's business


def test_wrong_states_of_our_own_calls() -> None:
    with pytest.raises(LocalProtocolError):
        acceptor().accept("ok")
    with pytest.raises(LocalProtocolError):
        initiator().answer_alive(True)
    with pytest.raises(LocalProtocolError):
        initiator().take_leftover()
    for bad in ({"our_name": ""}, {"our_name": "a@b@c"}, {"flags": 1 << 36}, {"challenge": 1 << 32}):
        with pytest.raises(LocalProtocolError):
            initiator(**bad)
    with pytest.raises(LocalProtocolError):
        acceptor(our_name="hostonly")


def test_status_ok_where_we_asked_for_a_name() -> None:
    one = initiator(our_name="127.0.0.1")
    with pytest.raises(RemoteProtocolError):
        one.receive_data(frame(b"sok"), 0.0)
    one = initiator()
    with pytest.raises(RemoteProtocolError):
        one.receive_data(frame(b"snamed:\0\3x@y\0\0\0\1"), 0.0)


def test_a_cookie_that_can_not_be_read_ends_it() -> None:
    def unreadable(name: str) -> str:
        raise RuntimeError("no file")

    one, other = initiator(cookie=unreadable), acceptor()
    with pytest.raises(RuntimeError):
        talk(one, other)
    assert one.state is State.REFUSED


def test_digest_is_that_of_otp() -> None:
    # erlang:md5(["secret" | integer_to_list(3735928559)])
    assert digest(3735928559, "secret").hex() == "c3939b31d7a913d82e2ace09247c7b41"
