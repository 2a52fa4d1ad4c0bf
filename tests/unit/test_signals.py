"""Exit signals and the link protocol, as tables."""

from __future__ import annotations

import pytest

from node.runtime.signals import (
    EXIT_RULES,
    KILL,
    KILLED,
    NORMAL,
    SHUTDOWN,
    Links,
    is_quiet,
    on_exit_signal,
)
from node.terms import Atom, Pid

CRASH = (Atom("badarg"), [])
A = Pid(Atom("a@127.0.0.1"), 1, 0, 5)


@pytest.mark.parametrize(
    ("reason", "linked", "trapping", "own", "expected"),
    [
        # "Receiving Exit Signals" in the Erlang reference manual, line by line.
        (CRASH, True, False, False, ("end", CRASH)),
        (CRASH, False, False, False, ("end", CRASH)),
        (CRASH, True, True, False, ("message", CRASH)),
        (NORMAL, True, False, False, ("ignore", NORMAL)),
        (NORMAL, False, False, False, ("ignore", NORMAL)),
        (NORMAL, False, False, True, ("end", NORMAL)),
        (NORMAL, True, True, False, ("message", NORMAL)),
        (KILL, False, False, False, ("end", KILLED)),
        (KILL, False, True, False, ("end", KILLED)),
        (KILL, True, False, False, ("end", KILL)),
        (KILL, True, True, False, ("message", KILL)),
    ],
)
def test_what_an_exit_signal_does(reason: object, linked: bool, trapping: bool, own: bool, expected: object) -> None:
    assert on_exit_signal(reason, linked=linked, trapping=trapping, own=own) == expected


def test_the_table_covers_every_case() -> None:
    assert len(EXIT_RULES) == 3 * 2 * 2 * 2
    assert set(EXIT_RULES.values()) == {"ignore", "message", "end"}


def test_quiet_reasons() -> None:
    assert is_quiet(NORMAL) and is_quiet(SHUTDOWN) and is_quiet((SHUTDOWN, 1))
    assert not is_quiet(KILLED) and not is_quiet((SHUTDOWN, 1, 2)) and not is_quiet([SHUTDOWN, 1])


def test_a_link_is_made_once_and_ends_with_one_exit() -> None:
    links = Links()
    assert links.link(A)
    assert not links.link(A)
    assert links.active() == [A]
    assert links.on_exit(A)
    assert not links.on_exit(A)
    assert links.active() == []


def test_an_exit_after_unlink_is_ignored_until_the_acknowledgement() -> None:
    links = Links()
    links.link(A)
    unlink_id = links.unlink(A)
    assert unlink_id == 1
    assert A not in links
    assert links.unlink(A) is None
    assert not links.on_exit(A)  # the exit crossed our unlink
    assert len(links) == 0


def test_linking_again_makes_an_old_acknowledgement_void() -> None:
    links = Links()
    links.link(A)
    old = links.unlink(A)
    assert links.link(A)
    assert old is not None
    links.on_unlink_ack(A, old)
    assert A in links
    new = links.unlink(A)
    assert new != old
    links.on_unlink_ack(A, old)
    assert len(links) == 1  # still waiting for its own acknowledgement
    assert new is not None
    links.on_unlink_ack(A, new)
    assert len(links) == 0


def test_a_link_signal_during_an_unlink_does_not_bring_the_link_back() -> None:
    links = Links()
    links.link(A)
    links.unlink(A)
    assert not links.on_link(A)
    assert A not in links


def test_unlink_from_the_other_side() -> None:
    links = Links()
    assert links.on_link(A)
    assert not links.on_link(A)
    links.on_unlink(A)
    assert len(links) == 0
    links.on_unlink(A)
