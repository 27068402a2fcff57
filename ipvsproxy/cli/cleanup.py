"""`ipvsproxy cleanup`: takes away what is ours.

Knows its flags and how the answer looks; what is ours is for `core.cleanup` to say.
"""

from __future__ import annotations

import sys

import click

from ipvsproxy.cli.options import follow, output_option, resolve, setting_options

EPILOG = """\b
exit status:
  0  done, or nothing was there
  1  something could not be removed, another proxy runs, or the kernel cannot be read
  2  wrong usage
"""


@click.command(short_help="Remove what is ours from the kernel.", epilog=EPILOG)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@output_option
@setting_options(
    "config",
    "node_name",
    "exclude_cidrs",
    "take_over",
    "iptables_backend",
    "metrics_bind_address",
)
def cleanup(*, dry_run: bool, output: str, **flags: object) -> None:
    """Remove what is ours from the kernel, and nothing else.

    Ours are the virtual servers in the ledger (the ipsets IPVSPROXY-OWN) or with an address on
    kube-ipvs0 of which the ledger says nothing, that interface, our ipsets and our iptables chains.
    Virtual servers of others stay, as does what --exclude-cidrs names, with all that it needs.

    Stop the agent first: Services are not served afterwards. Beside a kube-proxy, whose chains and
    sets have the same names, it refuses without --take-over.

    \b
    Examples:
      ipvsproxy cleanup --dry-run
      ipvsproxy cleanup
    """  # noqa: D301 - \b keeps lines as they are
    settings = resolve(flags).settings

    from ipvsproxy import agent  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.cli import logs, render  # noqa: PLC0415

    logs.quiet()
    report = follow(agent.cleanup(settings, dry_run=dry_run))
    render.report(report, output, render.dry_cleanup_text if dry_run else render.cleanup_text)
    sys.exit(1 if report.refused else 0)
