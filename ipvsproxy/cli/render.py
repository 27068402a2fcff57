"""How the commands' answers look: plain text, a table on a terminal, JSON.

Knows widths, columns and colours, and the values of `telemetry` that are shown; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import click
import msgspec
from rich.console import Console
from rich.text import Text

from ipvsproxy.telemetry import (
    CLUSTER_IP,
    Check,
    CleanupReport,
    PlanReport,
    RealServerRow,
    StatusRow,
    StatusTable,
    Verdict,
)

R = TypeVar("R")

STATUS_HEADINGS = (
    "SERVICE",
    "PORT",
    "PROTOCOL",
    "KIND",
    "ADDRESS",
    "SCHEDULER",
    "PERSISTENCE",
    "REAL SERVER",
    "WEIGHT",
    "ACTIVE",
    "INACTIVE",
    "STATE",
)
_NUMBERS = frozenset({"WEIGHT", "ACTIVE", "INACTIVE"})
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
_CLEAN = "nothing to remove"
NO_AGENT = "no agent answers on this node: Service names and problems are not known"


def report(value: R, output: str, text: Callable[[R], str]) -> None:
    """Write an answer on standard output, as JSON or as the text that `text` makes of it."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
    else:
        click.echo(text(value), nl=False)


def plan_text(plan: PlanReport) -> str:
    """Write a plan: a line for each operation, then what is wrong, then a sentence."""
    lines = [*plan.operations, *_problem_lines(plan.problems)]
    lines += (
        f"NodePorts would no longer be served on {address}"
        for address in plan.lost_node_port_addresses
    )
    lines.append(f"{_count(len(plan.operations), 'change')} would be made")
    return _text(lines)


def cleanup_text(cleanup: CleanupReport) -> str:
    """Write what was removed and what stayed."""
    lines = [*cleanup.operations, *(f"refused: {line}" for line in cleanup.refused)]
    done = len(cleanup.operations)
    lines.append(f"{_count(done, 'change')} made" if lines else _CLEAN)
    return _text(lines)


def dry_cleanup_text(cleanup: CleanupReport) -> str:
    """Write what would be removed."""
    lines = [*cleanup.operations, *(f"refused: {line}" for line in cleanup.refused)]
    done = len(cleanup.operations)
    lines.append(f"{_count(done, 'change')} would be made" if lines else _CLEAN)
    return _text(lines)


def status_text(table: StatusTable) -> str:
    """Write the status table in columns as wide as their contents, whatever the terminal's."""
    return _text([*(line for _, line in _table_lines(table)), "", *_below(table)])


def status_on_terminal(table: StatusTable) -> None:
    """Write the status table on a terminal, with problems in colour; where it is narrow, a list.

    No address is ever broken: it is there to be copied.
    """
    console = Console()
    lines = _table_lines(table)
    if any(len(line) > console.width for _, line in lines):
        lines = [line for row in table.rows for line in _list_lines(row)]
    for style, line in (*lines, ("", ""), *(("", line) for line in _below(table))):
        _print(console, style, line)


def checks_text(checks: Sequence[Check]) -> str:
    """Write a checklist: verdict, name, finding, and the mend below."""
    return _text([line for check in checks for _, line in _check_lines(checks, check)])


def checks_on_terminal(checks: Sequence[Check]) -> None:
    """Write a checklist on a terminal, verdicts in colour."""
    console = Console()
    for check in checks:
        for style, line in _check_lines(checks, check):
            _print(console, style, line)


def _print(console: Console, style: str, line: str) -> None:
    """Write a line as it is: rich reads markup in text, and pictures in an address's `:1234:`."""
    console.print(Text(line, style), soft_wrap=True)


def _check_lines(checks: Sequence[Check], check: Check) -> Iterator[tuple[str, str]]:
    width = max(len(one.name) for one in checks)
    style = "" if check.verdict is Verdict.OK else _STYLES[check.verdict]
    yield style, f"{check.verdict:<4}  {check.name:<{width}}  {check.finding}".rstrip()
    if check.mend:
        yield style, f"{'':<{width + 6}}  → {check.mend}"


def _table_lines(table: StatusTable) -> list[tuple[str, str]]:
    """Make the lines of the table, each with its style."""
    rows = [(_row_style(row), cells) for row in table.rows for cells in _cells(row)]
    if not rows:
        return [("", "no virtual server of ours")]
    lines = _columns(_needed(table, (STATUS_HEADINGS, *(cells for _, cells in rows))))
    return list(zip(("bold", *(style for style, _ in rows)), lines, strict=True))


def _needed(table: StatusTable, rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Leave out the kinds where all are ClusterIPs: a line is long enough."""
    if any(_kind(row) for row in table.rows):
        return rows
    kind = STATUS_HEADINGS.index("KIND")
    return [(*cells[:kind], *cells[kind + 1 :]) for cells in rows]


def _kind(row: StatusRow) -> str:
    """Give the kind of a frontend that is worth a word."""
    return "" if row.kind == CLUSTER_IP else row.kind


def _list_lines(row: StatusRow) -> Iterator[tuple[str, str]]:
    """Make the lines of one frontend for a narrow terminal, each with its style."""
    style = _row_style(row)
    kept = f", persistence {row.persistence}s" if row.persistence else ""
    name = f"{row.service or '-'} {row.port}"
    kind = f"  {_kind(row)}" if _kind(row) else ""
    yield style or "bold", f"{name}  {row.address}/{row.protocol}{kind}  {_scheduler(row)}{kept}"
    for server in row.real_servers:
        counts = f"weight {server.weight}, active {server.active}, inactive {server.inactive}"
        yield style, f"  → {server.address}  {counts}{_state(server, ', ')}"


def _row_style(row: StatusRow) -> str:
    return "red" if row.problems else ""


def _cells(row: StatusRow) -> Iterator[tuple[str, ...]]:
    """Make the lines of one frontend: itself with the first real server, then the others."""
    head = (
        row.service or "-",
        row.port,
        row.protocol,
        row.kind or "-",
        row.address,
        _scheduler(row),
        f"{row.persistence}s" if row.persistence else "-",
    )
    servers = [_server_cells(server) for server in row.real_servers] or [("-", "", "", "", "")]
    yield (*head, *servers[0])
    for server in servers[1:]:
        yield (*("" for _ in head), *server)


def _scheduler(row: StatusRow) -> str:
    asked = row.annotated
    if asked is None or asked == row.scheduler:
        return row.scheduler or "-"
    return f"{row.scheduler or '-'} (asked: {asked})"


def _server_cells(server: RealServerRow) -> tuple[str, ...]:
    return (
        server.address,
        str(server.weight),
        str(server.active),
        str(server.inactive),
        _state(server),
    )


def _below(table: StatusTable) -> Iterator[str]:
    """Make what stands below the table: problems, each once, and who answered."""
    of_services = (
        f"{row.service or row.address}: {problem}" for row in table.rows for problem in row.problems
    )
    yield from _problem_lines(tuple(dict.fromkeys((*table.problems, *of_services))))
    yield from (f"note: {note}" for note in table.notes)
    yield table.agent if table.agent is not None else NO_AGENT


def _problem_lines(problems: Sequence[str]) -> Iterator[str]:
    return (f"problem: {problem}" for problem in problems)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows in columns; the first row has the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for cell, width, heading in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in rows
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _state(server: RealServerRow, before: str = "") -> str:
    words = [word for word in ("draining", "unhealthy") if getattr(server, word)]
    return f"{before}{', '.join(words)}" if words else ""
