"""The annotations of an EndpointSlice that give weights: by address, or one to all.

Says what is wrong with a value; what stays in force instead is its caller's.
"""

from __future__ import annotations

import json

import msgspec

from ipvsproxy.model import Address

SLICE_WEIGHTS = "ipvsproxy.io/weights"
SLICE_WEIGHT = "service.cilium.io/weight"
"""Cilium's: the weight of every endpoint of the slice (0-65535; 0 takes no new connection). Of
lower rank than `SLICE_WEIGHTS`."""

MAX_WEIGHT = 65535
"""Greatest weight of a real server (IP_VS_DEST_ATTR_WEIGHT is 32 bits; ipvsadm stops here)."""
_LONGEST = 20
"""Characters of a weight, leading zeros included."""


def read_weights(text: str) -> dict[Address, int]:
    """Read the annotation `SLICE_WEIGHTS` of a slice: JSON, from address to weight (0-65535).

    Raises ValueError with one line that says which entry is wrong and how to write it.
    """
    if text.startswith(_RULES):
        raise ValueError(f"rules are written on a Service; {_WEIGHTS_HINT}")
    try:
        entries = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"not a JSON object ({error}); {_WEIGHTS_HINT}") from None
    weights = dict(_weight(address, weight) for address, weight in entries.items())
    written: int = json.loads(text, object_pairs_hook=len)
    if len(weights) < written:
        raise ValueError(f"an address is there twice; {_WEIGHTS_HINT}")
    return weights


_RULES = ("node=", "label=", "zone=")


_WEIGHTS_HINT = 'write for example {"10.244.1.7": 3, "10.244.2.9": 1}'


def _weight(address: str, weight: object) -> tuple[Address, int]:
    try:
        parsed = Address.parse(address)
    except ValueError:
        raise ValueError(f"{address!r} is no IP address; {_WEIGHTS_HINT}") from None
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(
            f"weight {weight!r} of {address} is not a whole number from 0 to {MAX_WEIGHT}; "
            f"{_WEIGHTS_HINT}"
        )
    return parsed, weight


def read_weight(text: str) -> int:
    """Read a weight that stands alone. Raises ValueError as `read_weights` does."""
    if not is_weight(text):
        raise ValueError(
            f"{text!r} is not a whole number from 0 to {MAX_WEIGHT}; write for example 3"
        )
    return int(text)


def is_weight(text: str) -> bool:
    """Whether a text is a whole number from 0 to 65535, in ASCII digits.

    The length is looked at first: of thousands of digits Python makes no number.
    """
    written = text.isascii() and text.isdigit() and len(text) <= _LONGEST
    return written and int(text) <= MAX_WEIGHT
