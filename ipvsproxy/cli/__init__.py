"""The command line: one module for each command, and what they share.

Knows flags, exit statuses and how things look; what a command does is in `agent`, `http` and
`kernel.preflight`. The environment is read here for the settings (`options.resolve`) and for what a
pod is told of its API server (`run.require_source`), else in `agent` only.
Modules that cost time to import are imported inside the commands, so that `--help` is quick.

    options           the flags, and the settings that they make with environment and file
    kube_proxy_flags  flags of kube-proxy's that have no effect
    run               follow the source; each other command has a module of its name too:
                      `status`, `plan`, `explain`, `preflight`, `cleanup`, `config`, `version`
    explain_text      how a packet's way is told
    render            how answers look: text, a table, JSON
    logs              how log lines look
    lean_libraries    libraries without what they import and no run uses

What is asked of a running agent goes over HTTP.
"""

from __future__ import annotations

import click

from ipvsproxy import __version__
from ipvsproxy.cli.cleanup import cleanup
from ipvsproxy.cli.config import config
from ipvsproxy.cli.explain import explain
from ipvsproxy.cli.plan import plan
from ipvsproxy.cli.preflight import preflight
from ipvsproxy.cli.run import run
from ipvsproxy.cli.status import status
from ipvsproxy.cli.version import version

__all__ = ["main"]

EXIT_STATUSES = """\b
exit status (each command's --help says more):
  0  done, nothing wrong
  1  something is wrong; it is said in one line each
  2  wrong usage; `plan`: something would change
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_STATUSES,
)
@click.version_option(__version__, prog_name="ipvsproxy")
def main() -> None:
    """Keep the kernel's IPVS table equal to what Kubernetes Services ask for.

    One agent for each Linux node; it takes the place of kube-proxy's IPVS mode. The scheduler of
    each Service is chosen by its annotation ipvsproxy.io/scheduler.

    \b
    Examples:
      ipvsproxy preflight                          is this node able to?
      ipvsproxy plan --manifests ./services        what would change?
      ipvsproxy run --manifests ./services --once  do it, then leave
      ipvsproxy run --kubeconfig /etc/kubernetes/kubelet.conf
      ipvsproxy status                             what is balanced, how, and what is wrong
      ipvsproxy explain --service default/web      who reaches it, and whom
    """  # noqa: D301 - \b keeps lines as they are


for _command in (run, status, explain, plan, preflight, cleanup, config, version):
    main.add_command(_command)
