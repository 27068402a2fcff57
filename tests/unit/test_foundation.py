"""What all Services stand on, whatever they are."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS, foundation
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.kernel.rules import sets_of
from ipvsproxy.model import Family, Network

SETTINGS = Settings(node_name="n", cluster_cidrs=(Network.parse("10.1.0.0/16"),))


@pytest.mark.parametrize(
    ("release", "switched_off"),
    [
        ("3.10.0-1160.el7.x86_64", False),
        ("4.0.9", False),
        ("4.1.0", True),
        ("5.4.0-150-generic", True),
        ("5.8.18", True),
        ("5.9", False),
        ("5.10.0-28-amd64", False),
        ("6.1.0", False),
        ("", False),
        ("custom", False),
    ],
)
def test_connection_reuse_is_switched_off_where_it_costs_a_second(
    release: str, switched_off: bool
) -> None:
    state = fresh_state()
    state.sysctls["kernel/osrelease"] = release
    found = foundation(SETTINGS, state).sysctls
    assert found.get("net/ipv4/vs/conn_reuse_mode") == ("0" if switched_off else None)
    assert found.items() >= {"net/ipv4/vs/conntrack": "1", "net/ipv4/ip_forward": "1"}.items()
    assert found.keys() <= set(WATCHED_SYSCTLS)


@pytest.mark.parametrize("families", [{4}, {6}, {4, 6}])
def test_only_the_families_of_this_kernel_have_sets_and_chains(families: set[int]) -> None:
    state = fresh_state(frozenset(map(Family, families)))
    found = foundation(SETTINGS, state)
    assert found.rulesets.keys() == families
    assert {spec.family for spec in found.sets.values()} == families
    assert all(spec.maxelem == SETTINGS.set_capacity for spec in found.sets.values())
    for ruleset in found.rulesets.values():
        assert set(sets_of(ruleset)) <= found.sets.keys()


def test_each_family_knows_its_own_pod_networks() -> None:
    found = foundation(SETTINGS, fresh_state()).rulesets
    assert "10.1.0.0/16" in str(found[Family.IPV4])
    assert "10.1.0.0/16" not in str(found[Family.IPV6])
