"""Python as a node of an Erlang cluster.

Node is a node; handlers given to Node.register() are its processes; terms.py says how Erlang's values look in Python.
Importing this runs nothing.
"""

from .errors import (
    CallError,
    CallExit,
    CallTimeout,
    CookieError,
    DecodeError,
    EncodeError,
    EpmdError,
    EtfError,
    HandshakeRefused,
    LocalProtocolError,
    NoConnection,
    NodeDown,
    NodeError,
    NoProc,
    PeerBusy,
    ProcessExit,
    ProtocolError,
    RemoteError,
    RemoteExit,
    RemoteProtocolError,
    RemoteThrow,
)
from .etf import decode, encode
from .node import Link, Monitor, Node
from .otp.gen_server import GenServer, NoReply, Reply, Stop
from .otp.supervisor import TooManyRestarts
from .runtime.process import Process
from .strawman.errors import StrawError
from .terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    Pid,
    Port,
    Record,
    Reference,
)

__all__ = [
    "Atom",
    "BitString",
    "CallError",
    "CallExit",
    "CallTimeout",
    "CookieError",
    "DecodeError",
    "EncodeError",
    "EpmdError",
    "EtfError",
    "Export",
    "Fun",
    "GenServer",
    "HandshakeRefused",
    "ImproperList",
    "Link",
    "LocalProtocolError",
    "LocalTerm",
    "Map",
    "Monitor",
    "NoConnection",
    "NoProc",
    "NoReply",
    "Node",
    "NodeDown",
    "NodeError",
    "PeerBusy",
    "Pid",
    "Port",
    "Process",
    "ProcessExit",
    "ProtocolError",
    "Record",
    "Reference",
    "RemoteError",
    "RemoteExit",
    "RemoteProtocolError",
    "RemoteThrow",
    "Reply",
    "Stop",
    "StrawError",
    "TooManyRestarts",
    "decode",
    "encode",
]
