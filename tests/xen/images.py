"""The images of the rig: Xen, a kernel, and a small Debian for dom0 and one for domUs, with the project's own wheel.

Everything is from Debian's packages, fetched by apt and unpacked below the work folder: nothing is installed. An image
is an initramfs; the kernel takes several one after the other, so each is built of parts, and a part again only when
what it is made of has changed.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Missing", "build"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

BASE = "busybox-static libc6 libgcc-s1 libstdc++6 zlib1g libtinfo6"
PYTHON = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3-cffi-backend"
    " libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1"
)
TOOLS = (
    "xen-utils-4.17 xen-utils-common libxenmisc4.17 libxenstore4 libxencall1 libxendevicemodel1 libxenevtchn1"
    " libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxentoolcore1 libxentoollog1 libyajl2 libcap2 libgcrypt20"
    " libgpg-error0 liblz4-1 libsystemd0 libzstd1 liblzma5 libuuid1"
)
ERLANG = "erlang-base erlang-crypto libsystemd0 libcap2 libgcrypt20 libgpg-error0 liblz4-1 libzstd1 liblzma5"
XEN = "xen-hypervisor-4.17-amd64"

XEN_BIN = "usr/lib/xen-4.17/bin"
DOM0_PROGRAMS = ("xl", "xenstored", "xen-init-dom0", "xenconsoled", "lsevtchn", "xen-diag")
#: In the order in which they are loaded: below kernel/drivers.
MODULES = {
    "both": ("xen/xen-evtchn", "xen/xen-gntdev", "xen/xen-gntalloc", "xen/xen-privcmd", "xen/xenfs/xenfs"),
    "dom0": ("net/xen-netback/xen-netback",),
    "domu": ("net/xen-netfront",),
}
#: Of Python's library, what no test needs.
PYTHON_DROPS = re.compile(
    r"/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|distutils|pydoc_data|sqlite3|dbm|curses|venv|config-[^/]*"
    r"|__pycache__|unittest|xmlrpc|wsgiref|multiprocessing|ctypes/test)/|/(turtle|pydoc|_pydecimal|doctest)\.py|_codecs_(?!iso2022)|_sqlite3|_curses|_dbm|readline|_test|_xxtest"
    r"|/share/|\.a$"
)


class Missing(Exception):
    """What this machine lacks to build the images."""


# ── packages ──


class Packages:
    """Debian's packages, downloaded and unpacked once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Missing("no Debian: apt-get and dpkg-deb are needed")
        release = Path("/etc/os-release").read_text()
        if "VERSION_CODENAME=bookworm" not in release:
            raise Missing("not Debian 12: the names of its packages are those of the rig")

    def kernel(self) -> str:
        """The name of the package of the newest kernel."""
        found = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", "linux-image-amd64"))
        if found is None:
            raise Missing("apt knows no linux-image-amd64 (apt-get update?)")
        return found[1]

    def get(self, names: Iterable[str]) -> list[Path]:
        """The folders of unpacked packages."""
        wanted = list(names)
        absent = [name for name in wanted if not (self.folder / name).is_dir()]
        if absent:
            unpacking = self.folder / "unpacking"
            shutil.rmtree(unpacking, ignore_errors=True)
            unpacking.mkdir()
            try:
                _run("apt-get", "download", "-q", *absent, cwd=unpacking)
            except subprocess.CalledProcessError as error:
                raise Missing(f"apt-get download: {error.stderr.strip().splitlines()[-1]}") from error
            for file in unpacking.glob("*.deb"):
                name = file.name.split("_")[0]
                _run("dpkg-deb", "-x", str(file), str(unpacking / name))
                _prune(unpacking / name)
                (unpacking / name).rename(self.folder / name)
            shutil.rmtree(unpacking)
        return [self.folder / name for name in wanted]


def _prune(package: Path) -> None:
    """Documents, and the modules of a kernel that nobody loads: most of the half gigabyte."""
    shutil.rmtree(package / "usr/share", ignore_errors=True)
    wanted = {f"{Path(name).name}.ko" for names in MODULES.values() for name in names}
    for module in package.glob("lib/modules/**/*.ko"):
        if module.name not in wanted:
            module.unlink()


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


# ── parts of an initramfs ──


