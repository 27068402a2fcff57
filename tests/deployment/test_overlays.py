"""The overlays, as kubectl renders them: each differs from the base in what it is for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from ipvsproxy.config import load
from ipvsproxy.model import Network
from ipvsproxy.sources.kubernetes.access import InCluster, choose, token_file
from tests.deployment.rendered import (
    MANIFESTS,
    OVERLAYS,
    ROOT,
    VERSIONS,
    Json,
    base,
    container,
    file_of,
    kustomized,
    pod,
    sound,
)

KUBE_PROXY = yaml.safe_load((Path(__file__).parent / "kubeadm.yaml").read_text())
SIDE_BY_SIDE = MANIFESTS / "overlays" / "side-by-side"


def overlay(name: str) -> dict[str, Json]:
    return kustomized(MANIFESTS / "overlays" / name)


def without(one: Json, *fields: str) -> dict[str, object]:
    return {name: value for name, value in one.items() if name not in fields}


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_an_overlay_amounts_to_is_valid(name: str) -> None:
    for version in VERSIONS:
        for one in overlay(name).values():
            sound(one, version)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_leaves_rights_and_account_as_they_are(name: str) -> None:
    rendered = overlay(name)
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
        assert rendered[kind] == base()[kind]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_mount_has_its_volume_and_every_volume_is_mounted(name: str) -> None:
    specification = pod(overlay(name))
    containers = [*specification.get("initContainers", ()), *specification["containers"]]
    mounted = {mount["name"] for one in containers for mount in one["volumeMounts"]}
    assert mounted == {one["name"] for one in specification["volumes"]}


def test_with_kubeadm_nothing_has_to_be_set() -> None:
    """The files of kubeadm's ConfigMap say all that the agent has to know."""
    rendered = overlay("kubeadm")
    assert "ConfigMap" not in rendered
    assert container(rendered)["args"] == ["run"]
    volumes = {one["name"]: one.get("configMap") for one in pod(rendered)["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in container(rendered)["volumeMounts"]}
    folder, file = file_of(container(rendered))
    assert volumes[mounts[folder]] == {"name": KUBE_PROXY["metadata"]["name"]}
    settings = load({}, {"NODE_NAME": "node-a"}, KUBE_PROXY["data"][file]).settings
    assert settings.cluster_cidrs == (Network.parse("10.244.0.0/16"),)
    assert settings.kubeconfig == f"{folder}/kubeconfig.conf"
    assert settings.healthz_bind_address == "0.0.0.0:10256"


def test_with_kubeadm_the_agent_goes_where_kube_proxy_went_with_an_account_of_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "kubeconfig.conf").write_text(KUBE_PROXY["data"]["kubeconfig.conf"])
    token = token_file(tmp_path / "kubeconfig.conf")
    assert token == Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    assert pod(overlay("kubeadm"))["serviceAccountName"] == "ipvsproxy"
    variables = {one["name"] for one in container(overlay("kubeadm"))["env"]}
    assert variables == {"IPVSPROXY_CONFIG", "NODE_NAME"}


def test_with_kubeadm_the_first_container_has_the_same_settings() -> None:
    (init,) = pod(overlay("kubeadm"))["initContainers"]
    agent = container(overlay("kubeadm"))
    assert init["args"] == ["run", "--init-only"]
    assert init["env"] == agent["env"]
    assert [one for one in init["volumeMounts"] if one in agent["volumeMounts"]]


def test_on_k3s_the_agent_has_a_way_to_the_api_server_that_is_no_service() -> None:
    rendered = overlay("k3s")
    data: Mapping[str, str] = rendered["ConfigMap"]["data"]
    environment = {
        one["name"]: data[one["valueFrom"]["configMapKeyRef"]["key"]]
        for one in container(rendered)["env"]
        if "configMapKeyRef" in one.get("valueFrom", {})
    }
    access = choose(kubeconfig=None, master=None, environment=environment)
    assert access == InCluster(("https://127.0.0.1:6444",))
    settings = load({}, {"NODE_NAME": "node-a"}, data["config.yaml"]).settings
    assert settings.cluster_cidrs == (Network.parse("10.42.0.0/16"),)
    assert rendered["DaemonSet"] == kustomized(MANIFESTS / "base")["DaemonSet"]


def test_side_by_side_a_node_has_one_proxy_or_the_other() -> None:
    selector = pod(overlay("side-by-side"))["nodeSelector"]
    (ours,) = selector.keys() - pod(base())["nodeSelector"].keys()
    patch = yaml.safe_load((SIDE_BY_SIDE / "kube-proxy-patch.yaml").read_text())
    affinity = patch["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": ours, "operator": "DoesNotExist"}]


def test_side_by_side_differs_from_kubeadm_in_the_nodes_only() -> None:
    assert without(pod(overlay("side-by-side")), "nodeSelector") == without(
        pod(overlay("kubeadm")), "nodeSelector"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_patch_for_kube_proxy_is_valid(version: str) -> None:
    """Laid over the least DaemonSet; the API server does the same with the whole one."""
    patch = yaml.safe_load((SIDE_BY_SIDE / "kube-proxy-patch.yaml").read_text())
    labels = {"k8s-app": "kube-proxy"}
    daemon_set = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{"name": "kube-proxy"}],
                    **patch["spec"]["template"]["spec"],
                },
            },
        },
    }
    sound(daemon_set, version)


def test_the_privileged_variant_is_one_container_with_all_rights() -> None:
    rendered = overlay("privileged")
    assert not pod(rendered).get("initContainers")
    assert container(rendered)["securityContext"] == {"privileged": True}
    assert "/lib/modules" in {one["mountPath"] for one in container(rendered)["volumeMounts"]}
    assert rendered["ConfigMap"] == base()["ConfigMap"]


DOCUMENTED = re.findall(
    r"^```yaml\n(.*?kind: Kustomization\n.*?)^```$",
    (ROOT / "docs" / "installation.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("text", DOCUMENTED, ids=["kubeadm", "others"])
def test_an_overlay_of_ones_own_as_the_document_has_it(text: str, tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    folder = tmp_path / "manifests" / "my-cluster"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text)
    rendered = kustomized(folder)
    images = {one["image"] for one in (container(rendered), *pod(rendered)["initContainers"])}
    assert images == {"registry.example/ipvsproxy:0.1.0"}
