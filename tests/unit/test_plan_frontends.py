"""What waits for what where a Service's frontends change, over all the steps between.

`waits` follows the steps of a batch back: whatever is among its answer has been answered before.
"""

from __future__ import annotations

import pytest

from ipvsproxy.core.operations import describe
from ipvsproxy.core.plan import Batch
from ipvsproxy.kernel.fake import ALL_SCHEDULERS
from ipvsproxy.kernel.rules import carry_out
from ipvsproxy.model import Family, Protocol
from tests.properties.strategies_services import (
    LEAVING,
    READY,
    SETTINGS,
    UNREADY,
    Condition,
    Follower,
    Wanted,
    World,
)

EXTERNAL, CLUSTER, OTHER_CLUSTER = "203.0.113.1", "10.96.0.1", "10.96.0.2"
HERE, THERE = "10.244.1.1:8080", "10.244.2.1:8080"
CLUSTERWIDE = Wanted(ingress=0)
"""At an ingress address, with a server here and one elsewhere."""
LOCAL = CLUSTERWIDE._replace(external_local=True)
NOBODY_HERE = LOCAL._replace(endpoints=(None, None, READY, READY))


def changed(before: Wanted | World | None, after: Wanted | World | None) -> Batch:
    """Give the first batch that leads from one world to another."""
    follower = Follower(SETTINGS[0], Family.IPV4)
    for batch in follower.batches(follower.tell(_world(before))):
        for step in batch.steps:
            carry_out(follower.state, step.operation, ALL_SCHEDULERS)
    return next(follower.batches(follower.tell(_world(after))))


def _world(wanted: Wanted | World | None) -> World:
    return (wanted, None) if wanted is None or isinstance(wanted, Wanted) else wanted


def waits(batch: Batch, text: str) -> set[str]:
    """Give what has been answered when an operation is sent."""
    texts = [describe(step.operation) for step in batch.steps]
    (position,) = [index for index, one in enumerate(texts) if one == text]
    before, open_ = set[int](), [position]
    while open_:
        step = batch.steps[open_.pop()]
        new = {*step.needs, *step.needs_any, *step.follows} - before
        before |= new
        open_ += new
    return {texts[index] for index in before}


def needs(batch: Batch, text: str) -> set[str]:
    """Give what must not have been refused when an operation is sent, itself only."""
    texts = [describe(step.operation) for step in batch.steps]
    return {texts[index] for index in batch.steps[texts.index(text)].needs}


def operations(batch: Batch) -> list[str]:
    return [describe(step.operation) for step in batch.steps]


def add(base: str, member: str = f"{EXTERNAL},tcp:80") -> str:
    return f"add {member} to set KUBE-{base}"


def remove(base: str, member: str = f"{EXTERNAL},tcp:80") -> str:
    return f"remove {member} from set KUBE-{base}"


class TestClusterToLocal:
    def test_masquerading_ends_after_servers_elsewhere_are_lowered_and_that_after_the_split(
        self,
    ) -> None:
        batch = changed(CLUSTERWIDE, LOCAL)
        lowered = f"set real server {THERE} weight 0 of {EXTERNAL}:80/TCP"
        assert add("SPLIT") in waits(batch, lowered)
        assert lowered in waits(batch, add("LOAD-BALANCER-LOCAL"))
        assert "replace the IPv4 chains" in waits(batch, add("SPLIT"))

    @pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
    def test_at_a_node_port_too(self, protocol: str) -> None:
        before = Wanted(protocol=Protocol[protocol], node_port=30080)
        batch = changed(before, before._replace(external_local=True))
        verb = "remove real server" if protocol == "UDP" else "set real server"
        (lowered,) = [one for one in operations(batch) if one.startswith(f"{verb} {THERE}")]
        (bared,) = [one for one in operations(batch) if "KUBE-NODE-PORT-LOCAL" in one]
        assert lowered in waits(batch, bared)
        split = add("SPLIT", f"192.0.2.10,{protocol.lower()}:30080")
        assert split in waits(batch, lowered)

    def test_of_an_external_ip_the_other_set_comes_before_its_set_goes(self) -> None:
        before = Wanted(external_ip=0)
        batch = changed(before, before._replace(external_local=True))
        lowered = f"set real server {THERE} weight 0 of {EXTERNAL}:80/TCP"
        assert {add("EXTERNAL-IP-LOCAL"), lowered} <= waits(batch, remove("EXTERNAL-IP"))

    def test_without_a_server_here_the_outside_is_shut_out_after_the_inside_is_redirected(
        self,
    ) -> None:
        before = NOBODY_HERE._replace(external_local=False)
        batch = changed(before, NOBODY_HERE)
        assert add("SPLIT") in waits(batch, add("NO-LOCAL"))
        lowered = f"set real server {THERE} weight 0 of {EXTERNAL}:80/TCP"
        assert add("NO-LOCAL") in waits(batch, lowered)


