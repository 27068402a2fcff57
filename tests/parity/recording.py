"""A recorded case: the objects, and what kube-proxy had made of them, as a `State`.

Knows the files of a case, which README.md describes; does not judge. Sets and chains are read here
and not by the kernel's adapters, which see only what we would write ourselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    Flags,
    ForwardingMethod,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Jump,
    Member,
    Network,
    NodeNetwork,
    PortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    State,
    VirtualServer,
    VirtualServerKey,
)

NODE = "node-a"
NETWORK = NodeNetwork(
    {
        "lo": frozenset(map(Address.parse, ("127.0.0.1", "::1"))),
        "eth0": frozenset(map(Address.parse, ("192.168.50.11", "fd00:50::11"))),
    }
)
"""The network of the node on which the cases were recorded."""

SET_TYPES: Mapping[str, SetType] = {
    "KUBE-CLUSTER-IP": SetType.HASH_IP_PORT,
    "KUBE-EXTERNAL-IP": SetType.HASH_IP_PORT,
    "KUBE-EXTERNAL-IP-LOCAL": SetType.HASH_IP_PORT,
    "KUBE-LOAD-BALANCER": SetType.HASH_IP_PORT,
    "KUBE-LOAD-BALANCER-FW": SetType.HASH_IP_PORT,
    "KUBE-LOAD-BALANCER-LOCAL": SetType.HASH_IP_PORT,
    "KUBE-NODE-PORT-SCTP-HASH": SetType.HASH_IP_PORT,
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH": SetType.HASH_IP_PORT,
    "KUBE-LOOP-BACK": SetType.HASH_IP_PORT_IP,
    "KUBE-LOAD-BALANCER-SOURCE-IP": SetType.HASH_IP_PORT_IP,
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": SetType.HASH_IP_PORT_NET,
    "KUBE-IPVS-IPS": SetType.HASH_IP,
    "KUBE-NODE-PORT-TCP": SetType.BITMAP_PORT,
    "KUBE-NODE-PORT-UDP": SetType.BITMAP_PORT,
    "KUBE-NODE-PORT-LOCAL-TCP": SetType.BITMAP_PORT,
    "KUBE-NODE-PORT-LOCAL-UDP": SetType.BITMAP_PORT,
    "KUBE-HEALTH-CHECK-NODE-PORT": SetType.BITMAP_PORT,
}
"""The sets that kube-proxy makes in each family, whether they have members or not."""

_PROTOCOLS = {"-t": Protocol.TCP, "-u": Protocol.UDP, "--sctp-service": Protocol.SCTP}
_FLAGS = {"flag-1": Flags.SCHED_1, "flag-2": Flags.SCHED_2, "flag-3": Flags.SCHED_3} | {
    "sh-fallback": Flags.SCHED_1,
    "sh-port": Flags.SCHED_2,
    "mh-fallback": Flags.SCHED_1,
    "mh-port": Flags.SCHED_2,
}
_SECTIONS = {
    "# iptables nat": (Family.IPV4, "nat"),
    "# iptables filter": (Family.IPV4, "filter"),
    "# ip6tables nat": (Family.IPV6, "nat"),
    "# ip6tables filter": (Family.IPV6, "filter"),
}

Document = Mapping[str, object]
"""A Kubernetes object as it is written."""


@dataclass(frozen=True)
class Case:
    """What was recorded."""

    path: Path
    objects: tuple[Document, ...]
    """There when the proxy starts."""
    changes: tuple[tuple[str, Document], ...]
    """What follows, one by one: `put` or `delete`, and the object."""
    theirs: State
    """What kube-proxy had made at the end."""

    @property
    def final(self) -> tuple[Document, ...]:
        """The objects that there are at the end."""
        found = {identity(one): one for one in self.objects}
        for verb, one in self.changes:
            if verb == "put":
                found[identity(one)] = one
            else:
                found.pop(identity(one), None)
        return tuple(found.values())


def identity(document: Document) -> tuple[str, str, str]:
    """Give kind, namespace and name of an object."""
    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    return str(document["kind"]), str(metadata.get("namespace", "")), str(metadata["name"])


def read_case(path: Path) -> Case:
    """Read the folder of a case."""
    said = yaml.safe_load((path / "objects.yaml").read_text())
    changes = [next(iter(step.items())) for step in said.get("then", ())]
    return Case(path, tuple(said["objects"]), tuple(changes), _state(path))


def set_name(base: str, family: Family) -> str:
    """Name a set of kube-proxy's in one family."""
    return base if family is Family.IPV4 else base.replace("KUBE-", "KUBE-6-", 1)[:31]