class Part:
    """Files by their path in the guest, written as one cpio archive ("newc")."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes]] = {}

    def add(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        self.files[path.lstrip("/")] = (stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)

    def link(self, path: str, target: str) -> None:
        self.files[path.lstrip("/")] = (stat.S_IFLNK | 0o777, target.encode())

    def folder(self, *paths: str) -> None:
        for path in paths:
            self.files[path.lstrip("/")] = (stat.S_IFDIR | 0o755, b"")

    def tree(self, root: Path, keep: Callable[[str], object] = lambda path: True, below: str = "") -> None:
        """All files under a folder that are to be kept, judged by "/path"."""
        for path in sorted(root.rglob("*")):
            name = "/" + path.relative_to(root).as_posix()
            if path.is_symlink():
                if keep(name):
                    self.link(below + name, os.readlink(path))
            elif path.is_file() and keep(name):
                self.add(below + name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644)

    def write(self, to: Path) -> None:
        for path in list(self.files):  # the folders above
            while path := path.rpartition("/")[0]:
                if path not in self.files:
                    self.folder(path)
        with to.open("wb") as out:
            for number, path in enumerate(sorted(self.files), 1):
                mode, data = self.files[path]
                _entry(out, path, mode, data, number)
            _entry(out, "TRAILER!!!", 0, b"", 0)


def _entry(out: object, path: str, mode: int, data: bytes, number: int) -> None:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    for piece in (head, data):
        out.write(piece + bytes(-len(piece) % 4))  # type: ignore[attr-defined]


def libraries(part: Part, packages: Iterable[Path]) -> None:
    """The shared libraries of packages."""
    for package in packages:
        part.tree(package, lambda path: re.match(r"(/usr)?/lib(64)?/(x86_64-linux-gnu/)?[^/]*\.so", path))


# ── the images ──


def base(packages: Packages) -> Part:
    """What every domain has."""
    part = Part()
    found = dict(zip(BASE.split(), packages.get(BASE.split()), strict=True))
    part.add("bin/busybox", (found["busybox-static"] / "bin/busybox").read_bytes(), 0o755)
    libraries(part, found.values())
    part.folder("dev", "proc", "sys", "tmp", "run", "root", "var/lib", "var/log")
    part.link("var/run", "/run")
    part.add("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
    part.add("etc/group", "root:x:0:\nuser:x:1000:\n")
    part.add("etc/hosts", "127.0.0.1 localhost\n10.9.0.1 dom0\n10.9.0.2 domu\n")
    part.add("etc/nsswitch.conf", "hosts: files\n")
    part.add("init", (HERE / "guest/init").read_text(), 0o755)
    return part


def modules(packages: Packages, which: str) -> Part:
    part = Part()
    (package,) = packages.get([packages.kernel()])
    (folder,) = package.glob("lib/modules/*/kernel/drivers")
    names = (*MODULES["both"], *MODULES[which])
    for name in names:
        part.add(f"modules/{Path(name).name}.ko", (folder / f"{name}.ko").read_bytes())
    part.add("modules/order", "".join(f"{Path(name).name}\n" for name in names))
    part.add("etc/domain", which + "\n")
    return part


def tools(packages: Packages) -> Part:
    """Xen's own programs, for dom0."""
    part = Part()
    found = packages.get(TOOLS.split())
    libraries(part, found)
    for name in DOM0_PROGRAMS:  # what Debian has in usr/sbin are scripts that look for these
        part.add(f"usr/bin/{name}", (found[0] / XEN_BIN / name).read_bytes(), 0o755)
    part.folder("var/lib/xen", "var/lib/xenstored", "var/log/xen/console", "etc/xen/scripts")
    part.add("etc/xen/xl.conf", 'autoballoon="off"\nrun_hotplug_scripts=1\nlockfile="/run/xl.lock"\n')
    part.add("etc/xen/scripts/vif-point-to-point", (HERE / "guest/vif").read_text(), 0o755)
    return part


