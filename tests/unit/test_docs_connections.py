"""docs/connections.md shows the handshake's table as it is. With PYTHONPATH=. this file writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from node.net.options import NetOptions
from node.wire.framing import MAX_HANDSHAKE_FRAME
from node.wire.handshake_states import TABLE, Input, State

PAGE = Path(__file__).parents[2] / "docs" / "connections.md"
SLOT = re.compile(r"(<!-- table: handshake -->\n).*?(<!-- end -->)", re.DOTALL)


def table() -> str:
    lines = ["| state: we wait for | what comes | then |", "|---|---|---|"]
    for (state, what), (_, after) in TABLE.items():
        if what not in (Input.EOF, Input.TIMER):
            lines.append(f"| {state.name}: {state.value} | {what.value} | {after.name} |")
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    return SLOT.sub(lambda match: match[1] + table() + match[2], page)


def test_the_table_in_the_docs() -> None:
    page = PAGE.read_text()
    assert "| WAIT_NAME" in page
    assert filled(page) == page


def test_the_limits_in_the_docs() -> None:
    page, options = PAGE.read_text(), NetOptions()
    assert options.busy_limit == 1 << 20 and "| 1 MiB" in page
    assert options.hard_limit == 64 << 20 and "| 64 MiB" in page
    assert options.max_frame == 1 << 30 and "| 1 GiB" in page
    assert f"| {options.max_handshakes} |" in page and f"| {MAX_HANDSHAKE_FRAME} bytes |" in page
    assert f"| {options.setup_time:g} s to reach" in page and f"| {options.close_time:g} s |" in page


def test_every_state_can_be_left_by_the_end_and_the_deadline() -> None:
    for state in State:
        over = state in (State.DONE, State.REFUSED)
        for what in (Input.EOF, Input.TIMER):
            assert ((state, what) in TABLE) != over


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