def _state(path: Path) -> State:
    addresses = (path / "addresses.txt").read_text().split()
    state = State(link=True, network=NETWORK)
    state.addresses = {Address.parse(one.partition("/")[0]) for one in addresses}
    for family in Family:
        for base, set_type in SET_TYPES.items():
            name = set_name(base, family)
            state.sets[name] = SetSpec(set_type, family)
            state.members[name] = set()
    for line in (path / "ipset.txt").read_text().splitlines():
        _verb, name, text = line.split()
        state.members[name].add(_member(state.sets[name].type, text))
    for line in (path / "ipvs.txt").read_text().splitlines():
        _ipvs(state, line.split())
    state.rulesets = _rulesets((path / "iptables.txt").read_text().splitlines())
    return state


def _ipvs(state: State, words: Sequence[str]) -> None:
    verb, protocol, place, *rest = words
    key = VirtualServerKey(_PROTOCOLS[protocol], *_place(place))
    options = dict(pairwise([*rest, ""]))
    if verb == "-A":
        flags = Flags.NONE
        for name in filter(None, options.get("-b", "").split(",")):
            flags |= _FLAGS[name]
        kept, longest = int(options.get("-p", 0)), key.family.host_prefix
        state.virtual_servers[key] = VirtualServer(options["-s"], flags, kept, longest)
        state.real_servers[key] = {}
    else:
        assert "-m" in rest
        server = RealServer(int(options["-w"]), ForwardingMethod.MASQUERADE)
        state.real_servers[key][RealServerKey(*_place(options["-r"]))] = server


def _place(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    return Address.parse(host.strip("[]")), int(port)


def _member(set_type: SetType, text: str) -> Member:
    first, *rest = text.split(",")
    if set_type is SetType.BITMAP_PORT:
        return PortMember(int(first))
    address = Address.parse(first)
    if set_type is SetType.HASH_IP:
        return IpMember(address)
    name, _, port = rest[0].partition(":")
    protocol, number = Protocol[name.upper()], int(port)
    match set_type:
        case SetType.HASH_IP_PORT:
            return IpPortMember(address, protocol, number)
        case SetType.HASH_IP_PORT_IP:
            return IpPortIpMember(address, protocol, number, Address.parse(rest[1]))
        case SetType.HASH_IP_PORT_NET:
            return IpPortNetMember(address, protocol, number, Network.parse(rest[1]))


def _rulesets(lines: Sequence[str]) -> dict[Family, Ruleset]:
    rules: dict[tuple[Family, str, str], list[Rule]] = {}
    declared: set[tuple[Family, str, str]] = set()
    section = (Family.IPV4, "")
    for line in lines:
        if line.startswith("#"):
            section = _SECTIONS[line]
        elif line.startswith(":"):
            declared.add((*section, line[1:].split()[0]))
        else:
            _, chain, *words = shlex.split(line)
            rules.setdefault((*section, chain), []).append(tuple(words))
    return {
        family: Ruleset(
            tuple(
                Chain(table, name, tuple(rules.get((family, table, name), ())))
                for of, table, name in sorted(declared)
                if of is family
            ),
            tuple(_jumps(family, rules, declared)),
        )
        for family in Family
    }


def _jumps(
    family: Family,
    rules: Mapping[tuple[Family, str, str], Sequence[Rule]],
    declared: set[tuple[Family, str, str]],
) -> Iterator[Jump]:
    for (of, table, chain), found in rules.items():
        if of is family and (of, table, chain) not in declared:
            yield from (Jump(table, chain, rule) for rule in found)
