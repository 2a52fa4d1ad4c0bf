"""Our handshake against what OTP 25 and 28 said to each other (handshake_record.py): both roles, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.errors import HandshakeRefused
from node.wire.flags import Flag, missing
from node.wire.framing import Framing
from node.wire.handshake import Handshake, HandshakeDone, PeerNamed

CASES = json.loads((Path(__file__).parent / "handshake_otp.json").read_text())


def number(body: bytes, at: int, size: int) -> int:
    return int.from_bytes(body[at : at + size], "big")


class Record:
    """One recorded handshake, taken apart with as little of our own code as possible."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.sent, self.received = bytes.fromhex(case["sent"]), bytes.fromhex(case["received"])
        self.cookie: str = case["cookie"]
        ours, theirs = Framing(), Framing()
        ours.feed(self.sent)
        theirs.feed(self.received)
        self.name, self.reply = ours.frames()
        self.status, self.challenge, self.ack = theirs.frames()
        self.initiator = self.name[15:].decode()
        self.acceptor = self.challenge[19:].decode()
        self.dynamic = bool(number(self.name, 1, 8) & Flag.NAME_ME)

    def as_initiator(self, **other: Any) -> Handshake:
        return Handshake(
            self.initiator,
            peer_name=self.acceptor,
            **{
                "flags": number(self.name, 1, 8) & ~Flag.NAME_ME,
                "creation": number(self.name, 9, 4),
                "challenge": number(self.reply, 1, 4),
                "cookie": lambda name: self.cookie,
                "now": 0.0,
                **other,
            },
        )

    def as_acceptor(self, **other: Any) -> Handshake:
        return Handshake(
            self.acceptor,
            **{
                "flags": number(self.challenge, 1, 8) & ~Flag.NAME_ME,
                "creation": number(self.challenge, 13, 4),
                "challenge": number(self.challenge, 9, 4),
                "cookie": lambda name: self.cookie,
                "now": 0.0,
                **other,
            },
        )


records = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['initiator']}-{case['acceptor']}-{case['what']}"
)


@records
@pytest.mark.parametrize("step", [1, 1000])
def test_as_initiator(case: dict[str, Any], step: int) -> None:
    record = Record(case)
    shake = record.as_initiator()
    out = shake.data_to_send()
    for at in range(0, len(record.received), step):
        shake.receive_data(record.received[at : at + step], 0.0)
        out += shake.data_to_send()
    assert out == record.sent
    done = shake.next_event()
    assert isinstance(done, HandshakeDone)
    assert done.peer_name == record.acceptor and done.peer_creation == number(record.challenge, 13, 4)
    assert missing(done.flags) == [] and not done.flags & Flag.NAME_ME
    if record.dynamic:
        assert done.our_name.endswith("@127.0.0.1") and done.our_creation == number(
            record.status, -4 % len(record.status), 4
        )


@records
@pytest.mark.parametrize("step", [1, 1000])
def test_as_acceptor(case: dict[str, Any], step: int) -> None:
    record = Record(case)
    shake = record.as_acceptor()
    out, done = b"", None
    for at in range(0, len(record.sent), step):
        shake.receive_data(record.sent[at : at + step], 0.0)
        while isinstance(event := shake.next_event(), PeerNamed):
            assert event.name == record.initiator and event.dynamic == record.dynamic
            if record.dynamic:
                size = number(record.status, 7, 2)
                given = record.status[9 : 9 + size].decode()
                shake.accept("named", name=given, creation=number(record.status, 9 + size, 4))
            else:
                shake.accept(record.status[1:].decode())
        out += shake.data_to_send()
        done = event or done
    assert out == record.received
    assert isinstance(done, HandshakeDone)
    assert done.peer_creation == (
        number(record.status, len(record.status) - 4, 4) if record.dynamic else number(record.name, 9, 4)
    )


@records
def test_with_another_cookie_it_fails(case: dict[str, Any]) -> None:
    record = Record(case)
    shake = record.as_initiator(cookie=lambda name: "OTHER")
    with pytest.raises(HandshakeRefused) as refused:
        shake.receive_data(record.received, 0.0)
    assert refused.value.reason == "cookie"
