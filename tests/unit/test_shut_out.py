"""Who asks a frontend of policy Local from outside, where this node has no endpoint of it."""

from __future__ import annotations

import pytest

from ipvsproxy.config import NoLocalEndpoints
from ipvsproxy.core.firewall import IPVS_FILTER, ruleset
from ipvsproxy.core.sets import NO_LOCAL, set_name
from ipvsproxy.model import Family
from tests.unit.builders import pods_in


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(
    ("setting", "target"), [(NoLocalEndpoints.DROP, "DROP"), (NoLocalEndpoints.REJECT, "REJECT")]
)
def test_new_connections_only_are_shut_out_before_any_frontend_lets_them_in(
    family: Family, setting: NoLocalEndpoints, target: str
) -> None:
    chains = ruleset(family, pods=pods_in(family), no_local=setting).chains
    (rules,) = (chain.rules for chain in chains if chain[:2] == ("filter", IPVS_FILTER))
    asking = [place for place, rule in enumerate(rules) if set_name(NO_LOCAL, family) in rule]
    letting_in = [place for place, rule in enumerate(rules) if "RETURN" in rule]
    assert asking == [0]
    assert letting_in[0] > 0
    assert rules[0][:4] == ("-m", "conntrack", "--ctstate", "NEW"), "open connections go on"
    assert rules[0][rules[0].index("-j") + 1] == target
