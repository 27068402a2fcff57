"""The least that the agent's work can cost on this machine: what its figures are divided by.

Messages are encoded beforehand and sent a hundred at a time without asking for acknowledgements;
what the kernel lists is thrown away unread; set members go in with one program. No agent in any
language can be faster than that by the same interfaces.

Runs in a namespace of its own: the kernel keeps deleted real servers for minutes and searches them
at every addition, so one table can be loaded only once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from bench.figures import Figure
from bench.inner import everything_new
from bench.workload import NODE, Size
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    Operation,
    member_text,
)
from ipvsproxy.kernel import codec, message
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.kernel.process import PATH
from ipvsproxy.model import DUMMY_INTERFACE, Address

SEND_TABLE = "floor: IPVS table, packed messages"
SEND_ADDRESSES = "floor: addresses, packed messages"
RESTORE_SETS = "floor: members, one ipset restore"
RESTORE_TABLE = "floor: IPVS table, one ipvsadm-restore"
RESTORE_RULES = "floor: chains of one family, one iptables-restore"
SAVE_SETS = "floor: members, one ipset save"
ONE_MESSAGE = "floor: one acknowledged message"
LIST_TABLE = "floor: IPVS table listed, not decoded"
LAUNCH = "floor: a program launched"
PYTHON = "floor: Python started"
PYTHON_ASYNCIO = "floor: Python started, with asyncio"
AGENT_START = "agent: process start to end, nothing to do"

_BATCH = 100
_REPEATS = 50
_LAUNCHES = 7
_GENERIC, _GENERIC_CONTROL, _ROUTE = 16, 16, 0
_NEW_ADDRESS, _LOCAL, _DONE = 20, 2, 3
_ADDRESS_MESSAGE = struct.Struct("=BBBBI")
_KIND = struct.Struct("=4xH")


def measure(size: Size) -> Iterator[Figure]:
    """Give the floors for one size of the cluster, in seconds."""
    for name, seconds in _measured(size):
        against = (PYTHON_ASYNCIO,) if name == AGENT_START else ()
        yield Figure(
            stage="floors",
            services=size.services,
            endpoints=size.endpoints,
            name=name,
            value=seconds,
            floors=against,
        )


def _measured(size: Size) -> Iterator[tuple[str, float]]:
    yield LAUNCH, _launched("true")
    yield PYTHON, _launched(sys.executable, "-c", "pass")
    yield PYTHON_ASYNCIO, _launched(sys.executable, "-c", "import asyncio")
    yield AGENT_START, _agent_start()
    operations = [step.operation for step in everything_new(size).steps]
    asyncio.run(_prepare(operations))
    yield RESTORE_SETS, _restore_sets(operations)
    yield SAVE_SETS, _timed(lambda: _run(["ipset", "save"]))
    yield RESTORE_RULES, _restore_rules()
    yield RESTORE_TABLE, _restore_table(operations)
    yield SEND_ADDRESSES, _send_addresses(operations)
    netlink = NetlinkSocket(_GENERIC)
    (answer,) = netlink.exchange([Request(_GENERIC_CONTROL, codec.encode_family_request())])
    family = codec.decode_family(answer.payloads[0])
    yield SEND_TABLE, _send(_GENERIC, [_framed(family, one) for one in _table(operations)])
    yield LIST_TABLE, _list_table(family, operations)
    yield ONE_MESSAGE, _one_message(netlink, family, operations)
    netlink.close()


async def _prepare(operations: Iterable[Operation]) -> None:
    """Make the link and the empty sets, which the agent makes before all else."""
    dataplane = LinuxDataplane(())
    await dataplane.apply([one for one in operations if isinstance(one, CreateLink | CreateSet)])
    await dataplane.close()


def _agent_start() -> float:
    """Time a start that finds nothing to do; the first one makes chains and sets."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "ipvsproxy", "run", "--once"]
        argv += ["--manifests", folder, "--hostname-override", NODE]
        return [_timed(lambda: _run(argv)) for _ in range(2)][-1]


def _restore_sets(operations: Iterable[Operation]) -> float:
    lines = [
        f"add {one.name} {member_text(one.member)}\n"
        for one in operations
        if isinstance(one, AddMember)
    ]
    # The agent's own start, timed before, has made the same sets.
    return _timed(lambda: _run(["ipset", "restore", "-exist"], "".join(lines)))