def python(packages: Packages, compiler: str, work: Path) -> Part:
    """Debian's Python, compiled here: in the guest it would take a minute."""
    part = Part()
    found = packages.get(PYTHON.split())
    libraries(part, found)
    gathered = work / "python"
    shutil.rmtree(gathered, ignore_errors=True)
    for package in found:
        for path in package.rglob("*"):
            name = "/" + path.relative_to(package).as_posix()
            if path.is_file() and "/python3" in name and not PYTHON_DROPS.search(name):
                target = gathered / name[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    compile_all(compiler, gathered, "-b")
    part.tree(gathered, lambda path: not path.endswith(".py"))
    part.add("usr/bin/python3.11", (gathered / "usr/bin/python3.11").read_bytes(), 0o755)
    part.link("usr/bin/python3", "python3.11")
    shutil.rmtree(gathered)
    return part


def compile_all(compiler: str, folder: Path, *options: str) -> None:
    _run(compiler, "-m", "compileall", "-q", "-j2", "--invalidation-mode", "unchecked-hash", *options, str(folder))


def project(wheel: Path, compiler: str, work: Path) -> Part:
    """The wheel, and the tests that run in the guests."""
    part = Part()
    gathered = work / "project"
    shutil.rmtree(gathered, ignore_errors=True)
    site = gathered / "usr/lib/python3/dist-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    tests = gathered / "tests/xen"
    tests.mkdir(parents=True)
    for file in (*HERE.glob("*.py"), *HERE.glob("*.escript")):
        shutil.copy(file, tests)
    compile_all(compiler, gathered)
    part.tree(gathered)
    shutil.rmtree(gathered)
    return part


def erlang(packages: Packages) -> Part:
    """OTP 25 as Debian has it, without what only builds programs."""
    part = Part()
    found = packages.get(ERLANG.split())
    libraries(part, found)
    keep = re.compile(
        r"/usr/lib/erlang/(bin/|releases/|erts-[^/]*/bin/|lib/(kernel|stdlib|sasl|crypto)-[^/]*/(ebin|priv)/)"
    )
    for package in found[:2]:
        part.tree(package, lambda path: keep.match(path) and "/src/" not in path and "/include/" not in path)
    for name in ("erl", "escript"):
        part.link(f"usr/bin/{name}", f"../lib/erlang/bin/{name}")
    return part


def application() -> Part:
    """erl/ as it is built here; nothing when it is not."""
    part = Part()
    for below in ("ebin", "priv"):
        if (ROOT / "erl" / below).is_dir():
            part.tree(ROOT / "erl" / below, below=f"/erl/straw/{below}")
    return part


def unpacked_kernel(image: bytes) -> bytes:
    """The kernel inside a bzImage (Documentation/x86/boot.rst, payload_offset): it saves each domain its unpacking."""
    if image[0x202:0x206] != b"HdrS":
        raise Missing("the kernel is no bzImage")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(payload)
    if payload[:2] == b"\x1f\x8b":
        return gzip.decompress(payload[:-4])
    raise Missing("a kernel compressed in a way that the rig does not know")


# ── building what is not there ──


class Build:
    """The work folder."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.packages = Packages(work / "packages")
        self.compiler = self._compiler()

    @staticmethod
    def _compiler() -> str:
        if sys.version_info[:2] == (3, 11):
            return sys.executable
        found = shutil.which("python3.11")
        if found is None:
            raise Missing("no python3.11: the guests have it, and the wheel has to be built for it")
        return found

    def part(self, name: str, make: Callable[[], Part], *ingredients: object) -> Path:
        """The file of a part, made anew when its ingredients have changed."""
        to, stamp = self.work / f"{name}.cpio", self.work / f"{name}.stamp"
        now = hashlib.sha256(repr((Path(__file__).read_bytes(), ingredients)).encode()).hexdigest()
        if not to.exists() or not stamp.exists() or stamp.read_text() != now:
            make().write(to)
            stamp.write_text(now)
        return to

    def wheel(self) -> Path:
        folder = self.work / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        _run(
            self.compiler,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            ".",
            cwd=ROOT,
        )
        (wheel,) = folder.glob("*.whl")
        return wheel

    def kernels(self) -> None:
        if not (self.work / "xen").exists():
            (package,) = self.packages.get([XEN])
            (file,) = package.glob("boot/xen-4.17-amd64.gz")
            (self.work / "xen").write_bytes(gzip.decompress(file.read_bytes()))
        name = self.packages.kernel()
        if not (self.work / "vmlinux").exists() or (self.work / "kernel.stamp").read_text() != name:
            (package,) = self.packages.get([name])
            (file,) = package.glob("boot/vmlinuz-*")
            (self.work / "vmlinux").write_bytes(unpacked_kernel(file.read_bytes()))
            (self.work / "kernel.stamp").write_text(name)


def _content(*patterns: str) -> list[tuple[str, str]]:
    """What files of the project hold, as digests."""
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file())
    return [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def build(work: Path) -> None:
    """Makes work/{xen,vmlinux,dom0.img}. Missing: something that is needed is not there."""
    work.mkdir(parents=True, exist_ok=True)
    rig = Build(work)
    rig.kernels()
    packages = rig.packages
    guest = _content("tests/xen/guest/*")
    common = [
        rig.part("base", lambda: base(packages), guest),
        rig.part("python", lambda: python(packages, rig.compiler, work)),
        rig.part("erlang", lambda: erlang(packages)),
        rig.part(
            "project",
            lambda: project(rig.wheel(), rig.compiler, work),
            _content("node/**/*.py*", "pores/**/*.py*", "csrc/**/*.[ch]", "csrc/ffi/*", "setup.py", "tests/xen/*"),
        ),
        rig.part("application", application, guest, _content("erl/ebin/*", "erl/priv/*")),
    ]
    kernel = packages.kernel()
    domu = [*common, rig.part("modules-domu", lambda: modules(packages, "domu"), kernel)]
    dom0 = [
        *common,
        rig.part("modules-dom0", lambda: modules(packages, "dom0"), kernel),
        rig.part("tools", lambda: tools(packages), guest),
    ]
    rides = Part()  # the domUs' kernel and image, inside dom0's
    rides.add("guest/domu.img", b"".join(path.read_bytes() for path in domu))
    rides.add("guest/vmlinux", (work / "vmlinux").read_bytes())
    rides.write(work / "guest.cpio")
    with (work / "dom0.img").open("wb") as image:
        for path in (*dom0, work / "guest.cpio"):
            image.write(path.read_bytes())
    (work / "guest.cpio").unlink()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
