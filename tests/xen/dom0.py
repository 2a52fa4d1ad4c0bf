"""The control program in dom0 of the booted Xen: starts guests, runs the scenarios, tells what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

from control import LIMIT, Domain
from scenarios import SCENARIOS

from pores.errors import XenstoreError
from pores.xenstore.client import XenStore

CONSOLES = Path("/var/log/xen/console")
#: The network of one guest with dom0, which is 10.9.0.1 there; the guest is 10.9.0.2 (guest/init, guest/vif).
VIF = "'script=vif-point-to-point'"
GUEST = """
name = "{name}"
type = "pv"
kernel = "/guest/vmlinux"
ramdisk = "/guest/domu.img"
memory = {memory}
vcpus = 1
extra = "console=hvc0 rdinit=/init loglevel=4"
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "destroy"
vif = [{vif}]
"""


def argument(name: str, default: str) -> str:
    """One of the kernel's command line."""
    found = re.search(rf"(?:^| ){name}=(\S+)", Path("/proc/cmdline").read_text())
    return found[1] if found else default


def say(text: str) -> None:
    with open("/proc/uptime") as uptime:
        print(f"[{uptime.read().split()[0]}] {text}", flush=True)


async def run(*command: str, check: bool = True) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode("utf-8", "replace")
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {process.returncode}: {said.strip()}")
    return said


class Xen:
    """`control.Platform` on Xen."""

    name = "xen"

    def __init__(self, store: XenStore) -> None:
        self.store = store
        self._agent: asyncio.subprocess.Process | None = None
        self._guests: dict[str, Domain] = {}
        self._making = asyncio.Lock()
        self.at_first: set[str] = set()

    async def outside(self) -> Domain:
        domain = Domain(self.store, 0)
        if self._agent is None or self._agent.returncode is not None:
            await domain.forget()
            self._agent = await asyncio.create_subprocess_exec(sys.executable, "/tests/xen/agent.py")
            await domain.ready()
        return domain

    async def inside(self, name: str) -> Domain:
        async with self._making:
            if name not in self._guests:
                self._guests[name] = await self._create(name)
        await self._guests[name].ready()
        return self._guests[name]

    async def _create(self, name: str) -> Domain:
        file = Path(f"/run/{name}.cfg")
        file.write_text(
            GUEST.format(name=name, memory=argument("guest_memory", "256"), vif=VIF if name == "one" else "")
        )
        await run("xl", "create", str(file))
        domid = int(await run("xl", "domid", name))
        say(f"guest {name} is domain {domid}")
        return Domain(self.store, domid)

    async def crash(self, domain: Domain) -> None:
        before = await domain.agent()
        await domain.ask("die")
        await domain.ready(other_than=before)

    async def destroy(self, domain: Domain) -> None:
        (name,) = (name for name, guest in self._guests.items() if guest.domid == domain.domid)
        del self._guests[name]
        await run("xl", "destroy", name)

    async def pause(self, domain: Domain) -> None:
        await run("xl", "pause", str(domain.domid))
        await asyncio.sleep(1)

    async def resume(self, domain: Domain) -> None:
        await run("xl", "unpause", str(domain.domid))

    async def leaks(self) -> list[str]:
        """Domains that are dead and not gone; pages of a guest that are mapped, but those for its devices."""
        found = [line for line in (await run("xl", "list")).splitlines() if line.startswith("(null)")]
        return found + sorted(set(await self.grants()) - self.at_first)

    async def grants(self) -> list[str]:
        """What Xen says of grants that are in use (its key g), without those of the guests' consoles and stores."""
        await run("xl", "debug-keys", "g")
        said = (await run("xl", "dmesg")).rpartition("key 'g' pressed")[2]
        return [line for line in said.splitlines() if re.search(r"\[0x(?!000\]|001\])[0-9a-f]+\]", line)]

    async def close(self) -> None:
        for name in self._guests:
            with contextlib.suppress(RuntimeError):
                await run("xl", "destroy", name)
        if self._agent is not None and self._agent.returncode is None:
            self._agent.kill()
            await self._agent.wait()


async def main() -> None:
    wanted = argument("scenarios", "all")
    scenarios = [
        one for one in SCENARIOS if one.only in ("", "xen") and (wanted == "all" or one.name in wanted.split(","))
    ]
    store = await XenStore.connect()
    xen = Xen(store)
    begin = time.monotonic()
    # Both guests boot while dom0 starts its own.
    await xen.outside()
    for name in ("one", "two"):
        await xen.inside(name)
    xen.at_first = set(await xen.grants())
    say(f"domains are up after {time.monotonic() - begin:.1f} s")
    memory = await run("free", "-m")
    say(f"memory of dom0: {memory.splitlines()[1].split()[1:4]}")
    for scenario in scenarios:
        start = time.monotonic()
        try:
            async with asyncio.timeout(2 * LIMIT):
                await scenario.run(xen)
        except Exception as error:
            verdict = "FAILED"
            for line in "".join(traceback.format_exception(error)).splitlines()[-25:]:
                print(f"E {scenario.name}: {line}", flush=True)
        else:
            verdict = "PASSED"
        say(f"SCENARIO {scenario.name} {verdict} {time.monotonic() - start:.1f}")
        if store.closed:
            say("the store is gone: nothing more can be done")
            print(await run("sh", "-c", "pidof xenstored; dmesg | tail -n 20"))
            break
    await xen.close()
    await store.close()


def consoles() -> None:
    """What the guests have said, at the end: they are slow enough."""
    for log in sorted(CONSOLES.glob("guest-*.log")):
        for line in log.read_text("utf-8", "replace").splitlines()[-60:]:
            print(f"[{log.stem}] {line}")


def connected(path: str) -> None:
    """Called by guest/vif: tells the guest's backend that its interface is up."""

    async def tell() -> None:
        store = await XenStore.connect()
        with contextlib.suppress(XenstoreError):
            await store.write(f"{path}/hotplug-status", "connected")
        await store.close()

    asyncio.run(tell())


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        asyncio.run(main())
    except BaseException:
        traceback.print_exc()
    consoles()
    say("THE END")
