"""What stands around the IPVS table: the dummy interface, ipsets, chains and kernel settings."""

from __future__ import annotations

import pytest

from ipvsproxy.core.operations import (
    AddMember,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    GrowSet,
    Operation,
    RemoveLink,
    RemoveMember,
    ReplaceChains,
    SetSysctl,
    UnbindAddress,
)
from ipvsproxy.dataplane import DONE, Dataplane, Refusal
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Jump,
    Member,
    Network,
    PortMember,
    Protocol,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    VirtualServerKey,
)
from tests.contract.steps import POD, POD6, WEB, WEB6, do, refused

FRONTENDS = "KUBE-CLUSTER-IP"
BY_PORT = SetSpec(SetType.HASH_IP_PORT, Family.IPV4)
WEB_MEMBER = IpPortMember(WEB.address, Protocol.TCP, 80)
CREATE = CreateSet(FRONTENDS, BY_PORT)
ADD = AddMember(FRONTENDS, WEB_MEMBER)
ASK: Rule = ("-m", "set", "--match-set", FRONTENDS, "dst,dst", "-j", "KUBE-MARK-MASQ")
MARK = Chain("nat", "KUBE-MARK-MASQ", (("-j", "MARK", "--set-xmark", "0x4000/0x4000"),))
SERVICES = Chain("nat", "KUBE-SERVICES", (ASK,))
JUMPS = tuple(Jump("nat", hook, ("-j", "KUBE-SERVICES")) for hook in ("OUTPUT", "PREROUTING"))
RULES = Ruleset((MARK, SERVICES), JUMPS)
NOTHING = Ruleset()
TYPES: list[tuple[SetType, Family, Member]] = [
    (SetType.HASH_IP, Family.IPV4, IpMember(WEB.address)),
    (SetType.HASH_IP, Family.IPV6, IpMember(WEB6.address)),
    (SetType.HASH_IP_PORT, Family.IPV4, IpPortMember(WEB.address, Protocol.SCTP, 80)),
    (SetType.HASH_IP_PORT, Family.IPV6, IpPortMember(WEB6.address, Protocol.UDP, 65535)),
    (
        SetType.HASH_IP_PORT_IP,
        Family.IPV4,
        IpPortIpMember(POD.address, Protocol.TCP, 8080, POD.address),
    ),
    (
        SetType.HASH_IP_PORT_IP,
        Family.IPV6,
        IpPortIpMember(POD6.address, Protocol.TCP, 8080, POD6.address),
    ),
    (
        SetType.HASH_IP_PORT_NET,
        Family.IPV4,
        IpPortNetMember(WEB.address, Protocol.TCP, 80, Network.parse("10.0.0.0/9")),
    ),
    (
        SetType.HASH_IP_PORT_NET,
        Family.IPV6,
        IpPortNetMember(WEB6.address, Protocol.TCP, 80, Network.parse("fd00::1/128")),
    ),
    (SetType.BITMAP_PORT, Family.IPV4, PortMember(0)),
    (SetType.BITMAP_PORT, Family.IPV4, PortMember(65535)),
]


@pytest.mark.parametrize(
    ("before", "operation"),
    [
        pytest.param([CreateLink()], CreateLink(), id="link exists"),
        pytest.param([], BindAddress(WEB.address), id="link is missing"),
        pytest.param(
            [CreateLink(), BindAddress(WEB6.address)], BindAddress(WEB6.address), id="is bound"
        ),
        pytest.param([CREATE], CREATE, id="set exists"),
        pytest.param([], ADD, id="set is missing"),
        pytest.param([], GrowSet(FRONTENDS, BY_PORT), id="set to grow is missing"),
        pytest.param(
            [CREATE],
            GrowSet(FRONTENDS, SetSpec(SetType.HASH_IP, Family.IPV4)),
            id="set to grow is of another type",
        ),
        pytest.param(
            [CREATE],
            GrowSet(FRONTENDS, SetSpec(SetType.HASH_IP_PORT, Family.IPV6)),
            id="set to grow is of the other family",
        ),
        pytest.param([], ReplaceChains(Family.IPV4, RULES, NOTHING), id="set of a rule is missing"),
        pytest.param(
            [], ReplaceChains(Family.IPV4, NOTHING, RULES), id="jump to be deleted is missing"
        ),
    ],
)
async def test_a_wrong_picture_is_contradicted(
    dataplane: Dataplane, before: list[Operation], operation: Operation
) -> None:
    await do(dataplane, *before)
    state = await dataplane.dump()
    refusal, _ = await refused(dataplane, operation)
    assert refusal is Refusal.CONTRADICTED
    assert await dataplane.dump() == state


@pytest.mark.parametrize(
    "operation",
    [
        RemoveLink(),
        UnbindAddress(WEB.address),
        DestroySet(FRONTENDS),
        RemoveMember(FRONTENDS, WEB_MEMBER),
        ReplaceChains(Family.IPV4, NOTHING, NOTHING),
    ],
    ids=lambda operation: type(operation).__name__,
)
async def test_what_is_gone_already_is_removed(dataplane: Dataplane, operation: Operation) -> None:
    state = await dataplane.dump()
    await do(dataplane, operation)
    assert await dataplane.dump() == state


