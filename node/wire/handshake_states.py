"""The handshake's states, inputs, events and the table that joins them. What the actions do is in handshake.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["CLOSED", "TABLE", "AliveAsked", "Event", "HandshakeDone", "Input", "PeerNamed", "State"]


class State(Enum):
    """Where a handshake is. The first three after WAIT_STATUS belong to the initiator, the next to the acceptor."""

    WAIT_STATUS = "the answer to our name"
    ASKED_ALIVE = "our own decision about a connection that the peer still has"
    WAIT_CHALLENGE = "the peer's challenge"
    WAIT_ACK = "the peer's proof that it knows the cookie"
    WAIT_NAME = "the peer's name"
    DECIDING = "our own decision about the peer"
    WAIT_ALIVE = "the peer's answer whether its old connection is gone"
    WAIT_REPLY = "the peer's answer to our challenge"
    DONE = "nothing more"
    REFUSED = "nothing more, it was refused"


class Input(Enum):
    """What can happen: a frame of the peer, its end, our deadline, a call of our side."""

    NAME = "send_name"
    OLD_NAME = "send_name of version 5"
    COMPLEMENT = "complement"
    OK = "status ok"
    OK_SIMULTANEOUS = "status ok_simultaneous"
    NOK = "status nok"
    NOT_ALLOWED = "status not_allowed"
    ALIVE = "status alive"
    NAMED = "status named:"
    TRUE = "status true"
    FALSE = "status false"
    CHALLENGE = "challenge"
    REPLY = "challenge reply"
    ACK = "challenge ack"
    OTHER = "an unknown frame"
    EOF = "end of the stream"
    TIMER = "deadline"
    DECIDE_OK = "accept(ok)"
    DECIDE_OK_SIMULTANEOUS = "accept(ok_simultaneous)"
    DECIDE_NOK = "accept(nok)"
    DECIDE_NOT_ALLOWED = "accept(not_allowed)"
    DECIDE_ALIVE = "accept(alive)"
    DECIDE_NAMED = "accept(named)"
    ANSWER_TRUE = "answer_alive(True)"
    ANSWER_FALSE = "answer_alive(False)"


_S, _I = State, Input

#: (state, input) -> (method, state after it). The one description of the protocol; tests read it too.
TABLE: Final[dict[tuple[State, Input], tuple[str, State]]] = {
    # initiator: the name went out when the handshake was made
    (_S.WAIT_STATUS, _I.OK): ("_go_on", _S.WAIT_CHALLENGE),
    (_S.WAIT_STATUS, _I.OK_SIMULTANEOUS): ("_go_on", _S.WAIT_CHALLENGE),
    (_S.WAIT_STATUS, _I.NAMED): ("_take_name", _S.WAIT_CHALLENGE),
    (_S.WAIT_STATUS, _I.ALIVE): ("_ask_alive", _S.ASKED_ALIVE),
    (_S.WAIT_STATUS, _I.NOK): ("_peer_goes_first", _S.REFUSED),
    (_S.WAIT_STATUS, _I.NOT_ALLOWED): ("_not_allowed", _S.REFUSED),
    (_S.ASKED_ALIVE, _I.ANSWER_TRUE): ("_send_true", _S.WAIT_CHALLENGE),
    (_S.ASKED_ALIVE, _I.ANSWER_FALSE): ("_send_false", _S.REFUSED),
    (_S.WAIT_CHALLENGE, _I.CHALLENGE): ("_check_challenge", _S.WAIT_ACK),
    (_S.WAIT_ACK, _I.ACK): ("_check_ack", _S.DONE),
    # acceptor
    (_S.WAIT_NAME, _I.NAME): ("_check_name", _S.DECIDING),
    (_S.WAIT_NAME, _I.OLD_NAME): ("_check_old_name", _S.DECIDING),
    (_S.DECIDING, _I.DECIDE_OK): ("_send_ok", _S.WAIT_REPLY),
    (_S.DECIDING, _I.DECIDE_OK_SIMULTANEOUS): ("_send_ok_simultaneous", _S.WAIT_REPLY),
    (_S.DECIDING, _I.DECIDE_NAMED): ("_send_named", _S.WAIT_REPLY),
    (_S.DECIDING, _I.DECIDE_ALIVE): ("_send_alive", _S.WAIT_ALIVE),
    (_S.DECIDING, _I.DECIDE_NOK): ("_send_nok", _S.REFUSED),
    (_S.DECIDING, _I.DECIDE_NOT_ALLOWED): ("_send_not_allowed", _S.REFUSED),
    (_S.WAIT_ALIVE, _I.TRUE): ("_send_challenge", _S.WAIT_REPLY),
    (_S.WAIT_ALIVE, _I.FALSE): ("_peer_is_alive", _S.REFUSED),
    (_S.WAIT_REPLY, _I.COMPLEMENT): ("_check_complement", _S.WAIT_REPLY),
    (_S.WAIT_REPLY, _I.REPLY): ("_check_reply", _S.DONE),
} | {
    (state, event): (method, _S.REFUSED)
    for state in _S
    if state not in (_S.DONE, _S.REFUSED)
    for event, method in ((_I.EOF, "_closed"), (_I.TIMER, "_late"))
}

#: What an end of the stream tells us: (reason, words), by the state it came in.
CLOSED: Final = {
    State.WAIT_STATUS: (
        "closed",
        "closed the connection when it got our name; is it an Erlang node of OTP 23 or later?",
    ),
    State.ASKED_ALIVE: ("closed", "closed the connection while its old one was being looked at"),
    State.WAIT_CHALLENGE: ("closed", "closed the connection before its challenge"),
    State.WAIT_ACK: ("cookie", "closed the connection when it got our challenge reply: the cookie is probably wrong"),
    State.WAIT_NAME: ("closed", "closed the connection without saying a name"),
    State.DECIDING: ("closed", "closed the connection after its name"),
    State.WAIT_ALIVE: ("closed", "closed the connection when asked whether its old one is alive"),
    State.WAIT_REPLY: (
        "closed",
        "closed the connection when it got our challenge: it wanted another node, needs a flag we lack, or gave way",
    ),
}


@dataclass(frozen=True)
class PeerNamed:
    """The acceptor knows who calls; `accept()` is awaited. dynamic: `name` is a host and the peer wants a name."""

    name: str
    flags: int
    creation: int
    dynamic: bool


@dataclass(frozen=True)
class AliveAsked:
    """The peer still has a connection to our name: `answer_alive()` is awaited."""


@dataclass(frozen=True)
class HandshakeDone:
    """The connection is up once data_to_send() is written. flags: what both can do."""

    peer_name: str
    peer_creation: int
    flags: int
    our_name: str
    our_creation: int
    we_started: bool


Event = PeerNamed | AliveAsked | HandshakeDone
