"""The manifests on a real API server: taken as they are, and the admission policy at work there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.api import real_server
from tests.api.real_server import KubectlError, RealServer
from tests.api.support import endpoint_slice, service
from tests.deployment.chart import rendered, values
from tests.deployment.rendered import BASE, MANIFESTS, OVERLAYS, Json
from tests.deployment.test_chart import RELEASES

pytestmark = real_server.marks()

FOLDERS = (BASE, *(MANIFESTS / "overlays" / name for name in OVERLAYS))
SCHEDULER, WEIGHTS = "ipvsproxy.io/scheduler", "ipvsproxy.io/weights"
TRIES = 100
"""A policy is in force a few seconds after it was written."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.name))
def test_the_server_takes_a_kustomization(server: RealServer, folder: Path) -> None:
    apply = ("apply", "--server-side", "--validate=strict", "--kustomize", str(folder))
    server.kubectl(*apply, "--dry-run=server")
    assert server.kubectl(*apply).count("serverside-applied") >= 4
    server.kubectl("delete", "--kustomize", str(folder))


@pytest.mark.parametrize("name", RELEASES)
def test_the_server_takes_a_release_of_the_chart(server: RealServer, name: str) -> None:
    objects = [*rendered(values(**RELEASES[name])).values()]
    server.apply(*objects)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    server.kubectl("delete", "--filename=-", text=text)


def test_the_agent_has_no_right_that_kube_proxy_has_not(server: RealServer) -> None:
    """That one's role is the server's own; kubeadm binds it."""
    ours = yaml.safe_load((BASE / "clusterrole.yaml").read_text())
    assert rights(ours) <= rights(server.get("clusterrole/system:node-proxier"))


def rights(role: Json) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def policy(server: RealServer) -> RealServer:
    """Return the server with our policy in force."""
    folder = str(MANIFESTS / "admission")
    server.kubectl("apply", "--server-side", "--validate=strict", "--kustomize", folder)
    for number in range(TRIES):
        try:
            server.apply(annotated(service(f"try-{number}", address=""), {SCHEDULER: "fastest"}))
        except KubectlError:
            return server
        time.sleep(0.2)  # the server tells nobody when it has read a policy
    raise TimeoutError("the policy does not come into force")


def annotated(one: Json, annotations: Mapping[str, str]) -> Json:
    spec = {"spec": {"ports": [{"port": 80}]}} if one["kind"] == "Service" else {}
    return {**one, **spec, "metadata": {**one["metadata"], "annotations": annotations}}


def web(annotations: Mapping[str, str]) -> Json:
    return annotated(service("web"), annotations)


def web_slice(annotations: Mapping[str, str]) -> Json:
    one = endpoint_slice("web-1", owner="web", addresses=("10.244.1.7",))
    return annotated(one, annotations)


@pytest.mark.parametrize(
    "right",
    [
        web({SCHEDULER: "mh", "example.com/a": "b"}),
        web({}),
        web_slice({WEIGHTS: '{"10.244.1.7": 3, "2001:db8::1": 65535}'}),
    ],
    ids=str,
)
def test_what_is_right_is_let_in(policy: RealServer, right: Json) -> None:
    policy.apply(right)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            web({SCHEDULER: "fastest"}),
            'annotation ipvsproxy.io/scheduler: "fastest" is no scheduler; write one of dh fo lblc',
        ),
        (
            web({WEIGHTS: "{}"}),
            "(by address they are written on an EndpointSlice)",
        ),
        (
            web_slice({WEIGHTS: '{"10.244.1.7": 65536}'}),
            "annotation ipvsproxy.io/weights: no JSON object from IP address to weight",
        ),
        (web_slice({WEIGHTS: "10.244.1.7=3"}), "write for example"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_and_its_author_is_told(
    policy: RealServer, wrong: Json, message: str
) -> None:
    with pytest.raises(KubectlError) as raised:
        policy.apply(wrong)
    assert message in str(raised.value)
    assert "ValidatingAdmissionPolicy 'ipvsproxy' with binding 'ipvsproxy' denied" in str(
        raised.value
    )


def test_what_was_wrong_before_does_not_keep_others_from_writing(policy: RealServer) -> None:
    binding = str(MANIFESTS / "admission" / "binding.yaml")
    policy.kubectl("delete", "--filename", binding)
    old = annotated(service("old"), {SCHEDULER: "fastest"})
    for _ in range(TRIES):
        try:
            policy.apply(old)
            break
        except KubectlError:
            time.sleep(0.2)
    policy.kubectl("apply", "--server-side", "--filename", binding)
    for number in range(TRIES):
        try:
            policy.apply(annotated(service(f"again-{number}"), {SCHEDULER: "fastest"}))
        except KubectlError:
            break
        time.sleep(0.2)
    policy.kubectl("label", "service/old", "a=b")
    with pytest.raises(KubectlError, match="is no scheduler"):
        policy.kubectl("annotate", "--overwrite", "service/old", f"{SCHEDULER}=slowest")
