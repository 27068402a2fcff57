"""The kustomize base: sound by Kubernetes' schemas, and in step with the program.

No cluster is needed: what the agent asks the API server for, which flags it has and how its file
is read are asked of the code itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import yaml
from click.testing import CliRunner, Result

from ipvsproxy.cli import main
from ipvsproxy.config import load
from ipvsproxy.config.load import FILE_VARIABLE
from ipvsproxy.sources.kubernetes.access import InCluster, choose
from ipvsproxy.sources.kubernetes.resources import other_nodes, resources, weighing_pods
from tests.deployment.rendered import (
    BASE,
    VERSIONS,
    Json,
    base,
    container,
    file_of,
    kustomized,
    pod,
    sound,
    with_component,
)

OBJECTS = base()
POD = pod(OBJECTS)
CONTAINER = container(OBJECTS)
(INIT,) = POD["initContainers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_each_object_is_valid_and_has_no_field_that_kubernetes_does_not_know(
    kind: str, version: str
) -> None:
    sound(OBJECTS[kind], version)


def test_every_manifest_of_the_folder_is_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    files = {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


def test_kustomize_renders_the_base() -> None:
    rendered = kustomized(BASE)
    assert rendered.keys() == OBJECTS.keys()
    for kind in OBJECTS.keys() - {"DaemonSet"}:
        assert rendered[kind] == OBJECTS[kind]
    assert container(rendered)["image"] == pod(rendered)["initContainers"][0]["image"]
    assert container(rendered)["image"] == "ipvsproxy:dev"


def test_the_role_allows_what_the_agent_asks_for_and_nothing_else() -> None:
    read = {
        (resource.group, resource.plural, verb)
        for resource in (*resources("node-a"), other_nodes("node-a"))
        for verb in ("list", "watch")
    }
    told = {("events.k8s.io", "events", "create")}
    assert set(_granted(OBJECTS["ClusterRole"])) == read | told


def test_the_component_adds_the_right_to_watch_pods_and_nothing_else() -> None:
    rendered, base_ = with_component("watch-pods"), kustomized(BASE)
    more = set(_granted(rendered["ClusterRole"])) - set(_granted(base_["ClusterRole"]))
    pods = weighing_pods()
    assert more == {(pods.group, pods.plural, verb) for verb in ("list", "watch")}
    for kind in base_.keys() - {"ClusterRole"}:
        assert rendered[kind] == base_[kind]
    for version in VERSIONS:
        sound(rendered["ClusterRole"], version)


def _granted(role: Json) -> Iterator[tuple[str, str, str]]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def test_the_pods_account_is_bound_to_the_role() -> None:
    account, binding = OBJECTS["ServiceAccount"]["metadata"], OBJECTS["ClusterRoleBinding"]
    assert POD["serviceAccountName"] == account["name"]
    assert binding["roleRef"]["name"] == OBJECTS["ClusterRole"]["metadata"]["name"]
    subject = {"name": account["name"], "namespace": account["namespace"]}
    assert binding["subjects"] == [{"kind": "ServiceAccount", **subject}]


def test_the_command_line_is_one_that_the_program_has() -> None:
    name, *arguments = CONTAINER["args"]
    main.commands[name].make_context(name, arguments)


def test_the_configuration_file_is_where_every_command_in_the_container_looks() -> None:
    folder, file = file_of(CONTAINER)
    assert file_of(INIT) == (folder, file)
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    volume = next(one for one in POD["volumes"] if one["name"] == mounts[folder])["configMap"]
    assert volume["name"] == OBJECTS["ConfigMap"]["metadata"]["name"]
    (item,) = volume["items"]
    assert item["path"] == file
    assert item["key"] in OBJECTS["ConfigMap"]["data"]


def test_the_configuration_is_one_that_the_agent_reads() -> None:
    text = OBJECTS["ConfigMap"]["data"]["config.yaml"]
    resolved = load({}, {"NODE_NAME": "node-a"}, text)
    assert resolved.warnings == ()
    assert resolved.settings.default_scheduler == "rr"
    assert resolved.settings.cluster_cidrs == ()
    assert resolved.settings.node_port_addresses.primary


def environment(data: Mapping[str, str]) -> dict[str, str]:
    """Return the container's variables as kubelet would make them of a ConfigMap's `data`."""
    found = {}
    for one in CONTAINER["env"]:
        if one["name"] == FILE_VARIABLE:
            continue  # a file of the pod
        origin = one["valueFrom"]
        if "fieldRef" in origin:
            assert origin["fieldRef"]["fieldPath"] == "spec.nodeName"
            found[one["name"]] = "node-a"
        else:
            assert origin["configMapKeyRef"]["name"] == OBJECTS["ConfigMap"]["metadata"]["name"]
            found[one["name"]] = data[origin["configMapKeyRef"]["key"]]
    return found


def test_the_agent_goes_to_the_api_servers_real_address() -> None:
    data = {**OBJECTS["ConfigMap"]["data"], "kubernetesServiceHost": "192.0.2.10"}
    access = choose(kubeconfig=None, master=None, environment=environment(data))
    assert access == InCluster(("https://192.0.2.10:6443",))


def test_the_agent_knows_its_node() -> None:
    found = environment(OBJECTS["ConfigMap"]["data"])
    assert load({}, found, None).settings.node_name == "node-a"


def run_in_pod(data: Mapping[str, str]) -> Result:
    """Run the container's command with the variables of `data`, outside of a pod."""
    return CliRunner().invoke(main, CONTAINER["args"], env=environment(data))


