"""The image without an engine or a registry: the Dockerfile carried out over a debootstrap root.

Takes minutes, root and a Debian mirror, so it runs with IPVSPROXY_TEST_FULL=1 only. The agent is
then started from that root in the rig with the rights that the DaemonSet gives, and with fewer.
What is not shown here is seccomp, which a container runtime brings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deployment.dockerfile import ROOT, Image, build, debian_slim
from tests.deployment.rendered import base, container

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("IPVSPROXY_TEST_FULL") != "1",
        reason="builds the image, which takes minutes: set IPVSPROXY_TEST_FULL=1",
    ),
    pytest.mark.skipif(
        shutil.which("debootstrap") is None or os.geteuid() != 0,
        reason="needs root, and debootstrap: install the package debootstrap",
    ),
]

MEBIBYTES = 250
"""Most that the image may have, uncompressed; debian:13-slim has 83, kubernetes-asyncio 47."""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, annotations: {ipvsproxy.io/scheduler: wrr}}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [192.0.2.11]}]
"""
SERVED = ("-A -t 10.96.0.10:80 -s wrr", "-a -t 10.96.0.10:80 -r 192.0.2.11:8080 -m -w 1")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    return build(debian_slim(folder), folder)


def rights() -> list[str]:
    """Return the capabilities of the agent's container, as setpriv takes them."""
    added: list[str] = container(base())["securityContext"]["capabilities"]["add"]
    return [f"+{one.lower()}" for one in added]


@pytest.fixture(scope="module")
def started(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return what the agent said and the kernel then held, by what it was started with."""
    services = tmp_path_factory.mktemp("services")
    (services / "web.yaml").write_text(SERVICE)
    lists = [",".join(rights()), *rights()]
    script = Path(__file__).parent / "confined.sh"
    inside = ("bash", str(script), str(image.root), str(services), *lists)
    done = subprocess.run(
        (sys.executable, "-m", "rig", "run", "--timeout", "600", "--", *inside),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = (part.partition("\n") for part in done.stdout.split("== ")[1:])
    return {name: text for name, _, text in parts}


def test_the_image_is_small(image: Image) -> None:
    done = subprocess.run(
        ("du", "-sxm", str(image.root)), capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) < MEBIBYTES


def test_the_image_starts_what_its_entry_point_says(image: Image) -> None:
    words = ("chroot", str(image.root), *image.entrypoint, "version")
    done = subprocess.run(words, env=image.environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ipvsproxy ")


def test_with_the_rights_of_the_manifest_the_agent_does_all_its_work(
    started: Mapping[str, str],
) -> None:
    said = started[",".join(rights())]
    assert "exit status" not in said
    assert '"condition"' not in said
    for line in (*SERVED, "KUBE-CLUSTER-IP", "-A PREROUTING", "10.96.0.10/32"):
        assert line in said


def test_with_fewer_rights_it_cannot(started: Mapping[str, str]) -> None:
    for fewer in rights():
        assert "exit status 1" in started[fewer], fewer
        assert not all(line in started[fewer] for line in (*SERVED, "-A PREROUTING")), fewer


def test_settings_that_differ_and_cannot_be_written_are_a_condition_and_no_more(
    started: Mapping[str, str],
) -> None:
    said = started["untouched"]
    assert '"condition"' in said
    assert "/proc/sys/net/ipv4/vs/conntrack cannot be written" in said
    for line in (*SERVED, "-A PREROUTING"):
        assert line in said
