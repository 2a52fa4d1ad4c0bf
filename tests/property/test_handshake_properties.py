"""The handshake over every (state, input) and over bytes that mean nothing: its own errors and states only."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import HandshakeRefused, LocalProtocolError, RemoteProtocolError
from node.wire.flags import OUR_FLAGS, Flag
from node.wire.framing import MAX_HANDSHAKE_FRAME, frame
from node.wire.handshake import Handshake, digest
from node.wire.handshake_states import TABLE, Input, State

A, B, COOKIE = "a@h", "b@h", "k"
OURS, THEIRS = 1000, 2000  # challenges
OVER = (State.DONE, State.REFUSED)


def start(role: str) -> Handshake:
    shake = Handshake(
        A, peer_name=B if role == "initiator" else None, flags=OUR_FLAGS, creation=5, cookie=lambda name: COOKIE,
        challenge=OURS, now=0.0,
    )  # fmt: skip
    shake.data_to_send()
    return shake


def name_frame(tag: bytes, challenge: bytes = b"") -> bytes:
    return frame(tag + OUR_FLAGS.to_bytes(8, "big") + challenge + (9).to_bytes(4, "big") + b"\0\3" + B.encode())


#: A well-formed instance of every input that comes off the wire.
FRAMES = {
    Input.NAME: name_frame(b"N"),
    Input.OLD_NAME: frame(b"n\0\5" + (OUR_FLAGS & 0xFFFFFFFF).to_bytes(4, "big") + B.encode()),
    Input.COMPLEMENT: frame(b"c" + (OUR_FLAGS >> 32).to_bytes(4, "big") + (9).to_bytes(4, "big")),
    Input.OK: frame(b"sok"),
    Input.OK_SIMULTANEOUS: frame(b"sok_simultaneous"),
    Input.NOK: frame(b"snok"),
    Input.NOT_ALLOWED: frame(b"snot_allowed"),
    Input.ALIVE: frame(b"salive"),
    Input.NAMED: frame(b"snamed:\0\3x@a@h\0\0\0\1"),
    Input.TRUE: frame(b"strue"),
    Input.FALSE: frame(b"sfalse"),
    Input.CHALLENGE: name_frame(b"N", THEIRS.to_bytes(4, "big")),
    Input.REPLY: frame(b"r" + THEIRS.to_bytes(4, "big") + digest(OURS, COOKIE)),
    Input.ACK: frame(b"a" + digest(OURS, COOKIE)),
    Input.OTHER: frame(b"?"),
}
DECISIONS = {
    Input.DECIDE_OK: "ok",
    Input.DECIDE_OK_SIMULTANEOUS: "ok_simultaneous",
    Input.DECIDE_NOK: "nok",
    Input.DECIDE_NOT_ALLOWED: "not_allowed",
    Input.DECIDE_ALIVE: "alive",
    Input.DECIDE_NAMED: "named",
}


def apply(shake: Handshake, what: Input) -> None:
    """Let this input happen."""
    if what in FRAMES:
        shake.receive_data(FRAMES[what], 0.0)
    elif what in DECISIONS:
        shake.accept(DECISIONS[what], name="n@h", creation=1)
    elif what is Input.EOF:
        shake.receive_eof()
    elif what is Input.TIMER:
        shake.handle_timer(1e9)
    else:
        shake.answer_alive(what is Input.ANSWER_TRUE)


#: The shortest way into every state.
WAYS: dict[State, tuple[str, list[Input]]] = {
    State.WAIT_STATUS: ("initiator", []),
    State.ASKED_ALIVE: ("initiator", [Input.ALIVE]),
    State.WAIT_CHALLENGE: ("initiator", [Input.OK]),
    State.WAIT_ACK: ("initiator", [Input.OK, Input.CHALLENGE]),
    State.WAIT_NAME: ("acceptor", []),
    State.DECIDING: ("acceptor", [Input.NAME]),
    State.WAIT_ALIVE: ("acceptor", [Input.NAME, Input.DECIDE_ALIVE]),
    State.WAIT_REPLY: ("acceptor", [Input.NAME, Input.DECIDE_OK]),
    State.DONE: ("acceptor", [Input.NAME, Input.DECIDE_OK, Input.REPLY]),
    State.REFUSED: ("acceptor", [Input.NAME, Input.DECIDE_NOK]),
}


def bring_to(state: State) -> Handshake:
    role, inputs = WAYS[state]
    shake = start(role)
    for what in inputs:
        apply(shake, what)
    assert shake.state is state
    return shake


def test_the_table_names_only_methods_that_are_there() -> None:
    assert {method for method, _ in TABLE.values()} <= set(dir(Handshake))
    assert set(WAYS) == set(State)
    assert set(FRAMES) | set(DECISIONS) | {Input.EOF, Input.TIMER, Input.ANSWER_TRUE, Input.ANSWER_FALSE} == set(Input)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("what", Input)
def test_every_state_and_input(state: State, what: Input) -> None:
    shake = bring_to(state)
    local = what.name.startswith(("DECIDE_", "ANSWER_"))
    # The same letter opens a name and a challenge; which it is depends on who reads it.
    if what is Input.NAME and shake.we_started:
        what = Input.CHALLENGE
    elif what is Input.CHALLENGE and not shake.we_started:
        what = Input.NAME
    entry = TABLE.get((state, what))
    waits = state in (State.ASKED_ALIVE, State.DECIDING, *OVER)
    try:
        apply(shake, what)
    except LocalProtocolError:
        assert local and shake.state is state
        # either not in the table, or a decision that contradicts what the peer asked for
        assert entry is None or what is Input.DECIDE_NAMED
    except (HandshakeRefused, RemoteProtocolError) as error:
        assert shake.state is State.REFUSED and shake.get_timer() is None
        if isinstance(error, RemoteProtocolError):
            assert entry is None or what in (Input.NAMED, Input.COMPLEMENT)
    else:
        if entry is not None:
            assert shake.state is entry[1]
        else:  # what comes too early waits until we moved; what comes too late is nobody's business
            assert waits and not local and shake.state is state


chunks = st.lists(
    st.one_of(
        st.sampled_from(sorted(FRAMES.values())),
        st.binary(max_size=40).map(frame),
        st.tuples(st.sampled_from([b"N", b"n", b"c", b"r", b"a", b"s", b"snamed:"]), st.binary(max_size=60)).map(
            lambda parts: frame(parts[0] + parts[1])
        ),
        st.binary(max_size=10),
        st.just(b"\xff\xff" + b"x" * 20),
    ),
    max_size=6,
).map(b"".join)


def feed_all(shake: Handshake, data: bytes, step: int) -> tuple[Any, ...]:
    """Feed, answering every question with yes; what became of it."""
    error: Exception | None = None
    out = b""
    try:
        for at in range(0, len(data), step):
            shake.receive_data(data[at : at + step], 0.0)
            for _ in range(3):
                out += shake.data_to_send()
                if shake.state is State.ASKED_ALIVE:
                    shake.answer_alive(True)
                elif shake.state is State.DECIDING:
                    event = shake.next_event()
                    shake.accept("named" if event.dynamic else "ok", name="n@h", creation=1)  # type: ignore[union-attr]
    except (HandshakeRefused, RemoteProtocolError) as caught:
        error = caught
    out += shake.data_to_send()
    return type(error), str(error), shake.state, out


@given(role=st.sampled_from(["initiator", "acceptor"]), data=chunks)
def test_any_bytes_whole_and_byte_by_byte(role: str, data: bytes) -> None:
    whole, single = start(role), start(role)
    one = feed_all(whole, data, max(len(data), 1))
    other = feed_all(single, data, 1)
    assert one == other
    assert (one[2] is State.REFUSED) == (one[0] is not type(None))
    assert one[1].isprintable()
    if one[2] not in OVER:
        with pytest.raises(HandshakeRefused):
            whole.receive_eof()


@given(state=st.sampled_from(State), data=st.binary(max_size=80))
def test_hostile_frames_in_every_state(state: State, data: bytes) -> None:
    shake = bring_to(state)
    try:
        shake.receive_data(frame(data), 0.0)
    except (HandshakeRefused, RemoteProtocolError):
        assert shake.state is State.REFUSED


@given(size=st.integers(MAX_HANDSHAKE_FRAME + 1, 65535), role=st.sampled_from(["initiator", "acceptor"]))
def test_nothing_is_collected_for_a_frame_that_is_too_long(size: int, role: str) -> None:
    shake = start(role)
    with pytest.raises(RemoteProtocolError):
        shake.receive_data(size.to_bytes(2, "big"), 0.0)
    for _ in range(3):
        shake.receive_data(b"x" * 1000, 0.0)  # ignored
    assert len(shake._framing._held) < 1000


@given(
    name=st.text(st.characters(max_codepoint=255), min_size=1, max_size=300),
    flags=st.integers(0, (1 << 64) - 1),
)
def test_any_name_and_flags(name: str, flags: int) -> None:
    shake = start("acceptor")
    wire = name.encode("latin-1")
    try:
        shake.receive_data(frame(b"N" + flags.to_bytes(8, "big") + bytes(4) + len(wire).to_bytes(2, "big") + wire), 0.0)
    except HandshakeRefused as caught:
        refused = caught
    else:
        refused = None
    if refused is not None:
        assert refused.reason in ("name", "flags")
        assert str(refused).isprintable()
    else:
        event = shake.next_event()
        assert event.name == name  # type: ignore[union-attr]
        assert ("@" not in name) == bool(flags & Flag.NAME_ME)


def test_copies_are_independent() -> None:  # the tests above rely on it
    shake = bring_to(State.WAIT_REPLY)
    other = copy.deepcopy(shake)
    apply(other, Input.REPLY)
    assert shake.state is State.WAIT_REPLY and other.state is State.DONE
