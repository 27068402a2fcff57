"""Where the agent does otherwise than kube-proxy's IPVS mode on purpose, and why.

One table: from it `docs/differences-from-kube-proxy.md` is written, and by it the comparison of the
recorded cases is judged. An entry that can show in what is compared has a rule (`rules`): given a
difference and what the objects ask for, it says whether this is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.parity import rules
from tests.parity.comparison import Difference
from tests.parity.facts import Facts

Rule = Callable[[Difference, Facts], bool]


class Intended(NamedTuple):
    """One difference."""

    topic: str
    here: str
    there: str
    """What kube-proxy does."""
    why: str
    rule: Rule | None = None
    """None: it shows in nothing that is compared."""


def meant(difference: Difference, facts: Facts) -> Iterator[Intended]:
    """Give the entries that cover a difference; none: it is a mistake, on one side."""
    return (one for one in DIFFERENCES if one.rule is not None and one.rule(difference, facts))


def page() -> str:
    """Write the document."""
    lines = [_HEAD]
    for topic in dict.fromkeys(one.topic for one in DIFFERENCES):
        lines += [f"\n## {topic}\n", "| here | kube-proxy | why |", "| --- | --- | --- |"]
        found = (one for one in DIFFERENCES if one.topic == topic)
        lines += (f"| {one.here} | {one.there} | {one.why} |" for one in found)
    return "\n".join(lines) + "\n"


_POLICIES = "Traffic policies"
_WHO = "Who serves"
_SOURCES = "Source addresses and filters"
_TABLES = "The kernel's tables"
_WAYS = "Schedulers, draining, handling"

DIFFERENCES: tuple[Intended, ...] = (
    Intended(
        _POLICIES,
        "`externalTrafficPolicy: Local`: pods and the node itself reach all endpoints that the "
        "ClusterIP has. They are redirected to it before IPVS; the node's traffic is masqueraded, "
        "that of pods on other nodes too",
        "the list of local endpoints for everybody; the node's own packets come to pods from the "
        "service address, which no pod on another node can answer",
        "the policy is about traffic from outside (KEP-2086); without the split, inside clients "
        "are cut off where no endpoint is local",
        rules.inside_clients_are_redirected,
    ),
    Intended(
        _POLICIES,
        "`externalTrafficPolicy: Local` without local endpoint: new connections from outside are "
        "dropped (`noLocalEndpoints: reject` refuses them)",
        "they are sent to endpoints elsewhere, without masquerade: the replies go past this node "
        "and are lost (kubernetes #93456)",
        "a load balancer's retry lands on a node that can serve it",
        rules.nobody_local_means_silence,
    ),
    Intended(
        _POLICIES,
        "`internalTrafficPolicy: Local` never leads to another node, whatever else the Service has",
        "it does, once no endpoint is local and the Service has a NodePort, external or load "
        "balancer address",
        "the API promises that it stays on the node (KEP-2086)",
        rules.internal_local_stays_local,
    ),
    Intended(
        _WHO,
        "of two Services that claim one address, port and protocol the older one owns it; the "
        "younger one says so (condition, Warning)",
        "whichever is handled last; it changes from sync to sync",
        "nobody can work with chance",
        rules.the_older_owns,
    ),
    Intended(
        _WHO,
        "hints of endpoints are heard: for this node first (KEP-3015), then for its zone "
        "(KEP-2433), whatever annotation or `trafficDistribution` the Service has",
        "1.30, which was recorded, heeds zone hints of annotated Services only; from 1.33 and "
        "1.34 on it does as is done here",
        "the control plane decides who gets hints",
        rules.hints_are_heard,
    ),
    Intended(
        _WHO,
        "an external address that is another node's, a gateway's, the API server's or within a "
        "ServiceCIDR is neither bound nor served; nor are ports of this node's own addresses that "
        "it needs (`protectedPorts`, and what already listens)",
        "every address that a Service names is served, and bound unless it is this node's",
        "a bound address is lost to the node, and a taken port 22 or 6443 locks people out "
        "(kubernetes #66966, #75290, #93175)",
        rules.reserved_addresses_are_left_alone,
    ),
    Intended(
        _SOURCES,
        "a source range of prefix length 0 lets in everybody of its family",
        "it lets in nobody but, perhaps, the node: no ipset can hold it",
        "it is what is written",
        rules.everybody_may_come,
    ),
    Intended(
        _SOURCES,
        "what the node sends to a load balancer address, of which no source range has the node, is "
        "dropped before it is balanced",
        "after: where there is no endpoint, it is refused",
        "the address is closed to the node either way, and no rule for each address is needed",
        rules.the_node_meets_ranges_first,
    ),
    Intended(
        _SOURCES,
        "pods keep their own address when they ask an external or load balancer address that is "
        "on `kube-ipvs0`, with `externalTrafficPolicy: Cluster`",
        "they are masqueraded (kubernetes #115931)",
        "such an address is bound on every node, so the reply comes back through the pod's own "
        "node; NodePorts, which may be another node's, are masqueraded here too",
        rules.pods_keep_their_address,
    ),
    Intended(
        _SOURCES,
        "a ping to a service address is answered",
        "rejected",
        "a refused ping misleads who looks for a fault",
        rules.pings_are_answered,
    ),
    Intended(
        _SOURCES,
        "ranges of a family of which none can be read let in nobody of that family",
        "they let in everybody",
        "what restricts must not fall away by a slip of the pen",
    ),
    Intended(
        _TABLES,
        "four more sets in each family: `KUBE-SPLIT`, `KUBE-NO-LOCAL`, `KUBE-NODE-IP`, "
        "`IPVSPROXY-OWN`",
        "none of them",
        "the frontends that are redirected, those without local endpoint, the addresses that have "
        "NodePorts, and what is ours",
    ),
    Intended(
        _TABLES,
        "the chain nat `KUBE-SPLIT` has a rule for each redirected frontend; all other chains "
        "have a fixed number of rules",
        "filter `KUBE-IPVS-OUT-FILTER` has a rule for each load balancer port with source ranges",
        "a set does what those rules do",
    ),
    Intended(
        _TABLES,
        "foreign virtual servers are never removed",
        "removed unless in `excludeCIDRs`",
        "keepalived, kube-vip and people have virtual servers too",
    ),
    Intended(
        _WAYS,
        "`sh` and `mh` always have their fallback flag (`sh-fallback`, `mh-fallback`)",
        "no flag for `sh`",
        "without it they refuse clients of a server that drains",
    ),
    Intended(
        _WAYS,
        "`mh` hashes the client's address",
        "address and port (`mh-port`)",
        "one client stays on one endpoint",
    ),
    Intended(
        _WAYS,
        "`dh` is `fo` while a server drains",
        "stays `dh`",
        "plain `dh` refuses everybody whose server drains",
    ),
    Intended(
        _WAYS,
        "a draining server is kept until it is idle, at most `drainDeadline` after it left",
        "until it is idle",
        "clients that never close",
    ),
    Intended(
        _WAYS,
        "flags go before the file, each by itself",
        "most flags are ignored beside a file",
        "one can be tried without touching the file",
    ),
    Intended(
        _WAYS,
        "a changed configuration file is taken by the running agent, a wrong one is told and "
        "changes nothing",
        "it ends, to be started anew; with a wrong file it does not start",
        "a slip of the pen must not cost a node its proxy",
    ),
    Intended(
        _WAYS,
        "a key that is written twice in the configuration is an error",
        "it is passed over with a warning",
        "which one was meant is unknown",
    ),
    Intended(
        _WAYS,
        "conntrack's maximum is raised, never lowered, and when it cannot be written the agent "
        "goes on and says so",
        "kube-proxy ends when it cannot be written, but where /sys is read-only",
        "the node may need more for others, and Services are served all the same",
    ),
)

_HEAD = """# Differences from kube-proxy's IPVS mode

What kube-proxy does right is done here too. For some sixty sets of objects it was recorded what
kube-proxy 1.30 programs. What the agent makes of the same objects is compared with that in meaning:
virtual servers, real servers, addresses, members of sets, and, for the rules, what becomes of
packets from outside, from pods and from the node (`tests/parity`). Every difference that is found
there is one of those below, or a test fails.

This page is written from the table in `tests/parity/differences.py`."""
