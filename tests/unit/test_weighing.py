"""What an endpoint is to weigh: who is asked first, and what is kept of what was good."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.core.weights.normal import normal_weights
from ipvsproxy.core.weights.shaping import UNSHAPED, Shaping, shaped
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    Protocol,
    Scheduler,
    State,
)
from ipvsproxy.objects import (
    Capacity,
    Endpoint,
    EndpointSlice,
    KubernetesObject,
    Node,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)
from ipvsproxy.store import Gone, Listed, Put, Store, Unlisted, reference_of
from tests.unit.weighed import IP, MEMBERS, NAME, PODS, frontend_of, served, weights_of

RULES, SOURCE = "ipvsproxy.io/weights", "ipvsproxy.io/weight-source"
SLOW, PREFERENCE = "ipvsproxy.io/slow-start", "ipvsproxy.io/zone-preference"
SCHEDULER = "ipvsproxy.io/scheduler"
NODES = {
    "n1": Node("n1", zone="a", labels=(("pool", "big"),), capacity=Capacity(16000, 250)),
    "n2": Node("n2", zone="b", weight="5", capacity=Capacity(3920, 110)),
    "n3": Node("n3", zone="b"),
}


def service(**annotations: str) -> Service:
    names = {"rules": RULES, "source": SOURCE, "slow": SLOW, "preference": PREFERENCE}
    written = {names.get(name, SCHEDULER): text for name, text in annotations.items()}
    return Service(
        NAME,
        cluster_ips=(IP,),
        ports=(ServicePort("http", Protocol.TCP, 80),),
        annotations=tuple(sorted(written.items())),
    )


def a_slice(
    weights: str | None = None, weight: str | None = None, *, zones: bool = True
) -> EndpointSlice:
    """Make a slice with an endpoint on each node."""
    return EndpointSlice(
        NAME.namespace,
        "s1",
        NAME,
        Family.IPV4,
        tuple(
            Endpoint(pod, node_name=node, zone=NODES[node].zone if zones else None)
            for pod, node in zip(PODS, NODES, strict=True)
        ),
        (SlicePort("http", Protocol.TCP, 8080),),
        weights,
        weight,
    )


def translated(
    what: Service,
    *parts: EndpointSlice,
    previous: Fragment | None = None,
    kernel: State | None = None,
    nodes: dict[str, Node] | None = None,
    nodes_known: bool = True,
    watch: WatchNodes = WatchNodes.AUTO,
) -> Fragment:
    around = Surroundings(
        Settings(node_name="n1", watch_nodes=watch),
        kernel or fresh_state(),
        node=NODES["n1"],
        nodes=NODES if nodes is None else nodes,
        nodes_known=nodes_known,
    )
    return translate(Inputs(what, parts, whole=True), around, previous)


@pytest.mark.parametrize(
    ("what", "part", "weights"),
    [
        pytest.param(service(), a_slice(), [1, 1, 1], id="nobody says anything"),
        pytest.param(service(rules="zone=b:3"), a_slice(), [1, 3, 3], id="zone"),
        pytest.param(
            service(rules="zone=b:3"), a_slice(zones=False), [1, 3, 3], id="zone, of the Nodes"
        ),
        pytest.param(service(rules="zone=b:3,node=n2:7"), a_slice(), [1, 7, 3], id="node first"),
        pytest.param(service(rules="label=pool=big:9"), a_slice(), [9, 1, 1], id="label"),
        pytest.param(service(rules="zone=b:0"), a_slice(), [1, 0, 0], id="zero is a choice"),
        pytest.param(service(source="node"), a_slice(), [1, 5, 1], id="the Node's annotation"),
        pytest.param(service(source="cpu"), a_slice(), [16, 5, 1], id="processors come after"),
        pytest.param(service(source="pods"), a_slice(), [250, 5, 1], id="so do pods"),
        pytest.param(
            service(rules="zone=b:3", source="cpu"), a_slice(), [16, 3, 3], id="rules go before"
        ),
        pytest.param(
            service(rules="zone=b:3"),
            a_slice('{"10.1.0.2": 8}'),
            [1, 8, 3],
            id="the slice goes before rules",
        ),
        pytest.param(service(), a_slice(weight="4"), [4, 4, 4], id="one weight for a slice"),
        pytest.param(
            service(rules="zone=b:3"),
            a_slice('{"10.1.0.2": 8}', "4"),
            [4, 8, 4],
            id="by address goes before",
        ),
    ],
)
def test_who_is_asked_first(what: Service, part: EndpointSlice, weights: list[int]) -> None:
    fragment = translated(what, part)
    assert weights_of(fragment) == weights
    assert not fragment.problems


@pytest.mark.parametrize(
    ("annotations", "part", "default", "scheduler"),
    [
        ({}, a_slice(), "rr", "rr"),
        ({"rules": "zone=a:1"}, a_slice(), "rr", "wrr"),
        ({"rules": "nonsense"}, a_slice(), "rr", "wrr"),
        ({"source": "cpu"}, a_slice(), "lc", "wlc"),
        ({"slow": "60s"}, a_slice(), "rr", "wrr"),
        ({"preference": "90"}, a_slice(), "lc", "wlc"),
        ({}, a_slice("{}"), "rr", "wrr"),
        ({}, a_slice(weight="3"), "rr", "wrr"),
        ({"slow": "60s"}, a_slice(), "sh", "sh"),
        ({"slow": "60s", "scheduler": "lc"}, a_slice(), "rr", "lc"),
    ],
)
def test_weights_without_a_scheduler_take_one_that_goes_by_them(
    annotations: dict[str, str], part: EndpointSlice, default: str, scheduler: str
) -> None:
    around = Surroundings(
        Settings(node_name="n1", default_scheduler=Scheduler(default)),
        fresh_state(),
        node=NODES["n1"],
    )
    fragment = translate(Inputs(service(**annotations), (part,), whole=True), around, None)
    assert frontend_of(fragment).server.scheduler == scheduler


@pytest.mark.parametrize(
    ("annotations", "part", "says"),
    [
        ({"scheduler": "rr", "rules": "zone=a:3"}, a_slice(), RULES),
        ({"scheduler": "dh", "source": "cpu", "slow": "60s"}, a_slice(), f"{SOURCE}, {SLOW}"),
        ({"scheduler": "lc", "preference": "90"}, a_slice(), PREFERENCE),
        ({"scheduler": "fo", "preference": "90", "slow": "60s"}, a_slice(), PREFERENCE),
        ({"scheduler": "rr"}, a_slice('{"10.1.0.1": 3}'), "of an EndpointSlice"),
        ({"scheduler": "rr"}, a_slice(weight="3"), "of an EndpointSlice"),
        ({"scheduler": "rr"}, a_slice('{"10.1.0.1": 0}'), ""),
        ({"scheduler": "sh", "rules": "zone=a:3", "preference": "90"}, a_slice(), ""),
        ({"scheduler": "sed", "slow": "60s"}, a_slice(), ""),
    ],
)
def test_what_a_scheduler_does_not_go_by_is_said_to_have_no_effect(
    annotations: dict[str, str], part: EndpointSlice, says: str
) -> None:
    found = translated(service(**annotations), part).problems
    assert [problem.kind for problem in found] == [ProblemKind.NO_EFFECT] * bool(says)
    for problem in found:
        assert f"{says}: no effect with scheduler {annotations['scheduler']}" in problem.message


@pytest.mark.parametrize(
    ("name", "good", "wrong", "weights"),
    [
        ("rules", "zone=b:3", "zone=b=3", [1, 3, 3]),
        ("rules", "zone=b:3", "", [1, 3, 3]),
        ("source", "cpu", "gpu", [16, 5, 1]),
    ],
)
def test_the_last_good_value_stays(name: str, good: str, wrong: str, weights: list[int]) -> None:
    before = translated(service(**{name: good}), a_slice())
    after = translated(service(**{name: wrong}), a_slice(), previous=before)
    assert weights_of(before) == weights_of(after) == weights
    (problem,) = after.problems
    assert problem.kind is ProblemKind.INVALID_ANNOTATION
    assert problem.message.endswith("; the previous weights stay")
    again = translated(service(**{name: wrong}), a_slice(), previous=after)
    assert again == after
    removed = translated(service(), a_slice(), previous=after)
    assert weights_of(removed) == [1, 1, 1]


def test_a_nodes_wrong_weight_leaves_its_good_one() -> None:
    before = translated(service(source="node"), a_slice())
    wrong = {**NODES, "n2": Node("n2", weight="many")}
    after = translated(service(source="node"), a_slice(), previous=before, nodes=wrong)
    assert weights_of(after) == [1, 5, 1]
    (problem,) = after.problems
    assert problem.message.startswith("annotation ipvsproxy.io/weight of Node n2: 'many' is not")


@pytest.mark.parametrize(
    ("what", "part", "nodes"),
    [
        (service(rules="zone=b"), a_slice(), NODES),
        (service(source="gpu"), a_slice(), NODES),
        (service(rules="zone=b:9"), a_slice("{"), NODES),
        (service(), a_slice(weight="x"), NODES),
        (service(preference="most"), a_slice(), NODES),
    ],
)
def test_after_a_restart_a_wrong_value_that_concerns_all_leaves_all_weights_of_the_kernel(
    what: Service, part: EndpointSlice, nodes: dict[str, Node]
) -> None:
    first = translated(what, part, kernel=served(7, 3, 0), nodes=nodes)
    assert weights_of(first) == [7, 3, 0], "beside others 0 may be what was asked for"
    again = translated(what, part, kernel=served(1, 1, 1), nodes=nodes, previous=first)
    assert weights_of(again) == [7, 3, 0]
    alone = translated(what, part, kernel=served(0, 0, 0), nodes=nodes)
    assert sum(weights_of(alone)) > 0, "a wrong value takes no Service down"


@pytest.mark.parametrize("what", [service(rules="zone=b"), service(source="node")])
def test_one_that_was_draining_at_the_restart_is_not_out_when_it_comes_back(what: Service) -> None:
    nodes = of_nodes(n1="1", n2="2", n3="x")
    ready = a_slice()
    *others, third = ready.endpoints
    leaving = msgspec.structs.replace(third, ready=False, serving=False)
    drains = msgspec.structs.replace(ready, endpoints=(*others, leaving))
    first = translated(what, drains, kernel=served(1, 2, 0), nodes=nodes)
    assert weights_of(first) == [1, 2]
    back = translated(what, ready, kernel=served(1, 2, 0), nodes=nodes, previous=first)
    assert weights_of(back) == [1, 2, 1]


def of_nodes(**weights: str) -> dict[str, Node]:
    return {name: Node(name, weight=weights.get(name)) for name in NODES}


@pytest.mark.parametrize(
    ("good", "kernel", "later", "weights"),
    [
        pytest.param("30 20 10", (3, 2, 1), "30 x 10", [30, 20, 10], id="nothing else changes"),
        pytest.param("30 20 10", (3, 2, 1), "30 x 60", [30, 20, 60], id="one changes at once"),
        pytest.param("6 4 4", (3, 2, 2), "6 x 0", [6, 4, 0], id="one is taken out"),
        pytest.param("7 7 7", (1, 1, 1), "7 x 14", [7, 7, 14], id="all were equal"),
        pytest.param("30 0 10", (3, 0, 1), "30 x 10", [30, 0, 10], id="one was out"),
        pytest.param("30 20 10", (3, 2, 1), "x x 20", [30, 20, 20], id="two are lost"),
        pytest.param("3 2 4", (3, 2, 4), "6 x 8", [6, 4, 8], id="while nobody was there: all"),
    ],
)
def test_after_a_restart_a_nodes_wrong_weight_leaves_the_kernels_to_its_endpoints_only(
    good: str, kernel: tuple[int, ...], later: str, weights: list[int]
) -> None:
    what, part = service(source="node"), a_slice()
    names = list(NODES)
    lost = [name for name, text in zip(names, later.split(), strict=True) if text == "x"]
    now = dict(zip(names, good.split(), strict=True)) | dict.fromkeys(lost, "x")
    if weights == [6, 4, 8]:
        now = dict(zip(names, later.split(), strict=True))
    first = translated(what, part, kernel=served(*kernel), nodes=of_nodes(**now))
    then = dict(zip(names, later.split(), strict=True))
    after = translated(what, part, previous=first, nodes=of_nodes(**then))
    assert weights_of(after) == weights
    right = translated(what, part, previous=after, nodes=of_nodes(n1="1", n2="2", n3="3"))
    assert weights_of(right) == [1, 2, 3]
    assert not right.kept


def two_slices(wrong: str, right: str) -> tuple[EndpointSlice, EndpointSlice]:
    """Give a slice with the first two endpoints, and one with the third."""
    whole = a_slice()
    return tuple(
        msgspec.structs.replace(whole, name=name, endpoints=whole.endpoints[part], weights=text)
        for name, part, text in (("s1", slice(0, 2), wrong), ("s2", slice(2, 3), right))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("scheduler", ["wrr", "sh", "mh", "ovf"])
def test_one_slice_that_is_wrong_after_a_restart_freezes_its_own_endpoints_only(
    scheduler: str,
) -> None:
    what = service(scheduler=scheduler)
    before = translated(what, *two_slices('{"10.1.0.1": 8, "10.1.0.2": 4}', '{"10.1.0.3": 12}'))
    told = normal_weights(
        {one: real.weight for one, real in frontend_of(before).real_servers.items()}, scheduler
    )
    kernel = served(*(told[member] for member in MEMBERS))
    first = translated(what, *two_slices("{", '{"10.1.0.3": 12}'), kernel=kernel)
    now = {one: real.weight for one, real in frontend_of(first).real_servers.items()}
    assert normal_weights(now, scheduler) == told, "a restart writes nothing"
    more = translated(what, *two_slices("{", '{"10.1.0.3": 24}'), kernel=kernel, previous=first)
    found = weights_of(more)
    assert found[0] == 2 * found[1]
    assert found[2] == 3 * found[0]


def test_what_is_frozen_by_zone_has_a_ratio_by_zone() -> None:
    """A preference gives the own zone's endpoint more, of the same weight, than the others."""
    what = service(source="node", preference="60")
    good = of_nodes(n1="6", n2="4", n3="2")
    before = frontend_of(translated(what, a_slice(), nodes=good))
    told = shaped(
        {one: real.weight for one, real in before.real_servers.items()}, before.shaping, "wrr", {}
    )
    kernel = served(*(told[member] for member in MEMBERS))
    first = translated(what, a_slice(), kernel=kernel, nodes=of_nodes(n1="6", n2="4", n3="x"))
    assert weights_of(first) == [6, 4, 2]
    found = frontend_of(first).shaping
    assert found == before.shaping._replace(deduced=True, doubt=found.doubt)
    assert 0 < found.doubt < 0.05
    alone = translated(what, a_slice(), kernel=kernel, nodes=of_nodes(n1="x", n2="4", n3="2"))
    assert weights_of(alone) == list(told.values()), "in its zone there is nobody to compare with"
    assert frontend_of(alone).shaping == UNSHAPED


