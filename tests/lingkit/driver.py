"""The stand-in from a test's side: `with LingProcess(rundir) as ling: ling.send((6, Atom("buddy")), 1)`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .terms import from_json, to_json

__all__ = ["LingDied", "LingProcess"]

PROGRAM = Path(__file__).with_name("ling.py")
#: Seconds until something that should happen at once is taken not to happen.
LIMIT = 30


class LingDied(AssertionError):
    """It died, as a LING would have."""


class LingProcess:
    def __init__(self, rundir: Path | str, domid: int = 0, *options: str) -> None:
        command = [sys.executable, str(PROGRAM), str(rundir), "--domid", str(domid), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.died = ""
        self._answers: dict[int, queue.Queue[dict[str, Any] | None]] = {}
        self._numbers = 0
        self._hello: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        hello = self._hello.get(timeout=LIMIT)
        if hello is None:
            raise LingDied(self.died or "it did not start")
        self.domid: int = hello["domid"]
        self.pid = self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what = json.loads(line)
            if "died" in what:
                self.died = what["died"]
            elif "id" in what:
                self._answers[what.pop("id")].put(what)
            else:
                self._hello.put(what)
        self._hello.put(None)
        for answers in list(self._answers.values()):
            answers.put(None)

    def start(self, do: str, **arguments: Any) -> int:
        """Asks for something; `result` has the answer."""
        self._numbers += 1
        self._answers[self._numbers] = queue.Queue()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"id": self._numbers, "do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._answers[self._numbers].put(None)
        return self._numbers

    def result(self, number: int, limit: float = LIMIT) -> dict[str, Any]:
        answer = self._answers[number].get(timeout=limit)
        if answer is None:
            self._thread.join(LIMIT)
            raise LingDied(self.died or "it was ended")
        del self._answers[number]
        return answer

    def do(self, do: str, **arguments: Any) -> dict[str, Any]:
        return self.result(self.start(do, **arguments))

    # What a test wants.

    def spawn(self, kind: str, name: str = "") -> Any:
        """A process: inbox (with a name), echo, server. Its pid."""
        return from_json(self.do("spawn", kind=kind, name=name)["pid"])

    def send(self, to: Any, message: Any, times: int = 1) -> str:
        """To ! Message. "" or the error that the sender would have."""
        return self.do("send", to=to_json(to), msgs=[to_json(message)], times=times).get("error", "")

    def next(self, name: str, limit: float = LIMIT) -> Any:
        """The next message of an inbox."""
        return from_json(self.result(self.start("next", name=name), limit)["message"])

    def call(self, to: Any, request: Any, seconds: float = 5.0) -> Any:
        """gen_server:call; TimeoutError or RuntimeError when it exits."""
        answer = self.do("call", to=to_json(to), request=to_json(request), seconds=seconds)
        if "error" in answer:
            raise (TimeoutError if answer["error"] == "timeout" else RuntimeError)(answer["error"])
        return from_json(answer["reply"])

    def calls(self, to: Any, count: int, fresh: bool = False, limit: float = LIMIT) -> int:
        """So many calls {echo, N}, one after the other: how many answers were right."""
        answer = self.result(self.start("calls", to=to_json(to), count=count, fresh=fresh), limit)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return int(answer["good"])

    def open(self, domid: int) -> str:
        return self.do("open", domid=domid).get("error", "")

    def status(self) -> dict[str, Any]:
        return self.do("status")

    def alive(self) -> None:
        """Asserts that it lives: LingDied with why it does not."""
        self.do("status")

    def stop(self) -> str:
        """A clean shutdown: "stopped", or "killed" when it took longer than LING's supervisor waits."""
        how: str = self.do("stop")["how"]
        self.process.wait(LIMIT)
        return how

    def kill(self) -> None:
        """SIGKILL, and no zombie."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        self._thread.join(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> LingProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None and self.process.poll() is None:
            self.alive()
        died = self.died
        self.kill()
        if error is None and died:
            raise LingDied(died)