@pytest.mark.parametrize("count", [1, 6], ids=["few", "many"])
async def test_flows_that_are_not_there_are_forgotten(dataplane: Dataplane, count: int) -> None:
    keys = [
        VirtualServerKey(Protocol.UDP, address, 53 + number)
        for number in range(count)
        for address in (WEB.address, WEB6.address)
    ]
    pods = {Family.IPV4: POD, Family.IPV6: POD6}
    operations = [ForgetFlows(key, pods[key.family]) for key in keys]
    operations += [ForgetFlows(key, None) for key in keys]
    state = await dataplane.dump()
    assert set(await dataplane.apply(operations)) == {DONE}
    assert await dataplane.dump() == state


async def test_addresses_are_bound_and_go_with_the_link(dataplane: Dataplane) -> None:
    await do(dataplane, CreateLink(), BindAddress(WEB.address), BindAddress(WEB6.address))
    state = await dataplane.dump()
    assert (state.link, state.addresses) == (True, {WEB.address, WEB6.address})
    await do(dataplane, UnbindAddress(WEB.address), UnbindAddress(WEB.address))
    assert (await dataplane.dump()).addresses == {WEB6.address}
    await do(dataplane, RemoveLink())
    state = await dataplane.dump()
    assert (state.link, state.addresses) == (False, set())


@pytest.mark.parametrize(("kind", "family", "member"), TYPES)
async def test_every_kind_of_set_is_read_back(
    dataplane: Dataplane, kind: SetType, family: Family, member: Member
) -> None:
    spec = SetSpec(kind, family)
    await do(dataplane, CreateSet("KUBE-A", spec), AddMember("KUBE-A", member))
    state = await dataplane.dump()
    assert state.sets == {"KUBE-A": spec}
    assert state.members == {"KUBE-A": {member}}
    await do(dataplane, RemoveMember("KUBE-A", member), RemoveMember("KUBE-A", member))
    assert (await dataplane.dump()).members == {"KUBE-A": set()}
    await do(dataplane, AddMember("KUBE-A", member), DestroySet("KUBE-A"))
    assert (await dataplane.dump()).sets == {}


async def test_a_member_is_added_again_without_harm(dataplane: Dataplane) -> None:
    await do(dataplane, CREATE, ADD, ADD)
    assert (await dataplane.dump()).members == {FRONTENDS: {WEB_MEMBER}}


async def test_a_set_that_a_rule_uses_grows_with_its_members(dataplane: Dataplane) -> None:
    small = SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 1)
    large = SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 2, hashsize=64)
    other = AddMember(FRONTENDS, WEB_MEMBER._replace(port=81))
    await do(dataplane, CreateSet(FRONTENDS, small), ADD)
    await do(dataplane, ReplaceChains(Family.IPV4, RULES, NOTHING))
    assert (await refused(dataplane, other))[0] is Refusal.FULL
    await do(dataplane, GrowSet(FRONTENDS, large), other, GrowSet(FRONTENDS, large))
    state = await dataplane.dump()
    assert state.sets == {FRONTENDS: large}
    assert state.members == {FRONTENDS: {WEB_MEMBER, other.member}}
    assert state.rulesets[Family.IPV4] == RULES
    assert (await refused(dataplane, GrowSet(FRONTENDS, small)))[0] is Refusal.FULL
    assert await dataplane.dump() == state


async def test_a_bitmap_does_not_grow(dataplane: Dataplane) -> None:
    ports = SetSpec(SetType.BITMAP_PORT, Family.IPV4)
    await do(dataplane, CreateSet("KUBE-A", ports), AddMember("KUBE-A", PortMember(80)))
    assert (await refused(dataplane, GrowSet("KUBE-A", ports)))[0] is Refusal.INVALID


async def test_a_full_set_says_so_and_takes_what_it_has(dataplane: Dataplane) -> None:
    first, second = (IpMember(Address.parse(text)) for text in ("10.0.0.1", "10.0.0.2"))
    await do(dataplane, CreateSet("KUBE-A", SetSpec(SetType.HASH_IP, Family.IPV4, 1)))
    await do(dataplane, AddMember("KUBE-A", first))
    refusal, reason = await refused(dataplane, AddMember("KUBE-A", second))
    assert (refusal, "full" in reason) == (Refusal.FULL, True)
    await do(dataplane, AddMember("KUBE-A", first), RemoveMember("KUBE-A", first))
    await do(dataplane, AddMember("KUBE-A", second))
    assert (await dataplane.dump()).members == {"KUBE-A": {second}}