def test_a_restart_with_a_wrong_weight_in_a_climb_takes_the_most_for_what_is_whole() -> None:
    nodes = of_nodes(n1="2", n2="2", n3="x")
    first = translated(
        service(source="node", slow="60s"), a_slice(), kernel=served(19, 5, 38), nodes=nodes
    )
    assert weights_of(first) == [2, 2, 4]


def test_a_wrong_value_in_a_running_agent_takes_nothing_from_the_kernel() -> None:
    before = translated(service(), a_slice())
    after = translated(service(rules="zone=b"), a_slice(), kernel=served(7, 3, 2), previous=before)
    assert weights_of(after) == [1, 1, 1]


def test_weights_of_the_kernel_are_read_once() -> None:
    what = service(rules="zone=b", slow="60s")
    first = translated(what, a_slice(), kernel=served(1, 1, 1))
    later = translated(what, a_slice(), kernel=served(19, 19, 7), previous=first)
    assert weights_of(first) == weights_of(later) == [1, 1, 1], "7 was a step of a climb"


def test_a_wrong_value_of_a_service_that_is_new_takes_nothing_from_the_good_ones() -> None:
    what, part = service(rules="zone=b"), a_slice('{"10.1.0.1": 5}')
    first = translated(what, part)
    again = translated(what, part, kernel=served(5, 1, 1), previous=first)
    assert weights_of(first) == weights_of(again) == [5, 1, 1]


