"""Makes tests/golden/epmd.json: what a real epmd says, byte for byte.

Run by hand with an epmd in PATH: `python tests/golden/make_epmd.py`. The creations in it are epmd's own choice and
differ at each run. The requests are made here by hand, not with the code that they test.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path


def alive(name: bytes, *, port: int = 5555, node_type: int = 77, highest: int = 6, extra: bytes = b"") -> bytes:
    body = struct.pack(">BHBBHHH", 120, port, node_type, 0, highest, 5, len(name)) + name
    return body + struct.pack(">H", len(extra)) + extra


def main() -> None:
    epmd = shutil.which("epmd")
    if epmd is None:
        sys.exit("no epmd in PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([epmd, "-port", str(port), "-address", "127.0.0.1"], stderr=subprocess.DEVNULL)
    kept, cases = [], []

    def ask(what: str, body: bytes, keep: bool = False) -> None:
        link = socket.create_connection(("127.0.0.1", port), timeout=10)
        request = struct.pack(">H", len(body)) + body
        link.sendall(request)
        reply = link.recv(65536)
        if keep:
            kept.append(link)
        else:
            while more := link.recv(65536):
                reply += more
        cases.append({"what": what, "request": request.hex(), "reply": reply.hex()})

    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        ask("names of an empty epmd", b"n")
        ask("register abc, version 6", alive(b"abc", extra=b"xyz"), keep=True)
        ask("register abc again", alive(b"abc"), keep=True)
        ask("register old, version 5, hidden", alive(b"old", node_type=72, highest=5), keep=True)
        ask("register old again", alive(b"old", highest=5), keep=True)
        ask("register a name in UTF-8", alive("bücher".encode(), port=65535), keep=True)
        ask("look abc up", b"zabc")
        ask("look abc up, with a NUL", b"zabc\0")
        ask("look old up", b"zold")
        ask("look bücher up", "zbücher".encode())
        ask("look an unknown name up", b"znone")
        ask("names", b"n")
        ask("dump", b"d")
        ask("kill with live nodes", b"k")
        ask("stop without -relaxed_command_check", b"sabc")
        version = subprocess.run(
            ["dpkg-query", "-W", "erlang-base"], check=True, capture_output=True, text=True
        ).stdout.split()
        golden = {"source": f"epmd of {' '.join(version)}", "port": port, "cases": cases}
        target = Path(__file__).with_name("epmd.json")
        target.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
