"""What an operator chooses by annotation.

    reading           how a Service's annotations are read; what becomes of a wrong value
    schedulers        ipvsproxy.io/scheduler
    slice_weights     ipvsproxy.io/weights of an EndpointSlice
    weight_rules      ipvsproxy.io/weights of a Service
    weight_source     ipvsproxy.io/weight-source of a Service, ipvsproxy.io/weight of a Node or Pod
    zone_preference   ipvsproxy.io/zone-preference
    slow_start        ipvsproxy.io/slow-start
    scheduler_flags   ipvsproxy.io/scheduler-flags
    one_packet        ipvsproxy.io/one-packet
    affinity_prefix   ipvsproxy.io/affinity-prefix
    connection_limit  ipvsproxy.io/connection-limit
    drain_deadline    ipvsproxy.io/drain-deadline
    health_check      ipvsproxy.io/health-check and -options
    steering          what flags, one_packet, prefix, limit and deadline say together
    strays            what is in our domain, and means nothing on an EndpointSlice or Node

Every value is judged where it is read, and a wrong one is answered with what is wrong and how to
write it (docs/architecture.md, rule 9). A new annotation of a Service has a module here and stands
in `KNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsproxy.core.annotations.affinity_prefix import AFFINITY_PREFIX
from ipvsproxy.core.annotations.connection_limit import CONNECTION_LIMIT
from ipvsproxy.core.annotations.drain_deadline import DRAIN_DEADLINE
from ipvsproxy.core.annotations.health_check import (
    HEALTH_CHECK,
    HEALTH_CHECK_OPTIONS,
    read_check,
)
from ipvsproxy.core.annotations.one_packet import ONE_PACKET
from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.core.annotations.scheduler_flags import SCHEDULER_FLAGS
from ipvsproxy.core.annotations.schedulers import (
    SCHEDULER,
    SCHEDULER_ALIASES,
    SchedulerChoice,
    choose_scheduler,
    scheduler_flags,
)
from ipvsproxy.core.annotations.slice_weights import (
    MAX_WEIGHT,
    SLICE_WEIGHT,
    SLICE_WEIGHTS,
    read_weight,
    read_weights,
)
from ipvsproxy.core.annotations.slow_start import SLOW_START, read_slow_start
from ipvsproxy.core.annotations.steering import Steering, kept_by, steer
from ipvsproxy.core.annotations.weight_rules import WEIGHT_RULES, WeightRules, read_weight_rules
from ipvsproxy.core.annotations.weight_source import (
    NODE_WEIGHT,
    POD_WEIGHT,
    WEIGHT_SOURCE,
    WeightSource,
    read_weight_source,
)
from ipvsproxy.core.annotations.zone_preference import ZONE_PREFERENCE, read_zone_preference
from ipvsproxy.core.problem import Problem, ProblemKind

__all__ = [
    "AFFINITY_PREFIX",
    "CONNECTION_LIMIT",
    "DRAIN_DEADLINE",
    "HEALTH_CHECK",
    "HEALTH_CHECK_OPTIONS",
    "KNOWN",
    "MAX_WEIGHT",
    "NODE_WEIGHT",
    "ONE_PACKET",
    "POD_WEIGHT",
    "SCHEDULER",
    "SCHEDULER_ALIASES",
    "SCHEDULER_FLAGS",
    "SLICE_WEIGHT",
    "SLICE_WEIGHTS",
    "SLOW_START",
    "WEIGHT_RULES",
    "WEIGHT_SOURCE",
    "ZONE_PREFERENCE",
    "Reader",
    "SchedulerChoice",
    "Steering",
    "WeightRules",
    "WeightSource",
    "asks_for_nodes",
    "asks_for_pods",
    "asks_for_zones",
    "choose_scheduler",
    "kept_by",
    "read_check",
    "read_slow_start",
    "read_weight",
    "read_weight_rules",
    "read_weight_source",
    "read_weights",
    "read_zone_preference",
    "scheduler_flags",
    "steer",
    "unknown_annotation",
]

KNOWN = (
    SCHEDULER,
    WEIGHT_RULES,
    WEIGHT_SOURCE,
    ZONE_PREFERENCE,
    SLOW_START,
    SCHEDULER_FLAGS,
    ONE_PACKET,
    AFFINITY_PREFIX,
    CONNECTION_LIMIT,
    DRAIN_DEADLINE,
    HEALTH_CHECK,
    HEALTH_CHECK_OPTIONS,
)
"""The annotations of our domain that mean something on a Service."""


_OF_NODES = frozenset(WeightSource) - {WeightSource.POD}


def unknown_annotation(annotations: Mapping[str, str]) -> Problem | None:
    """Say which annotations of a Service are in our domain and mean nothing there."""
    if not annotations:
        return None
    unknown = sorted(name for name in annotations if name not in (*KNOWN, *SCHEDULER_ALIASES))
    if not unknown:
        return None
    return Problem(
        ProblemKind.INVALID_ANNOTATION,
        f"annotation {', '.join(unknown)}: not known on a Service, and passed over; "
        f"known are {', '.join(KNOWN)}",
    )


def asks_for_nodes(annotations: Mapping[str, str]) -> bool:
    """Whether a Service's weights depend on Nodes: on their labels, annotations or capacity.

    Rules by node name and zone do not: a slice says both of each endpoint (but `asks_for_zones`).
    Rules that are wrong may: the last good ones stay in force, which are not known here.
    """
    if annotations.get(WEIGHT_SOURCE, WeightSource.POD) != WeightSource.POD:
        return True
    rules = annotations.get(WEIGHT_RULES)
    try:
        return rules is not None and bool(read_weight_rules(rules.strip()).labels)
    except ValueError:
        return True


def asks_for_zones(annotations: Mapping[str, str]) -> bool:
    """Whether a Service's weights depend on zones: on Nodes, where its slices do not say them.

    Of rules that are wrong it is not asked: these ask for Nodes anyway.
    """
    rules = annotations.get(WEIGHT_RULES)
    try:
        by_zone = rules is not None and bool(read_weight_rules(rules.strip()).zones)
    except ValueError:
        by_zone = False
    return by_zone or ZONE_PREFERENCE in annotations


def asks_for_pods(annotations: Mapping[str, str]) -> bool:
    """Whether a Service's weights depend on Pods.

    With a value that is none, too: `pod` may be the last good one.
    """
    source = annotations.get(WEIGHT_SOURCE)
    return source is not None and source not in _OF_NODES
