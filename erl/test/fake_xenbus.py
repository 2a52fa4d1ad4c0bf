"""A character device that is as particular as Linux's /dev/xen/xenbus: a pseudo terminal with a store behind it.

It prints the device's path. Requests are answered with their payload (READ: the path is the value). Whatever comes
before the last request was answered, or in one write with it, is an error: the answer to it is EIO. Events come at the
worst moments: before and amid the answers.
"""

import os
import select
import struct
import sys
import threading
import time
import tty

HEAD = struct.Struct("<IIII")
WATCH_EVENT, ERROR = 15, 16

master, slave = os.openpty()
tty.setraw(slave)
print(os.ttyname(slave), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()


def exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(master, size - len(data))
    return data


while True:
    op, rid, tid, size = HEAD.unpack(exactly(HEAD.size))
    payload = exactly(size)
    time.sleep(0.002)
    early = bool(select.select([master], [], [], 0)[0])
    event = HEAD.pack(WATCH_EVENT, 0xDEAD, 0xBEEF, 7) + b"a\0none\0"
    if op == 2:
        payload = payload.rstrip(b"\0")
    answer = HEAD.pack(op, rid, tid, len(payload)) + payload
    if early:
        answer = HEAD.pack(ERROR, rid, tid, 4) + b"EIO\0"
    whole = event + answer + event
    for at in range(0, len(whole), 700):
        os.write(master, whole[at : at + 700])
