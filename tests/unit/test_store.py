"""What the store knows after what its source has said."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.model import Address, Family, Network, Protocol
from ipvsproxy.objects import KubernetesObject, Node, ObjectReference, ServiceCIDR
from ipvsproxy.store import (
    Event,
    Gone,
    Listed,
    Put,
    Readable,
    Refused,
    Store,
    Unreadable,
    reference_of,
)
from tests.unit.builders import (
    bad_slice,
    named,
    part,
    service,
    service_reference,
    slice_reference,
)

LISTED = tuple(map(Listed, ("Service", "EndpointSlice", "Node", "ServiceCIDR")))
BROKEN = Unreadable("b.yaml", "line 1: broken")
BAD_SERVICE = Refused(
    service_reference(),
    "a.yaml",
    "no ports",
    addresses=frozenset({Address.parse("10.96.0.10")}),
    service=named(),
)


def put(changed: KubernetesObject) -> Put:
    return Put(changed, "a.yaml")


def stored(*events: Event) -> Store:
    """Give a store that has heard these, with nothing left to be taken."""
    store = Store("node-a")
    for event in events:
        store.apply(event)
    store.take_dirty()
    return store


def after(store: Store, event: Event) -> tuple[int, list[str]]:
    """Give by how much an event raises the revision, and which Services it makes dirty."""
    before = store.revision
    store.apply(event)
    return store.revision - before, [name.name for name in store.take_dirty()]


class TestCompleteness:
    def test_it_is_listed_when_every_kind_is(self) -> None:
        half, all_ = stored(put(service()), LISTED[0]), stored(put(service()), *LISTED)
        assert (half.listed, half.whole, half.awaited) == (
            False,
            False,
            frozenset({"EndpointSlice", "Node", "ServiceCIDR"}),
        )
        assert (all_.listed, all_.whole, all_.awaited) == (True, True, frozenset())

    def test_a_kind_that_nobody_waits_for_changes_nothing(self) -> None:
        assert after(stored(*LISTED), Listed("Pod")) == (0, [])

    def test_it_is_not_whole_while_anything_is_unreadable(self) -> None:
        store = stored(*LISTED, BROKEN, Unreadable("c.yaml", "denied"), Readable("b.yaml"))
        assert not store.whole
        assert [one.origin for one in store.unreadable] == ["c.yaml"]
        store.apply(Readable("c.yaml"))
        assert store.whole

    def test_nonsense_leaves_the_picture_whole(self) -> None:
        assert stored(*LISTED, BAD_SERVICE).whole

    def test_endpoints_of_a_service_without_a_slice_may_be_in_what_is_unreadable(self) -> None:
        store = stored(put(service()), put(service("other")), put(part("other")), *LISTED, BROKEN)
        lonely, served = store.inputs(named()), store.inputs(named("other"))
        assert lonely is not None
        assert served is not None
        assert not lonely.knows_endpoints(Family.IPV4)
        assert served.knows_endpoints(Family.IPV4)
        assert not served.knows_endpoints(Family.IPV6), "a slice of that family may be missing"

    def test_when_all_is_readable_again_services_without_a_slice_are_looked_at_again(self) -> None:
        store = stored(put(service()), put(service("other")), put(part("other")), *LISTED, BROKEN)
        assert after(store, Readable("b.yaml")) == (1, ["web"])


class TestNonsense:
    def test_a_slice_that_was_never_good_keeps_its_services_endpoints(self) -> None:
        store = stored(put(service()), put(part()), *LISTED)
        assert after(store, bad_slice(name="web-2")) == (1, ["web"])
        inputs = store.inputs(named())
        assert inputs is not None
        assert not inputs.knows_endpoints(Family.IPV4)

    @pytest.mark.parametrize(
        "end", [Gone(slice_reference("web-2")), put(part("web", name="web-2"))], ids=["gone", "put"]
    )
    def test_when_it_ends_its_service_is_looked_at_again(self, end: Event) -> None:
        store = stored(put(service()), put(part()), bad_slice(name="web-2"), *LISTED)
        assert after(store, end) == (1, ["web"])
        inputs = store.inputs(named())
        assert inputs is not None
        assert inputs.knows_endpoints(Family.IPV4)
        assert not list(store.refused)

    def test_the_last_good_slice_stands_for_one_that_became_nonsense(self) -> None:
        store = stored(put(service()), put(part("web", "10.244.1.5")), bad_slice(), *LISTED)
        inputs = store.inputs(named())
        assert inputs is not None
        assert inputs.knows_endpoints(Family.IPV4)
        assert len(inputs.slices[0].endpoints) == 1

    def test_a_nonsense_service_does_not_hold_its_endpoints(self) -> None:
        store = stored(put(service()), put(part()), BAD_SERVICE, *LISTED)
        inputs = store.inputs(named())
        assert inputs is not None
        assert inputs.knows_endpoints(Family.IPV4)

    def test_addresses_are_held_only_for_services_that_were_never_good(self) -> None:
        assert stored(BAD_SERVICE, *LISTED).held_addresses() == BAD_SERVICE.addresses
        assert stored(put(service()), BAD_SERVICE, *LISTED).held_addresses() == frozenset()
        gone = stored(BAD_SERVICE, *LISTED, Gone(service_reference()))
        assert gone.held_addresses() == frozenset()

    def test_a_service_that_was_never_good_and_has_no_readable_address_may_be_anywhere(
        self,
    ) -> None:
        nowhere = BAD_SERVICE._replace(addresses=None)
        assert stored(nowhere, *LISTED).held_addresses() is None
        assert stored(put(service()), nowhere, *LISTED).held_addresses() == frozenset()

    def test_a_slice_that_does_not_say_its_service_keeps_the_endpoints_of_all_it_may_have(
        self,
    ) -> None:
        store = stored(put(service()), put(part()), *LISTED)
        orphan = bad_slice(name="web-2")._replace(service=None)
        assert after(store, orphan) == (1, ["web"])
        inputs = store.inputs(named())
        assert inputs is not None
        assert not inputs.knows_endpoints(Family.IPV4)
        assert after(store, Gone(slice_reference("web-2"))) == (1, ["web"])

    def test_the_same_refusal_again_is_no_news_and_another_reason_is(self) -> None:
        store = stored(put(service()), bad_slice(), *LISTED)
        assert after(store, bad_slice())[0] == 0
        assert after(store, bad_slice(reason="worse"))[0] == 1
        assert [one.reason for one in store.refused] == ["worse"]

    def test_a_refusal_is_where_it_was_last_said_to_be(self) -> None:
        store = stored(BAD_SERVICE, BAD_SERVICE._replace(origin="moved.yaml"))
        assert [one.origin for one in store.refused] == ["moved.yaml"]


class TestChanges:
    def test_services_are_taken_in_the_order_in_which_they_changed(self) -> None:
        store = Store("node-a")
        for name in ("b", "a", "c", "b"):
            store.apply(put(service(name, f"10.96.0.{ord(name)}")))
        assert store.dirty == 3
        assert store.take_dirty([named("c"), named("none")]) == [named("c")]
        assert store.take_dirty() == [named("b"), named("a")]
        assert store.dirty == 0

    def test_the_same_again_changes_nothing(self) -> None:
        node = Node(name="node-a")
        store = stored(put(service()), put(part("web", "10.244.1.5")), put(node))
        for same in (service(), part("web", "10.244.1.5"), node):
            assert after(store, put(same)) == (0, [])

    def test_a_slice_makes_its_service_dirty_also_before_that_is_there(self) -> None:
        store = Store("node-a")
        assert after(store, put(part())) == (1, ["web"])
        assert store.inputs(named()) is None

    def test_a_slice_that_changes_hands_makes_both_services_dirty(self) -> None:
        store = stored(put(service()), put(service("other")), put(part(name="shared")))
        assert after(store, put(part("other", name="shared"))) == (1, ["web", "other"])
        before, now = store.inputs(named()), store.inputs(named("other"))
        assert before is not None
        assert now is not None
        assert (len(before.slices), len(now.slices)) == (0, 1)

    def test_what_is_gone_makes_its_service_dirty_and_what_never_was_does_not(self) -> None:
        store = stored(put(service()), put(part()))
        assert after(store, Gone(slice_reference())) == (1, ["web"])
        assert after(store, Gone(service_reference())) == (1, ["web"])
        assert after(store, Gone(service_reference())) == (0, [])
        assert after(store, Gone(slice_reference())) == (0, [])
        assert not list(store.names)

    def test_a_node_is_kept_and_concerns_no_service(self) -> None:
        store = Store("node-a")
        assert after(store, put(Node(name="node-a", zone="z"))) == (1, [])
        assert store.node == Node(name="node-a", zone="z")

    def test_a_service_network_concerns_those_with_an_external_address_in_it(self) -> None:
        inside = msgspec.structs.replace(service(), external_ips=(Address.parse("10.97.0.1"),))
        outside = msgspec.structs.replace(
            service("other"), ingress_ips=(Address.parse("192.0.2.1"),)
        )
        store = stored(put(inside), put(outside), put(service("neither", "10.97.0.2")))
        pool = ServiceCIDR("pool", (Network.parse("10.97.0.0/16"),))
        assert after(store, put(pool)) == (1, ["web"])
        assert after(store, put(pool)) == (0, [])
        assert store.service_networks == {Network.parse("10.97.0.0/16")}
        second = ServiceCIDR("second", (Network.parse("10.97.0.0/16"),))
        assert after(store, put(second)) == (1, []), "the network is known already"
        assert after(store, Gone(reference_of(second))) == (1, [])
        assert after(store, Gone(reference_of(pool))) == (1, ["web"])
        assert after(store, Gone(reference_of(pool))) == (0, [])

    def test_services_can_be_looked_at_again_though_nothing_changed(self) -> None:
        store = stored(put(service()))
        store.mark_dirty([named()])
        assert store.take_dirty() == [named()]


class TestNames:
    def test_a_port_has_its_name_or_none(self) -> None:
        store = stored(put(service("web", "10.96.0.10", 80, 443)))
        names = store.port_names(named())
        assert names[Protocol.TCP, 443] == "port-443"
        assert (Protocol.TCP, 1) not in names
        assert store.port_names(named("none")) == {}

    @pytest.mark.parametrize(
        ("value", "reference"),
        [
            (service(), service_reference()),
            (part(), slice_reference()),
            (Node(name="node-a"), ObjectReference("Node", "", "node-a")),
            (ServiceCIDR("pool"), ObjectReference("ServiceCIDR", "", "pool")),
        ],
    )
    def test_an_object_is_named_for_the_operator(
        self, value: KubernetesObject, reference: ObjectReference
    ) -> None:
        assert reference_of(value) == reference
