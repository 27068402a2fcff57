"""An address is read as the standard library reads it, whichever way it is written."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from ipvsproxy.model import Address
from ipvsproxy.objects import fields


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.lists(st.sampled_from(["0", "00", "01", "7", "255", "256", "", "٣", " 1", "-1"]))
        .map(".".join)
        .filter(bool),
        st.text(max_size=20),
    )
)
@example("10.96.0.10")
@example("010.1.1.1")
@example("1.2.3")
@example("::ffff:10.0.0.1")
def test_reading_an_address_is_as_quick_as_it_may_be_and_as_strict_as_it_must(text: str) -> None:
    expected = None
    with suppress(ValueError):
        parsed = ipaddress.ip_address(text)
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        zone = isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None
        expected = None if zone else (mapped or parsed).packed
    found = None
    with suppress(fields.Wrong):
        found = fields.address("spec.clusterIP", text)
    assert found == expected
    assert found is None or type(found) is Address
