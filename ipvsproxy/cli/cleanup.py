"""`ipvsproxy cleanup`: takes away what is ours, or another proxy's, or what kube-proxy cannot use.

Knows its flags and how the answer looks; what is whose is for `core` to say.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import click

from ipvsproxy.cli.options import follow, output_option, resolve, setting_options

if TYPE_CHECKING:
    from ipvsproxy.config import Settings
    from ipvsproxy.telemetry import CleanupReport

PREDECESSORS = ("kube-proxy-ipvs", "kube-proxy-iptables", "kube-proxy-nftables", "kube-router")
"""The names of core.predecessors, which costs time to import."""
EPILOG = """\b
exit status:
  0  done, or nothing was there
  1  something could not be removed, another proxy runs, or the kernel cannot be read
  2  wrong usage
"""


@click.command(short_help="Remove what is ours, or another proxy's.", epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option(
    "--foreign",
    type=click.Choice(PREDECESSORS),
    help="Remove what another proxy left instead, now that ipvsproxy serves.",
)
@click.option(
    "--hand-over",
    is_flag=True,
    help="Remove only what kube-proxy does not know, and leave the rest serving, to go back to it.",
)
@output_option
@setting_options(
    "config",
    "node_name",
    "exclude_cidrs",
    "take_over",
    "iptables_backend",
    "metrics_bind_address",
)
def cleanup(
    *, dry_run: bool, foreign: str | None, hand_over: bool, output: str, **flags: object
) -> None:
    """Remove what is ours from the kernel, and nothing else.

    Ours are the virtual servers in the ledger (the ipsets IPVSPROXY-OWN) or with an address on
    kube-ipvs0 of which the ledger says nothing, that interface, our ipsets and our iptables chains.
    Virtual servers of others stay, as does what --exclude-cidrs names, with all that it needs.

    Stop the agent first: Services are not served afterwards. Beside a kube-proxy, whose chains and
    sets have the same names, it refuses without --take-over.

    With --hand-over, Services go on being served, and kube-proxy in mode ipvs may be started.

    With --foreign, the agent may run, and has to have run: as long as the other proxy's rules may
    still serve, nothing is removed. Only what is that proxy's alone is; kube-router's network
    policies and routes are not.

    \b
    Examples:
      ipvsproxy cleanup --dry-run
      ipvsproxy cleanup
      ipvsproxy cleanup --hand-over
      ipvsproxy cleanup --foreign kube-proxy-iptables --dry-run
    """  # noqa: D301 - \b keeps lines as they are
    if foreign is not None and hand_over:
        raise click.UsageError("give either --foreign or --hand-over")
    settings = resolve(flags).settings

    from ipvsproxy.cli import logs, render  # noqa: PLC0415 - costs time that --help need not take

    logs.quiet()
    report = follow(_work(settings, foreign, hand_over=hand_over, dry_run=dry_run))
    render.report(report, output, render.dry_cleanup_text if dry_run else render.cleanup_text)
    sys.exit(1 if report.refused else 0)


def _work(
    settings: Settings, foreign: str | None, *, hand_over: bool, dry_run: bool
) -> Coroutine[object, object, CleanupReport]:
    from ipvsproxy import agent  # noqa: PLC0415 - as above
    from ipvsproxy.core.predecessors import Predecessor  # noqa: PLC0415

    if foreign is not None:
        return agent.clean_up_after(settings, Predecessor(foreign), dry_run=dry_run)
    if hand_over:
        return agent.hand_over(settings, dry_run=dry_run)
    return agent.cleanup(settings, dry_run=dry_run)
