"""Weights that Pods say themselves: what is read of them, whom they concern, what they weigh."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Family,
    Protocol,
    State,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    InvalidObject,
    Node,
    Pod,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
    read_endpoint_slice,
    read_pod,
)
from ipvsproxy.store import Gone, Listed, Put, Store, reference_of
from tests.unit.weighed import IP, NAME, PODS, served, weights_of

WEIGHTS = {("shop", "web-1"): "3", ("shop", "web-2"): "0", ("other", "web-3"): "9"}
NODE = Node("n1", weight="7")


def service(source: str = "pod", rules: str = "", name: ServiceName = NAME) -> Service:
    annotations = {"ipvsproxy.io/weight-source": source, "ipvsproxy.io/weights": rules}
    return Service(
        name,
        cluster_ips=(IP,),
        ports=(ServicePort("http", Protocol.TCP, 80),),
        annotations=tuple(sorted((key, text) for key, text in annotations.items() if text)),
    )


def a_slice(weights: str | None = None, owner: ServiceName = NAME) -> EndpointSlice:
    return EndpointSlice(
        owner.namespace,
        f"{owner.name}-s1",
        owner,
        Family.IPV4,
        tuple(
            Endpoint(address, node_name="n1", pod=f"web-{number}")
            for number, address in enumerate(PODS, start=1)
        ),
        (SlicePort("http", Protocol.TCP, 8080),),
        weights,
    )


def translated(
    what: Service,
    part: EndpointSlice,
    weights: dict[tuple[str, str], str],
    *,
    previous: Fragment | None = None,
    kernel: State | None = None,
    settings: Settings | None = None,
    known: bool = True,
) -> Fragment:
    around = Surroundings(
        settings or Settings(node_name="n1", watch_pods=True),
        kernel or fresh_state(),
        node=NODE,
        nodes={"n1": NODE},
        pod_weights=weights,
        pods_known=known,
    )
    return translate(Inputs(what, (part,), whole=True), around, previous)


def test_an_endpoint_weighs_what_its_pod_says_else_1_whatever_its_node_says() -> None:
    found = translated(service(), a_slice(), WEIGHTS)
    assert weights_of(found) == [3, 0, 1]
    assert found.scheduler == "wrr"
    assert not found.problems


def test_the_slice_and_the_services_rules_go_before_the_pods() -> None:
    by_slice = translated(service(), a_slice(weights='{"10.1.0.1": 5}'), WEIGHTS)
    assert weights_of(by_slice) == [5, 0, 1]
    by_rule = translated(service(rules="node=n1:4"), a_slice(), WEIGHTS)
    assert weights_of(by_rule) == [4, 4, 4]


def test_without_the_setting_it_has_no_effect_and_a_line_names_setting_and_right() -> None:
    found = translated(service(), a_slice(), {}, settings=Settings(node_name="n1"), known=True)
    assert weights_of(found) == [1, 1, 1]
    (problem,) = found.problems
    assert problem.kind is ProblemKind.NO_EFFECT
    assert "set watchPods to true" in problem.message
    assert "list and watch pods" in problem.message


def test_a_folder_needs_no_setting() -> None:
    folder = Settings(node_name="n1", manifests="/m")
    assert weights_of(translated(service(), a_slice(), WEIGHTS, settings=folder)) == [3, 0, 1]


def test_until_all_pods_are_known_weights_stay_as_they_are_in_the_kernel() -> None:
    kernel = served(6, 5, 1)
    waits = translated(service(), a_slice(), {}, kernel=kernel, known=False)
    assert weights_of(waits) == [6, 5, 1]
    assert [problem.kind for problem in waits.problems] == [ProblemKind.PODS_UNKNOWN]
    known = translated(service(), a_slice(), WEIGHTS, kernel=kernel, previous=waits)
    assert weights_of(known) == [3, 0, 1]
    assert not known.problems


@pytest.mark.parametrize("wrong", ["heavy", "-1", "65536", "", "1.5"])
def test_a_wrong_value_keeps_the_pods_last_good_one(wrong: str) -> None:
    before = translated(service(), a_slice(), WEIGHTS)
    bad = {**WEIGHTS, ("shop", "web-1"): wrong, ("shop", "web-2"): "8"}
    after = translated(service(), a_slice(), bad, previous=before)
    assert weights_of(after) == [3, 8, 1]
    (problem,) = after.problems
    assert problem.kind is ProblemKind.INVALID_ANNOTATION
    assert "ipvsproxy.io/weight of Pod web-1" in problem.message
    assert "stay" in problem.message


def test_after_a_restart_with_a_wrong_value_the_kernels_weight_of_that_pod_stays() -> None:
    bad = {**WEIGHTS, ("shop", "web-1"): "heavy", ("shop", "web-2"): "10"}
    first = translated(service(), a_slice(), bad, kernel=served(2, 10, 1))
    assert weights_of(first) == [2, 10, 1]
    later = bad | {("shop", "web-2"): "4"}
    assert weights_of(translated(service(), a_slice(), later, previous=first)) == [2, 4, 1]


def test_a_wrong_source_keeps_the_pods_weights() -> None:
    before = translated(service(), a_slice(), WEIGHTS)
    after = translated(service("pdo"), a_slice(), WEIGHTS, previous=before)
    assert weights_of(after) == [3, 0, 1]


def test_a_pod_makes_those_dirty_that_weigh_by_it_and_have_it() -> None:
    elsewhere, by_node = ServiceName("other", "web"), ServiceName("shop", "by-node")
    store = Store("n1")
    needed = [store.needs_pods]
    for one in (
        *(service(), a_slice()),
        *(service(name=elsewhere), a_slice(owner=elsewhere)),
        *(service("node", name=by_node), a_slice(owner=by_node)),
    ):
        store.apply(Put(one, "f"))
    needed.append(store.needs_pods)
    store.take_dirty()
    pod = Pod("shop", "web-1", "3")
    store.apply(Put(pod, "f"))
    assert store.take_dirty() == []
    store.apply(Listed("Pods"))
    assert set(store.take_dirty()) == {NAME, elsewhere}
    revision = store.revision
    store.apply(Put(pod, "f"))
    assert (store.take_dirty(), store.revision) == ([], revision)
    store.apply(Put(Pod("shop", "web-1", "4"), "f"))
    assert store.take_dirty() == [NAME]
    store.apply(Put(Pod("shop", "db-1", "4"), "f"))
    assert store.take_dirty() == []
    store.apply(Gone(reference_of(pod)))
    assert store.take_dirty() == [NAME]
    store.apply(Gone(reference_of(pod)))
    assert store.take_dirty() == []
    assert store.pod_weights.written == {("shop", "db-1"): "4"}
    for name in (NAME, elsewhere):
        store.apply(Gone(reference_of(service(name=name))))
    assert [*needed, store.needs_pods] == [False, True, False]


def test_a_pod_is_read_if_it_says_what_it_weighs() -> None:
    annotations = {"ipvsproxy.io/weight": "3"}
    metadata = {"name": "web-1", "namespace": "shop", "annotations": annotations}
    assert read_pod({"metadata": metadata, "spec": {"x": 1}}) == Pod("shop", "web-1", "3")
    assert read_pod({"metadata": {"generateName": "web-"}}) is None
    assert read_pod({}) is None
    with pytest.raises(InvalidObject, match=r"metadata\.name"):
        read_pod({"metadata": {"annotations": annotations}})


def test_the_name_of_an_endpoints_pod_is_kept_where_it_is_asked_for() -> None:
    targets: list[dict[str, str] | None] = [
        {"kind": "Pod", "name": "web-1", "namespace": "shop"},
        {"kind": "Node", "name": "n1"},
        {"kind": "Pod"},
        None,
    ]
    raw = {
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.1"], "targetRef": target} for target in targets],
    }
    named, plain = read_endpoint_slice(raw, pods=True), read_endpoint_slice(raw)
    assert named is not None
    assert plain is not None
    assert [one.pod for one in named.endpoints] == ["web-1", None, None, None]
    assert {one.pod for one in plain.endpoints} == {None}
