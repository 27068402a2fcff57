"""kube-proxy's flags that have no equal here, so that its command line starts our agent as it is.

Knows the flags of every kube-proxy from 1.20 on (cmd/kube-proxy/app/options.go, and klog's) and why
each is without effect; those that have an equal are in `options`. A flag that is accepted here is
named in one warning with the others, whatever its value.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from ipvsproxy.cli.options import Command, WrongSettingError

_JSON = "the API is spoken in JSON"
_FEW = "a few watches need no limit"
_KLOG = "lines go to standard error"
_USER_SPACE = "of the user space mode"
_WINDOWS = "of Windows"

VALUES: Mapping[str, str] = {
    "--proxy-mode": "this proxy always works as the mode ipvs does",
    "--config-sync-period": "watches are renewed by themselves",
    "--feature-gates": "there are none here",
    "--iptables-min-sync-period": "--min-sync-period counts",
    "--iptables-sync-period": "--sync-period counts",
    "--kube-api-burst": _FEW,
    "--kube-api-qps": _FEW,
    "--kube-api-content-type": _JSON,
    "--show-hidden-metrics-for-version": "no metric is hidden",
    "--healthz-port": "--healthz-bind-address has taken its place",
    "--metrics-port": "--metrics-bind-address has taken its place",
    "--proxy-port-range": _USER_SPACE,
    "--udp-timeout": _USER_SPACE,
    "--resource-container": "kube-proxy ignores it too",
    "--boot-id-file": "kube-proxy ignores it too",
    "--machine-id-file": "kube-proxy ignores it too",
    "--log-backtrace-at": _KLOG,
    "--log-dir": _KLOG,
    "--log-file": _KLOG,
    "--log-file-max-size": _KLOG,
    "--log-flush-frequency": "lines are written at once",
    "--log-json-info-buffer-size": _KLOG,
    "--log-text-info-buffer-size": _KLOG,
    "--stderrthreshold": _KLOG,
    "--vmodule": "-v is for all",
    "--forward-healthcheck-vip": _WINDOWS,
    "--network-name": _WINDOWS,
    "--root-hnsendpoint-name": _WINDOWS,
    "--source-vip": _WINDOWS,
}
"""Flags with a value, and why they are without effect."""

SWITCHES: Mapping[str, str] = {
    "--bind-address-hard-fail": "a port that is taken is a condition and is tried again",
    "--iptables-localhost-nodeports": "IPVS serves no NodePort on loopback",
    "--profiling": "there are no profiling pages",
    "--add-dir-header": _KLOG,
    "--alsologtostderr": _KLOG,
    "--log-json-split-stream": _KLOG,
    "--log-text-split-stream": _KLOG,
    "--logtostderr": _KLOG,
    "--one-output": _KLOG,
    "--skip-headers": _KLOG,
    "--skip-log-headers": _KLOG,
    "--enable-dsr": _WINDOWS,
    "--windows-service": _WINDOWS,
}
"""Flags that are true or false (`--profiling`, `--profiling=false`)."""

_CLEANUPS = ("--cleanup", "--cleanup-ipvs", "--cleanup-iptables")


def accept_kube_proxy_flags(command: Command) -> Command:
    """Let a command accept kube-proxy's flags; it gets them as keywords, see `without_effect`.

    They are left out of its help, which is about what has an effect.
    """
    for name in reversed((*VALUES, *SWITCHES, *_CLEANUPS)):
        implied = None if name in VALUES else "true"
        command = click.option(
            name, _keyword(name), hidden=True, default=None, is_flag=False, flag_value=implied
        )(command)
    return command


def without_effect(given: dict[str, object]) -> str:
    """Take kube-proxy's flags out of the keywords of a command; name those that were given.

    One line, empty where none was. Raises WrongSettingError for --cleanup, which is a command here.
    """
    reasons = {**VALUES, **SWITCHES}
    for name in _CLEANUPS:
        if given.pop(_keyword(name)) not in (None, "false"):
            raise WrongSettingError(f"{name}: run `ipvsproxy cleanup` instead")
    values = {name: given.pop(_keyword(name)) for name in reasons}
    if values["--proxy-mode"] in ("ipvs", ""):
        del values["--proxy-mode"]
    named = [f"{name} ({reasons[name]})" for name, value in values.items() if value is not None]
    return f"without effect here: {', '.join(named)}" if named else ""


def _keyword(name: str) -> str:
    return f"kube_proxy_{name.removeprefix('--').replace('-', '_')}"
