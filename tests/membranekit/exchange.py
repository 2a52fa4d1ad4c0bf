"""What tests do with a straw between two domains, whatever these are: processes.Peer, or a BEAM driven alike."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["REFUSALS", "SOON", "close", "connect", "exchange", "kill_while_busy", "kill_while_opening", "open_at_once"]

#: What "within a second" is in a test: a machine that is busy with other tests is no failure.
SOON = 10
#: Why a straw to a domain that is killed meanwhile does not open. bad_offer: its keys went while they were read;
#: occupied: the store refuses to write to a dead domain as it does where a stranger sits.
REFUSALS = ("peer_gone", "not_found", "refused", "timeout", "bad_offer", "occupied")


def connect(opener: Any, acceptor: Any) -> None:
    assert opener.do("open", peer=acceptor.domid) == {}
    acceptor.do("wait", peer=opener.domid)


def open_at_once(one: Any, other: Any) -> None:
    """Both have it, or one came so much earlier that the other's is there already."""
    numbers = one.start("open", peer=other.domid), other.start("open", peer=one.domid)
    answers = one.result(numbers[0]), other.result(numbers[1])
    assert {} in answers and all(answer in ({}, {"error": "exists"}) for answer in answers), answers
    one.do("wait", peer=other.domid)
    other.do("wait", peer=one.domid)


def exchange(one: Any, other: Any, count: int = 60, limit: int = 1 << 20) -> int:
    """So many frames each way at once, mostly small, some up to `limit` bytes: what came is what was sent. Bytes of one
    way at the least.
    """

    def work(sender: Any) -> dict[str, int]:
        return {"seed": sender.domid, "count": count, "limit": limit}

    ways = [
        (a, a.start("send", peer=b.domid, **work(a)), b, b.start("receive", peer=a.domid, **work(a)))
        for a, b in ((one, other), (other, one))
    ]
    sizes: list[int] = []
    for sender, sending, receiver, receiving in ways:
        sent, received = sender.result(sending), receiver.result(receiving)
        assert sent == received and sent["count"] == count, (sent, received)
        sizes.append(sent["bytes"])
    return min(sizes)


def close(closer: Any, seen: Any) -> None:
    """Both sides are told, and why."""
    closer.do("close", peer=seen.domid)
    assert seen.do("ended", peer=closer.domid) == {"reason": "peer_closed", "truncated": False}
    assert closer.do("ended", peer=seen.domid)["reason"] == "closed"


def kill_while_opening(living: Any, victim: Any, opener: Any, moment: float) -> None:
    """The victim is killed so many seconds after the opener has begun."""
    number = opener.start("open", peer=(victim if opener is living else living).domid)
    time.sleep(moment)
    victim.kill()
    if opener is living:
        answer = living.result(number)
        assert answer == {} or answer["error"] in REFUSALS, answer


def kill_while_busy(living: Any, victim: Any, seed: int, moment: float) -> None:
    """The victim is killed so many seconds after frames began to go both ways; the living side is told soon."""
    work = {"seed": seed, "count": 100_000, "limit": 100_000}
    sending = living.start("send", peer=victim.domid, **work)
    receiving = living.start("receive", peer=victim.domid, **work)
    victim.start("send", peer=living.domid, **work)
    time.sleep(moment)
    began = time.monotonic()
    victim.kill()
    assert living.do("ended", peer=victim.domid)["reason"] == "peer_gone"
    assert time.monotonic() - began < SOON
    assert living.result(sending)["error"] in ("peer_gone", "closed")
    assert living.result(receiving)["error"] in ("peer_gone", "closed")
