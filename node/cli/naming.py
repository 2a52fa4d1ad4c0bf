"""Names of nodes on the command line: checking those given, and finding one for a command that needs its own.

A connection needs two names of the same kind, long (a host with a dot, or an IPv6 address) or short.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from pathlib import PurePath

from .failure import CANNOT_CONNECT, USAGE, Failure

__all__ = ["checked", "client_name", "default_name", "is_long", "long_name", "short_name", "unreachable"]

_NAME = re.compile(r"[^@\s'\"/\\]+")


def checked(name: str) -> str:
    """A full node name, ``name@host``, as it was given."""
    short, at, host = name.partition("@")
    if not at or not _NAME.fullmatch(short) or not _NAME.fullmatch(host) or not name.isprintable():
        shown = name if name.isprintable() else ascii(name)
        raise Failure(USAGE, f"not a node's name: {shown} (it looks like name@host)")
    if len(name) > 255:
        raise Failure(USAGE, "a node's name has at most 255 characters")
    return name


def is_long(host: str) -> bool:
    return "." in host or ":" in host


def long_name(name: str) -> str:
    """--name: a full name is taken as it is, else this host's full name is added."""
    host = name.partition("@")[2] or socket.getfqdn()
    if not is_long(host):
        raise Failure(
            USAGE,
            f"Hostname {host} is illegal in a long name: it needs a dot. Give name@127.0.0.1 or use --sname",
        )
    return checked(name if "@" in name else f"{name}@{host}")


def short_name(name: str) -> str:
    """--sname: the host, given or this one's, is without a dot."""
    host = name.partition("@")[2] or _short_host()
    if is_long(host):
        raise Failure(USAGE, f"Hostname {host} is illegal in a short name: it has a dot. Use --name for it")
    return checked(name if "@" in name else f"{name}@{host}")


def default_name(app: str) -> str:
    """``calc.py:app`` is calc@127.0.0.1."""
    path = app.rpartition(":")[0]
    stem = PurePath(path).stem if path.endswith(".py") else path.rpartition(".")[2]
    return checked(f"{stem or 'python'}@127.0.0.1")


def client_name(target: str) -> str:
    """A name for a command that talks to the node target: unique, of the same kind, on the right host."""
    host = checked(target).partition("@")[2]
    mine = f"strawbridge-{os.getpid()}-{secrets.token_hex(4)}"
    address = _our_address_towards(host)
    if address == _address(host):  # the target is on this machine
        return f"{mine}@{host}"
    return f"{mine}@{address if is_long(host) else _short_host()}"


def unreachable(name: str, listen: str) -> str | None:
    """What to warn of when others will look for the node at its host, and it listens on loopback alone."""
    host = name.partition("@")[2]
    if is_loopback(listen) and not is_loopback(host):
        return (
            f"it listens on {listen}, so only this machine reaches it, and as {host} nobody may: "
            f"give --listen {host if _is_address(host) else '0.0.0.0'}, or a name @127.0.0.1"
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is on loopback; also when nothing is known of it."""
    try:
        return ipaddress.ip_address(_address(host)).is_loopback
    except (Failure, ValueError):
        return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _short_host() -> str:
    return socket.gethostname().partition(".")[0]


def _address(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host's name"
        raise Failure(CANNOT_CONNECT, f"no address for the host {host}: {reason}") from error
    return str(found[0][4][0])


def _our_address_towards(host: str) -> str:
    """The address that this machine would use to reach the host; nothing is sent."""
    address = _address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            raise Failure(CANNOT_CONNECT, f"no way to the host {host}: {error.strerror}") from error
        return str(probe.getsockname()[0])
