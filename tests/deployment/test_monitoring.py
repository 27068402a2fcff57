"""Dashboard, alert rules and monitor: they ask for metrics and labels that the agent has.

Which there are is asked of the registry itself. promtool judges the rules where it is there.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from ipvsproxy.telemetry import Conditions, Metrics
from tests.deployment.rendered import MANIFESTS, ROOT, base, container, program

MONITORING = MANIFESTS / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

FROM_OUTSIDE = {"instance", "job"}
"""Labels that Prometheus gives."""


def known() -> dict[str, set[str]]:
    """Return the labels of every series that the agent has, by its name."""
    metrics = Metrics(Conditions(), version="0")
    labels = {
        metric._name: set(metric._labelnames)
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    found = {"up": set[str]()}
    suffixes = {"counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count")}
    for family in (*metrics.registry.collect(), *metrics.traffic.registry.collect()):
        # What is counted at the scrape has no attribute, and tells its labels itself.
        own = labels.get(family.name, set(getattr(family, "_labelnames", ())))
        for suffix in suffixes.get(family.type, ("",)):
            found[family.name + suffix] = own | ({"le"} if suffix == "_bucket" else set())
    return found


KNOWN = known()


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that a PromQL expression asks for, with the labels that it matches."""
    bare = re.sub(r"\bby \([^)]*\)", "", expression)
    for name, matchers in re.findall(r"\b([a-z]\w*_\w+|up)\b(?!\()(?:\{([^}]*)\})?", bare):
        if name not in ("histogram_quantile", "clamp_min", "label_values"):
            yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def grouped(expression: str) -> set[str]:
    """Return the labels by which an expression groups."""
    found = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label for words in found for label in re.findall(r"\w+", words)}


def judge(expression: str) -> None:
    """Assert that all that an expression asks for is there."""
    series = list(asked(expression))
    assert series, expression
    for name, labels in series:
        assert name in KNOWN, f"{expression}: no metric {name}"
        assert labels <= KNOWN[name] | FROM_OUTSIDE, f"{expression}: {name} has no such label"
    labels = {label for name, _ in series for label in KNOWN[name]}
    assert grouped(expression) <= labels | FROM_OUTSIDE, expression


def test_an_expression_is_taken_apart() -> None:
    text = 'sum by (a, le) (rate(x_y_total{job="b", c!="d"}[5m])) / clamp_min(z_z, 0)'
    assert list(asked(text)) == [("x_y_total", {"job", "c"}), ("z_z", set())]
    assert grouped(text) == {"a", "le"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_shows_metrics_that_there_are(panel: Mapping[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        judge(target["expr"])
        labels = {label for name, _ in asked(target["expr"]) for label in KNOWN[name]}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels | FROM_OUTSIDE


def test_no_two_panels_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        rows = range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for y in rows for x in range(place["x"], place["x"] + place["w"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboards_variables_are_all_that_its_panels_need() -> None:
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used - {"__rate_interval"} == variables
    for one in DASHBOARD["templating"]["list"]:
        if one["type"] == "query":
            judge(re.sub(r"label_values\((.*), \w+\)", r"\1", one["query"]["query"]))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_is_about_metrics_that_there_are(alert: Mapping[str, Any]) -> None:
    judge(alert["expr"])
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alerts_runbook_is_a_section_that_there_is(alert: Mapping[str, Any]) -> None:
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_the_operators_rules_are_those_of_the_plain_file() -> None:
    manifest = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["spec"] == RULES


def test_the_monitor_finds_the_pods_and_their_port() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    template = base()["DaemonSet"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert monitor["kind"] == "PodMonitor"
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container(base())["ports"]}
    (down,) = (one for one in ALERTS if one["alert"] == "IpvsproxyDown")
    assert f'job="{labels[monitor["spec"]["jobLabel"]]}"' in down["expr"]


def promtool(*words: str | Path) -> None:
    found = program("promtool")
    if found is None:
        pytest.skip("no promtool here: it is in the package prometheus")
    done = subprocess.run((found, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", MONITORING / "rules.yaml")


def test_the_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", Path(__file__).parent / "alerts.yaml")


def test_promtool_takes_the_panels_queries(tmp_path: Path) -> None:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)
