"""`ipvsproxy run`: the agent.

Knows its flags and which of them contradict each other; running is `agent.run`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ipvsproxy.cli.kube_proxy_flags import accept_kube_proxy_flags, without_effect
from ipvsproxy.cli.options import (
    WrongSettingError,
    follow,
    read_settings,
    resolve,
    setting_options,
    switch,
)

if TYPE_CHECKING:
    from ipvsproxy.config import Resolved

EPILOG = """\b
Every setting can also come from the environment (IPVSPROXY_SYNC_PERIOD=1m) or from --config,
which IPVSPROXY_CONFIG can name; a flag goes before the environment, that before the file.

\b
exit status:
  0  stopped by a signal; with --once: all is applied
  1  with --once: something was refused or could not be read; with --init-only: something that is
     needed is missing; else the agent could not go on
  2  wrong usage
The kernel's tables stay as they are when the agent ends, and traffic flows on.
"""

_IN_POD = "KUBERNETES_SERVICE_HOST"
_WEAKER = ("flag", "environment", "file", "default")
"""Where a setting can come from, each weaker than the one before it."""


@click.command(short_help="Keep the kernel's tables as the Services ask for.", epilog=EPILOG)
@click.option("--once", is_flag=True, help="One complete synchronisation, then exit.")
@switch(
    "--init-only",
    help="Load kernel modules and write kernel settings, then exit: for an init container.",
)
@click.option(
    "--write-config-to",
    metavar="FILE",
    default=None,
    help="Write the settings into a configuration file of our own kind, then exit.",
)
@setting_options()
@accept_kube_proxy_flags
def run(*, once: bool, init_only: str | None, write_config_to: str | None, **flags: object) -> None:
    """Keep the kernel's tables as the Services ask for, until a signal comes.

    Services come from a folder of manifests or from the Kubernetes API; without --manifests,
    --kubeconfig and --master from the API, by the ServiceAccount of the pod.

    \b
    Examples:
      ipvsproxy run --manifests ./services --hostname-override node-a
      ipvsproxy run --kubeconfig /etc/kubernetes/kubelet.conf --cluster-cidr 10.244.0.0/16
      ipvsproxy run --config /var/lib/kube-proxy/config.conf
      ipvsproxy run --manifests ./services --once

    A command line of kube-proxy does as it is: flags of it that have no effect here are accepted,
    and named in a warning. With --config the file is followed, and what can be changed live is.
    """  # noqa: D301 - \b keeps lines as they are
    in_vain = without_effect(flags)
    resolved = resolve(flags)
    if write_config_to is not None:
        write_settings(resolved, Path(write_config_to))
        return
    if init_only is not None and init_only != "false":
        prepare(resolved)
    require_source(resolved)

    from ipvsproxy.agent import memory  # noqa: PLC0415 - as below

    memory.begin()
    from ipvsproxy.cli.lean_libraries import import_libraries  # noqa: PLC0415

    import_libraries()
    import structlog  # noqa: PLC0415 - costs time that --help need not take

    from ipvsproxy import agent  # noqa: PLC0415
    from ipvsproxy.cli import logs  # noqa: PLC0415
    from ipvsproxy.config import effective  # noqa: PLC0415

    settings = resolved.settings
    logs.configure(settings.log_format, settings.verbosity, node=settings.node_name)
    log = structlog.get_logger("ipvsproxy.config")
    for warning in (*((in_vain,) if in_vain else ()), *resolved.warnings):
        log.warning("configuration", warning=warning)
    for name, value in effective(settings).items():
        log.debug("setting", setting=name, value=value, source=str(resolved.sources[name]))
    if once:
        sys.exit(follow(agent.run_once(settings)))
    path = flags["config_file"]
    file = None
    if path is not None:
        file = agent.ConfigFile(
            Path(str(path)),
            read=lambda: read_settings(flags),
            took=lambda new: logs.configure(new.log_format, new.verbosity, node=new.node_name),
        )
    sys.exit(follow(agent.run(settings, file)))


def prepare(resolved: Resolved) -> NoReturn:
    """Do what takes more rights than the agent needs, say what was done, and exit."""
    from ipvsproxy.cli import logs, render  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.kernel import initial  # noqa: PLC0415
    from ipvsproxy.telemetry import Verdict  # noqa: PLC0415

    logs.quiet()
    for warning in resolved.warnings:
        click.echo(f"Warning: {warning}", err=True)
    checks = initial.prepare(resolved.settings)
    click.echo(render.checks_text(checks), nl=False)
    sys.exit(1 if any(check.verdict is Verdict.FAIL for check in checks) else 0)


def write_settings(resolved: Resolved, path: Path) -> None:
    """Write all settings that are in force into a file. Raises ClickException."""
    from ipvsproxy.config.writing import own_file  # noqa: PLC0415 - as above

    try:
        path.write_text(own_file(resolved.settings), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def require_source(resolved: Resolved) -> None:
    """Raise WrongSettingError when nothing says where Services come from, or two things do.

    A folder goes before an API server that was named in a weaker place: kube-proxy's file always
    names one.
    """
    settings, sources = resolved.settings, resolved.sources
    if settings.manifests:
        others = [sources[name] for name in ("kubeconfig", "master") if getattr(settings, name)]
        if any(_WEAKER.index(sources["manifests"]) >= _WEAKER.index(other) for other in others):
            raise WrongSettingError(
                "two sources: give either --manifests, or --kubeconfig and --master"
            )
    elif not (settings.kubeconfig or settings.master or os.environ.get(_IN_POD)):
        if _IN_POD in os.environ:
            raise WrongSettingError(
                f"{_IN_POD} is set but empty: write the API server's real address into the key "
                "kubernetesServiceHost of the ConfigMap ipvsproxy"
            )
        raise WrongSettingError(
            "nothing to follow: give --manifests DIR, --kubeconfig FILE or --master URL "
            "(only in a pod can all three be left out)"
        )