def test_until_all_nodes_are_known_weights_stay_as_they_are_in_the_kernel() -> None:
    what = service(source="cpu", preference="90")
    waits = translated(what, a_slice(), kernel=served(16, 5, 1), nodes={}, nodes_known=False)
    assert weights_of(waits) == [16, 5, 1]
    assert [problem.kind for problem in waits.problems] == [ProblemKind.NODES_UNKNOWN]
    known = translated(what, a_slice(), kernel=served(16, 5, 1), previous=waits)
    assert weights_of(known) == [16, 5, 1]
    assert not known.kept
    assert not known.problems


def test_rules_by_label_that_stay_in_force_still_follow_nodes() -> None:
    store = Store("n1")
    put(store, service(rules="lbl=pool=big:9"), a_slice(), *NODES.values())
    assert store.needs_nodes
    store.apply(Listed("Nodes"))
    store.take_dirty()
    store.apply(Put(Node("n3", zone="b", labels=(("pool", "big"),)), "f"))
    assert store.take_dirty() == [NAME]


@pytest.mark.parametrize("annotations", [{"rules": "zone=b:9"}, {"preference": "90"}])
def test_zones_that_slices_do_not_say_are_those_of_nodes(annotations: dict[str, str]) -> None:
    what, zoneless = service(**annotations), a_slice(zones=False)
    store = Store("n1")
    needed = []
    for one in (what, a_slice(), zoneless, a_slice(), zoneless, service(), what):
        put(store, one)
        needed.append(store.needs_nodes)
    assert needed == [False, False, True, False, True, False, True]
    put(store, *NODES.values())
    store.take_dirty()
    store.apply(Listed("Nodes"))
    assert store.take_dirty() == [NAME]
    store.apply(Put(Node("n3", zone="c"), "f"))
    assert store.take_dirty() == [NAME]
    store.apply(Gone(reference_of(what)))
    assert not store.needs_nodes
    waits = translated(what, zoneless, kernel=served(1, 9, 9), nodes={}, nodes_known=False)
    assert weights_of(waits) == [1, 9, 9]
    assert [problem.kind for problem in waits.problems] == [ProblemKind.NODES_UNKNOWN]
    at_once = translated(what, a_slice(), kernel=served(1, 9, 9), nodes={}, nodes_known=False)
    assert not at_once.problems
    never = translated(what, zoneless, nodes={"n1": NODES["n1"]}, watch=WatchNodes.NEVER)
    assert "endpoints whose zone no slice says are in none" in never.problems[0].message


