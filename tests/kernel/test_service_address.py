"""What a service address answers once our chains stand: its frontends and ping, nothing else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from ipvsproxy.core.detect_local import LocalPods
from ipvsproxy.core.firewall import ruleset
from ipvsproxy.core.operations import AddMember, CreateSet, ReplaceChains
from ipvsproxy.core.sets import CLUSTER_IP, IPVS_IPS, set_name, set_specs
from ipvsproxy.dataplane import DONE
from ipvsproxy.kernel.ipset import Ipsets, SetOperation
from ipvsproxy.kernel.iptables import Iptables
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import Address, Family, IpMember, IpPortMember, Protocol, Ruleset
from tests.kernel.netfilter import netfilter

SERVED, NOT_SERVED = 80, 22
ECHO = {Family.IPV4: (8, 0), Family.IPV6: (128, 129)}
"""ICMP types of a request and its answer."""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with netfilter() as processes:
        assert processes.run(("ip", "link", "set", "lo", "up")).returncode == 0
        yield processes


@pytest.mark.parametrize(
    ("family", "text"), [(Family.IPV4, "10.96.0.10"), (Family.IPV6, "fd00:96::a")]
)
def test_only_frontends_and_ping_are_answered(
    processes: Processes, family: Family, text: str
) -> None:
    """Daemons of the node listen on all addresses; over this one they must not be reached."""
    bind(processes, family, text)
    with listen(family, SERVED), listen(family, NOT_SERVED):
        assert connects(family, text, NOT_SERVED)
        protect(processes, family, Address.parse(text))
        assert connects(family, text, SERVED)
        assert not connects(family, text, NOT_SERVED)
        assert connects(family, "127.0.0.1" if family is Family.IPV4 else "::1", NOT_SERVED)
        assert pings(family, text)


def bind(processes: Processes, family: Family, text: str) -> None:
    address = ("ip", "address", "add", f"{text}/{family.host_prefix}", "dev", "lo")
    assert processes.run(address).returncode == 0


def protect(processes: Processes, family: Family, address: Address) -> None:
    frontend = IpPortMember(address, Protocol.TCP, SERVED)
    operations: list[SetOperation] = [
        *(CreateSet(name, spec) for name, spec in set_specs([family], 65536).items()),
        AddMember(set_name(CLUSTER_IP, family), frontend),
        AddMember(set_name(IPVS_IPS, family), IpMember(address)),
    ]
    assert set(Ipsets(processes).apply(operations)) == {DONE}
    wanted = ruleset(family, pods=LocalPods())
    replace = ReplaceChains(family, wanted, Ruleset())
    assert Iptables(processes, "auto").apply(replace) == DONE


def sort(family: Family) -> socket.AddressFamily:
    return socket.AF_INET if family is Family.IPV4 else socket.AF_INET6


def listen(family: Family, port: int) -> socket.socket:
    return socket.create_server(("", port), family=sort(family))


def connects(family: Family, text: str, port: int) -> bool:
    with socket.socket(sort(family), socket.SOCK_STREAM) as client:
        client.settimeout(10)
        try:
            client.connect((text, port))
        except ConnectionRefusedError:
            return False
        return True


def pings(family: Family, text: str) -> bool:
    """Send one echo request; the kernel computes the checksum of ICMPv6 only."""
    request, answer = ECHO[family]
    protocol = socket.IPPROTO_ICMP if family is Family.IPV4 else socket.IPPROTO_ICMPV6
    checksum = ~((request << 8) + 7 + 1) & 0xFFFF
    packet = struct.pack("!BBHHH", request, 0, checksum, 7, 1)
    with socket.socket(sort(family), socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(10)
        raw.sendto(packet, (text, 0))
        for _ in range(10):
            received = raw.recv(1500)
            if received[20 if family is Family.IPV4 else 0] == answer:
                return True
    return False
