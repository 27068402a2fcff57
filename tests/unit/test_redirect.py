"""The index of redirections: each once, in the order in which it is matched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.core.redirect import Redirect, Redirections
from ipvsproxy.model import Address, Protocol, VirtualServerKey

TCP = Protocol.TCP
CLUSTER = [VirtualServerKey(TCP, Address.parse(f"10.96.0.{index}"), 80) for index in (1, 2)]
NODES = [Address.parse(f"192.0.2.{index}") for index in (1, 2)]
KEYS = [VirtualServerKey(TCP, address, port) for address in NODES for port in (30080, 30081)]
redirects = st.builds(
    Redirect,
    st.just(TCP),
    st.sampled_from((None, *NODES)),
    st.sampled_from((30080, 30081)),
    st.sampled_from(CLUSTER),
)


def test_a_node_port_of_several_addresses_is_one_redirection() -> None:
    found, one = Redirections(), Redirect(TCP, None, 30080, CLUSTER[0])
    first, second = (VirtualServerKey(TCP, address, 30080) for address in NODES)
    found.put(first, one)
    found.put(second, one)
    assert found.all() == (one,)
    found.put(first, None)
    assert found.all() == (one,), "the other address still needs it"
    found.put(second, None)
    assert found.all() == ()
    assert found.sources_of(CLUSTER[0]) == frozenset()


def test_those_of_an_address_come_before_those_of_any() -> None:
    found = Redirections()
    anywhere = Redirect(TCP, None, 30080, CLUSTER[0])
    somewhere = Redirect(TCP, NODES[1], 30080, CLUSTER[1])
    found.put(KEYS[0], anywhere)
    found.put(KEYS[2], somewhere)
    assert found.all() == (somewhere, anywhere)


def test_the_same_again_gives_the_same_object() -> None:
    found = Redirections()
    found.put(KEYS[0], Redirect(TCP, None, 30080, CLUSTER[0]))
    before = found.all()
    found.put(KEYS[0], Redirect(TCP, None, 30080, CLUSTER[0]))
    found.put(KEYS[1], None)
    assert found.all() is before


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), redirects))))
def test_it_is_what_a_plain_dictionary_says(
    changes: list[tuple[VirtualServerKey, Redirect | None]],
) -> None:
    index, plain = Redirections(), dict[VirtualServerKey, Redirect]()
    for key, redirect in changes:
        index.put(key, redirect)
        plain.pop(key, None)
        if redirect is not None:
            plain[key] = redirect
        assert set(index.all()) == set(plain.values())
        assert len(index.all()) == len(set(plain.values()))
        for target in CLUSTER:
            sources = {one for one, found in plain.items() if found.target == target}
            assert index.sources_of(target) == sources
        assert [index.target_of(one) for one in KEYS] == [
            plain[one].target if one in plain else None for one in KEYS
        ]