def test_a_preference_goes_by_the_zones_of_nodes() -> None:
    shaping = frontend_of(translated(service(preference="90"), a_slice(zones=False))).shaping
    assert shaping.own_zone == frozenset(MEMBERS[:1])


def test_where_nodes_are_never_watched_it_is_said() -> None:
    found = translated(
        service(source="cpu"), a_slice(), nodes={"n1": NODES["n1"]}, watch=WatchNodes.NEVER
    )
    assert weights_of(found) == [16, 1, 1]
    (problem,) = found.problems
    assert "set watchNodes to auto" in problem.message


def test_a_preference_names_who_is_in_the_own_zone() -> None:
    shaping = frontend_of(translated(service(preference="90", slow="1m"), a_slice())).shaping
    assert shaping == Shaping(60, 90, frozenset(MEMBERS[:1]), 2)


def test_more_endpoints_than_a_table_has_room_for_are_told() -> None:
    endpoints = tuple(Endpoint(Address.parse(f"10.2.{n // 250}.{n % 250}")) for n in range(300))
    port = SlicePort("http", Protocol.TCP, 8080)
    many = EndpointSlice("shop", "s1", NAME, Family.IPV4, endpoints, (port,))
    (problem,) = translated(service(scheduler="sh"), many).problems
    assert problem.kind is ProblemKind.TOO_MANY_ENDPOINTS
    assert "300 endpoints, and the table of scheduler sh has room for 256" in problem.message
    assert not translated(service(scheduler="mh"), many).problems