class TestLocalToCluster:
    def test_servers_elsewhere_come_after_masquerading_has_begun_again(self) -> None:
        batch = changed(LOCAL, CLUSTERWIDE)
        added = f"add real server {THERE} weight 1 to {EXTERNAL}:80/TCP"
        assert remove("LOAD-BALANCER-LOCAL") in waits(batch, added)
        assert added in waits(batch, remove("SPLIT"))

    def test_of_an_external_ip_too(self) -> None:
        before = Wanted(external_ip=0, external_local=True)
        batch = changed(before, before._replace(external_local=False))
        added = f"add real server {THERE} weight 1 to {EXTERNAL}:80/TCP"
        assert add("EXTERNAL-IP") in waits(batch, added)

    def test_an_external_ip_that_is_a_load_balancers_address_from_now_on(self) -> None:
        before = Wanted(external_ip=0, external_local=True)
        batch = changed(before, Wanted(ingress=0))
        added = f"add real server {THERE} weight 1 to {EXTERNAL}:80/TCP"
        assert add("LOAD-BALANCER") in waits(batch, added)

    def test_the_outside_is_let_in_before_the_redirection_ends(self) -> None:
        batch = changed(NOBODY_HERE, NOBODY_HERE._replace(external_local=False))
        added = f"add real server {THERE} weight 1 to {EXTERNAL}:80/TCP"
        assert added in waits(batch, remove("NO-LOCAL"))
        assert remove("NO-LOCAL") in waits(batch, remove("SPLIT"))

    def test_a_redirections_rule_outlives_its_member(self) -> None:
        batch = changed(LOCAL, CLUSTERWIDE)
        assert operations(batch).count("replace the IPv4 chains") == 1
        assert remove("SPLIT") in waits(batch, "replace the IPv4 chains")

    def test_the_cluster_ip_keeps_its_servers_until_nobody_is_sent_to_it(self) -> None:
        batch = changed(LOCAL, CLUSTERWIDE._replace(internal_local=True))
        lowered = f"set real server {THERE} weight 0 of {CLUSTER}:80/TCP"
        assert remove("SPLIT") in waits(batch, lowered)

    def test_its_virtual_server_stays_if_somebody_is_sent_to_it_still(self) -> None:
        before = LOCAL._replace(protocol=Protocol.UDP, port=81)
        batch = changed(before, before._replace(external_local=False, port=80))
        removed = needs(batch, f"remove virtual server {CLUSTER}:81/UDP")
        assert remove("SPLIT", f"{EXTERNAL},udp:81") in removed

    def test_its_address_stays_if_somebody_is_sent_to_it_still(self) -> None:
        before = LOCAL._replace(protocol=Protocol.UDP)
        batch = changed(before, before._replace(external_local=False, cluster=1))
        unbound = needs(batch, f"unbind address {CLUSTER}")
        assert remove("SPLIT", f"{EXTERNAL},udp:80") in unbound


class TestSplit:
    def test_it_stands_before_the_servers_of_another_service_take_nobody_any_more(self) -> None:
        """One Service goes and another takes its NodePort, with a server elsewhere only."""
        there = (None, None, None)
        before = Wanted(node_port=30080, endpoints=(*there, LEAVING))
        after = Wanted(node_port=30080, external_local=True, endpoints=(*there, READY))
        batch = changed((before, None), (None, after))
        lowered = [text for text in operations(batch) if "weight 0 of 192.0.2.10:30080" in text]
        assert lowered
        for text in lowered:
            assert add("SPLIT", "192.0.2.10,tcp:30080") in waits(batch, text)

    def test_it_comes_after_the_cluster_ip_stands_and_is_bound(self) -> None:
        batch = changed(None, LOCAL)
        assert {
            f"add virtual server {CLUSTER}:80/TCP scheduler rr",
            f"add real server {HERE} weight 1 to {CLUSTER}:80/TCP",
            f"add real server {THERE} weight 1 to {CLUSTER}:80/TCP",
            f"bind address {CLUSTER}",
        } <= waits(batch, add("SPLIT"))
        assert add("SPLIT") in waits(batch, f"bind address {EXTERNAL}")

    def test_a_redirection_moves_when_its_new_target_is_bound_and_before_the_old_one_goes(
        self,
    ) -> None:
        before = LOCAL._replace(protocol=Protocol.UDP)
        batch = changed(before, before._replace(cluster=1))
        texts = operations(batch)
        assert texts.count("replace the IPv4 chains") == 1
        assert {
            f"bind address {OTHER_CLUSTER}",
            f"add real server {THERE} weight 1 to {OTHER_CLUSTER}:80/UDP",
        } <= waits(batch, "replace the IPv4 chains")
        assert "replace the IPv4 chains" in waits(batch, f"remove virtual server {CLUSTER}:80/UDP")
        assert f"forget the flows of {EXTERNAL}:80/UDP" in texts

    def test_chains_that_change_twice_do_so_in_order(self) -> None:
        """One redirection moves to another target, and one ends."""
        before = LOCAL._replace(node_port=30080)
        batch = changed(before, before._replace(cluster=1, ingress=None))
        replaced = [
            index
            for index, text in enumerate(operations(batch))
            if text == "replace the IPv4 chains"
        ]
        assert len(replaced) == 2
        assert replaced[0] in batch.steps[replaced[1]].needs

    def test_flows_are_forgotten_when_udp_is_split_and_when_it_is_no_longer(self) -> None:
        udp, forgotten = Protocol.UDP, f"forget the flows of {EXTERNAL}:80/UDP"
        member = f"{EXTERNAL},udp:80"
        one, other = CLUSTERWIDE._replace(protocol=udp), LOCAL._replace(protocol=udp)
        assert add("SPLIT", member) in waits(changed(one, other), forgotten)
        assert remove("SPLIT", member) in waits(changed(other, one), forgotten)
        assert not [text for text in operations(changed(CLUSTERWIDE, LOCAL)) if "forget" in text]

    def test_the_flows_of_redirected_clients_go_with_a_server_of_the_cluster_ip(self) -> None:
        before = LOCAL._replace(protocol=Protocol.UDP)
        batch = changed(before, before._replace(endpoints=(READY, None, None, None)))
        assert f"forget the flows of {EXTERNAL}:80/UDP to {THERE}" in operations(batch)