def test_an_address_that_was_not_set_is_one_clear_line() -> None:
    done = run_in_pod(OBJECTS["ConfigMap"]["data"])
    assert done.exit_code != 0
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")


def test_probes_ask_what_the_agent_answers() -> None:
    settings = load({}, {"NODE_NAME": "a"}, OBJECTS["ConfigMap"]["data"]["config.yaml"]).settings
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert settings.healthz_bind_address == f"0.0.0.0:{ports['healthz']}"
    assert settings.metrics_bind_address == f"127.0.0.1:{ports['metrics']}"
    assert CONTAINER["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "healthz"}
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "healthz"}


def test_the_pod_lives_in_the_node_and_outlives_what_it_makes_work() -> None:
    assert POD["hostNetwork"] is True
    assert POD["dnsPolicy"] == "Default"
    assert POD["priorityClassName"] == "system-node-critical"
    assert POD["tolerations"] == [{"operator": "Exists"}]
    assert POD["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "lifecycle" not in CONTAINER, "what the agent has made must outlive it"
    assert "limits" not in CONTAINER["resources"]


def test_the_agents_container_has_the_least_rights_that_it_works_with() -> None:
    """Which these are is shown by test_image: with fewer the agent cannot do its work."""
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_what_the_node_shares_is_mounted() -> None:
    volumes = {one["name"]: one.get("hostPath") for one in POD["volumes"]}
    mounts = {one["mountPath"]: one for one in CONTAINER["volumeMounts"]}
    lock = mounts["/run/xtables.lock"]
    assert volumes[lock["name"]] == {"path": "/run/xtables.lock", "type": "FileOrCreate"}
    assert not lock.get("readOnly")


def test_certificates_of_a_kubeconfig_have_a_place_in_memory() -> None:
    """The root is read-only, and OpenSSL reads files only."""
    volumes = {one["name"]: one.get("emptyDir") for one in POD["volumes"]}
    mounts = {one["mountPath"]: one for one in CONTAINER["volumeMounts"]}
    assert volumes[mounts["/tmp"]["name"]] == {"medium": "Memory", "sizeLimit": "1Mi"}
    assert not mounts["/tmp"].get("readOnly")


def test_the_first_container_does_what_needs_all_rights_by_the_same_settings() -> None:
    name, *arguments = CONTAINER["args"]
    assert INIT["args"] == [name, "--init-only", *arguments]
    assert INIT["image"] == CONTAINER["image"]
    common = {FILE_VARIABLE, "NODE_NAME"}
    assert INIT["env"] == [one for one in CONTAINER["env"] if one["name"] in common]
    assert INIT["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}
    mounts = {one["mountPath"]: one for one in INIT["volumeMounts"]}
    assert mounts["/etc/ipvsproxy"] in CONTAINER["volumeMounts"]
    modules = mounts["/lib/modules"]
    volumes = {one["name"]: one.get("hostPath") for one in POD["volumes"]}
    assert volumes[modules["name"]] == {"path": "/lib/modules"}
    assert modules["readOnly"] is True
