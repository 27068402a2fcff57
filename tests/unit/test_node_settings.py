"""What is asked of connection tracking and of IPVS's timeouts, beyond what the node has."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS, foundation, shortcomings
from ipvsproxy.core.operations import SetSysctl, SetTimeouts
from ipvsproxy.core.plan.ground import settings_operations
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.kernel.rules import carry_out
from ipvsproxy.model import KERNEL_TIMEOUTS, State, Timeouts

CONNTRACK = "net/netfilter/nf_conntrack_"
NOTHING = Settings(node_name="n")
MUCH = Settings(
    node_name="n",
    ipvs_tcp_timeout=7200,
    ipvs_udp_timeout=10,
    conntrack_max_per_core=32768,
    conntrack_min=131072,
    conntrack_tcp_established_timeout=86400,
    conntrack_tcp_close_wait_timeout=3600,
    conntrack_tcp_be_liberal=True,
    conntrack_udp_timeout=20,
    conntrack_udp_stream_timeout=0,
)


def node(processors: int = 8, **conntrack: str) -> State:
    state = fresh_state()
    state.processors = processors
    state.sysctls |= {f"{CONNTRACK}{name}": value for name, value in conntrack.items()}
    return state


def conntrack(settings: Settings, state: State) -> dict[str, str]:
    found = foundation(settings, state).sysctls
    assert found.keys() <= set(WATCHED_SYSCTLS)
    return {
        name.removeprefix(CONNTRACK): value
        for name, value in found.items()
        if name.startswith(CONNTRACK)
    }


def test_nothing_is_asked_that_was_not_set() -> None:
    assert conntrack(NOTHING, node(max="1")) == {}
    state = node()
    state.timeouts = Timeouts(1, 2, 3)
    assert foundation(NOTHING, state).timeouts == Timeouts(1, 2, 3)


def test_what_is_set_is_asked_and_a_zero_asks_for_nothing() -> None:
    assert conntrack(MUCH, node(max="1", buckets="1")) == {
        "max": "262144",
        "buckets": "65536",
        "tcp_timeout_established": "86400",
        "tcp_timeout_close_wait": "3600",
        "tcp_be_liberal": "1",
        "udp_timeout": "20",
    }


@pytest.mark.parametrize(
    ("processors", "found", "expected"),
    [
        (1, {"max": "65536", "buckets": "16384"}, ("131072", "32768")),
        (4, {"max": "131072", "buckets": "32768"}, ("131072", "32768")),
        (5, {"max": "131072", "buckets": "32768"}, ("163840", "40960")),
        (4, {"max": "999999", "buckets": "999999"}, ("999999", "999999")),
        (4, {}, ("131072", "32768")),
    ],
)
def test_the_table_is_raised_and_never_lowered(
    processors: int, found: dict[str, str], expected: tuple[str, str]
) -> None:
    asked = conntrack(MUCH, node(processors, **found))
    assert (asked["max"], asked["buckets"]) == expected


def test_buckets_are_whole_pages_as_the_kernel_rounds_them() -> None:
    few = Settings(node_name="n", conntrack_max_per_core=5000)
    assert conntrack(few, node(1)) == {"max": "5000", "buckets": "1536"}


def test_what_differs_is_written_once_and_what_the_kernel_lacks_is_told() -> None:
    state = node(max="1", buckets="1", tcp_be_liberal="0", udp_timeout="20")
    operations = list(settings_operations(foundation(MUCH, state), state))
    assert SetTimeouts(Timeouts(7200, KERNEL_TIMEOUTS.tcp_fin, 10)) in operations
    assert SetSysctl(f"{CONNTRACK}max", "262144") in operations
    assert SetSysctl(f"{CONNTRACK}udp_timeout", "20") not in operations
    for operation in operations:
        assert carry_out(state, operation, ()).refusal is None
    assert list(settings_operations(foundation(MUCH, state), state)) == []
    (first, second) = shortcomings(MUCH, state)
    assert "tcp_timeout_close_wait; load the module nf_conntrack" in first
    assert "tcp_timeout_established" in second


def test_a_protocol_that_ipvs_does_not_balance_gets_no_timeout() -> None:
    state = node()
    state.timeouts = Timeouts(0, 0, 300)
    assert foundation(MUCH, state).timeouts == Timeouts(0, 0, 10)