def put(store: Store, *objects: KubernetesObject) -> None:
    for one in objects:
        store.apply(Put(one, "f"))


def test_a_node_makes_those_dirty_that_weigh_by_it() -> None:
    store = Store("n1")
    other = Service(ServiceName("shop", "other"), cluster_ips=(Address.parse("10.96.0.2"),))
    put(store, service(source="cpu"), a_slice(), other, *NODES.values())
    needed = [store.needs_nodes]
    store.apply(Listed("Nodes"))
    store.take_dirty()
    n2 = NODES["n2"]
    same = Node("n2", zone="b", weight="5", capacity=n2.capacity, pod_cidrs=(), leaving=True)
    store.apply(Put(same, "f"))
    assert store.take_dirty() == []
    store.apply(Put(Node("n2", zone="b", weight="6"), "f"))
    assert store.take_dirty() == [NAME]
    store.apply(Put(Node("elsewhere", weight="6"), "f"))
    assert store.take_dirty() == []
    store.apply(Gone(reference_of(n2)))
    assert store.take_dirty() == [NAME]
    store.apply(Listed("Nodes"))
    assert store.take_dirty() == [NAME]
    put(store, service())
    needed.append(store.needs_nodes)
    assert needed == [True, False]
    store.apply(Gone(reference_of(service())))
    assert store.take_dirty() == [NAME]


