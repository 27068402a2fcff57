"""Annotations of ours where they mean nothing, or with large letters: told, and passed over."""

from __future__ import annotations

import pytest

from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.objects import Node, read_endpoint_slice, read_node, read_service
from ipvsproxy.store import Put
from tests.unit.builders import Agent

MISSPELT = {"IPVSproxy.io/Weights": "zone=a:3", "ipvsproxy.io/Scheduler": "wrr", "other.io/x": "1"}


def test_large_letters_are_a_mistake_that_is_seen() -> None:
    service = read_service(
        {
            "metadata": {"name": "web", "namespace": "shop", "annotations": MISSPELT},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        }
    )
    assert [name for name, _ in service.annotations] == [
        "IPVSproxy.io/Weights",
        "ipvsproxy.io/Scheduler",
    ]
    part = read_endpoint_slice(
        {
            "metadata": {
                "name": "web-1",
                "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"},
                "annotations": MISSPELT,
            },
            "addressType": "IPv4",
        }
    )
    assert part is not None
    assert part.strays == ("IPVSproxy.io/Weights", "ipvsproxy.io/Scheduler")


@pytest.mark.parametrize("name", ["ipvsproxy.io/weights", "ipvsproxy.io/Weight"])
async def test_a_node_with_an_annotation_of_others_is_told_of_by_its_own_agent(name: str) -> None:
    agent = Agent(FakeDataplane())
    node = agent.reconciler.settings.node_name
    agent.list_all()
    for written, wrong in (({name: "3"}, True), ({"ipvsproxy.io/weight": "3"}, False)):
        found = read_node({"metadata": {"name": node, "annotations": written}})
        agent.store.apply(Put(found, "here"))
        agent.store.apply(Put(Node("other", strays=("ipvsproxy.io/x",)), "here"))
        await agent.settle()
        messages = [one.message for one in agent.conditions if one.subject == "Node"]
        if wrong:
            (message,) = messages
            assert message.startswith(f"annotation {name} of Node {node}: not known on a Node")
            assert "known is ipvsproxy.io/weight (" in message
        else:
            assert not messages