def _restore_rules() -> float:
    """Write the chains once more that the agent's own start has written."""
    for backend in ("iptables-legacy", "iptables-nft"):
        done = subprocess.run([f"{backend}-save"], capture_output=True, text=True, check=False)
        if "KUBE-" in done.stdout:
            return _timed(partial(_run, [f"{backend}-restore"], done.stdout))
    raise RuntimeError("the agent's start has left no chains")


def _restore_table(operations: Iterable[Operation]) -> float:
    """Load the table in a namespace of its own, since this one is to have it once as well."""
    lines: list[str] = []
    for operation in operations:
        match operation:
            case AddVirtualServer(key, server):
                lines.append(f"-A -t {key.address}:{key.port} -s {server.scheduler}\n")
            case AddRealServer(key, member, real):
                to = f"-r {member.address}:{member.port} -m -w {real.weight}\n"
                lines.append(f"-a -t {key.address}:{key.port} {to}")
            case _:
                pass
    shell = ("unshare", "--net", "sh", "-c")
    up = "ip link set lo up"
    alone = _timed(lambda: _run([*shell, up]))
    return _timed(lambda: _run([*shell, f"{up} && exec ipvsadm-restore"], "".join(lines))) - alone


def _send_addresses(operations: Iterable[Operation]) -> float:
    index = socket.if_nametoindex(DUMMY_INTERFACE)
    flags = message.REQUEST | message.CREATE | message.EXCLUSIVE
    return _send(
        _ROUTE,
        [
            message.frame(_NEW_ADDRESS, _address(one.address, index), flags=flags, sequence=0)
            for one in operations
            if isinstance(one, BindAddress)
        ],
    )


def _address(address: Address, index: int) -> bytes:
    head = _ADDRESS_MESSAGE.pack(socket.AF_INET, address.family.host_prefix, 0, 0, index)
    return head + message.attribute(_LOCAL, address)


def _table(operations: Iterable[Operation]) -> Iterator[bytes]:
    for operation in operations:
        match operation:
            case AddVirtualServer(key, server):
                yield codec.encode_add_virtual_server(key, server)
            case AddRealServer(key, member, real):
                yield codec.encode_add_real_server(key, member, real)
            case _:
                pass


def _framed(family: int, payload: bytes) -> bytes:
    return message.frame(family, payload, flags=message.REQUEST, sequence=0)


def _send(protocol: int, messages: Sequence[bytes]) -> float:
    """Send messages that the kernel answers only where it refuses, which it must not."""
    batches = [
        b"".join(messages[start : start + _BATCH]) for start in range(0, len(messages), _BATCH)
    ]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as connection:
        connection.bind((0, 0))
        start = time.perf_counter()
        for batch in batches:
            connection.send(batch)
        seconds = time.perf_counter() - start
        try:
            refusal = connection.recv(1024, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return seconds
    raise RuntimeError(f"the kernel has refused a message of the floor: {refusal!r}")


def _list_table(family: int, operations: Iterable[Operation]) -> float:
    payloads = [codec.encode_list_virtual_servers()]
    payloads += [
        codec.encode_list_real_servers(one.key)
        for one in operations
        if isinstance(one, AddVirtualServer)
    ]
    flags = message.REQUEST | message.DUMP
    requests = [message.frame(family, one, flags=flags, sequence=0) for one in payloads]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as connection:
        connection.bind((0, 0))
        return _timed(lambda: _drain(connection, requests))


def _drain(connection: socket.socket, requests: Iterable[bytes]) -> None:
    for request in requests:
        connection.send(request)
        while _KIND.unpack_from(connection.recv(65536))[0] != _DONE:
            pass


def _one_message(netlink: NetlinkSocket, family: int, operations: Iterable[Operation]) -> float:
    one = next(one for one in operations if isinstance(one, AddRealServer))
    request = Request(family, codec.encode_set_real_server(one.key, one.member, one.server))
    return statistics.median(_timed(lambda: netlink.exchange([request])) for _ in range(_REPEATS))


def _launched(*argv: str) -> float:
    return min(_timed(lambda: _run(argv)) for _ in range(_LAUNCHES))


def _run(argv: Sequence[str], text: str = "") -> None:
    # The agent's own short search path: each folder in vain costs a system call.
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(
        argv, input=text, text=True, check=False, capture_output=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr}")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