@pytest.mark.parametrize(
    ("spec", "member"),
    [
        pytest.param(BY_PORT, IpPortMember(WEB6.address, Protocol.TCP, 80), id="other family"),
        pytest.param(
            SetSpec(SetType.HASH_IP_PORT, Family.IPV6), WEB_MEMBER, id="other family, IPv6 set"
        ),
        pytest.param(BY_PORT, IpMember(WEB.address), id="too little"),
        pytest.param(
            SetSpec(SetType.HASH_IP, Family.IPV4), IpMember(Address.parse("0.0.0.0")), id="null"
        ),
        pytest.param(
            SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV4),
            IpPortNetMember(WEB.address, Protocol.TCP, 80, Network.parse("0.0.0.0/0")),
            id="network of length 0",
        ),
        pytest.param(BY_PORT, IpPortMember(WEB.address, Protocol.TCP, 1 << 16), id="port"),
    ],
)
async def test_a_member_that_does_not_fit_is_invalid(
    dataplane: Dataplane, spec: SetSpec, member: Member
) -> None:
    await do(dataplane, CreateSet("KUBE-A", spec))
    refusal, _ = await refused(dataplane, AddMember("KUBE-A", member))
    assert refusal is Refusal.INVALID
    assert (await dataplane.dump()).members == {"KUBE-A": set()}


async def test_one_refused_member_holds_up_no_other(dataplane: Dataplane) -> None:
    ports = range(1, 501)
    batch: list[Operation] = [
        AddMember(FRONTENDS, IpPortMember(WEB.address, Protocol.TCP, port)) for port in ports
    ]
    batch[100] = AddMember(FRONTENDS, IpPortMember(WEB6.address, Protocol.TCP, 1))
    batch[200] = AddMember("KUBE-NONE", WEB_MEMBER)
    await do(dataplane, CREATE)
    outcomes = await dataplane.apply(batch)
    assert [index for index, one in enumerate(outcomes) if one.refusal] == [100, 200]
    assert len((await dataplane.dump()).members[FRONTENDS]) == len(ports) - 2


async def test_chains_and_jumps_are_replaced_and_removed(dataplane: Dataplane) -> None:
    await do(dataplane, CREATE, ReplaceChains(Family.IPV4, RULES, NOTHING))
    assert (await dataplane.dump()).rulesets[Family.IPV4] == RULES
    less = Ruleset((SERVICES._replace(rules=(("-j", "RETURN"),)),), JUMPS[1:])
    await do(dataplane, ReplaceChains(Family.IPV4, less, RULES))
    assert (await dataplane.dump()).rulesets == {Family.IPV4: less, Family.IPV6: NOTHING}
    await do(dataplane, ReplaceChains(Family.IPV4, NOTHING, less))
    assert (await dataplane.dump()).rulesets[Family.IPV4] == NOTHING


async def test_a_chain_without_rules_counts_as_absent(dataplane: Dataplane) -> None:
    """So that one which somebody else's rule keeps there is no difference from what is wanted."""
    empty = Ruleset((MARK._replace(rules=()), SERVICES._replace(rules=(("-j", "RETURN"),))))
    await do(dataplane, ReplaceChains(Family.IPV4, empty, NOTHING))
    found = (await dataplane.dump()).rulesets[Family.IPV4]
    assert found == Ruleset(empty.chains[1:])
    await do(dataplane, ReplaceChains(Family.IPV4, NOTHING, found))
    assert (await dataplane.dump()).rulesets[Family.IPV4] == NOTHING


async def test_the_other_family_has_chains_of_its_own(dataplane: Dataplane) -> None:
    rules = Ruleset((MARK,))
    await do(dataplane, ReplaceChains(Family.IPV6, rules, NOTHING))
    assert (await dataplane.dump()).rulesets == {Family.IPV4: NOTHING, Family.IPV6: rules}


async def test_a_chain_that_nobody_makes_cannot_be_led_into(dataplane: Dataplane) -> None:
    dangling = Ruleset((Chain("nat", "KUBE-SERVICES", (("-j", "KUBE-MARK-MASQ"),)),))
    refusal, _ = await refused(dataplane, ReplaceChains(Family.IPV4, dangling, NOTHING))
    assert refusal is Refusal.UNSUPPORTED
    assert (await dataplane.dump()).rulesets[Family.IPV4] == NOTHING


async def test_a_set_that_a_rule_asks_cannot_be_destroyed(dataplane: Dataplane) -> None:
    await do(dataplane, CREATE, ADD, ReplaceChains(Family.IPV4, RULES, NOTHING))
    refusal, _ = await refused(dataplane, DestroySet(FRONTENDS))
    assert refusal is Refusal.BUSY
    assert (await dataplane.dump()).members == {FRONTENDS: {WEB_MEMBER}}
    await do(dataplane, ReplaceChains(Family.IPV4, NOTHING, RULES), DestroySet(FRONTENDS))
    assert (await dataplane.dump()).sets == {}


async def test_a_setting_is_written_and_read_back(dataplane: Dataplane) -> None:
    name = "net/ipv4/vs/conntrack"
    assert (await dataplane.dump()).sysctls[name] == "0"
    await do(dataplane, SetSysctl(name, "1"), SetSysctl(name, "1"))
    assert (await dataplane.dump()).sysctls[name] == "1"


async def test_a_setting_that_the_kernel_lacks_is_unsupported(dataplane: Dataplane) -> None:
    name = "net/ipv4/vs/no_such"
    assert name not in (await dataplane.dump()).sysctls
    refusal, reason = await refused(dataplane, SetSysctl(name, "1"))
    assert (refusal, name in reason) == (Refusal.UNSUPPORTED, True)
