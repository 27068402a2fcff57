"""The admission policy: its CEL is evaluated for Services and slices that are right and wrong.

What it lets in and what the agent takes is compared, so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from ipvsproxy.core.annotations import (
    HEALTH_CHECK,
    HEALTH_CHECK_OPTIONS,
    NODE_WEIGHT,
    POD_WEIGHT,
    SCHEDULER,
    SLICE_WEIGHT,
    SLICE_WEIGHTS,
    SLOW_START,
    WEIGHT_RULES,
    WEIGHT_SOURCE,
    ZONE_PREFERENCE,
    read_slow_start,
    read_weight,
    read_weight_rules,
    read_weight_source,
    read_weights,
    read_zone_preference,
)
from ipvsproxy.core.annotations.affinity_prefix import AFFINITY_PREFIX, read_prefixes
from ipvsproxy.core.annotations.connection_limit import CONNECTION_LIMIT, read_limit
from ipvsproxy.core.annotations.drain_deadline import DRAIN_DEADLINE, read_drain_deadline
from ipvsproxy.core.annotations.health_check import read_kind, read_options
from ipvsproxy.core.annotations.one_packet import ONE_PACKET, read_one_packet
from ipvsproxy.core.annotations.scheduler_flags import SCHEDULER_FLAGS, read_scheduler_flags
from ipvsproxy.model import Scheduler
from tests.deployment.rendered import MANIFESTS, Json, sound
from tests.unit.test_steering import WRONG

cel = pytest.importorskip("cel", reason="needs common-expression-language: make setup")

FOLDER = MANIFESTS / "admission"
POLICY = yaml.safe_load((FOLDER / "policy.yaml").read_text())
BINDING = yaml.safe_load((FOLDER / "binding.yaml").read_text())
VERSIONS = ("1.30", "1.32", "1.35", "1.37")
"""admissionregistration.k8s.io/v1 has these kinds since 1.30."""

Annotations = Mapping[str, str] | None


def refusals(kind: str, new: Annotations, old: Annotations | str = "none") -> list[str]:
    """Return what the policy says of an object; `old` is "none" where it is created."""
    resource = {
        "Service": "services",
        "EndpointSlice": "endpointslices",
        "Node": "nodes",
        "Pod": "pods",
    }[kind]
    variables: dict[str, Any] = {}
    context = {
        "request": {"resource": {"resource": resource}},
        "object": _object(new),
        "oldObject": None if isinstance(old, str) else _object(old),
        "variables": variables,
    }
    for one in POLICY["spec"]["variables"]:
        variables[one["name"]] = cel.evaluate(one["expression"], context)
    return [
        one["message"] if "message" in one else cel.evaluate(one["messageExpression"], context)
        for one in POLICY["spec"]["validations"]
        if not cel.evaluate(one["expression"], context)
    ]


def _object(annotations: Annotations) -> Json:
    metadata = {"name": "web"} if annotations is None else {"annotations": dict(annotations)}
    return {"metadata": metadata}


@pytest.mark.parametrize("version", VERSIONS)
def test_policy_and_binding_are_valid(version: str) -> None:
    sound(POLICY, version)
    sound(BINDING, version)


def test_the_binding_is_of_the_policy_and_refuses() -> None:
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    assert BINDING["spec"]["validationActions"] == ["Deny"]


@pytest.mark.parametrize("scheduler", sorted(Scheduler))
def test_every_scheduler_is_let_in(scheduler: str) -> None:
    assert refusals("Service", {SCHEDULER: scheduler}) == []


@pytest.mark.parametrize("wrong", ["", "RR", "roundrobin", "rr,wrr"])
def test_what_is_no_scheduler_is_refused_with_the_word_and_those_that_there_are(wrong: str) -> None:
    (message,) = refusals("Service", {SCHEDULER: wrong})
    assert message.startswith(f'annotation {SCHEDULER}: "{wrong}" is no scheduler')
    assert message.endswith(" ".join(sorted(Scheduler)))


@pytest.mark.parametrize("kind", ["Service", "EndpointSlice"])
@pytest.mark.parametrize("annotations", [None, {}, {"example.com/a": "b"}], ids=str)
def test_without_our_annotations_everything_is_let_in(kind: str, annotations: Annotations) -> None:
    assert refusals(kind, annotations) == []


WEIGHT_TEXTS = {
    '{"10.244.1.7": 3, "10.244.2.9": 1}': True,
    '{"2001:db8::1":65535}': True,
    " { } ": True,
    '{"10.244.1.7": 0}': True,
    '{"10.244.1.7": 9999}': True,
    '{"10.244.1.7": 10000}': True,
    '{"10.244.1.7": 65536}': False,
    '{"10.244.1.7": 100000}': False,
    '{"10.244.1.7": -1}': False,
    '{"10.244.1.7": 1.5}': False,
    '{"10.244.1.7": "3"}': False,
    '{"10.244.1.7": 03}': False,
    '{"10.244.1.7": 3,}': False,
    '{"web-1": 3}': False,
    '["10.244.1.7"]': False,
    "10.244.1.7=3": False,
    "": False,
}


@pytest.mark.parametrize("text", WEIGHT_TEXTS)
def test_weights_that_the_agent_takes_are_let_in_and_others_are_refused(text: str) -> None:
    right = WEIGHT_TEXTS[text]
    try:
        read_weights(text)
    except ValueError:
        assert not right
    else:
        assert right
    messages = refusals("EndpointSlice", {SLICE_WEIGHTS: text})
    assert not messages if right else "no JSON object from IP address to weight" in messages[0]


PARSERS: Mapping[str, Callable[[str], object]] = {
    SCHEDULER_FLAGS: read_scheduler_flags,
    ONE_PACKET: read_one_packet,
    AFFINITY_PREFIX: read_prefixes,
    CONNECTION_LIMIT: read_limit,
    DRAIN_DEADLINE: read_drain_deadline,
}
RIGHT = {
    SCHEDULER_FLAGS: ("sh-port", " mh-port , mh-fallback\n", "sh-port,mh-port,sh-fallback"),
    ONE_PACKET: ("one-way", " one-way "),
    AFFINITY_PREFIX: ("24", "1", "32,128", "24 , 64", "16,100", "9,99"),
    CONNECTION_LIMIT: ("1", "100", "100,75", "1000000 , 999999", "7,7"),
    DRAIN_DEADLINE: ("0", "15m", "1h30m", "90", "1.5s", ".5s", "1.m", "500ms", "0.25"),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for texts in (RIGHT, WRONG) for name in texts for text in texts[name]],
)
def test_how_servers_are_steered_is_judged_as_the_agent_does(name: str, text: str) -> None:
    try:
        PARSERS[name](text.strip())
    except ValueError:
        right = False
    else:
        right = True
    assert right == (text in RIGHT[name])
    messages = refusals("Service", {name: text})
    if (name, text) == (CONNECTION_LIMIT, "75,100"):
        assert not messages  # CEL that is the same everywhere cannot compare the two
    elif right:
        assert not messages
    else:
        (message,) = messages
        assert message.startswith(f"annotation {name}: ")
        assert refusals("Service", {name: text}, old={name: text}) == []


OTHER_TEXTS = {
    ("Service", WEIGHT_RULES): (
        read_weight_rules,
        ("zone=a:3", "zone=a:3, node=big-1.x:10,label=pool/a=big:0", "label=a=:65535", "zone=a:03"),
        (
            "",
            "zone=a",
            "zone=a:65536",
            "zone:a:3",
            "label=a:3",
            "node=a=b:3",
            "zone=a:3,",
            "{}",
            "zone=a b:3",
            "node=Big:3",
            "label=a_=b:3",
        ),
    ),
    ("Service", WEIGHT_SOURCE): (
        read_weight_source,
        ("node", "cpu", "pods", "pod"),
        ("", "CPU", "memory", "cpu,pods"),
    ),
    ("Service", SLOW_START): (
        read_slow_start,
        (
            "2s",
            "60s",
            "1m30s",
            "1h",
            "60m",
            "60",
            "2.5",
            "1.5m",
            "5s1m",
            "2000ms",
            "3600000ms",
            "2s500000000ns",
        ),
        ("", "1", "3601", "1s", "1.9s", "61m", "99h", "soon", "-60s", "1d", "1m30", "s", "."),
    ),
    ("Service", ZONE_PREFERENCE): (
        read_zone_preference,
        ("1", "90", "99%"),
        ("", "0", "100", "0.9", "most"),
    ),
    ("EndpointSlice", SLICE_WEIGHT): (read_weight, ("0", "65535"), ("", "-1", "65536", "3.5")),
    ("Node", NODE_WEIGHT): (read_weight, ("0", "65535"), ("", "-1", "65536", "heavy")),
    ("Pod", POD_WEIGHT): (read_weight, ("0", "65535"), ("", "-1", "65536", "heavy")),
}


@pytest.mark.parametrize(("kind", "name"), OTHER_TEXTS, ids=str)
def test_what_the_agent_takes_is_let_in_and_else_it_is_refused(kind: str, name: str) -> None:
    read, right, wrong = OTHER_TEXTS[kind, name]
    for text in right:
        read(text)
        assert refusals(kind, {name: text}) == [], text
    for text in wrong:
        with pytest.raises(ValueError, match="write"):
            read(text)
        (message,) = refusals(kind, {name: text})
        assert message.startswith(f"annotation {name}: "), text


KINDS = {
    "tcp": True,
    " TCP ": True,
    "udp": True,
    "http": True,
    "http:/healthz?a=b%20": True,
    "http: /": True,
    "http://example.org/": False,
    "http:healthz": False,
    "http:/a#b": False,
    'http:/a"b': True,
    "http:/a b": False,
    "https:/x": False,
    "tcp:80": False,
    "true": False,
    "": False,
}


@pytest.mark.parametrize("text", KINDS)
def test_checks_that_the_agent_takes_are_let_in_and_others_are_refused(text: str) -> None:
    try:
        read_kind(text.strip())
    except ValueError:
        assert not KINDS[text]
    else:
        assert KINDS[text]
    messages = refusals("Service", {HEALTH_CHECK: text})
    assert not messages if KINDS[text] else "write tcp, http:/path" in messages[0]


OPTION_TEXTS = {
    "": True,
    "interval=5s, timeout=500ms\nrise=1,fall=100 jitter=0%": True,
    "Interval=1.5m,": True,
    "status=204, host=shop.example:80, on-failure=cut": True,
    "host=[fd00::1]:80": True,
    "payload=0x00ff": True,
    "payload=PING-PONG=1": True,
    "fall=2, only=traffic": True,
    "only=all": False,
    "interval=5": True,
    "interval=1m30s,timeout=0.5s": True,
    "interval=1m30": False,
    "interval=5sec": False,
    "intervall=5s": False,
    "interval: 5s": False,
    "rise=0": False,
    "rise=101": False,
    "jitter=51%": False,
    "jitter=0.1": False,
    "status=2xx": False,
    "on-failure=drop": False,
    "host=": False,
    "payload=": False,
    "payload=PING\\r\\n": False,
    "payload='hi'": False,
    'payload="hi"': False,
    "payload=[a-b]~(1)+-.": True,
    "status=\u0662\u0660\u0660": False,
    "host=a:\u0668\u0660": False,
    '{"interval": "5s"}': False,
}


@pytest.mark.parametrize("text", OPTION_TEXTS)
def test_options_that_the_agent_takes_are_let_in_and_others_are_refused(text: str) -> None:
    """What goes together, and how long a duration may be, the agent alone knows."""
    try:
        read_options(text)
    except ValueError:
        assert not OPTION_TEXTS[text]
    else:
        assert OPTION_TEXTS[text]
    messages = refusals("Service", {HEALTH_CHECK_OPTIONS: text})
    assert not messages if OPTION_TEXTS[text] else "write name=value" in messages[0]


@pytest.mark.parametrize(
    ("kind", "annotations"),
    [
        ("Service", {HEALTH_CHECK: "wrong"}),
        ("Service", {HEALTH_CHECK_OPTIONS: "wrong"}),
        ("Service", {SCHEDULER: "wrong"}),
        ("Service", {SLICE_WEIGHTS: "{}"}),
        ("Service", {"ipvsproxy.io/slow-start": "soon"}),
        ("Node", {"ipvsproxy.io/weight": "heavy"}),
        ("EndpointSlice", {SLICE_WEIGHTS: "wrong"}),
    ],
    ids=str,
)
def test_what_was_wrong_before_does_not_keep_others_from_writing(
    kind: str, annotations: Annotations
) -> None:
    """The controller of endpoint slices writes them again with the annotation as it was."""
    assert annotations
    assert refusals(kind, annotations)
    assert refusals(kind, annotations, old=None)
    assert refusals(kind, annotations, old=annotations) == []


def test_weights_on_a_service_are_refused_with_the_place_where_they_belong() -> None:
    (message,) = refusals("Service", {SLICE_WEIGHTS: "{}"})
    assert "EndpointSlice" in message
