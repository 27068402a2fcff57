"""The machine that the kernel tiers run in is the one that the rig promises."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
]


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"rig-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


def run(namespace: str, *words: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", namespace, *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq"])
def test_every_scheduler_is_there(namespace: str, scheduler: str) -> None:
    run(namespace, "ipvsadm", "-A", "-t", "10.0.0.1:80", "-s", scheduler)
    assert run(namespace, "ipvsadm", "-Sn") == f"-A -t 10.0.0.1:80 -s {scheduler}\n"


@pytest.mark.parametrize(
    "kind", ["hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port"]
)
def test_every_kind_of_set_is_there(namespace: str, kind: str) -> None:
    extra = ["range", "0-65535"] if kind == "bitmap:port" else ["family", "inet6"]
    run(namespace, "ipset", "create", "probe", kind, *extra)
    assert kind in run(namespace, "ipset", "save")


def test_dummy_interface_with_addresses_of_both_families(namespace: str) -> None:
    run(namespace, "ip", "link", "add", "kube-ipvs0", "type", "dummy")
    run(namespace, "ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    run(namespace, "ip", "address", "add", "fd00::1/128", "dev", "kube-ipvs0")
    text = run(namespace, "ip", "address", "show", "kube-ipvs0")
    assert "10.96.0.1/32" in text
    assert "fd00::1/128" in text


def test_root_starts_empty() -> None:
    assert os.geteuid() == 0
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert "kube-ipvs0" not in links
    assert Path(os.environ["TMPDIR"]).is_relative_to("/run")
