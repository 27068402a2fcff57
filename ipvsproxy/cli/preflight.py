"""`ipvsproxy preflight`: whether this node is able to run the agent, and ready to be switched over.

Knows how the checks are shown; `kernel.preflight` examines the node, `agent.switching` what a
predecessor left there, and `http` finds neighbours.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ipvsproxy.cli.options import output_option, resolve, setting_options

if TYPE_CHECKING:
    from ipvsproxy.config import Settings
    from ipvsproxy.http import Neighbour
    from ipvsproxy.telemetry import Check

EPILOG = """\b
exit status:
  0  the agent can run here; a warning names what only some Services need
  1  something that it needs is missing
  2  wrong usage
"""


@click.command(short_help="Check whether this node can run the agent.", epilog=EPILOG)
@output_option
@setting_options(
    "config",
    "node_name",
    "default_scheduler",
    "iptables_backend",
    "metrics_bind_address",
    "node_port_addresses",
)
def preflight(*, output: str, **flags: object) -> None:
    """Check whether this node can run the agent: kernel, modules, schedulers, programs, rights.

    And, where another proxy served, whether it can be switched over: who that was, what becomes of
    it, and what stands in the way.

    Schedulers, ipsets, rules and the dummy interface are tried in a network namespace that is
    thrown away, so nothing of the node is changed, but that the kernel may load modules. That takes
    root, in a pod a privileged one: the agent's own container may neither try nor write settings.

    \b
    Examples:
      ipvsproxy preflight
      ipvsproxy preflight --default-scheduler mh --output json
    """  # noqa: D301 - \b keeps lines as they are
    settings = resolve(flags).settings

    from ipvsproxy.cli import logs, render  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.telemetry import Verdict  # noqa: PLC0415

    logs.quiet()
    checks = asyncio.run(_checks(settings))
    if output == "text" and sys.stdout.isatty():
        render.checks_on_terminal(checks)
    else:
        render.report(checks, output, render.checks_text)
    sys.exit(1 if any(check.verdict is Verdict.FAIL for check in checks) else 0)


async def _checks(settings: Settings) -> tuple[Check, ...]:
    from ipvsproxy import agent, http  # noqa: PLC0415
    from ipvsproxy.kernel.preflight import check_node  # noqa: PLC0415

    checks = (*check_node(settings), *await agent.readiness(settings))
    neighbour = await http.find_neighbour(settings.metrics_bind_address)
    asked = http.neighbour_addresses(settings.metrics_bind_address)
    return (*checks, neighbour_check(neighbour, asked))


def neighbour_check(neighbour: Neighbour | None, asked: Sequence[str]) -> Check:
    """Say whether another service proxy runs on this node; two would undo each other's work."""
    from ipvsproxy.telemetry import Check, Verdict  # noqa: PLC0415

    name = "other proxy"
    if neighbour is None:
        return Check(name, Verdict.OK, f"none answers on {' or '.join(asked)}")
    if neighbour.is_ours:
        return Check(
            name,
            Verdict.WARN,
            f"an ipvsproxy runs already (it answers on {neighbour.address})",
            "stop it before another is started",
        )
    return Check(
        name,
        Verdict.WARN,
        f"kube-proxy runs in mode {neighbour.mode} (it answers on {neighbour.address})",
        "take kube-proxy off this node before the agent is started, or start it with --take-over",
    )
