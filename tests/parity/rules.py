"""The rules by which a difference is known to be one that is meant.

Each looks at a difference and at what the objects ask for: at Services, endpoints and packets,
never at the name of a case. It holds only where our side is what the design wants.
"""

from __future__ import annotations

from ipvsproxy.core.packet import Sender, SenderKind
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    VirtualServerKey,
)
from tests.parity.agent import SETTINGS
from tests.parity.comparison import (
    AddressDiffers,
    Difference,
    MemberDiffers,
    Outcome,
    OutcomeDiffers,
    RealServersDiffer,
    SourceDiffers,
    VirtualServerDiffers,
)
from tests.parity.facts import Claim, Facts, Kind
from tests.parity.recording import NETWORK

MASQUERADED = "masqueraded"
_RANGE_SETS = (
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
)


def inside_clients_are_redirected(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if claim is None or not claim.external_local:
        return False
    match difference:
        case OutcomeDiffers(packet) if packet.sender.kind is not SenderKind.OUTSIDE:
            return _as_meant(difference, facts, claim)
        case SourceDiffers(packet) if packet.sender.kind is SenderKind.NODE:
            return difference.ours == MASQUERADED
        case SourceDiffers(packet) if packet.sender.kind is SenderKind.POD:
            # Another node's pod: a server elsewhere would answer it past this node.
            return packet.sender.interface == "eth0" and difference.ours == MASQUERADED
        case _:
            return False


def nobody_local_means_silence(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if claim is None or not claim.external_local or facts.serving(claim, local=True):
        return False
    outside = not isinstance(difference, OutcomeDiffers) or (
        difference.packet.sender.kind is SenderKind.OUTSIDE
    )
    return outside and _as_meant(difference, facts, claim)


def internal_local_stays_local(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if claim is None or claim.external or not claim.service.internal_traffic_local:
        return False
    return not facts.serving(claim, local=True) and _as_meant(difference, facts, claim)


def the_older_owns(difference: Difference, facts: Facts) -> bool:
    key, claim = _key(difference), _owner(difference, facts)
    if key is None or claim is None or not facts.contested(key):
        return False
    match difference:
        case RealServersDiffer() | OutcomeDiffers():
            return _as_meant(difference, facts, claim)
        case VirtualServerDiffers(_, _, ours):
            return ours is not None and ours.persistence == claim.service.affinity_seconds
        case MemberDiffers(_, _, ours):
            # They have the members of both Services, we have the owner's.
            return not ours
        case SourceDiffers():
            return len({_treatment(one) for one in facts.claims[key]}) > 1
        case _:
            return False


def hints_are_heard(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if claim is None or not facts.hinted(claim):
        return False
    return _as_meant(difference, facts, claim)


def everybody_may_come(difference: Difference, facts: Facts) -> bool:
    key, claim = _key(difference), _owner(difference, facts)
    if key is None or claim is None or claim.kind is not Kind.LOAD_BALANCER:
        return False
    family = [one for one in claim.service.source_ranges if one.family is key.family]
    if not any(one.prefix_length == 0 for one in family):
        return False
    match difference:
        case MemberDiffers(base, _, ours):
            return base in _RANGE_SETS and not ours
        case OutcomeDiffers(_, theirs):
            return theirs.name == "dropped" and _as_meant(difference, facts, claim)
        case _:
            return False


def the_node_meets_ranges_first(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if not isinstance(difference, OutcomeDiffers) or claim is None:
        return False
    sender = difference.packet.sender
    outcomes = (difference.theirs, difference.ours)
    shut_out = sender.kind is SenderKind.NODE and not facts.allowed(claim, sender)
    return shut_out and outcomes == (Outcome("refused"), Outcome("dropped"))


def pods_keep_their_address(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if not isinstance(difference, SourceDiffers) or claim is None:
        return False
    sender = difference.packet.sender
    external = any(one.external for one in facts.claims[claim.key])
    bound = external and claim.key.address not in NETWORK.addresses
    kept = (difference.theirs, difference.ours) == (MASQUERADED, str(sender.address))
    return sender.kind is SenderKind.POD and bound and not claim.external_local and kept


def pings_are_answered(difference: Difference, _: Facts) -> bool:
    if not isinstance(difference, OutcomeDiffers) or difference.packet.protocol is not None:
        return False
    answered = difference.ours == Outcome("delivered to the node")
    return answered and difference.theirs == Outcome("refused")


def reserved_addresses_are_left_alone(difference: Difference, facts: Facts) -> bool:
    claim = _owner(difference, facts)
    if claim is not None and claim.kind in (Kind.EXTERNAL_IP, Kind.LOAD_BALANCER):
        own = claim.key.address in NETWORK.addresses and claim.key.port in SETTINGS.protected_ports
        reserved = own or facts.reserved(claim.key.address)
    else:
        address = _address(difference)
        reserved = address is not None and facts.reserved(address)
    return (reserved and _ours_is_nothing(difference)) or _lost_to_them(difference, facts)


def _lost_to_them(difference: Difference, facts: Facts) -> bool:
    """Say whether it follows from it that they have bound an address that is elsewhere."""
    match difference:
        case OutcomeDiffers(_, theirs, ours):
            servers = ours.members if not theirs.members else frozenset()
        case SourceDiffers(_, member):
            servers = frozenset({member})
        case _:
            return False
    claimed = {key.address for key, claims in facts.claims.items() if claims[0].external}
    return any(one.address in claimed and facts.reserved(one.address) for one in servers)


def _ours_is_nothing(difference: Difference) -> bool:
    match difference:
        case VirtualServerDiffers(_, _, found):
            return found is None
        case MemberDiffers(_, _, ours) | AddressDiffers(_, ours):
            return not ours
        case OutcomeDiffers(_, _, outcome):
            return not outcome.members
        case RealServersDiffer() | SourceDiffers():
            return False


def _address(difference: Difference) -> Address | None:
    match difference:
        case AddressDiffers(address) | MemberDiffers("KUBE-IPVS-IPS", IpMember(address)):
            return address
        case OutcomeDiffers(packet):
            return packet.destination
        case _:
            return None


def _as_meant(difference: Difference, facts: Facts, claim: Claim) -> bool:
    """Say whether our side of a list is what the design wants."""
    match difference:
        case RealServersDiffer(_, _, ours):
            wanted = facts.expected(claim, None)
            return ours == {(member, 1) for member in wanted}
        case OutcomeDiffers(packet, _, ours):
            return ours == _wanted_outcome(facts, claim, packet.sender)
        case _:
            return False


def _wanted_outcome(facts: Facts, claim: Claim, sender: Sender) -> Outcome:
    if not facts.allowed(claim, sender):
        return Outcome("dropped")
    members = facts.expected(claim, sender.kind)
    if members:
        return Outcome("balanced to", members)
    outside = claim.external_local and sender.kind is SenderKind.OUTSIDE
    elsewhere = outside and facts.serving(claim, local=False)
    return Outcome("dropped" if elsewhere else "refused")


def _treatment(claim: Claim) -> tuple[bool, bool]:
    """Give what of a claim decides on masquerading."""
    return claim.external, claim.external_local


def _owner(difference: Difference, facts: Facts) -> Claim | None:
    key = _key(difference)
    return facts.owner(key) if key is not None else None


def _key(difference: Difference) -> VirtualServerKey | None:
    """Give the address and port that a difference is about."""
    match difference:
        case VirtualServerDiffers(key) | RealServersDiffer(key):
            return key
        case OutcomeDiffers(packet) | SourceDiffers(packet) if packet.protocol is not None:
            return VirtualServerKey(packet.protocol, packet.destination, packet.port)
        case MemberDiffers(_, member):
            return _key_of(member)
        case _:
            return None


def _key_of(member: Member) -> VirtualServerKey | None:
    match member:
        case (
            IpPortMember(address, protocol, port)
            | IpPortIpMember(address, protocol, port)
            | IpPortNetMember(address, protocol, port)
        ):
            return VirtualServerKey(protocol, address, port)
        case _:
            return None
