"""Whatever is written: the last good state stays, after a restart too, and one line says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.drain import settle
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Family, Network, Protocol, State
from ipvsproxy.objects import (
    Capacity,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
    SlicePort,
)
from tests.unit.weighed import IP, NAME, PODS

DOMAIN = "ipvsproxy.io/"
NODES = {
    "n1": Node("n1", zone="a", labels=(("pool", "big"),), capacity=Capacity(16000, 250)),
    "n2": Node("n2", zone="b", weight="5", capacity=Capacity(4000, 110)),
    "n3": Node("n3", zone="b", capacity=Capacity(2000, 100)),
}
SETTINGS = Settings(node_name="n1", cluster_cidrs=(Network.parse("10.0.0.0/8"),))
LONGEST_LINE = 700
"""Characters; a text of an annotation may be a quarter of a megabyte."""


class Case(NamedTuple):
    """An annotation, a good text, and what is right of the texts below."""

    name: str
    good: str
    right: Sequence[str] = ()
    others: Mapping[str, str] = {}
    sticky: bool = False
    of_slice: bool = False


CASES = (
    Case("scheduler", "sh"),
    Case("weights", "zone=b:3"),
    Case("weight-source", "cpu"),
    Case("zone-preference", "90", right=("5", "90", "90 %")),
    Case("slow-start", "60s", right=("101", "5", "1.5m", "90")),
    Case("scheduler-flags", "sh-port", others={"scheduler": "sh"}),
    Case("one-packet", "one-way"),
    Case("affinity-prefix", "24,64", right=("5",), sticky=True),
    Case("connection-limit", "100,75", right=("101", "5", "65536", "90")),
    Case("drain-deadline", "90s", right=("0", "101", "5", "65536", "1.5", "1.5m", "90")),
    Case("health-check", "tcp", right=("http", "http:", "HTTP:/x")),
    Case("health-check-options", "fall=2", ("", " ", "\n", ","), {"health-check": "tcp"}),
    Case(
        "health-check-options",
        "status=200",
        ("", " ", "\n", ",", "host=[::1]:80", "host=shop.example:80"),
        {"health-check": "http:/x"},
    ),
    Case("health-check-options", "payload=hi", ("payload=a=b",), {"health-check": "udp"}),
    Case("weights", '{"10.1.0.1": 30, "10.1.0.2": 10}', right=("{}",), of_slice=True),
)
TEXTS = (
    *("", " ", "\n", "\x00", "\ud800", "true", "false", "null", "None", "yes", "on", "off", "auto"),
    *("0", "-1", "+5", "5", "5+", "1.5", "90", "90 %", "1e3", "0x10", "NaN", "inf", "\u0663"),
    *("999999999999", "9" * 5000, "a" * 100_000, "1" + "0" * 20, "65536", "101"),
    *("{}", "[]", "{", '{"a": 1}', '"90"', "'90'", "default", "--", "=", ":", "a=b", "a:b", ","),
    *(";", "a;b", "30 s", "60sec", "1min", "1.5m", "1d", "%", "50,", "24,64,12", "100;75", "33,64"),
    *("tcp,http", "TCP:", "tcp:80", "http", "http:", "HTTP:/x", "http:x", "http://x/", "https:/"),
    *(
        "udp:53",
        "grpc",
        "exec",
        "interval=5sec",
        "interval:5s",
        "intervall=5s",
        "fall=0",
        "fall=2 x",
    ),
    *(
        "sh port",
        "SH-PORT",
        "sh_port",
        "-sh-port",
        "sh-port mh-port",
        "oneway",
        "one way",
        "ONE-WAY",
    ),
    *("cpus", "CPU", "memory", "zone", "zone=a", "zone=a:", "zone=a:-1", "zone=a:3;zone=b:1"),
    *("zone=a=3", "zone:a:3", "zone=a:3 zone=b:1", "node=:3", "label=x:3", "ZONE=a:3", "zone=a:3,"),
    *("zone=a:3,zone=a:4", "rr,wrr", "WRR", "round-robin", "10.1.0.1=3", "10.1.0.1:3"),
    *(f'{{"10.1.0.1": {wrong}}}' for wrong in ('"3"', "3.0", "-1", "65536", "true", "null", "NaN")),
    *(f'{{"{wrong}": 3}}' for wrong in ("", "10.1.0.1/32", "10.1.0.01", "web-1", "fe80::1%eth0")),
    *('{"10.1.0.1": 3,}', "{10.1.0.1: 3}", "{'10.1.0.1': 3}", '{"10.1.0.1": 3, "10.1.0.1": 4}'),
    *("zone=a b:3", "zone=*:3", "zone=\u200ba:3", "zone=\u00c4:3", "zone=-a:3", "zone=a\uff1a3"),
    *("zone=a:\u0663", "zone=a:3\nzone=b:1", "node=Big-1:3", "node=fe80::1:3", "node=big-1.:3"),
    *(
        "node=" + "n" * 254 + ":3",
        "label=x y=z:3",
        "label=Big/x=y:3",
        "label=x=y z:3",
        "label=x=y=:3",
    ),
    *("http:/x#y", "http:/x y", "http:/x\r\nHost: y", "http:8080/x", "tcp,udp", "http:/\x7f"),
    *("status=200-", "status=-500", "status=500-200", "status=200,204", "status=2xx", "status=099"),
    *(
        "status=\u0662\u0660\u0660",
        "jitter=\u0662%",
        "rise=1\u0662",
        "fall=-0",
        "fall=1e1",
        "jitter=10",
    ),
    *("host=a:65536", "host=a:0", "host=a:\u0668\u0660", "host=[.....]", "host=[::1", "host=a/b"),
    *(
        "host=[10.0.0.1]",
        "host=a\r\nX: 1",
        "host=a\x00",
        "host=",
        "host=[::1]:80",
        "host=shop.example:80",
    ),
    *(
        "payload=",
        "payload=0x",
        "payload=0x0",
        "payload=0X00ff",
        "payload=PING\\r\\n",
        "payload='hi'",
    ),
    *(
        'payload="hi"',
        "payload=a b",
        "payload=a,b",
        "payload=\x01",
        "payload=\u00e4",
        "payload=a=b",
    ),
    *('["10.1.0.1"]', '[{"10.1.0.1": 3}]', '{"10.1.0.1": {"weight": 3}}', '{"10.1.0.1": [3]}'),
    *('{"10.1.0.1": 1e3}', '{"10.1.0.1": 1\u0660}', '{"10.1.0.1": -0.0}', '{"10.1.0.1": 03}'),
    *('{"10.1.0.1:80": 3}', '{"010.1.0.1": 3}', '{"10.1.0.1 ": 3}', '{"a":' * 3000, "[" * 3000),
    *('{"::1": 3, "0::1": 4}', '{"10.1.0.1": 3} x', '\ufeff{"10.1.0.1": 3}', "\U0001f4a5"),
)


def translated(
    case: Case, text: str, *, previous: Fragment | None = None, kernel: State | None = None
) -> Fragment:
    written = dict(case.others) if case.of_slice else {**case.others, case.name: text}
    service = Service(
        NAME,
        cluster_ips=(IP,),
        ports=(ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)),
        annotations=tuple((f"{DOMAIN}{name}", value) for name, value in written.items()),
        affinity_seconds=10800 if case.sticky else 0,
    )
    part = EndpointSlice(
        NAME.namespace,
        "s1",
        NAME,
        Family.IPV4,
        tuple(
            Endpoint(pod, node_name=node, zone=NODES[node].zone)
            for pod, node in zip(PODS, NODES, strict=True)
        ),
        (SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 53)),
        text if case.of_slice else None,
    )
    around = Surroundings(
        SETTINGS,
        kernel or fresh_state(),
        node=NODES["n1"],
        nodes=NODES,
        starting=previous is None,
    )
    return translate(Inputs(service, (part,), whole=True), around, previous)


def programmed(fragment: Fragment) -> State:
    """Give the kernel in which a fragment has been carried out."""
    state = fresh_state()
    for one in fragment.frontends:
        settled = settle(one, state, connections={}, departed={}, now=0.0, deadline=9.0)
        state.virtual_servers[one.key] = settled.wanted.server
        state.real_servers[one.key] = dict(settled.wanted.real_servers)
    return state


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.good}")
def test_what_is_wrong_changes_nothing_and_is_answered_in_one_line(case: Case) -> None:
    good = translated(case, case.good)
    kernel = programmed(good)
    accepted = []
    for text in TEXTS:
        found = translated(case, text, previous=good)
        wrong = [one for one in found.problems if one.kind is ProblemKind.INVALID_ANNOTATION]
        if not wrong:
            accepted.append(text)
            continue
        assert found._replace(problems=good.problems, asked=good.asked) == good, text
        (line,) = (one.message for one in wrong)
        assert line.startswith(f"annotation {DOMAIN}{case.name}"), text
        assert line.isprintable() or "\n" not in line, text
        assert any(how in line for how in ("write", "needed", "take")), line
        assert "stay" in line, line
        assert len(line) <= LONGEST_LINE, text[:20]
        again = programmed(translated(case, text, kernel=kernel))
        assert again.virtual_servers == kernel.virtual_servers, text
        assert again.real_servers == kernel.real_servers, text
    assert sorted(accepted) == sorted(case.right)
