"""Conditions, metrics, health and the status table."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.exposition import generate_latest

from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.dataplane import Reading
from ipvsproxy.model import (
    Address,
    Connections,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.telemetry import (
    AgentStatus,
    Condition,
    Conditions,
    ConditionType,
    FrontendStatus,
    Health,
    Metrics,
    ServiceStatus,
    Watches,
    status_table,
)

WEB, NODE = "Service default/web", "Node"
REFUSED = ConditionType.OPERATION_REFUSED


class TestConditions:
    def test_it_is_raised_once_however_often_it_is_found_and_keeps_its_beginning(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.set(WEB, REFUSED, message="no", now=2)

        assert [one.since for one in conditions.take_raised()] == [1]
        conditions.set(WEB, REFUSED, message="no", now=3)
        assert conditions.take_raised() == ()
        assert [one.since for one in conditions] == [1]

    def test_another_message_is_news_with_the_same_beginning(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.take_raised()
        conditions.set(WEB, REFUSED, message="never", now=2)

        assert [(one.message, one.since) for one in conditions.take_raised()] == [("never", 1)]

    def test_what_is_put_right_is_told_once_and_only_if_it_was_told_as_wrong(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.take_raised()
        conditions.set(NODE, REFUSED, message="no", now=1)
        for subject in (WEB, NODE, "Service default/never"):
            conditions.clear(subject, REFUSED)

        assert [one.subject for one in conditions.take_cleared()] == [WEB]
        assert conditions.take_cleared() == ()
        assert conditions.take_raised() == ()
        assert len(conditions) == 0

    def test_cleared_and_set_again_before_anybody_asked_is_no_news(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.take_raised()
        conditions.clear(WEB, REFUSED)
        conditions.set(WEB, REFUSED, message="no", now=5)

        assert conditions.take_raised() == ()
        assert conditions.take_cleared() == ()
        assert [one.since for one in conditions] == [1]

    def test_what_was_told_is_told_as_put_right_whatever_message_it_had_meanwhile(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.take_raised()
        conditions.set(WEB, REFUSED, message="never", now=2)
        conditions.clear(WEB, REFUSED)

        assert conditions.take_raised() == ()
        assert [(one.subject, one.message) for one in conditions.take_cleared()] == [(WEB, "no")]
        conditions.set(WEB, REFUSED, message="no", now=3)
        assert [one.since for one in conditions.take_raised()] == [3]

    def test_another_message_and_back_before_anybody_asked_is_no_news(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="no", now=1)
        conditions.take_raised()
        for message in ("never", "no"):
            conditions.set(WEB, REFUSED, message=message, now=2)

        assert conditions.take_raised() == ()
        assert [(one.message, one.since) for one in conditions] == [("no", 1)]

    def test_one_can_be_told_before_the_others_and_is_not_told_again(self) -> None:
        conditions = Conditions()
        conditions.set(WEB, REFUSED, message="a", now=0)
        conditions.set("Node", REFUSED, message="b", now=0)

        assert conditions.take_raised_of(WEB, REFUSED) == Condition(
            subject=WEB, type=REFUSED, message="a", since=0
        )
        assert conditions.take_raised_of(WEB, REFUSED) is None
        assert conditions.take_raised_of("File a.yaml", REFUSED) is None
        assert [one.subject for one in conditions.take_raised()] == ["Node"]

        conditions.clear(WEB, REFUSED)
        assert [one.subject for one in conditions.take_cleared()] == [WEB]

    def test_every_problem_of_the_core_is_a_condition(self) -> None:
        assert {kind.value for kind in ProblemKind} <= {type_.value for type_ in ConditionType}


class TestHealth:
    def test_a_change_that_waits_for_twice_the_sync_period_is_unhealthy(self) -> None:
        health = Health(sync_period=30, now=0)
        health.queued(100)
        health.queued(150)

        assert health.is_working(159.9)
        assert not health.is_working(160)

    def test_nothing_to_do_is_healthy_however_long(self) -> None:
        health = Health(sync_period=30, now=0)

        assert health.is_working(1e6)
        assert not health.is_ready(1e6)

    def test_a_change_during_a_cycle_waits_for_the_next_one(self) -> None:
        health = Health(sync_period=30, now=0)
        health.queued(100)
        health.cycle_started()
        health.queued(110)
        assert health.pending_since == 100
        health.cycle_completed(120)
        health.in_step()

        assert health.pending_since == 110
        assert health.last_completed == 120
        assert health.is_ready(120)
        assert not health.is_ready(170)

    def test_a_cycle_that_does_not_complete_keeps_what_it_took_on(self) -> None:
        health = Health(sync_period=30, now=0)
        health.queued(100)
        health.cycle_started()
        health.queued(110)
        health.cycle_started()

        assert health.pending_since == 100
        assert not health.is_working(160)

    def test_a_leaving_node_works_but_is_not_eligible(self) -> None:
        health = Health(sync_period=30, now=0)
        health.leaving = True

        assert health.is_working(1)
        assert not health.is_eligible(1)


class TestMetrics:
    def test_names_are_those_that_dashboards_know(self) -> None:
        conditions = Conditions()
        watches = Watches()
        metrics = Metrics(conditions, version="1.2.3", watches=watches)
        metrics.operations.labels("AddRealServer", "done").inc(3)
        metrics.healthz.labels(code="200").inc()
        metrics.sync_duration.observe(0.0015)
        metrics.no_local_endpoints.labels("external").set(2)
        metrics.set_members.labels("KUBE-CLUSTER-IP").set(7)
        metrics.set_capacity.labels("KUBE-CLUSTER-IP").set(65536)
        metrics.health_check_node_ports.set(3)
        metrics.network_programming.observe(119)
        metrics.endpoint_changes.inc()
        metrics.service_changes_pending.set(2)
        watches.requests["200", "GET", "192.0.2.1:6443"] += 1
        conditions.set(WEB, ConditionType.INVALID_ANNOTATION, message="x", now=0)

        text = generate_latest(metrics.registry).decode()

        for line in (
            'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.001"} 0.0',
            'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002"} 1.0',
            'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="16.384"} 1.0',
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 0.0",
            'kubeproxy_proxy_healthz_total{code="200"} 1.0',
            'kubeproxy_proxy_healthz_total{code="503"} 0.0',
            'kubeproxy_proxy_livez_total{code="200"} 0.0',
            'kubeproxy_proxy_livez_total{code="503"} 0.0',
            'ipvsproxy_operations_total{kind="AddRealServer",outcome="done"} 3.0',
            'ipvsproxy_conditions{type="InvalidAnnotation"} 1.0',
            'ipvsproxy_conditions{type="OperationRefused"} 0.0',
            "ipvsproxy_invalid_annotations 1.0",
            'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"} 0.0',
            'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"} 2.0',
            'ipvsproxy_set_members{set="KUBE-CLUSTER-IP"} 7.0',
            'ipvsproxy_set_capacity{set="KUBE-CLUSTER-IP"} 65536.0',
            "ipvsproxy_health_check_node_ports 3.0",
            'kubeproxy_network_programming_duration_seconds_bucket{le="0.25"} 0.0',
            'kubeproxy_network_programming_duration_seconds_bucket{le="59.0"} 0.0',
            'kubeproxy_network_programming_duration_seconds_bucket{le="115.0"} 0.0',
            'kubeproxy_network_programming_duration_seconds_bucket{le="120.0"} 1.0',
            'kubeproxy_network_programming_duration_seconds_bucket{le="300.0"} 1.0',
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 1.0",
            "kubeproxy_sync_proxy_rules_service_changes_pending 2.0",
            'rest_client_requests_total{code="200",host="192.0.2.1:6443",method="GET"} 1.0',
            'ipvsproxy_build_info{version="1.2.3"} 1.0',
        ):
            assert f"{line}\n" in text
        assert "_created" not in text

    def test_a_condition_that_is_cleared_is_no_longer_counted(self) -> None:
        conditions = Conditions()
        metrics = Metrics(conditions, version="1")
        conditions.set(WEB, REFUSED, message="x", now=0)
        conditions.clear(WEB, REFUSED)

        value = metrics.registry.get_sample_value(
            "ipvsproxy_conditions", {"type": "OperationRefused"}
        )
        assert value == 0


MISSING = "not in the kernel yet; the agent tries again"


def key(address: str, port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, Address.parse(address), port)


def reading(scheduler: str, *servers: tuple[str, int, int]) -> Reading:
    named = {RealServerKey(Address.parse(one[0]), 8080): one for one in servers}
    return Reading(
        VirtualServer(scheduler),
        {member: RealServer(weight) for member, (_, weight, _) in named.items()},
        {member: Connections(active, inactive=1) for member, (_, _, active) in named.items()},
    )


def agent(*services: ServiceStatus, conditions: tuple[Condition, ...] = ()) -> AgentStatus:
    return AgentStatus(version="1", node="n", services=services, conditions=conditions, synced=True)


class TestStatusTable:
    def test_kernel_and_agent_are_joined_by_virtual_server(self) -> None:
        found = {key("10.0.0.1"): reading("fo", ("10.1.0.2", 0, 7), ("10.1.0.1", 1, 2))}
        frontend = FrontendStatus(
            virtual_server="10.0.0.1:80/TCP",
            port="http",
            scheduler="fo",
            annotated="dh",
            draining=("10.1.0.2:8080",),
        )

        table = status_table(
            found, agent(ServiceStatus(name="a/web", frontends=(frontend,), problems=("bad",)))
        )

        (row,) = table.rows
        assert (row.service, row.port, row.protocol) == ("a/web", "http", "TCP")
        assert (row.address, row.scheduler, row.annotated) == ("10.0.0.1:80", "fo", "dh")
        assert [
            (one.address, one.weight, one.active, one.draining) for one in row.real_servers
        ] == [
            ("10.1.0.1:8080", 1, 2, False),
            ("10.1.0.2:8080", 0, 7, True),
        ]
        assert row.problems == ("bad",)

    def test_a_service_s_frontends_stand_by_port_and_kind(self) -> None:
        kinds = {"NodePort": "192.0.2.1", "LoadBalancer": "203.0.113.1", "ClusterIP": "10.0.0.1"}
        frontends = tuple(
            FrontendStatus(virtual_server=f"{ip}:80/TCP", port="http", kind=kind, scheduler="rr")
            for kind, ip in kinds.items()
        )
        held = {key(ip): reading("rr") for ip in ("192.0.2.1", "10.0.0.1", "10.0.0.9")}

        table = status_table(held, agent(ServiceStatus(name="a/web", frontends=frontends)))

        assert [(row.kind, row.address) for row in table.rows] == [
            ("ClusterIP", "10.0.0.1:80"),
            ("LoadBalancer", "203.0.113.1:80"),
            ("NodePort", "192.0.2.1:80"),
            ("", "10.0.0.9:80"),
        ]

    def test_without_an_agent_the_kernel_s_side_is_shown(self) -> None:
        table = status_table({key("fd00::1"): reading("rr")}, None)

        assert table.agent is None
        assert [(row.service, row.address, row.port) for row in table.rows] == [
            ("", "[fd00::1]:80", "80")
        ]

    def test_a_frontend_that_the_kernel_lacks_is_a_row_with_a_problem(self) -> None:
        frontend = FrontendStatus(virtual_server="[fd00::1]:80/UDP", port="dns", scheduler="rr")

        (row,) = status_table({}, agent(ServiceStatus(name="a/b", frontends=(frontend,)))).rows

        assert (row.address, row.protocol, row.scheduler) == ("[fd00::1]:80", "UDP", "")
        assert "not in the kernel" in row.problems[0]

    @pytest.mark.parametrize(
        ("type_", "subject", "problems"),
        [
            (ConditionType.FOREIGN_VIRTUAL_SERVER, "Service a/b", ("m",)),
            (ConditionType.OPERATION_REFUSED, "Service a/b", ("m",)),
            (ConditionType.INTERNAL_ERROR, "Service a/b", ("m",)),
            (ConditionType.INVALID_ANNOTATION, "Service a/b", ("m", MISSING)),
            (ConditionType.OPERATION_REFUSED, "Service a/c", ("m", MISSING)),
        ],
    )
    def test_what_a_condition_explains_is_not_said_to_come(
        self, type_: ConditionType, subject: str, problems: tuple[str, ...]
    ) -> None:
        frontend = FrontendStatus(virtual_server="10.0.0.1:80/TCP", port="80", scheduler="rr")
        service = ServiceStatus(name="a/b", frontends=(frontend,), problems=("m",))
        condition = Condition(subject=subject, type=type_, message="m", since=0)

        (row,) = status_table({}, agent(service, conditions=(condition,))).rows

        assert row.problems == problems

    @pytest.mark.parametrize(
        ("synced", "working", "words"),
        [
            (True, True, ", in step"),
            (False, True, "its initial lists are incomplete"),
            (True, False, "changes wait and no cycle completes"),
        ],
    )
    def test_it_says_whether_the_agent_is_in_step(
        self, synced: bool, working: bool, words: str
    ) -> None:
        table = status_table({}, AgentStatus(version="1", node="n", synced=synced, working=working))

        assert table.in_step is (synced and working)
        assert table.agent is not None
        assert table.agent.endswith(words)
        assert not status_table({}, None).in_step

    def test_conditions_of_files_and_the_node_stand_below_the_table(self) -> None:
        conditions = tuple(
            Condition(subject=subject, type=REFUSED, message="m", since=0)
            for subject in ("File a.yaml", "Service a/b")
        )
        table = status_table({}, agent(ServiceStatus(name="a/b"), conditions=conditions))

        assert table.problems == ("File a.yaml: m",)

    def test_the_agent_s_status_survives_json(self) -> None:
        status = agent(
            ServiceStatus(name="a/b", problems=("x",)),
            conditions=(Condition(subject="Node", type=REFUSED, message="m", since=1.5),),
        )

        assert msgspec.json.decode(msgspec.json.encode(status), type=AgentStatus) == status


@pytest.mark.parametrize("type_", list(ConditionType))
def test_a_condition_s_name_is_camel_case(type_: ConditionType) -> None:
    assert type_.value[0].isupper()
    assert type_.value.isalpha()
