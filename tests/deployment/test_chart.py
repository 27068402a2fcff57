"""The Helm chart: the same as the kustomize manifests, by other means."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ipvsproxy.cli import main
from ipvsproxy.config import load
from tests.deployment.chart import CHART, rendered, values, written
from tests.deployment.rendered import (
    MANIFESTS,
    VERSIONS,
    Json,
    base,
    by_kind,
    container,
    kustomized,
    pod,
    program,
    sound,
    with_component,
)

IMAGE = {"repository": "ipvsproxy", "tag": "dev", "pullPolicy": "IfNotPresent"}
RELEASES: Mapping[str, dict[str, Any]] = {
    "default": {},
    "kubeadm": {"kubeProxyConfigMap": "kube-proxy"},
    "privileged": {"privileged": True},
    "all": {
        "image": {"repository": "registry.example/ipvsproxy", "tag": "", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "kubernetesServiceHost": "192.0.2.10",
        "maxUnavailable": 3,
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"example.com/a": "b"},
    },
    "pods": {"watchPods": True, "kubeProxyConfigMap": "kube-proxy"},
}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def same(one: Mapping[str, Json], other: Mapping[str, Json]) -> None:
    """Assert that objects say the same; of a file in a ConfigMap, that its content does."""
    assert one.keys() == other.keys()
    for kind in one:
        assert _meaning(one[kind]) == _meaning(other[kind])


def _meaning(one: Json) -> Json:
    files = one.get("data", {})
    read = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")}
    return {**one, "data": {**files, **read}}


def test_a_release_with_the_defaults_is_the_base() -> None:
    ours = base()
    for one in (container(ours), *pod(ours)["initContainers"]):
        assert isinstance(one, dict)
        one["image"] = "ipvsproxy:dev"
    same(rendered(values(image=IMAGE)), ours)


def test_with_kube_proxys_configmap_the_agent_is_started_as_by_the_overlay() -> None:
    chart = rendered(values(image=IMAGE, kubeProxyConfigMap="kube-proxy"))
    overlay = kustomized(MANIFESTS / "overlays" / "kubeadm")
    assert chart.keys() == overlay.keys()
    for name in ("args", "env", "securityContext", "image"):
        assert container(chart)[name] == container(overlay)[name]
    mounted = {one["mountPath"] for one in container(chart)["volumeMounts"]}
    assert mounted == {one["mountPath"] for one in container(overlay)["volumeMounts"]}


def test_the_privileged_release_is_the_privileged_overlay() -> None:
    chart = rendered(values(image=IMAGE, privileged=True))
    overlay = kustomized(MANIFESTS / "overlays" / "privileged")
    assert not pod(chart).get("initContainers")
    for name in ("args", "env", "securityContext", "image"):
        assert container(chart)[name] == container(overlay)[name]


def test_a_release_that_watches_pods_has_the_right_of_the_component_and_the_setting() -> None:
    chart = rendered(values(image=IMAGE, watchPods=True))
    assert chart["ClusterRole"] == with_component("watch-pods")["ClusterRole"]
    assert container(chart)["args"] == ["run", "--watch-pods"]
    main.commands["run"].make_context("run", ["--watch-pods"])


@pytest.mark.parametrize("name", RELEASES)
def test_what_a_release_amounts_to_is_valid(name: str) -> None:
    for version in VERSIONS:
        for one in rendered(values(**RELEASES[name])).values():
            sound(one, version)


def test_every_value_has_its_effect() -> None:
    changed = rendered(values(**RELEASES["all"]), namespace="proxies")
    daemon_set = changed["DaemonSet"]
    assert daemon_set["metadata"]["namespace"] == "proxies"
    assert daemon_set["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 3}
    assert daemon_set["spec"]["template"]["metadata"]["annotations"] == {"example.com/a": "b"}
    assert container(changed)["image"] == "registry.example/ipvsproxy:0.1.0"
    assert container(changed)["imagePullPolicy"] == "Always"
    assert pod(changed)["imagePullSecrets"] == [{"name": "registry"}]
    assert pod(changed)["affinity"] == {"nodeAffinity": {}}
    assert changed["ConfigMap"]["data"]["kubernetesServiceHost"] == "192.0.2.10"


def test_the_configuration_is_one_that_the_agent_reads() -> None:
    text = rendered(values())["ConfigMap"]["data"]["config.yaml"]
    assert load({}, {"NODE_NAME": "node-a"}, text).warnings == ()


def test_an_address_that_was_not_set_is_said_at_once() -> None:
    notes = CHART / "templates" / "NOTES.txt"
    release = {"Name": "ipvsproxy", "Namespace": "kube-system"}
    missing = written(notes, {"Values": values(), "Release": release})
    assert missing.startswith("\nkubernetesServiceHost is not set")
    chosen = values(kubernetesServiceHost="192.0.2.10")
    assert "is not set" not in written(notes, {"Values": chosen, "Release": release})


@pytest.mark.parametrize("name", RELEASES)
def test_the_values_are_valid_by_the_schema(name: str) -> None:
    jsonschema.validate(values(**RELEASES[name]), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kubernetesServiceHost": "https://192.0.2.10"},
        {"kubernetesServicePort": "6443"},
        {"maxUnavailable": "ten"},
        {"privileged": "yes"},
        {"watchPods": "yes"},
        {"image": {"repository": ""}},
        {"schedular": "rr"},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_the_schema(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values(), **wrong}, SCHEMA)


def test_the_schema_knows_every_value_and_every_value_is_explained() -> None:
    assert values().keys() == SCHEMA["properties"].keys() - {"global"}
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#")) and line != "image:":
            assert "#" in line or lines[number - 1].startswith(("#", "kubernetesServiceHost")), line


def helm(*words: str) -> str:
    """Run helm, and return what it prints; skips where there is none."""
    found = program("helm")
    if found is None:
        pytest.skip("no helm here; the templates are rendered by tests/deployment/chart.py")
    done = subprocess.run((found, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RELEASES)
def test_helm_renders_the_same(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(RELEASES[name]))
    words = ("template", "ipvsproxy", str(CHART), "--namespace", "kube-system")
    text = helm(*words, "--kube-version", VERSIONS[-1], "--values", str(file))
    objects = by_kind(one for one in yaml.safe_load_all(text) if one is not None)
    same(objects, rendered(values(**RELEASES[name])))


@pytest.mark.parametrize("name", RELEASES)
def test_helm_finds_nothing_wrong_with_the_chart(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(RELEASES[name]))
    assert "[WARNING]" not in helm("lint", "--strict", str(CHART), "--values", str(file))
