"""Log lines that others can cause, kept within bounds, so that a scanner or a broken peer can't fill the disk.

Not for lines about what this program does itself: those are all written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["LINES", "PERIOD", "SparingLog"]

#: Lines of one kind that are written within PERIOD seconds; the others are counted.
LINES = 20
PERIOD = 60.0


class SparingLog:
    """A logger that writes at most LINES lines of each kind in PERIOD seconds.

    The first line of a kind after that says how many were left out. clock: seconds, monotonic.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # kind -> when its period began, lines since then

    def write(self, level: int, kind: str, text: str, *args: object) -> None:
        """logging.Logger.log(), if there is room. kind: one of a few fixed words."""
        if not self._log.isEnabledFor(level):
            return
        now = self._clock()
        began, lines = self._kinds.get(kind, (now, 0))
        if now - began >= PERIOD:
            if lines > LINES:
                self._log.log(level, "%d more lines like the next one were left out", lines - LINES)
            began, lines = now, 0
        self._kinds[kind] = began, lines + 1
        if lines < LINES:
            self._log.log(level, text, *args)
        elif lines == LINES:
            self._log.log(level, "more lines like this are left out for up to %g s: " + text, PERIOD, *args)
