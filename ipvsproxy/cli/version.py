"""`ipvsproxy version`.

Answers without settings, source or kernel, so that it works wherever the program does.
"""

from __future__ import annotations

import json
import platform

import click

from ipvsproxy import __version__
from ipvsproxy.cli.options import output_option


@click.command(short_help="Say which version this is.")
@output_option
def version(output: str) -> None:
    """Say which version this is, of which Python and kernel."""
    facts = {
        "ipvsproxy": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if output == "json":
        click.echo(json.dumps(facts))
    else:
        click.echo("\n".join(f"{name} {value}" for name, value in facts.items()))
