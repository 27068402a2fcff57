"""Verdicts in the store: whom they make dirty, and what is known of Services with a check."""

from __future__ import annotations

import msgspec

from ipvsproxy.core.probing import Target, Verdict
from ipvsproxy.model import Network, Protocol
from ipvsproxy.objects import Node
from ipvsproxy.store import Gone, Judged, Put, Store
from tests.unit.builders import member, named, part, service, service_reference

ONE = Target(named(), Protocol.TCP, member("10.244.1.1"))


def store() -> Store:
    made = Store("node-a")
    checked = msgspec.structs.replace(
        service(), annotations=(("ipvsproxy.io/health-check", "tcp"),)
    )
    made.apply(Put(checked, "a.yaml"))
    made.apply(Put(part("web", "10.244.1.1"), "a.yaml"))
    made.take_dirty()
    return made


def test_a_verdict_that_changes_makes_its_service_dirty_and_the_same_again_does_not() -> None:
    one = store()
    for verdict in (Verdict.UNHEALTHY, Verdict.HEALTHY, None):
        before = one.revision
        one.apply(Judged(ONE, verdict))
        assert one.take_dirty() == [named()]
        assert one.revision == before + 1
        one.apply(Judged(ONE, verdict))
        assert one.take_dirty() == []
        assert one.revision == before + 1


def test_a_translation_has_the_verdicts_of_its_moment() -> None:
    one = store()
    one.apply(Judged(ONE, Verdict.UNHEALTHY))
    inputs = one.inputs(named())
    one.apply(Judged(ONE, None))
    assert inputs is not None
    assert inputs.verdicts == {ONE: Verdict.UNHEALTHY}


def test_a_verdict_on_a_service_that_is_gone_makes_nothing_dirty() -> None:
    one = store()
    one.apply(Judged(ONE, Verdict.UNHEALTHY))
    one.apply(Gone(service_reference()))
    one.take_dirty()
    one.apply(Judged(ONE, None))
    assert one.take_dirty() == []


def test_all_nodes_are_needed_while_a_service_has_a_check() -> None:
    one = store()
    needed = [one.needs_nodes]
    one.apply(Put(service(), "a.yaml"))
    needed.append(one.needs_nodes)
    assert needed == [True, False]
    assert one.node_count == 1


def test_who_asks_for_a_check_is_looked_at_again_when_the_own_pod_networks_come() -> None:
    one = store()
    one.apply(Put(service("other"), "a.yaml"))
    one.apply(Put(Node("node-a"), "a.yaml"))
    one.take_dirty()
    one.apply(Put(Node("node-a", pod_cidrs=(Network.parse("10.244.1.0/24"),)), "a.yaml"))
    assert one.take_dirty() == [named()]
