"""`ipvsproxy config`: files that are checked, settings that are shown, a ConfigMap converted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ipvsproxy.cli import main
from ipvsproxy.config import load
from ipvsproxy.config.files import config_of_config_map


def call(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=text)


CONFIG_MAP = """\
apiVersion: v1
data:
  config.conf: |-
    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    clusterCIDR: 10.244.0.0/16
    configSyncPeriod: 5m
    ipvs:
      scheduler: wrr
      tcpTimeout: 2h0m0s
    kind: KubeProxyConfiguration
    mode: ipvs
  kubeconfig.conf: |-
    apiVersion: v1
    kind: Config
kind: ConfigMap
metadata:
  name: kube-proxy
  namespace: kube-system
"""


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("syncPeriod: 0s\nnonsence: 1\n")
    result = call("config", "check", str(path))
    first, second = result.stdout.splitlines()
    assert result.exit_code == 1
    assert first.startswith("configuration file, line 2, nonsence: no such field")
    assert second.startswith("configuration file, line 1, syncPeriod: '0s': ")


def test_a_right_file_is_right_with_its_warnings(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text("kind: KubeProxyConfiguration\nenableProfiling: true\n")
    result = call("config", "check", str(path))
    warning, sound = result.stdout.splitlines()
    assert (result.exit_code, sound) == (0, "nothing is wrong")
    assert warning.startswith("warning: without effect here")
    answer = json.loads(call("config", "check", "--output=json", str(path)).stdout)
    assert (answer["problems"], len(answer["warnings"])) == ([], 1)


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert call("config", "check", str(tmp_path / "none")).exit_code == 2


def test_settings_are_shown_with_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("syncPeriod: 1m\n")
    monkeypatch.setenv("IPVSPROXY_DEFAULT_SCHEDULER", "lc")
    words = ("config", "show", f"--config={path}", "--masquerade-bit=3")
    lines = {
        line.split()[0]: line.split(maxsplit=2)[1:] for line in call(*words).stdout.splitlines()
    }
    assert lines["syncPeriod"] == ["60.0", "configuration file, line 1, syncPeriod"]
    assert lines["defaultScheduler"] == [
        "lc",
        "environment variable IPVSPROXY_DEFAULT_SCHEDULER",
    ]
    assert lines["masqueradeBit"] == ["3", "flag --masquerade-bit"]
    assert lines["takeOver"] == ["false", "default"]
    shown = json.loads(call(*words, "--output=json").stdout)
    assert (shown["syncPeriod"]["value"], shown["syncPeriod"]["source"]) == (60, "file")


def test_a_variable_names_the_file_and_a_flag_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").write_text("defaultScheduler: sh\n")
    (tmp_path / "given").write_text("defaultScheduler: lc\n")
    monkeypatch.setenv("IPVSPROXY_CONFIG", str(tmp_path / "named"))
    for words, scheduler in (((), "sh"), ((f"--config={tmp_path / 'given'}",), "lc")):
        result = call("config", "show", "--output=json", *words)
        assert json.loads(result.stdout)["defaultScheduler"]["value"] == scheduler
        assert result.stderr == ""


def test_a_config_map_becomes_a_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "cm.yaml"
    path.write_text(CONFIG_MAP)
    result = call("config", "convert", str(path))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:5] == [
        "defaultScheduler: wrr",
        "clusterCIDRs:",
        "- 10.244.0.0/16",
        "ipvsTcpTimeout: 7200s",
        "conntrackMaxPerCore: 32768",
    ]
    assert "configSyncPeriod" in result.stderr
    ours = load({}, {}, result.stdout, host_name="n").settings
    assert ours == load({}, {}, config_of_config_map(CONFIG_MAP), host_name="n").settings


def test_standard_input_is_read_and_what_is_wrong_in_it_is_said() -> None:
    text = CONFIG_MAP.replace("scheduler: wrr", "scheduler: fast")
    result = call("config", "convert", "-", text=text)
    assert result.exit_code == 1
    assert "ipvs.scheduler: 'fast'" in result.stderr


def test_another_config_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cm.yaml"
    path.write_text("kind: ConfigMap\ndata: {a: b}\n")
    result = call("config", "convert", str(path))
    assert result.exit_code == 1
    assert "the ConfigMap has no KubeProxyConfiguration" in result.stderr


@pytest.mark.parametrize("command", ["check", "convert"])
def test_standard_input_that_is_not_utf_8_is_told_in_one_line(command: str) -> None:
    result = CliRunner().invoke(main, ["config", command, "-"], input=b"syncPeriod: \xff\n")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: configuration file on standard input: cannot be read (it is not UTF-8): give a "
        "readable file"
    )
