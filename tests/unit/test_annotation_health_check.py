"""The annotations of health checks: what may be written, and what is said of what may not."""

from __future__ import annotations

import pytest

from ipvsproxy.core.annotations import HEALTH_CHECK, HEALTH_CHECK_OPTIONS, Reader, read_check
from ipvsproxy.core.annotations.health_check import (
    Check,
    HttpProbe,
    OnFailure,
    TcpProbe,
    UdpProbe,
)
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.model import Protocol


def reader(
    kind: str | None, options: str | None = None, good: dict[str, str] | None = None
) -> Reader:
    written = {HEALTH_CHECK: kind, HEALTH_CHECK_OPTIONS: options}
    return Reader({name: text for name, text in written.items() if text is not None}, good or {})


def problem(one: Reader) -> str:
    (found,) = one.problems
    return found.message


@pytest.mark.parametrize(
    ("kind", "options", "wanted"),
    [
        pytest.param("tcp", None, Check(TcpProbe()), id="tcp"),
        pytest.param(" TCP ", "", Check(TcpProbe()), id="blanks and capitals"),
        pytest.param("http:/healthz", None, Check(HttpProbe("/healthz")), id="http"),
        pytest.param("http", None, Check(HttpProbe("/")), id="http without a path"),
        pytest.param("http:/a?b=c&d=%20:x", None, Check(HttpProbe("/a?b=c&d=%20:x")), id="query"),
        pytest.param(
            "http:/", "status=204", Check(HttpProbe("/", 204, 204)), id="exactly one status"
        ),
        pytest.param(
            "http:/",
            "status=200-299, host=shop.example:8080",
            Check(HttpProbe("/", 200, 299, "shop.example:8080")),
            id="a range and a host",
        ),
        pytest.param(
            "http:/", "host=[fd00::1]:80", Check(HttpProbe("/", host="[fd00::1]:80")), id="host6"
        ),
        pytest.param("udp", "payload=PING", Check(UdpProbe(b"PING")), id="udp with text"),
        pytest.param("udp", "payload=0x00ff", Check(UdpProbe(b"\x00\xff")), id="udp with bytes"),
        pytest.param(
            "tcp",
            "interval=5s timeout=500ms\nrise=1,fall=2,jitter=0%,on-failure=cut,only=traffic",
            Check(TcpProbe(), 5.0, 0.5, 1, 2, 0.0, OnFailure.CUT, only_with_traffic=True),
            id="everything, however divided",
        ),
        pytest.param("tcp", "interval=1m", Check(TcpProbe(), 60.0), id="minutes"),
        pytest.param(
            "tcp", "interval=1s", Check(TcpProbe(), 1.0), id="timeout as long as interval"
        ),
        pytest.param(None, None, None, id="nothing"),
    ],
)
def test_what_may_be_written(kind: str | None, options: str | None, wanted: Check | None) -> None:
    one = reader(kind, options)
    assert read_check(one) == wanted
    assert one.problems == []


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("", "is no check"),
        ("https:/x", "is no check"),
        ("tcp:80", "nothing may follow tcp"),
        ("udp:/x", "nothing may follow udp"),
        ("http://example.org/x", "is a URL; the host is the endpoint"),
        ("http:healthz", "is no path; it begins with /"),
        ("http:/a b", "is no path"),
        ("http:/\u00e9", "is no path"),
        ("http:/a\r\nX-Evil: 1", "is no path"),
        ("http:/" + "a" * 2000, "has at most 1024 characters"),
        ("true", "write tcp, http:/path"),
        ("5s", "write tcp, http:/path"),
    ],
)
def test_a_kind_that_is_wrong_is_answered_and_keeps_the_last_one(kind: str, says: str) -> None:
    new = reader(kind)
    assert read_check(new) is None
    assert says in problem(new)
    kept = reader(kind, good={HEALTH_CHECK: "tcp"})
    assert read_check(kept) == Check(TcpProbe())
    assert "'tcp' stays" in problem(kept)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("5s", "write name=value"),
        ("intervall=5s", "known are interval, timeout"),
        ("interval", "is no option"),
        ("interval=", "a duration from 1s to 1h"),
        ("interval=5sec", "write for example 30s, 1m30s or 0.5s"),
        ("interval=0s", "a duration from 1s"),
        ("interval=500ms", "a duration from 1s"),
        ("interval=2h", "a duration from 1s to 1h"),
        ("interval=-5s", "a duration from 1s"),
        ("interval=5s, interval=6s", "interval is there twice"),
        ("timeout=10ms", "a duration from 0.05s to 1m"),
        ("timeout=2m", "a duration from 0.05s to 1m"),
        ("rise=0", "a whole number from 1 to 100"),
        ("fall=101", "a whole number from 1 to 100"),
        ("fall=2.5", "a whole number from 1 to 100"),
        ("jitter=0.1", "a percentage from 0% to 50%"),
        ("jitter=51%", "a percentage from 0% to 50%"),
        ("status=2xx", "one status from 100 to 599 is needed, such as 204"),
        ("status=99", "one status from 100 to 599 is needed, such as 204"),
        ("status=300-200", "one status from 100 to 599 is needed, such as 204"),
        ("host=a/b", "a host name is needed"),
        ("host=", "a host name is needed"),
        ("payload=", "1 to 512 bytes are needed"),
        ("payload=0xabc", "bytes in hexadecimal"),
        ("payload=\u00fc", "ASCII are needed"),
        ("payload=" + "a" * 513, "1 to 512 bytes"),
        ("on-failure=drop", "keep or cut is needed"),
        ("only=all", "traffic is needed; without this option all endpoints are probed"),
        ("interval: 5s", "write name=value"),
        ('{"interval": "5s"}', "write name=value"),
    ],
)
def test_an_option_that_is_wrong_is_answered_and_keeps_the_last_ones(
    options: str, says: str
) -> None:
    new = reader("tcp", options)
    assert read_check(new) is None
    assert says in problem(new)
    assert "endpoints are not checked until then" in problem(new)
    assert new.good == {}
    first = reader("tcp", options, {HEALTH_CHECK: "tcp"})
    assert read_check(first) == Check(TcpProbe())
    kept = reader("tcp", options, {HEALTH_CHECK: "tcp", HEALTH_CHECK_OPTIONS: "fall=7"})
    assert read_check(kept) == Check(TcpProbe(), fall=7)
    assert "'fall=7' stays" in problem(kept)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("tcp", "timeout=20s", "timeout is 20s and interval 10s"),
        ("tcp", "interval=2s,timeout=3s", "write a timeout of at most the interval"),
        ("tcp", "status=200", "status is for http, and ipvsproxy.io/health-check is tcp"),
        ("udp", "host=a, payload=x", "host is for http"),
        ("http:/", "payload=x", "payload is for udp"),
        ("udp", "rise=1", "udp needs a payload"),
        ("udp", None, "udp needs a payload"),
    ],
)
def test_what_does_not_go_together_keeps_what_was_good_of_both(
    kind: str, options: str | None, says: str
) -> None:
    new = reader(kind, options)
    assert read_check(new) is None
    assert says in problem(new)
    assert "endpoints are not checked until then" in problem(new)
    assert new.good == {}
    before = {HEALTH_CHECK: "http:/ok", HEALTH_CHECK_OPTIONS: "status=204"}
    kept = reader(kind, options, before)
    assert read_check(kept) == Check(HttpProbe("/ok", 204, 204))
    assert "'http:/ok' with 'status=204' stays" in problem(kept)
    assert kept.good == before


def test_options_without_a_check_are_without_effect() -> None:
    one = reader(None, "rise=1")
    assert read_check(one) is None
    assert "without effect: ipvsproxy.io/health-check is not set" in problem(one)
    assert one.problems[0].kind is ProblemKind.NO_EFFECT


def test_a_check_is_of_the_ports_of_its_protocol() -> None:
    assert Check(TcpProbe()).protocol is Protocol.TCP
    assert Check(HttpProbe("/")).protocol is Protocol.TCP
    assert Check(UdpProbe(b"x")).protocol is Protocol.UDP