class TestSourceRanges:
    CLOSED = CLUSTERWIDE._replace(ranges=1)
    RANGE = f"{EXTERNAL},tcp:80,198.51.100.1/32"

    @pytest.mark.parametrize("local", [False, True])
    def test_a_frontend_is_closed_before_it_serves(self, local: bool) -> None:
        batch = changed(None, self.CLOSED._replace(external_local=local))
        closing = {add("LOAD-BALANCER-FW"), add("LOAD-BALANCER-SOURCE-CIDR", self.RANGE)}
        assert closing <= waits(batch, f"add virtual server {EXTERNAL}:80/TCP scheduler rr")
        assert closing <= waits(batch, f"bind address {EXTERNAL}")
        if local:
            assert closing <= waits(batch, add("SPLIT"))

    def test_who_is_let_in_comes_before_the_others_are_shut_out(self) -> None:
        batch = changed(CLUSTERWIDE, self.CLOSED)
        member = add("LOAD-BALANCER-SOURCE-CIDR", self.RANGE)
        assert member in waits(batch, add("LOAD-BALANCER-FW"))

    def test_it_opens_before_who_was_let_in_is_forgotten(self) -> None:
        batch = changed(self.CLOSED, CLUSTERWIDE)
        member = remove("LOAD-BALANCER-SOURCE-CIDR", self.RANGE)
        assert remove("LOAD-BALANCER-FW") in waits(batch, member)

    def test_an_address_that_another_service_has_opens_after_the_first_ones_servers_are_gone(
        self,
    ) -> None:
        second = Wanted(ingress=0, endpoints=(READY, None, None, None))
        batch = changed((self.CLOSED, second), (None, second))
        lowered = f"set real server {HERE} weight 0 of {EXTERNAL}:80/TCP"
        assert lowered in waits(batch, remove("LOAD-BALANCER-FW"))

    def test_it_opens_after_nobody_is_redirected_past_the_firewall(self) -> None:
        udp = self.CLOSED._replace(protocol=Protocol.UDP, external_local=True)
        batch = changed(udp, None)
        member = f"{EXTERNAL},udp:80"
        assert {
            remove("SPLIT", member),
            f"remove virtual server {EXTERNAL}:80/UDP",
        } <= waits(batch, remove("LOAD-BALANCER-FW", member))


def test_a_service_that_goes_sends_nobody_elsewhere_any_more_while_it_drains() -> None:
    texts = operations(changed(LOCAL, None))
    assert remove("SPLIT") in texts
    assert not {remove("LOAD-BALANCER"), remove("LOAD-BALANCER-LOCAL")} & set(texts)
    assert not [text for text in texts if text.startswith(("remove virtual", "unbind"))]


def test_a_service_that_goes_and_drains_nowhere_lets_nobody_in_before_it_is_gone() -> None:
    batch = changed(NOBODY_HERE, None)
    gone = f"remove virtual server {EXTERNAL}:80/TCP"
    assert gone in waits(batch, remove("LOAD-BALANCER"))
    assert f"unbind address {EXTERNAL}" in waits(batch, gone)


@pytest.mark.parametrize("condition", [UNREADY, LEAVING])
def test_the_last_server_here_that_is_of_no_use_shuts_the_outside_out(
    condition: Condition,
) -> None:
    left = LOCAL._replace(endpoints=(condition, None, READY, None))
    batch = changed(LOCAL, left)
    assert (add("NO-LOCAL") in operations(batch)) == (condition == UNREADY)
