"""Started on what kube-proxy's IPVS mode left: nothing that served stops serving, at any step.

Every recorded state is taken over with its own objects. After each operation it is asked what
becomes of packets; each that was balanced before and is at the end must be balanced all the while,
to servers that see it as they did before, or as they will.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.operations import (
    AddVirtualServer,
    BindAddress,
    CreateSet,
    Operation,
    SetSysctl,
    describe,
)
from ipvsproxy.core.packet import Balanced, Kept, Masqueraded, Packet, Stopped
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.core.trace import trace
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.fake import FakeDataplane, copy_state, fresh_state
from ipvsproxy.model import Chain, Family, RealServerKey, Ruleset, State
from tests.parity.agent import REST, SETTINGS
from tests.parity.comparison import senders
from tests.parity.facts import Facts, facts_of, manifest
from tests.parity.recording import NETWORK, Case, identity, read_case, set_name
from tests.scenarios.stage import Stage

_RANGES = ("filter", "KUBE-SOURCE-RANGES-FIREWALL")
_SINCE_1_25 = {
    _RANGES,
    ("filter", "KUBE-PROXY-FIREWALL"),
    ("filter", "KUBE-IPVS-FILTER"),
    ("filter", "KUBE-IPVS-OUT-FILTER"),
}
"""Tables and names of chains that kube-proxy before 1.25 did not have."""

CASES = sorted(path.parent for path in (Path(__file__).parent / "cases").glob("*/objects.yaml"))


class Witnessed(FakeDataplane):
    """A kernel in memory of which a picture is taken after every operation."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.pictures: list[tuple[str, State]] = []

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out one operation after the other."""
        outcomes: list[Outcome] = []
        for operation in operations:
            outcomes += await super().apply([operation])
            if not isinstance(operation, CreateSet | SetSysctl):
                self.pictures.append((describe(operation), copy_state(self.state)))
        return outcomes


def found(case: Case) -> State:
    """Give the kernel that kube-proxy left."""
    state = copy_state(case.theirs)
    state.sysctls = fresh_state().sysctls
    return state


def empty() -> State:
    """Give the kernel of the same node on which nothing has run."""
    state = fresh_state()
    state.network = NETWORK
    return state


async def taken_over(case: Case, state: State) -> Witnessed:
    """Start the agent on a kernel, with the objects that there are at the end of a case."""
    kernel = Witnessed(state)
    stage = Stage(SETTINGS, kernel)
    for document in case.final:
        stage.files["-".join(identity(document)) + ".json"] = manifest(document)
    await stage.start()
    await stage.wait(REST)
    return kernel


def served(state: State, packet: Packet) -> frozenset[RealServerKey | str] | None:
    """Give the servers that may get a packet and the sources that they see; None: nobody does."""
    fate = trace(state, packet).fate
    if not isinstance(fate, Balanced):
        return None
    seen = {_seen(one.seen) for one in fate.candidates}
    return frozenset({one.member for one in fate.candidates} | seen)


def _seen(seen: Kept | Masqueraded | Stopped) -> str:
    match seen:
        case Kept(address):
            return str(address)
        case Masqueraded():
            return "masqueraded"
        case Stopped():
            return "stopped"


def packets(state: State, facts: Facts) -> Iterator[Packet]:
    """Give a packet from everybody to every frontend that there is."""
    for key in sorted(state.virtual_servers):
        servers = {one.address for one in state.real_servers[key]}
        for sender in senders(key.family, servers, facts):
            yield Packet(sender, key.protocol, key.address, key.port)


def interruptions(before: State, kernel: Witnessed, facts: Facts) -> Iterator[str]:
    """Find the steps at which a packet that is served before and after was not."""
    for packet in packets(before, facts):
        first, last = served(before, packet), served(kernel.state, packet)
        if first is None or last is None:
            continue
        for step, picture in kernel.pictures:
            now = served(picture, packet)
            if now is None or not now <= first | last:
                yield f"{packet} after: {step}: {now}"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_nothing_that_serves_stops_serving(path: Path) -> None:
    case = read_case(path)
    kernel = await taken_over(case, found(case))
    assert list(interruptions(found(case), kernel, facts_of(case.final))) == []


def as_before_1_25(state: State) -> State:
    """Make of a recorded kernel what kube-proxy of 1.20 to 1.24 would have left.

    Source ranges were held in nat, by a mark that kubelet's chains drop; there was no
    KUBE-IPVS-IPS, and nothing kept daemons of the node off service addresses.
    """
    for family in Family:
        state.sets.pop(set_name("KUBE-IPVS-IPS", family))
        state.members.pop(set_name("KUBE-IPVS-IPS", family))
        found = state.rulesets[family]
        chains = {chain[:2]: chain for chain in found.chains if chain[:2] not in _SINCE_1_25}
        ranges = next(one for one in found.chains if one[:2] == _RANGES)
        fw, balancer = set_name("KUBE-LOAD-BALANCER-FW", family), ("nat", "KUBE-LOAD-BALANCER")
        ask = ("-m", "set", "--match-set", fw, "dst,dst", "-j", "KUBE-FIRE-WALL")
        before = chains[balancer]
        chains[balancer] = before._replace(rules=(ask, *before.rules))
        drop = (*ranges.rules[:-1], ("-j", "KUBE-MARK-DROP"))
        chains["nat", "KUBE-FIRE-WALL"] = Chain("nat", "KUBE-FIRE-WALL", drop)
        jumps = (jump for jump in found.jumps if (jump.table, jump.rule[-1]) not in _SINCE_1_25)
        state.rulesets[family] = Ruleset(tuple(chains[key] for key in sorted(chains)), tuple(jumps))
    return state


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_nor_where_an_old_kube_proxy_ran(path: Path) -> None:
    case = read_case(path)
    old = as_before_1_25(found(case))
    kernel = await taken_over(case, copy_state(old))
    assert list(interruptions(old, kernel, facts_of(case.final))) == []
    chains = {chain.name for found in kernel.state.rulesets.values() for chain in found.chains}
    assert "KUBE-FIRE-WALL" not in chains


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_it_ends_as_on_a_fresh_node_and_makes_nothing_anew(path: Path) -> None:
    case = read_case(path)
    kernel, fresh = await taken_over(case, found(case)), await taken_over(case, empty())
    made = {one.key for one in kernel.applied if isinstance(one, AddVirtualServer)}
    assert made == fresh.state.virtual_servers.keys() - case.theirs.virtual_servers.keys()
    bound = {one.address for one in kernel.applied if isinstance(one, BindAddress)}
    assert bound == fresh.state.addresses - case.theirs.addresses
    ours = Ownership(kernel.state)
    assert all(key in ours for key in kernel.state.virtual_servers)
    one, other = await kernel.dump(), await fresh.dump()
    for part in ("virtual_servers", "real_servers", "addresses", "members", "rulesets"):
        assert getattr(one, part) == getattr(other, part), part


@pytest.mark.parametrize("name", ["nodeport-tcp", "external-local", "loadbalancer"])
async def test_their_chains_stay_while_not_all_objects_can_be_read(name: str) -> None:
    case = read_case(CASES[0].parent / name)
    kernel = Witnessed(found(case))
    stage = Stage(SETTINGS, kernel)
    stage.files["broken.yaml"] = "{"
    await stage.start()
    assert kernel.state.rulesets == case.theirs.rulesets
    stage.files["broken.yaml"] = "".join(manifest(one) + "\n---\n" for one in case.final)
    await stage.synchronise()
    assert all(not are_others(one) for one in kernel.state.rulesets.values())
