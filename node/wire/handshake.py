"""The distribution handshake, version 6, both sides, sans-IO (erl_dist_protocol, "Distribution Handshake").

For: turning the bytes of the other side into a decision, a name, a creation and a set of flags, or into a refusal that
says which name, flag or cookie was wrong. Not for: sockets, clocks, random numbers (the caller passes `now` and the
challenge in), or the question whether a connection to that peer is already there: the acceptor asks it with a
PeerNamed event and goes on when `accept()` was called, the initiator with AliveAsked and `answer_alive()`.

The state machine is TABLE (handshake_states.py): every (state, input) that is allowed, with the action here and the
state after it. What the peer may not send in a state is a RemoteProtocolError, what the caller may not ask is a
LocalProtocolError. An action may refuse; then the state is REFUSED, whatever the table says.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from typing import Final

from ..errors import HandshakeRefused, LocalProtocolError, RemoteProtocolError
from .flags import INTERNAL, MANDATORY, Flag, missing, negotiate
from .framing import Fields, Framing, frame
from .handshake_states import CLOSED, TABLE, AliveAsked, Event, HandshakeDone, Input, PeerNamed, State
from .names import shown, valid_host, valid_node_name

__all__ = [
    "SETUP_TIME",
    "TABLE",
    "AliveAsked",
    "Handshake",
    "HandshakeDone",
    "Input",
    "PeerNamed",
    "State",
    "digest",
]

#: Seconds for a whole handshake (OTP: net_setuptime 7 s, there for each step).
SETUP_TIME: Final = 7.0


#: States in which our own side has to move: frames wait.
_OURS = (State.ASKED_ALIVE, State.DECIDING, State.DONE, State.REFUSED)

_STATUS: Final = {
    b"ok": Input.OK,
    b"ok_simultaneous": Input.OK_SIMULTANEOUS,
    b"nok": Input.NOK,
    b"not_allowed": Input.NOT_ALLOWED,
    b"alive": Input.ALIVE,
    b"true": Input.TRUE,
    b"false": Input.FALSE,
}

_DECISION: Final = {
    "ok": Input.DECIDE_OK,
    "ok_simultaneous": Input.DECIDE_OK_SIMULTANEOUS,
    "nok": Input.DECIDE_NOK,
    "not_allowed": Input.DECIDE_NOT_ALLOWED,
    "alive": Input.DECIDE_ALIVE,
    "named": Input.DECIDE_NAMED,
}


def digest(challenge: int, cookie: str) -> bytes:
    """MD5 of the cookie and the challenge's decimal digits (section "The Handshake in Detail", 16 bytes)."""
    return hashlib.md5(cookie.encode("latin-1") + b"%d" % challenge, usedforsecurity=False).digest()


