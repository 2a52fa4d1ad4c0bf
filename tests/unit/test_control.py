"""Control messages: each operation's shape, taken and refused."""

from __future__ import annotations

from typing import Any

import pytest

from node.errors import DecodeError, RemoteProtocolError
from node.terms import NO_PAYLOAD, Atom, Pid, Reference
from node.wire import control as c

PEER, OURS, OTHER = Atom("peer@h"), Atom("us@h"), Atom("other@h")
THERE, HERE, ELSEWHERE = Pid(PEER, 1, 0, 7), Pid(OURS, 2, 0, 8), Pid(OTHER, 3, 0, 9)
EARLIER = Pid(OURS, 2, 0, 4)  # of an incarnation before
REF = Reference(PEER, 7, (1, 2, 3))
NAME, EMPTY = Atom("name"), Atom("")
MFA = (Atom("m"), Atom("f"), 2)
TOKEN = (0, 1, HERE, 2, 3)

GOOD: list[tuple[tuple[Any, ...], bool]] = [
    ((c.LINK, THERE, HERE), False),
    ((c.LINK, THERE, EARLIER), False),
    ((c.SEND, EMPTY, HERE), True),
    ((c.SEND, [1, 2], HERE), True),
    ((c.EXIT, THERE, HERE, Atom("boom")), False),
    ((c.REG_SEND, THERE, EMPTY, NAME), True),
    ((c.REG_SEND, THERE, EMPTY, True), True),  # a process may be registered as true
    ((c.GROUP_LEADER, ELSEWHERE, HERE), False),
    ((c.EXIT2, THERE, HERE, "reason"), False),
    ((c.SEND_TT, EMPTY, HERE, TOKEN), True),
    ((c.EXIT_TT, THERE, HERE, TOKEN, 1), False),
    ((c.REG_SEND_TT, THERE, EMPTY, NAME, TOKEN), True),
    ((c.EXIT2_TT, THERE, HERE, TOKEN, 1), False),
    ((c.MONITOR_P, THERE, HERE, REF), False),
    ((c.MONITOR_P, THERE, NAME, REF), False),
    ((c.DEMONITOR_P, THERE, NAME, REF), False),
    ((c.MONITOR_P_EXIT, THERE, HERE, REF, 1), False),
    ((c.MONITOR_P_EXIT, NAME, HERE, REF, 1), False),
    ((c.SEND_SENDER, THERE, HERE), True),
    ((c.SEND_SENDER_TT, THERE, HERE, TOKEN), True),
    ((c.PAYLOAD_EXIT, THERE, HERE), True),
    ((c.PAYLOAD_EXIT_TT, THERE, HERE, TOKEN), True),
    ((c.PAYLOAD_EXIT2, THERE, HERE), True),
    ((c.PAYLOAD_EXIT2_TT, THERE, HERE, TOKEN), True),
    ((c.PAYLOAD_MONITOR_P_EXIT, THERE, HERE, REF), True),
    ((c.PAYLOAD_MONITOR_P_EXIT, NAME, HERE, REF), True),
    ((c.SPAWN_REQUEST, REF, THERE, THERE, MFA, [Atom("link")]), True),
    ((c.SPAWN_REQUEST_TT, REF, THERE, THERE, MFA, [], TOKEN), True),
    ((c.SPAWN_REPLY, Reference(OURS, 8, (1,)), HERE, 3, THERE), False),
    ((c.SPAWN_REPLY, Reference(OURS, 8, (1,)), HERE, 0, Atom("notsup")), False),
    ((c.SPAWN_REPLY_TT, Reference(OURS, 8, (1,)), HERE, 0, THERE, TOKEN), False),
    ((c.ALIAS_SEND, THERE, Reference(OURS, 8, (1, 2, 3, 4, 5))), True),
    ((c.ALIAS_SEND_TT, THERE, REF, TOKEN), True),
    ((c.UNLINK_ID, 1, THERE, HERE), False),
    ((c.UNLINK_ID, c.MAX_UNLINK_ID, THERE, HERE), False),
    ((c.UNLINK_ID_ACK, 1, THERE, HERE), False),
    ((c.ALTACT_SIG_SEND, 0, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_ALIAS, THERE, REF), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_ALIAS | c.ALTACT_PRIO, THERE, REF), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_NAME, THERE, NAME), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_TOKEN, THERE, HERE, TOKEN), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_EXIT | c.ALTACT_PRIO, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, 1 << 70, THERE, HERE, TOKEN, b"later"), True),  # unknown flags and fields are ignored
]

