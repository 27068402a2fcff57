"""The manifests and the image: sound by Kubernetes' schemas, and in step with the program.

No cluster and no container engine are needed: what the agent asks the API server for, which flags
it has, how its file is read and which programs it starts are asked of the code itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from ipvsproxy.cli import main
from ipvsproxy.config import load
from ipvsproxy.kernel import process
from ipvsproxy.sources.kubernetes.access import InCluster, choose
from ipvsproxy.sources.kubernetes.resources import other_nodes, resources

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "manifests" / "base"
KUBERNETES_VERSIONS = ("1.29", "1.32", "1.37")
DOCKERFILE = (ROOT / "Dockerfile").read_text()

Json = Mapping[str, Any]


def objects() -> dict[str, Json]:
    """Return the manifests that the kustomization names, by kind."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    read = [yaml.safe_load((BASE / name).read_text()) for name in kustomization["resources"]]
    return {one["kind"]: one for one in read}


OBJECTS = objects()
POD = OBJECTS["DaemonSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


# ---------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_each_object_is_valid_and_has_no_field_that_kubernetes_does_not_know(
    kind: str, version: str
) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_every_manifest_of_the_folder_is_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    files = {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


def test_kustomize_renders_the_base() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here: install kubernetes-client")
    done = subprocess.run(
        [kubectl, "kustomize", str(BASE)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    rendered = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert rendered.keys() == OBJECTS.keys()
    for one in rendered.values():
        kubernetes_validate.validate(one, KUBERNETES_VERSIONS[-1], strict=True)
    (container,) = rendered["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "ipvsproxy:dev"


def test_the_role_allows_what_the_agent_asks_for_and_nothing_else() -> None:
    read = {
        (resource.group, resource.plural, verb)
        for resource in (*resources("node-a"), other_nodes("node-a"))
        for verb in ("list", "watch")
    }
    told = {("events.k8s.io", "events", "create")}
    assert set(_granted(OBJECTS["ClusterRole"])) == read | told


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


def test_the_configuration_file_is_where_the_command_line_says() -> None:
    (config,) = (word for word in CONTAINER["args"] if word.startswith("--config="))
    folder, _, file = config.removeprefix("--config=").rpartition("/")
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
    arguments = [word for word in CONTAINER["args"] if not word.startswith("--config=")]
    return CliRunner().invoke(main, arguments, env=environment(data))


def test_an_address_that_was_not_set_is_one_clear_line() -> None:
    done = run_in_pod(OBJECTS["ConfigMap"]["data"])
    assert done.exit_code != 0
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")


def test_probes_ask_what_the_agent_answers() -> None:
    settings = load({}, {"NODE_NAME": "a"}, OBJECTS["ConfigMap"]["data"]["config.yaml"]).settings
    (port,) = CONTAINER["ports"]
    assert settings.healthz_bind_address == f"0.0.0.0:{port['containerPort']}"
    assert CONTAINER["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port["name"]}
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}


def test_the_pod_lives_in_the_node_and_outlives_what_it_makes_work() -> None:
    assert POD["hostNetwork"] is True
    assert POD["dnsPolicy"] == "Default"
    assert POD["priorityClassName"] == "system-node-critical"
    assert POD["tolerations"] == [{"operator": "Exists"}]
    assert POD["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "lifecycle" not in CONTAINER, "what the agent has made must outlive it"
    assert "limits" not in CONTAINER["resources"]


def test_what_the_node_shares_is_mounted() -> None:
    volumes = {one["name"]: one.get("hostPath") for one in POD["volumes"]}
    mounts = {one["mountPath"]: one for one in CONTAINER["volumeMounts"]}
    modules, lock = mounts["/lib/modules"], mounts["/run/xtables.lock"]
    assert modules["readOnly"] is True
    assert volumes[modules["name"]] == {"path": "/lib/modules"}
    assert volumes[lock["name"]] == {"path": "/run/xtables.lock", "type": "FileOrCreate"}


# -------------------------------------------------------------------------------- image


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments; continued lines are joined."""
    lines = (line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name, arguments.strip()) for name, _, arguments in split]


def stages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the instructions of the builder and those of the image itself."""
    found = instructions()
    starts = [place for place, (name, _) in enumerate(found) if name == "FROM"]
    first, second = starts
    return found[first:second], found[second:]


def installed(stage: list[tuple[str, str]]) -> set[str]:
    """Return the Debian packages that a stage installs."""
    commands = " ".join(arguments for name, arguments in stage if name == "RUN")
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends ([^&]*)", commands)
    return set(packages.split())


def test_both_stages_are_of_one_base_that_can_be_chosen() -> None:
    found = instructions()
    assert ("ARG", "BASE=debian:13-slim") in found
    assert [words.split()[0] for name, words in found if name == "FROM"] == ["${BASE}", "${BASE}"]


def test_the_image_has_every_program_that_the_agent_starts() -> None:
    _, image = stages()
    assert installed(image) >= {"iptables", "kmod", "python3", *process.PACKAGES.values()}


def test_dependencies_are_installed_with_their_hashes_only() -> None:
    builder, image = stages()
    installs = [
        part
        for _, arguments in builder
        for part in arguments.split("&&")
        if "pip install" in part and "--no-index" not in part
    ]
    (install,) = installs
    assert "--require-hashes -r requirements/run.txt" in install
    assert not any("pip" in arguments for name, arguments in image if name == "RUN")


def test_every_pinned_dependency_has_hashes_and_every_dependency_is_pinned() -> None:
    text = (ROOT / "requirements" / "run.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    pinned = {_canonical(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {_canonical(re.split(r"[<>=~! ]", one)[0]) for one in project["dependencies"]}
    assert wanted <= pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for source in shlex.split(arguments)[:-1]
    }
    assert copied == set(allowed)
    assert all((ROOT / one).exists() for one in copied)


def test_the_image_starts_the_program() -> None:
    _, image = stages()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ("ENTRYPOINT", '["ipvsproxy"]') in image
    assert "ipvsproxy" in project["scripts"]
    assert CONTAINER.get("command") is None, "the image's entry point"


def test_make_builds_the_image() -> None:
    make = (ROOT / "Makefile").read_text()
    assert re.search(r"^image:.*\n(?:\t.*\n)*?\t.*build -t \$\(IMAGE\) \.$", make, re.MULTILINE)
