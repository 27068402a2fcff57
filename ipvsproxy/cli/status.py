"""`ipvsproxy status`: what is balanced now, and what is wrong.

Knows its flags and how the table looks; the values come from `agent.status`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ipvsproxy.cli.options import (
    WrongSettingError,
    follow,
    output_option,
    resolve,
    setting_options,
)

if TYPE_CHECKING:
    from ipvsproxy.config import Settings

EPILOG = """\b
exit status:
  0  nothing is wrong, and the agent is in step
  1  something is wrong (it is listed), the agent does not answer or is not in step, or the kernel
     cannot be read
  2  wrong usage
"""


@click.command(short_help="Show Services, schedulers, real servers, and problems.", epilog=EPILOG)
@output_option
@setting_options("config", "node_name", "metrics_bind_address")
def status(*, output: str, **flags: object) -> None:
    """Show what the kernel balances: Services, schedulers, real servers with their connections.

    The kernel is read (which needs root, or CAP_NET_ADMIN); the running agent is asked, on its
    metrics address, which Service is whose and what is wrong. Without an agent the kernel's side
    is shown alone.

    \b
    Examples:
      ipvsproxy status
      ipvsproxy status --output json
    """  # noqa: D301 - \b keeps lines as they are
    settings = _settings(flags)

    from ipvsproxy import agent  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.cli import logs, render  # noqa: PLC0415

    logs.quiet()
    table = follow(agent.status(settings))
    if output == "text" and sys.stdout.isatty():
        render.status_on_terminal(table)
    else:
        render.report(table, output, render.status_text)
    wrong = table.problems or any(row.problems for row in table.rows) or not table.in_step
    sys.exit(1 if wrong else 0)


def _settings(flags: dict[str, object]) -> Settings:
    """Return the settings, without a file that is wrong where only the environment names it.

    That is the running agent's file, which has become wrong: what the agent says of it is what was
    asked for.
    """
    try:
        return resolve(flags).settings
    except WrongSettingError as error:
        given = click.get_current_context().get_parameter_source("config_file")
        if given is not ParameterSource.ENVIRONMENT:
            raise
        click.echo(f"Warning: {error.format_message()}", err=True)
        return resolve(flags | {"config_file": None}).settings