def test_nodes_that_are_told_no_more_are_forgotten_and_waited_for_anew() -> None:
    store = Store("n1")
    put(store, service(source="cpu"), a_slice(), *NODES.values())
    store.apply(Listed("Nodes"))
    store.take_dirty()
    revision = store.revision
    store.apply(Unlisted("Nodes"))
    assert (set(store.nodes), store.nodes_listed) == ({"n1"}, False)
    assert store.take_dirty() == [NAME]
    assert store.revision == revision + 1
    store.apply(Unlisted("Nodes"))
    assert store.revision == revision + 1
    put(store, *NODES.values())
    assert store.take_dirty() == []
    store.apply(Listed("Nodes"))
    assert store.take_dirty() == [NAME]


def test_a_weight_of_0_that_is_kept_beside_others_takes_no_service_down_when_they_go() -> None:
    """Who has gone was the last that took connections; what is left may have been draining."""
    what, part = service(rules="nonsense"), a_slice()
    for left, kernel in (((1,), served(0, 0, 1)), ((1, 2), served(1, 0, 0))):
        fewer = msgspec.structs.replace(part, endpoints=tuple(part.endpoints[i] for i in left))
        at_once = translated(what, fewer, kernel=kernel)
        assert all(weights_of(at_once)), "gone while no agent ran"
        beside = translated(what, part, kernel=kernel)
        assert 0 in weights_of(beside)
        later = translated(what, fewer, previous=beside, kernel=kernel)
        assert all(weights_of(later)), "gone later"


def test_while_nodes_are_awaited_a_weight_of_0_that_is_left_alone_does_not_stay_either() -> None:
    fewer = msgspec.structs.replace(a_slice(), endpoints=a_slice().endpoints[1:2])
    found = translated(service(source="cpu"), fewer, kernel=served(1, 0, 0), nodes_known=False)
    assert weights_of(found) == [1]