class Handshake:
    """One attempt. Five verbs: receive_data, next_event, data_to_send, get_timer, handle_timer; and receive_eof.

    peer_name: the node we want to reach; None makes this the accepting side.
    our_name: our node name; for an initiator a host alone asks the peer for a name (dynamic node name).
    flags: what we announce (flags.our_flags()). creation: ours, 32 bits; 0 goes out while we have no name.
    cookie: peer name -> the cookie for it (latin-1 characters). allowed: peer name (or host) -> may it connect here.
    challenge: 32 random bits from a CSPRNG. now: seconds of any monotonic clock.
    header: bytes of length in a frame, 2 over TCP, 4 over TLS.

    All verbs that take input raise HandshakeRefused or RemoteProtocolError when this is the end of it; what is to be
    told to the peer is then still in data_to_send().
    """

    def __init__(
        self,
        our_name: str,
        *,
        peer_name: str | None = None,
        flags: int,
        creation: int,
        cookie: Callable[[str], str],
        challenge: int,
        now: float,
        allowed: Callable[[str], bool] | None = None,
        mandatory: int = MANDATORY,
        setup_time: float = SETUP_TIME,
        header: int = 2,
    ) -> None:
        if flags & INTERNAL or not 0 <= flags < 1 << 64:
            raise LocalProtocolError(f"flags {flags:#x} hold bits that are not for the wire")
        if not 0 <= challenge < 1 << 32:
            raise LocalProtocolError("a challenge has 32 bits")
        dynamic = "@" not in our_name
        if not (valid_host(our_name) if dynamic else valid_node_name(our_name)) or (dynamic and peer_name is None):
            raise LocalProtocolError(f"{our_name!r} is not a node name")
        try:
            self._our_wire_name = our_name.encode("latin-1")
        except UnicodeEncodeError:
            raise LocalProtocolError(f"{our_name!r}: node names are latin-1 on the wire") from None
        self.our_name = our_name
        self.our_creation = 0 if dynamic else creation
        self.peer_name = peer_name or ""
        self.we_started = peer_name is not None
        self._flags = int(flags | Flag.NAME_ME) & ~Flag.PUBLISHED if dynamic else flags & ~Flag.NAME_ME
        self._dynamic = dynamic
        self._cookie = cookie
        self._allowed = allowed
        self._challenge = challenge
        self._mandatory = mandatory
        self._deadline = now + setup_time
        self._setup_time = setup_time
        self._framing = Framing(header)
        self._out = bytearray()
        self._events: deque[Event] = deque()
        self._peer_flags = 0
        self._peer_creation = 0
        self._peer_dynamic = False
        self._complement_due = False
        self.our_refusal: HandshakeRefused | None = None  #: why our own decision ended it
        self.state = State.WAIT_NAME
        if self.we_started:
            if peer_name == our_name:
                raise HandshakeRefused("name", "that is our own name", self.peer_name)
            self.state = State.WAIT_STATUS
            self._send(
                b"N"
                + self._flags.to_bytes(8, "big")
                + self.our_creation.to_bytes(4, "big")
                + len(self._our_wire_name).to_bytes(2, "big")
                + self._our_wire_name
            )

    # ---- the verbs ------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take bytes of the peer in, as many as came."""
        if self.state is State.REFUSED:
            return
        self._framing.feed(data)
        self._advance()
        if now >= self._deadline and self.state is not State.DONE:
            self.handle_timer(now)

    def receive_eof(self) -> None:
        """The peer closed. Raises HandshakeRefused with what that means here (nothing once it is over)."""
        if self.state not in (State.DONE, State.REFUSED):
            self._input(Input.EOF, b"")

    def next_event(self) -> Event | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """All bytes to write now; they are handed out once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def get_timer(self) -> float | None:
        """When to call handle_timer, on the clock of `now`; None when it is over."""
        return None if self.state in (State.DONE, State.REFUSED) else self._deadline

    def handle_timer(self, now: float) -> None:
        """Raise HandshakeRefused('timeout') when the deadline has passed."""
        if now >= self._deadline and self.state not in (State.DONE, State.REFUSED):
            self._input(Input.TIMER, b"")

    def accept(self, status: str, *, name: str = "", creation: int = 0) -> None:
        """The answer to PeerNamed: 'ok', 'ok_simultaneous', 'nok', 'not_allowed', 'alive' or, for a peer that wants a
        name, 'named' with that name and creation."""
        decision = _DECISION.get(status)
        if decision is None:
            raise LocalProtocolError(f"{status!r} is not a handshake status")
        if self.state is State.DECIDING and status not in ("nok", "not_allowed"):
            if self._peer_dynamic != (status == "named"):
                raise LocalProtocolError(f"status {status!r} does not fit: the peer asked for a name or brought one")
            if status == "named":
                if not valid_node_name(name) or not 0 < creation < 1 << 32:
                    raise LocalProtocolError(f"{name!r} with creation {creation} can't be handed out")
                self.peer_name, self._peer_creation = name, creation
        self._input(decision, b"")
        self._advance()

    def answer_alive(self, go_on: bool) -> None:
        """The answer to AliveAsked: True when this attempt is still wanted (the old connection is dead)."""
        self._input(Input.ANSWER_TRUE if go_on else Input.ANSWER_FALSE, b"")
        self._advance()

    def take_leftover(self) -> bytes:
        """After HandshakeDone, once: the bytes that came behind the last handshake frame."""
        if self.state is not State.DONE:
            raise LocalProtocolError("the handshake is not done")
        return self._framing.take_rest()

    # ---- the machine ----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        while self.state not in _OURS:
            try:
                body = self._framing.next_frame()
            except RemoteProtocolError:
                self.state = State.REFUSED
                raise
            if body is None:
                return
            self._input(self._classify(body), body)

    def _classify(self, body: bytes) -> Input:
        match body[:1]:
            case b"N":
                return Input.CHALLENGE if self.we_started else Input.NAME
            case b"n":
                return Input.OLD_NAME
            case b"c":
                return Input.COMPLEMENT
            case b"r":
                return Input.REPLY
            case b"a":
                return Input.ACK
            case b"s":
                if body.startswith(b"snamed:"):
                    return Input.NAMED
                return _STATUS.get(body[1:], Input.OTHER)
        return Input.OTHER

    def _input(self, what: Input, body: bytes) -> None:
        entry = TABLE.get((self.state, what))
        if entry is None:
            if what.name.startswith(("DECIDE_", "ANSWER_")):
                raise LocalProtocolError(f"{what.value} while the handshake waits for {self.state.value}")
            waited, self.state = self.state, State.REFUSED
            raise RemoteProtocolError(
                f"{self.peer_name or 'peer'}: {what.value} {body[:40]!r} where {waited.value} was expected"
            )
        method, after = entry
        try:
            getattr(self, method)(body)
        except Exception:  # a cookie that can't be read ends it too
            self.state = State.REFUSED
            raise
        self.state = after

    def _send(self, body: bytes) -> None:
        self._out += frame(body, self._framing.header)

    def _refused(self, reason: str, detail: str) -> HandshakeRefused:
        return HandshakeRefused(reason, detail, self.peer_name)

    def _digest(self, challenge: int) -> bytes:
        try:
            return digest(challenge, self._cookie(self.peer_name))
        except UnicodeEncodeError:
            raise self._refused("cookie", "our cookie for it has characters beyond latin-1") from None

    def _finish(self) -> None:
        flags = negotiate(self._flags, self._peer_flags)
        self._events.append(
            HandshakeDone(self.peer_name, self._peer_creation, flags, self.our_name, self.our_creation, self.we_started)
        )

    # ---- actions in every state -----------------------------------------------------------------------------------

    def _closed(self, body: bytes) -> None:
        raise self._refused(*CLOSED[self.state])

    def _late(self, body: bytes) -> None:
        raise self._refused("timeout", f"no {self.state.value} within {self._setup_time:g} s")

    # ---- actions of the initiator ---------------------------------------------------------------------------------

    def _go_on(self, body: bytes) -> None:
        if self._dynamic:
            raise RemoteProtocolError(f"{self.peer_name}: status {body[1:]!r} where we asked for a name")

    def _take_name(self, body: bytes) -> None:
        fields = Fields(body, len(b"snamed:"))
        name = fields.octets(fields.number(2)).decode("utf-8", "replace")  # unlike every other name here
        creation = fields.number(4)
        if not self._dynamic:
            raise RemoteProtocolError(f"{self.peer_name} named us {name!r}, unasked")
        host = self.our_name
        if not valid_node_name(name) or name.partition("@")[2] != host:
            raise RemoteProtocolError(f"{self.peer_name} named us {name!r}, our host is {host}")
        self.our_name, self.our_creation = name, creation

    def _ask_alive(self, body: bytes) -> None:
        self._go_on(body)
        self._events.append(AliveAsked())

    def _send_true(self, body: bytes) -> None:
        self._send(b"strue")

    def _send_false(self, body: bytes) -> None:
        self._send(b"sfalse")
        self.our_refusal = self._refused("alive", "the connection that it has is the one to keep")

    def _peer_goes_first(self, body: bytes) -> None:
        raise self._refused("nok", "it is connecting to us at the same time, and its connection is the one kept")

    def _not_allowed(self, body: bytes) -> None:
        raise self._refused(
            "not_allowed",
            f"it does not let {self.our_name} in: not on its allow-list, or a capability is missing (its log names it)",
        )

    def _check_challenge(self, body: bytes) -> None:
        fields = Fields(body, 1)
        peer_flags = fields.number(8)
        challenge = fields.number(4)
        creation = fields.number(4)
        name = fields.octets(fields.number(2))
        if name.decode("latin-1") != self.peer_name and name != self.peer_name.encode():
            raise self._refused("name", f"the node there says that it is {shown(name)}")
        self._check_flags(peer_flags)
        self._peer_flags, self._peer_creation = peer_flags, creation
        self._send(b"r" + self._challenge.to_bytes(4, "big") + self._digest(challenge))

    def _check_ack(self, body: bytes) -> None:
        if len(body) != 17:
            raise RemoteProtocolError(f"{self.peer_name}: a challenge ack of {len(body)} bytes")
        if not hmac.compare_digest(body[1:], self._digest(self._challenge)):
            raise self._refused("cookie", "it took our cookie but proves another one itself")
        self._finish()

    # ---- actions of the acceptor ----------------------------------------------------------------------------------

    def _check_name(self, body: bytes) -> None:
        fields = Fields(body, 1)
        flags = fields.number(8)
        creation = fields.number(4)
        self._named(fields.octets(fields.number(2)), flags, creation, self._mandatory)

    def _check_old_name(self, body: bytes) -> None:
        # version:16 flags:32 name. OTP 23 and 24 send it when they don't know our version; the upper half of
        # the flags and the creation follow in a complement. An older peer has no HANDSHAKE_23 and ends here.
        fields = Fields(body, 1)
        fields.number(2)
        flags = fields.number(4)
        name = fields.rest()
        self._complement_due = True
        if not flags & (Flag.HANDSHAKE_23 | Flag.MANDATORY_25_DIGEST):
            self.peer_name = shown(name)
            self._send(b"snot_allowed")
            raise self._refused("version", "it speaks version 5 of the handshake only (OTP 22 or older)")
        self._named(name, flags & ~Flag.NAME_ME, 0, self._mandatory & 0xFFFFFFFF)

    def _named(self, wire_name: bytes, flags: int, creation: int, mandatory: int) -> None:
        name = wire_name.decode("latin-1")
        dynamic = bool(flags & Flag.NAME_ME)
        if not (valid_host(name) if dynamic else valid_node_name(name)):
            self.peer_name = shown(wire_name)
            raise self._refused("name", "that is not a host name" if dynamic else "that is not a node name")
        self.peer_name = name
        if name == self.our_name:
            self._send(b"snot_allowed")
            raise self._refused("name", "another node (or we ourselves) connects under our own name")
        if self._allowed is not None and not self._allowed(name):
            self._send(b"snot_allowed")
            raise self._refused("not_allowed", "not on our allow-list")
        self._check_flags(flags, mandatory)
        self._peer_flags, self._peer_creation, self._peer_dynamic = flags, creation, dynamic
        self._events.append(PeerNamed(name, flags, creation, dynamic))

    def _check_flags(self, flags: int, mandatory: int | None = None) -> None:
        lacking = missing(flags, self._mandatory if mandatory is None else mandatory)
        if lacking:
            if self.state is State.WAIT_NAME:
                self._send(b"snot_allowed")
            raise self._refused("flags", f"it lacks {', '.join(lacking)}")

    def _send_ok(self, body: bytes) -> None:
        self._send(b"sok")
        self._send_challenge(body)

    def _send_ok_simultaneous(self, body: bytes) -> None:
        self._send(b"sok_simultaneous")
        self._send_challenge(body)

    def _send_named(self, body: bytes) -> None:
        wire_name = self.peer_name.encode()  # the peer reads it as UTF-8, unlike all other names here
        self._send(b"snamed:" + len(wire_name).to_bytes(2, "big") + wire_name + self._peer_creation.to_bytes(4, "big"))
        # It finds out whether it was named from the flags both have, so ours say NAME_ME too (dist_util does it so).
        self._flags = int(self._flags | Flag.NAME_ME) & ~Flag.PUBLISHED
        self._send_challenge(body)

    def _send_nok(self, body: bytes) -> None:
        self._send(b"snok")
        self.our_refusal = self._refused("nok", "we connect to it at the same time, and our connection is the one kept")

    def _send_not_allowed(self, body: bytes) -> None:
        self._send(b"snot_allowed")
        self.our_refusal = self._refused("not_allowed", "we let nobody in now")

    def _send_alive(self, body: bytes) -> None:
        self._send(b"salive")

    def _peer_is_alive(self, body: bytes) -> None:
        raise self._refused("alive", "its old connection to us is alive, it says")

    def _send_challenge(self, body: bytes) -> None:
        self._send(
            b"N"
            + self._flags.to_bytes(8, "big")
            + self._challenge.to_bytes(4, "big")
            + self.our_creation.to_bytes(4, "big")
            + len(self._our_wire_name).to_bytes(2, "big")
            + self._our_wire_name
        )

    def _check_complement(self, body: bytes) -> None:
        if not self._complement_due:
            raise RemoteProtocolError(f"{self.peer_name}: a complement to a name that was whole")
        fields = Fields(body, 1)
        self._peer_flags |= fields.number(4) << 32
        self._peer_creation = fields.number(4)
        self._complement_due = False
        self._check_flags(self._peer_flags)

    def _check_reply(self, body: bytes) -> None:
        if self._complement_due:
            raise RemoteProtocolError(f"{self.peer_name}: a challenge reply before the complement of its name")
        if len(body) != 21:
            raise RemoteProtocolError(f"{self.peer_name}: a challenge reply of {len(body)} bytes")
        if not hmac.compare_digest(body[5:], self._digest(self._challenge)):
            raise self._refused("cookie", "its cookie is not ours")
        self._send(b"a" + self._digest(int.from_bytes(body[1:5], "big")))
        self._finish()
