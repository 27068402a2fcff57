"""What Event a condition becomes."""

from __future__ import annotations

import re

import pytest

from ipvsproxy.sources.kubernetes.announcement import (
    MOST_OF_ONE_OBJECT,
    MOST_REMEMBERED,
    REPEAT_SECONDS,
    Announcement,
    Memory,
    announce,
)
from ipvsproxy.telemetry import Condition, ConditionType


def made(
    subject: str = "Service shop/web",
    message: str = "somebody else has 192.0.2.1:80/TCP",
    *,
    type_: ConditionType = ConditionType.CONTESTED_ADDRESS,
    uid: str = "uid-1",
    node_name: str = "node-1",
    now: float = 1_700_000_000.25,
) -> Announcement | None:
    condition = Condition(subject=subject, type=type_, message=message, since=0.0)
    return announce(condition, uid=uid, node_name=node_name, now=now)


def name(found: Announcement | None) -> str:
    assert found is not None
    return found.name


def test_an_event_about_a_service() -> None:
    found = made()
    assert found is not None
    assert re.fullmatch(r"web\.[0-9a-f]{16}", found.name)
    assert found.namespace == "shop"
    assert found.body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": found.name, "namespace": "shop"},
        "eventTime": "2023-11-14T22:13:20.250000Z",
        "type": "Warning",
        "reason": "ContestedAddress",
        "note": "somebody else has 192.0.2.1:80/TCP",
        "action": "Program",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "shop",
            "name": "web",
            "uid": "uid-1",
        },
        "reportingController": "ipvsproxy",
        "reportingInstance": "ipvsproxy-node-1",
    }


def test_the_name_is_the_same_on_all_nodes_at_all_times() -> None:
    assert name(made(node_name="node-2", now=0.0)) == name(made())


@pytest.mark.parametrize(
    "other",
    [
        made(uid="uid-2"),
        made(message="another"),
        made(type_=ConditionType.OPERATION_REFUSED),
        made("Service shop/web2"),
    ],
)
def test_another_object_reason_or_message_has_another_name(other: Announcement | None) -> None:
    assert name(other) != name(made())


def test_an_event_about_the_node_is_of_that_node_and_under_the_uid_that_kubectl_asks_for() -> None:
    one, other = made("Node", uid=""), made("Node", uid="", node_name="node-2")
    assert one is not None
    assert one.namespace == "default"
    assert one.body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-1",
        "uid": "node-1",
    }
    assert name(one).startswith("node-1.")
    assert name(one) != name(other)


def test_a_service_whose_uid_is_not_known_is_told_all_the_same() -> None:
    found = made(uid="")
    assert found is not None
    assert found.body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
    }


@pytest.mark.parametrize("subject", ["File a.yaml", "Node node-2", "EndpointSlice shop/web-1", ""])
def test_other_subjects_have_no_event(subject: str) -> None:
    assert made(subject) is None


def test_what_is_too_long_for_the_api_server_is_cut() -> None:
    found = made("Node", "ä" * 2000, node_name=f"{'n' * 235}.{'m' * 17}")
    assert found is not None
    note = str(found.body["note"])
    assert note.startswith("ä" * 500)
    assert note.endswith("…")
    assert 1022 <= len(note.encode()) <= 1024
    assert len(str(found.body["reportingInstance"])) == 128
    assert len(found.name) <= 253
    assert re.fullmatch(r"n+\.[0-9a-f]{16}", found.name)


class TestMemory:
    def admit(self, memory: Memory, found: Announcement | None, now: float) -> bool:
        assert found is not None
        return memory.admit(found, now)

    def test_admits_the_same_once_in_a_while(self) -> None:
        memory = Memory()
        assert self.admit(memory, made(), 5.0)
        assert not self.admit(memory, made(), 5.0 + REPEAT_SECONDS - 1)
        assert self.admit(memory, made(), 5.0 + REPEAT_SECONDS)

    def test_admits_at_once_what_could_not_be_told(self) -> None:
        memory, found = Memory(), made()
        assert found is not None
        assert memory.admit(found, 5.0)
        memory.forget(found)
        assert memory.admit(found, 5.0)

    def test_admits_so_many_about_one_object(self) -> None:
        memory = Memory()
        admitted = [
            self.admit(memory, made(message=str(number)), 5.0)
            for number in range(MOST_OF_ONE_OBJECT + 2)
        ]
        assert sum(admitted) == MOST_OF_ONE_OBJECT
        assert self.admit(memory, made("Service shop/other"), 5.0)
        assert self.admit(memory, made(message="late"), 5.0 + REPEAT_SECONDS)

    def test_forgets_the_oldest_when_it_is_full(self) -> None:
        memory = Memory()
        for number in range(MOST_REMEMBERED + 1):
            assert self.admit(memory, made(f"Service shop/web-{number}"), 5.0)
        assert self.admit(memory, made("Service shop/web-0"), 5.0)
        assert not self.admit(memory, made("Service shop/web-5"), 5.0)
