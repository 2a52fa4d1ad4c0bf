"""The membrane's state machine as data: what either role does in every state with every input.

Nothing acts here: `membrane.py` carries the actions out, `erl/` reads the same rows (`erlang_terms`), the tests walk
them. A line of the text is `state input action next-state`. A state is *busy* while work of its own is under way: then
only that work's result comes in, everything else waits until it is over. An input that has no row is ignored: watch
events come late, twice and not at all, so every "nothing new" must be harmless.

Inputs: p1..p6 (the peer's state, by a fresh look), gone (its directory is), ended (the pore found its peer dead or
corrupt), close (a wish of ours), late (nobody waits for the open any more), yield (glare: the other side's straw is to
be the one), timer; of work: ok, no, and what a look or a check has found.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "ACTIVE",
    "BUSY",
    "CONNECTED",
    "EXTERNAL",
    "GONE",
    "PASSIVE",
    "START",
    "TABLE",
    "Row",
    "erlang_terms",
    "states",
]

PASSIVE: Final = "passive"
ACTIVE: Final = "active"
START: Final = "START"
CONNECTED: Final = "CONNECTED"
GONE: Final = "GONE"

#: Inputs that may come at any time; the others are results of work.
EXTERNAL: Final = frozenset(
    ["p1", "p2", "p3", "p4", "p5", "p6", "gone", "ended", "close", "late", "yield", "timer", "open", "free"]
)

#: States with work under way.
BUSY: Final = {
    PASSIVE: frozenset(
        [
            "LOOKING",
            "CLEARING",
            "PREPARING",
            "KNOCKING",
            "READING",
            "ATTACHING",
            "CONNECTING",
            "FINISHING",
            "DETACHING",
            "SAYING",
            "DELETING",
        ]
    ),
    ACTIVE: frozenset(
        [
            "VERIFYING",
            "HOLDING",
            "GREETING",
            "READING",
            "GRANTING",
            "OFFERING",
            "CONFIRMING",
            "LATE_CONFIRMING",
            "SAYING",
            "WITHDRAWING",
            "REMOVING",
        ]
    ),
}

# The one who opens. LING's word is passive: it maps what the other grants.
_PASSIVE = """
START          open      look         LOOKING        is an old directory of ours in the way?
START          finish    finish       FINISHING      an earlier run left a peer waiting for our 4
LOOKING        clear     prepare      PREPARING      mkdir and SET_PERMS, before anything is said
LOOKING        occupied  pause        OLD_WAIT       the peer may still be removing it
LOOKING        overdue   clear_old    CLEARING       it had its time
LOOKING        no        fail         GONE
OLD_WAIT       timer     look         LOOKING
OLD_WAIT       close     fail         GONE
OLD_WAIT       late      fail         GONE
OLD_WAIT       yield     fail         GONE
CLEARING       ok        prepare      PREPARING
CLEARING       no        fail         GONE
PREPARING      ok        knock        KNOCKING
PREPARING      no        fail         GONE
KNOCKING       ok        -            INIT_WAIT
KNOCKING       no        unknock      DELETING
INIT_WAIT      p3        read_offer   READING
INIT_WAIT      p5        fail_delete  DELETING
INIT_WAIT      p6        fail_delete  DELETING
INIT_WAIT      gone      fail_delete  DELETING
INIT_WAIT      yield     fail_delete  DELETING       only our own kind survives a withdrawn knock
INIT_WAIT      close     fail         LATE_WAIT      a knock on LING can't be withdrawn
INIT_WAIT      late      fail         LATE_WAIT
LATE_WAIT      open      -            INIT_WAIT      somebody asks again
LATE_WAIT      p3        finish       FINISHING
LATE_WAIT      p5        delete       DELETING
LATE_WAIT      p6        delete       DELETING
LATE_WAIT      gone      delete       DELETING
LATE_WAIT      yield     delete       DELETING
READING        ok        attach       ATTACHING
READING        no        fail_finish  FINISHING
ATTACHING      ok        connect      CONNECTING
ATTACHING      no        fail_finish  FINISHING
CONNECTING     ok        -            ATTACHED
CONNECTING     no        detach       DETACHING
ATTACHED       p4        opened       CONNECTED
ATTACHED       p5        detach       DETACHING
ATTACHED       p6        detach       DETACHING
ATTACHED       gone      detach       DETACHING
ATTACHED       ended     detach       DETACHING
ATTACHED       close     fail_limit   LATE_ATTACHED
ATTACHED       late      fail_limit   LATE_ATTACHED
LATE_ATTACHED  p4        detach       DETACHING
LATE_ATTACHED  p5        detach       DETACHING
LATE_ATTACHED  p6        detach       DETACHING
LATE_ATTACHED  gone      detach       DETACHING
LATE_ATTACHED  ended     detach       DETACHING
LATE_ATTACHED  timer     detach       DETACHING
FINISHING      ok        limit        FINISHED
FINISHING      no        say_closed   SAYING
FINISHED       p4        say_closed   SAYING
FINISHED       p5        say_closed   SAYING
FINISHED       p6        say_closed   SAYING
FINISHED       gone      say_closed   SAYING
FINISHED       timer     say_closed   SAYING
CONNECTED      p1        detach       DETACHING      as LING: anything but 4 is the end
CONNECTED      p2        detach       DETACHING
CONNECTED      p3        detach       DETACHING
CONNECTED      p5        detach       DETACHING
CONNECTED      p6        detach       DETACHING
CONNECTED      gone      detach       DETACHING
CONNECTED      ended     detach       DETACHING
CONNECTED      close     detach       DETACHING
DETACHING      ok        say_closed   SAYING
DETACHING      no        say_closed   SAYING
SAYING         ok        linger       LEAVING
SAYING         no        linger       LEAVING
LEAVING        p6        delete       DELETING
LEAVING        gone      delete       DELETING
LEAVING        timer     delete       DELETING
DELETING       ok        bye          GONE
DELETING       no        pause        LEAVING        it has to go: once more
"""

# The one who is knocked upon. LING's word is active: it grants the pages.
_ACTIVE = """
START            open      verify        VERIFYING
VERIFYING        genuine   greet         GREETING
VERIFYING        glare     hold          HOLDING         ours is under way and goes first
VERIFYING        forged    report        GONE            counted, and nothing touched
VERIFYING        stale     remove        REMOVING        what is left of a straw of ours
VERIFYING        no        report        GONE
VERIFYING        left      forget        REMOVING        as forged, or gone, after it was held
HOLDING          ok        -             HELD
HOLDING          no        remove        REMOVING
HELD             free      verify        VERIFYING
HELD             gone      remove        REMOVING
HELD             p6        remove        REMOVING
HELD             close     remove        REMOVING
GREETING         ok        wait_opener   INITIALISING
GREETING         no        remove        REMOVING
INITIALISING     p2        read_wishes   READING
INITIALISING     p5        remove        REMOVING
INITIALISING     p6        remove        REMOVING
INITIALISING     gone      remove        REMOVING
INITIALISING     timer     remove        REMOVING        before anything was granted
INITIALISING     close     remove        REMOVING
READING          ok        grant         GRANTING
READING          no        remove        REMOVING
GRANTING         ok        offer         OFFERING
GRANTING         narrow    grant         GRANTING        once more, with LING's 8 pages
GRANTING         no        remove        REMOVING
OFFERING         ok        -             INITIALISED
OFFERING         no        withdraw      WITHDRAWING
INITIALISED      p4        confirm       CONFIRMING
INITIALISED      p5        withdraw      WITHDRAWING
INITIALISED      p6        withdraw      WITHDRAWING
INITIALISED      gone      withdraw      WITHDRAWING
INITIALISED      ended     withdraw      WITHDRAWING
INITIALISED      close     -             LATE_INITIALISED  LING dies when it maps a dead ref: it goes first
LATE_INITIALISED p4        confirm       LATE_CONFIRMING
LATE_INITIALISED p5        withdraw      WITHDRAWING
LATE_INITIALISED p6        withdraw      WITHDRAWING
LATE_INITIALISED gone      withdraw      WITHDRAWING
LATE_INITIALISED ended     withdraw      WITHDRAWING
LATE_CONFIRMING  ok        keep          KEEPING
LATE_CONFIRMING  no        say_closing   SAYING
CONFIRMING       ok        opened        CONNECTED
CONFIRMING       no        say_closing   SAYING
CONNECTED        p2        withdraw      WITHDRAWING     it knocks anew: the old one is dead
CONNECTED        p6        withdraw      WITHDRAWING
CONNECTED        gone      withdraw      WITHDRAWING
CONNECTED        close     keep          KEEPING         a LING waits for our 4 until it has read it
CONNECTED        ended     say_closing   SAYING
KEEPING          timer     say_closing   SAYING
KEEPING          p2        withdraw      WITHDRAWING
KEEPING          p6        withdraw      WITHDRAWING
KEEPING          gone      withdraw      WITHDRAWING
KEEPING          ended     say_closing   SAYING
SAYING           ok        closing_limit CLOSING
SAYING           no        closing_limit CLOSING
CLOSING          p2        withdraw      WITHDRAWING
CLOSING          p6        withdraw      WITHDRAWING
CLOSING          gone      withdraw      WITHDRAWING
CLOSING          timer     withdraw      WITHDRAWING     it is refused while the peer has it mapped
WITHDRAWING      ok        remove        REMOVING
WITHDRAWING      busy      retry_later   STUCK           never reused, and the directory stays
WITHDRAWING      no        retry_later   STUCK
STUCK            timer     withdraw      WITHDRAWING
REMOVING         ok        bye           GONE
REMOVING         no        retry_later   STUCK           a knock that stays would be waited for
"""


class Row(NamedTuple):
    """What to do, "-" for nothing, and the state afterwards."""

    action: str
    state: str


def _parse(text: str) -> dict[tuple[str, str], Row]:
    rows: dict[tuple[str, str], Row] = {}
    for line in text.split("\n"):
        words = line.split(None, 4)
        if words:
            rows[words[0], words[1]] = Row(words[2], words[3])
    return rows


#: {role: {(state, input): Row}}
TABLE: Final = {PASSIVE: _parse(_PASSIVE), ACTIVE: _parse(_ACTIVE)}


def states(role: str) -> list[str]:
    """The states of a role, in the order of the table."""
    rows = TABLE[role]
    return list(dict.fromkeys([state for state, _ in rows] + [row.state for row in rows.values()]))


def erlang_terms() -> str:
    """The table as Erlang terms for file:consult/1: {Role, State, Input, Action, NextState}."""
    return "".join(
        f"{{{role}, '{state}', {what}, {'none' if row.action == '-' else row.action}, '{row.state}'}}.\n"
        for role, rows in TABLE.items()
        for (state, what), row in rows.items()
    )
