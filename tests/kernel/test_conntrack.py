"""Forgetting UDP flows, one server's or all, with real sockets and the kernel's own table."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsproxy.core.operations import ForgetFlows
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel.conntrack import forget
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import Address, Protocol, RealServerKey, VirtualServerKey
from tests.kernel.netfilter import netfilter, unusable

# A DNAT stands for the virtual server: its entries look the same, and every kernel has it.
TRANSLATION = """*nat
:SPREAD - [0:0]
-A OUTPUT -p udp -d {frontend} --dport 53 -j SPREAD
-A SPREAD -p udp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to {first}
-A SPREAD -p udp -j DNAT --to {second}
COMMIT
"""
ADDRESSES = {
    "v4": ("10.96.0.10", "10.244.1.5", "10.244.1.6"),
    "v6": ("fd00:96::a", "fd00:244::5", "fd00:244::6"),
}


def run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture
def processes() -> Iterator[Processes]:
    if shutil.which("conntrack") is None:
        pytest.skip("the program conntrack is not installed")
    with netfilter() as processes:
        run("ip", "link", "set", "lo", "up")
        yield processes


def flows(family: str) -> list[str]:
    """Server addresses of the UDP entries, by the program itself."""
    listing = run("conntrack", "-L", "-p", "udp", "-f", "ipv4" if family == "v4" else "ipv6")
    replies = [row.split("src=")[2].split()[0] for row in listing.splitlines()]
    return sorted(replies)


@pytest.mark.parametrize("others", [0, 20])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_only_the_flows_of_that_frontend_to_that_server_are_forgotten(
    processes: Processes, family: str, others: int
) -> None:
    frontend, first, second = ADDRESSES[family]
    host = "32" if family == "v4" else "128"
    for address in ADDRESSES[family]:
        run("ip", "address", "add", f"{address}/{host}", "dev", "lo")
    sort = socket.AF_INET if family == "v4" else socket.AF_INET6
    bracket = (lambda text: text) if family == "v4" else (lambda text: f"[{text}]")
    text = TRANSLATION.format(
        frontend=frontend, first=f"{bracket(first)}:5353", second=f"{bracket(second)}:5353"
    )
    backend = "legacy" if unusable(processes, "nft") else "nft"
    run(
        f"{'iptables' if family == 'v4' else 'ip6tables'}-{backend}-restore", "--noflush", text=text
    )
    with (
        socket.socket(sort, socket.SOCK_DGRAM) as one,
        socket.socket(sort, socket.SOCK_DGRAM) as two,
    ):
        one.bind((first, 5353))
        two.bind((second, 5353))
        clients = [socket.socket(sort, socket.SOCK_DGRAM) for _ in range(4)]
        for client in clients:
            client.sendto(b"question", (frontend, 53))
        direct = socket.socket(sort, socket.SOCK_DGRAM)
        direct.sendto(b"question", (first, 5353))
        assert flows(family) == sorted([first] * 3 + [second] * 2)

        key = VirtualServerKey(Protocol.UDP, Address.parse(frontend), 53)
        operations = [
            ForgetFlows(key, RealServerKey(Address.parse(first), 5353)),
            ForgetFlows(key, RealServerKey(Address.parse(first), 5353)),
            ForgetFlows(key._replace(port=54), RealServerKey(Address.parse(second), 5353)),
            ForgetFlows(key, RealServerKey(Address.parse(second), 5354)),
        ]
        operations += [
            ForgetFlows(key._replace(port=1000 + number), operations[0].member)
            for number in range(others)
        ]
        before = processes.launched
        assert forget(operations, processes) == [DONE] * (4 + others)
        assert processes.launched - before == (2 if others else 1)
        assert flows(family) == sorted([first] + [second] * 2)

        whole = [ForgetFlows(key._replace(port=2000 + number), None) for number in range(others)]
        before = processes.launched
        assert forget([ForgetFlows(key, None), *whole], processes) == [DONE] * (1 + others)
        assert processes.launched - before <= 2
        assert flows(family) == [first], "what was never asked of the frontend stays"
        for client in (*clients, direct):
            client.close()


def test_a_missing_program_is_named_with_the_mend(tmp_path: Path) -> None:
    key = VirtualServerKey(Protocol.UDP, Address.parse("10.96.0.10"), 53)
    operation = ForgetFlows(key, RealServerKey(Address.parse("10.244.1.5"), 53))
    outcome = forget([operation], Processes(path=str(tmp_path)))[0]
    assert outcome.refusal is Refusal.UNSUPPORTED
    assert "install the package conntrack" in outcome.reason