BAD: list[tuple[tuple[Any, ...], bool]] = [
    ((), False),
    ((0,), False),
    ((4, THERE, HERE), False),  # UNLINK went with OTP 26
    ((5,), False),
    ((38, THERE, HERE), True),
    ((True, THERE, HERE), False),  # is not LINK
    ((22.0, THERE, HERE), True),
    ((b"\2", EMPTY, HERE), True),
    ((NAME, EMPTY, HERE), True),
    (([], EMPTY, HERE), True),
    ((c.LINK, ELSEWHERE, HERE), False),  # a link in somebody else's name
    ((c.LINK, HERE, HERE), False),
    ((c.LINK, THERE, ELSEWHERE), False),
    ((c.LINK, NAME, HERE), False),
    ((c.EXIT, ELSEWHERE, HERE, 1), False),
    ((c.EXIT2, ELSEWHERE, HERE, 1), False),
    ((c.SEND, EMPTY, NAME), True),
    ((c.REG_SEND, NAME, EMPTY, NAME), True),
    ((c.REG_SEND, THERE, EMPTY, HERE), True),
    ((c.REG_SEND, THERE, EMPTY, b"name"), True),
    ((c.SEND_SENDER, EMPTY, HERE), True),
    ((c.MONITOR_P, ELSEWHERE, HERE, REF), False),
    ((c.MONITOR_P, THERE, THERE, REF), False),
    ((c.MONITOR_P, THERE, HERE, 5), False),
    ((c.DEMONITOR_P, THERE, HERE, NAME), False),
    ((c.PAYLOAD_MONITOR_P_EXIT, HERE, HERE, REF), True),
    ((c.PAYLOAD_MONITOR_P_EXIT, THERE, THERE, REF), True),
    ((c.SPAWN_REQUEST, REF, ELSEWHERE, THERE, MFA, []), True),
    ((c.SPAWN_REQUEST, REF, THERE, THERE, (Atom("m"), Atom("f"), -1), []), True),
    ((c.SPAWN_REQUEST, REF, THERE, THERE, (Atom("m"), Atom("f"), [1]), []), True),
    ((c.SPAWN_REQUEST, REF, THERE, THERE, (Atom("m"), Atom("f")), []), True),
    ((c.SPAWN_REQUEST, REF, THERE, THERE, MFA, NAME), True),
    ((c.SPAWN_REPLY, REF, HERE, -1, THERE), False),
    ((c.SPAWN_REPLY, REF, HERE, 0, 5), False),
    ((c.UNLINK_ID, 0, THERE, HERE), False),
    ((c.UNLINK_ID, 1 << 64, THERE, HERE), False),
    ((c.UNLINK_ID, True, THERE, HERE), False),
    ((c.ALTACT_SIG_SEND, -1, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_ALIAS, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_NAME, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, 0, THERE, NAME), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_ALIAS | c.ALTACT_NAME, THERE, REF), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_TOKEN, THERE, HERE), True),
    ((c.ALTACT_SIG_SEND, c.ALTACT_EXIT, ELSEWHERE, HERE), True),
    ((c.ALTACT_SIG_SEND, 4.0, THERE, REF), True),
]


def both(control: tuple[Any, ...], payload: object) -> bool:
    """Whether check and check_batch take it; they must agree."""
    verdicts = []
    for verdict in (
        lambda: c.check(control, payload, PEER, OURS),
        lambda: c.check_batch([(control, payload)], PEER, OURS),
    ):
        try:
            verdict()
        except RemoteProtocolError as error:
            verdicts.append(len(str(error)) > 500)
        else:
            verdicts.append(True)
    assert verdicts[0] == verdicts[1]
    return verdicts[0]


@pytest.mark.parametrize(("control", "payload"), GOOD)
def test_good(control: tuple[Any, ...], payload: bool) -> None:
    assert both(control, b"x" if payload else NO_PAYLOAD)
    assert not both(control, NO_PAYLOAD if payload else b"x")
    assert both(control, DecodeError("a payload that can't be read")) == payload


@pytest.mark.parametrize(("control", "payload"), GOOD)
def test_wrong_arity(control: tuple[Any, ...], payload: bool) -> None:
    message = b"x" if payload else NO_PAYLOAD
    assert not both(control[: len(c.TABLE[control[0]].fields)], message)
    assert both((*control, 1), message) == (control[0] == c.ALTACT_SIG_SEND)


@pytest.mark.parametrize(("control", "payload"), BAD)
def test_bad(control: tuple[Any, ...], payload: bool) -> None:
    assert not both(control, b"x" if payload else NO_PAYLOAD)
    assert not both(control, NO_PAYLOAD if payload else b"x")


def test_every_operation_is_tried() -> None:
    assert {control[0] for control, _ in GOOD} == set(c.TABLE)
    numbers = {value for name, value in vars(c).items() if name in c.__all__ and type(value) is int}
    assert set(c.TABLE) <= numbers


def test_the_error_says_what_and_from_whom() -> None:
    with pytest.raises(RemoteProtocolError, match=r"peer@h.*LINK.*field 1.*peer_pid"):
        c.check((c.LINK, ELSEWHERE, HERE), NO_PAYLOAD, PEER, OURS)
    with pytest.raises(RemoteProtocolError, match="without a payload"):
        c.check((c.SEND, EMPTY, HERE), NO_PAYLOAD, PEER, OURS)
    with pytest.raises(RemoteProtocolError, match="unknown operation"):
        c.check((99, b"x" * 10_000), NO_PAYLOAD, PEER, OURS)
