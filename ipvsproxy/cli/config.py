"""`ipvsproxy config`: what is wrong with a configuration file, what is in force, and conversion.

Knows how the answers look; reading files is the package `config`'s. None of it touches the kernel
or the API.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ipvsproxy.cli.options import (
    WrongSettingError,
    output_option,
    read_text,
    resolve,
    setting_options,
    stdin_text,
)
from ipvsproxy.config.values import ConfigurationError

if TYPE_CHECKING:
    from ipvsproxy.config import Resolved

_SOUND = "nothing is wrong"
_ANY_HOST = "host"
"""Stands for the host's name, which is not the file's affair."""

CHECK_EPILOG = """\b
exit status:
  0  the file is right; a warning names what has no effect
  1  something in it is wrong; each thing has a line
  2  wrong usage, or the file cannot be read
"""
CONVERT_EPILOG = """\b
exit status:
  0  converted; what has no equal here is named on standard error
  1  something in the file is wrong; each thing has a line
  2  wrong usage, or the file cannot be read
"""
SHOW_EPILOG = """\b
exit status:
  0  shown
  2  wrong usage, or a setting is wrong
"""

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group(short_help="Check, show or convert the configuration.")
def config() -> None:
    """Check, show or convert the configuration.

    \b
    Examples:
      ipvsproxy config check /etc/ipvsproxy/config.yaml
      ipvsproxy config show --config /var/lib/kube-proxy/config.conf
      kubectl -n kube-system get cm kube-proxy -o yaml | ipvsproxy config convert -
    """  # noqa: D301 - \b keeps lines as they are


@config.command(short_help="Say all that is wrong with a file.", epilog=CHECK_EPILOG)
@output_option
@file_argument
def check(*, output: str, file: Path) -> None:
    """Say all that is wrong with a configuration FILE, ours or kube-proxy's (- is standard input).

    Flags and environment do not count here.
    """
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    try:
        warnings = _load(_text(file)).warnings
    except ConfigurationError as error:
        problems = error.problems

    from ipvsproxy.cli import render  # noqa: PLC0415 - costs time that --help need not take

    render.report(
        {"problems": problems, "warnings": warnings},
        output,
        lambda _: "".join(
            f"{line}\n"
            for line in (*problems, *(f"warning: {one}" for one in warnings), *_sound(problems))
        ),
    )
    sys.exit(1 if problems else 0)


@config.command(short_help="Show all settings and where each comes from.", epilog=SHOW_EPILOG)
@output_option
@setting_options()
def show(*, output: str, **flags: object) -> None:
    """Show the settings that `run` would have with these flags, and where each comes from."""
    resolved = resolve(flags)

    from ipvsproxy.cli import render  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.config import effective, name_in_file  # noqa: PLC0415

    _warn(resolved)
    shown = {
        name_in_file(field): {
            "value": value,
            "source": str(resolved.sources[field]),
            "place": resolved.places.get(field, ""),
        }
        for field, value in effective(resolved.settings).items()
    }
    lines = [
        (name, _value(one["value"]), str(one["place"] or one["source"]))
        for name, one in shown.items()
    ]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    render.report(
        shown,
        output,
        lambda _: "".join(
            f"{name:<{widths[0]}}  {value:<{widths[1]}}  {place}\n" for name, value, place in lines
        ),
    )


@config.command(short_help="Make a file of ours from kube-proxy's.", epilog=CONVERT_EPILOG)
@file_argument
def convert(*, file: Path) -> None:
    """Write a file of our own kind, on standard output, that means what FILE means here.

    FILE is kube-proxy's configuration, or the ConfigMap that it is in as kubectl prints it (- is
    standard input).
    """
    from ipvsproxy.config.files import config_of_config_map  # noqa: PLC0415 - as above
    from ipvsproxy.config.writing import converted  # noqa: PLC0415

    text = _text(file)
    try:
        resolved = _load(config_of_config_map(text))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    _warn(resolved)
    click.echo(converted(resolved), nl=False)


def _load(text: str) -> Resolved:
    """Read a file by itself. Raises ConfigurationError."""
    from ipvsproxy.config import load  # noqa: PLC0415 - as above

    return load({}, {}, text, host_name=_ANY_HOST)


def _text(file: Path) -> str:
    try:
        return stdin_text() if str(file) == "-" else read_text(file)
    except ConfigurationError as error:
        raise WrongSettingError(str(error)) from None


def _warn(resolved: Resolved) -> None:
    for warning in resolved.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _sound(problems: tuple[str, ...]) -> tuple[str, ...]:
    return () if problems else (_SOUND,)


def _value(value: object) -> str:
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
