"""What is wrong in a folder of manifests: named with file, object and reason, the rest served."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.sources.directory import DirectorySource
from ipvsproxy.telemetry import Condition, ConditionType
from tests.unit.builders import settle

GOOD = """\
apiVersion: v1
kind: Service
metadata: {name: good, namespace: default}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: good-1, namespace: default, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.5]}]
"""
SERVED = """\
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: bad, namespace: default}
spec: SPEC
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bad-1, namespace: default, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: ENDPOINTS
"""


class Folder:
    """A folder, the agent that follows it, and its kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fake = FakeDataplane()
        self.agent: Wiring = wire(Settings(node_name="node-a"), self.fake)
        self._source = DirectorySource(path)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    async def synchronise(self) -> None:
        for event in await self._source.read():
            self.agent.take(event)
        await settle(self.agent.reconciler)

    def only_condition(self) -> Condition:
        (condition,) = self.agent.conditions
        return condition


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: [Service\n", "line 1: did not find expected ',' or ']'"),
        ("kind: Service\n\tname: x\n", "line 2: indented by a tab; YAML wants spaces"),
        ("kind: Service\nkind: Service\n", "line 2: the key 'kind' is written twice"),
        ("\ufeff", "the file is empty; delete it if it is to say nothing"),
        ("kind: Service\n", "document at line 1: an object without apiVersion"),
        ("just words\n", "document at line 1: an object is needed, not 'just words'"),
        (
            "apiVersion: v1\nkind: Service\nspec: {}\n",
            "document at line 1: Service: metadata.name: is missing",
        ),
    ],
    ids=["syntax", "tab", "twice", "empty", "no-version", "no-object", "no-name"],
)
async def test_a_file_that_cannot_be_understood_is_named(
    folder: Folder, text: str, reason: str
) -> None:
    folder.write("good.yaml", GOOD)
    folder.write("wrong.yaml", text)
    await folder.synchronise()
    condition = folder.only_condition()
    assert condition.subject == f"Source {folder.path}/wrong.yaml"
    assert condition.type is ConditionType.UNREADABLE_SOURCE
    assert condition.message == f"{reason}; until it can be read nothing counts as deleted"
    assert folder.fake.text() == SERVED


@pytest.mark.parametrize(
    ("text", "subject", "reason"),
    [
        (
            SERVICE.replace("SPEC", "{clusterIP: 10.96.0.11}"),
            "Service default/bad",
            "spec.ports: a Service with an address needs at least one port",
        ),
        (
            SERVICE.replace("SPEC", "{clusterIP: 10.96.0.300, ports: [{port: 80}]}"),
            "Service default/bad",
            "spec.clusterIP: '10.96.0.300' is not an address",
        ),
        (
            SERVICE.replace("SPEC", "{clusterIP: 10.96.0.11, ports: [{port: 80000}]}"),
            "Service default/bad",
            "spec.ports[0].port: ",
        ),
        (
            SERVICE.replace("SPEC", "{clusterIP: 10.96.0.11, ports: [{port: 80, protocol: ICMP}]}"),
            "Service default/bad",
            "spec.ports[0].protocol: ",
        ),
        (
            SLICE.replace("ENDPOINTS", "[{addresses: [10.244.1.6]}, {addresses: [pod-7]}]"),
            "EndpointSlice default/bad-1",
            "endpoints[1].addresses[0]: 'pod-7' is not an address",
        ),
        (GOOD, "Service default/good", "also defined in "),
    ],
    ids=["no-ports", "no-address", "no-port", "no-protocol", "no-endpoint-address", "duplicate"],
)
async def test_an_object_that_is_nonsense_is_named(
    folder: Folder, text: str, subject: str, reason: str
) -> None:
    folder.write("good.yaml", GOOD)
    folder.write("wrong.yaml", text)
    await folder.synchronise()
    condition = next(one for one in folder.agent.conditions if one.subject == subject)
    assert condition.type is ConditionType.INVALID_OBJECT
    assert condition.message.startswith(f"{folder.path}/wrong.yaml: {reason}")
    assert condition.message.endswith("; its last good state stays")
    assert folder.fake.text() == SERVED


async def test_of_two_thousand_objects_one_is_wrong_and_all_others_are_served(
    folder: Folder,
) -> None:
    documents = []
    for number in range(1000):
        address, endpoint = (f"{net}.{number // 250}.{number % 250 + 1}" for net in NETS)
        name = f"web-{number}"
        documents.append(service_and_slice(name, address, endpoint))
    documents[617] = documents[617].replace("port: 80}", "port: 0}")
    folder.write("all.yaml", "---\n".join(documents))
    began = time.process_time()
    await folder.synchronise()
    assert time.process_time() - began < 20

    condition = folder.only_condition()
    assert condition.subject == "Service default/web-617"
    assert condition.message.startswith(f"{folder.path}/all.yaml: spec.ports[0].port: ")
    state = folder.fake.state
    assert (len(state.virtual_servers), len(state.addresses)) == (999, 999)
    assert sum(map(len, state.real_servers.values())) == 999

    folder.write("all.yaml", "---\n".join(documents).replace("port: 0}", "port: 80}"))
    await folder.synchronise()
    assert len(folder.agent.conditions) == 0
    assert len(state.virtual_servers) == 1000


NETS = ("10.96", "10.244")


def service_and_slice(name: str, address: str, endpoint: str) -> str:
    return GOOD.replace("good", name).replace("10.96.0.10", address).replace("10.244.1.5", endpoint)


async def test_what_is_mended_is_said_no_longer(folder: Folder) -> None:
    folder.write("good.yaml", GOOD.replace("port: 80}", "port: 0}"))
    folder.write("wrong.yaml", "kind: [")
    await folder.synchronise()
    assert len(folder.agent.conditions) == 2
    assert folder.fake.text() == ""
    folder.write("good.yaml", GOOD)
    (folder.path / "wrong.yaml").unlink()
    await folder.synchronise()
    assert len(folder.agent.conditions) == 0
    assert folder.fake.text() == SERVED


async def test_nonsense_is_reported_where_it_is_after_its_file_was_renamed(folder: Folder) -> None:
    folder.write("a.yaml", SERVICE.replace("SPEC", "{clusterIP: 10.96.0.11}"))
    await folder.synchronise()
    (folder.path / "a.yaml").rename(folder.path / "b.yaml")
    await folder.synchronise()
    assert folder.only_condition().message.count("yaml") == 1
    assert folder.only_condition().message.startswith(f"{folder.path}/b.yaml: ")


async def test_a_duplicate_of_nonsense_does_not_hide_what_is_wrong(folder: Folder) -> None:
    nonsense = SERVICE.replace("SPEC", "{clusterIP: 10.96.0.11}")
    folder.write("a.yaml", f"{nonsense}---\n{nonsense}")
    await folder.synchronise()
    message = folder.only_condition().message
    assert "spec.ports: a Service with an address needs at least one port" in message
    assert "also defined earlier in this file" in message


async def test_a_missing_folder_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "missing")
    await folder.synchronise()
    assert not folder.agent.store.listed
    assert folder.fake.writes == 0
    assert [one.origin for one in folder.agent.store.unreadable] == [str(tmp_path / "missing")]
