"""The benchmark's readings of the kernel beside what the system's own programs have put there."""

from __future__ import annotations

import subprocess
from contextlib import closing

import pytest

from bench import judge
from bench.cluster import Frontend

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("own_namespace")]

WEB, DNS = Frontend("10.96.0.10", 80), Frontend("10.96.0.3", 53, 17)


def run(*lines: str) -> None:
    for line in lines:
        subprocess.run(line.split(), check=True)


def readings() -> tuple[bool, int, int]:
    return judge.has_link(), judge.bound_addresses(), judge.set_members()


def test_virtual_servers_with_the_real_servers_that_take_connections() -> None:
    with closing(judge.Table()) as table:
        assert (table.count(), table.serving(WEB, 2)) == (0, None)
        pending = judge.Pending(table, {WEB: frozenset({("10.244.0.1", 8080)}), DNS: frozenset()})
        run("ipvsadm -A -t 10.96.0.10:80 -s rr", "ipvsadm -A -u 10.96.0.3:53 -s wlc")
        first = pending.look()
        run(
            "ipvsadm -a -t 10.96.0.10:80 -r 10.244.0.1:8080 -m -w 1",
            "ipvsadm -a -t 10.96.0.10:80 -r 10.244.0.2:8081 -m -w 0",
        )
        assert table.count() == 2
        assert table.serving(WEB, 2) == frozenset({("10.244.0.1", 8080)})
        assert table.serving(DNS, 2) == frozenset()
        assert (first, pending.look()) == (False, True)
        run("ipvsadm -e -t 10.96.0.10:80 -r 10.244.0.2:8081 -m -w 5")
        assert table.serving(WEB, 2) == frozenset({("10.244.0.1", 8080), ("10.244.0.2", 8081)})


def test_addresses_and_sets() -> None:
    assert readings() == (False, 0, 0)
    run(
        "ip link add kube-ipvs0 type dummy",
        "ip addr add 10.96.0.10/32 dev kube-ipvs0",
        "ip addr add 10.96.0.3/32 dev kube-ipvs0",
        "ip -6 addr add fd00::1/128 dev kube-ipvs0",
        "ipset create KUBE-CLUSTER-IP hash:ip,port",
        "ipset add KUBE-CLUSTER-IP 10.96.0.10,tcp:80",
        "ipset add KUBE-CLUSTER-IP 10.96.0.3,udp:53",
        "ipset add KUBE-CLUSTER-IP 10.96.0.3,tcp:53",
    )
    assert readings() == (True, 2, 3)
    assert judge.is_local(["10.96.0.10", "10.96.0.3"])
    assert not judge.is_local(["10.96.0.10", "10.96.0.4"])
