"""`ipvsproxy plan`: what `run` would change.

Knows its flags, its exit statuses and how the answer looks; planning is `agent.plan`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ipvsproxy.cli.options import follow, output_option, resolve, setting_options
from ipvsproxy.cli.run import require_source

EPILOG = """\b
exit status, as `terraform plan -detailed-exitcode` has them:
  0  nothing would change
  1  it cannot be said: wrong usage, or the sources or the kernel cannot be read
  2  something would change
"""
CHANGES = 2


@contextmanager
def _usage_exits_with_1() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        vars(error)["exit_code"] = 1
        raise


class _PlanCommand(click.Command):
    """A command whose usage errors exit with 1, as 2 says that something would change."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> click.Context:
        with _usage_exits_with_1():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        with _usage_exits_with_1():
            return super().invoke(ctx)


@click.command(cls=_PlanCommand, short_help="Show what `run` would change.", epilog=EPILOG)
@output_option
@setting_options()
def plan(*, output: str, **flags: object) -> None:
    """Show what `run` would change in the kernel's tables, in its order, and change nothing.

    \b
    Examples:
      ipvsproxy plan --manifests ./services
      ipvsproxy plan --kubeconfig ~/.kube/config --output json
    """  # noqa: D301 - \b keeps lines as they are
    resolved = resolve(flags)
    require_source(resolved)

    from ipvsproxy import agent  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.cli import logs, render  # noqa: PLC0415

    settings = resolved.settings
    logs.quiet()
    report = follow(agent.plan(settings))
    render.report(report, output, render.plan_text)
    sys.exit(CHANGES if report.operations else 0 if report.whole else 1)
