"""How the answer of `explain` looks as text.

Knows which steps are worth a line: those that ask a set or decide something; all of them are in the
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsproxy.telemetry.explanations import CandidateRow, ExplainReport, Explanation, StepRow

_DECIDING = frozenset({"ACCEPT", "DROP", "REJECT", "MARK", "MASQUERADE", "DNAT", "RETURN", ""})
_HOOK_WIDTH = len("POSTROUTING")
_FAILS = "it fails its health check from this node"


def explain_text(report: ExplainReport) -> str:
    """Write what happens to each packet and why, then what could not be explained."""
    parts = ["\n".join(_lines(one)) for one in report.explanations]
    parts += [f"problem: {problem}" for problem in report.problems]
    return "".join(f"{part}\n" for part in "\n\n".join(parts).splitlines())


def _lines(one: Explanation) -> Iterator[str]:
    way = f" by {one.interface}" if one.interface is not None else ""
    yield f"{one.sender} {one.source}{way} -> {one.destination}: {_verdict(one)}"
    yield f"  {one.reason}"
    if one.virtual_server:
        yield f"  {_server(one)}"
    width = max((len(row.address) for row in one.candidates), default=0)
    for row in one.candidates:
        failing = f"; {_FAILS}, as too many do" if row.address in one.unhealthy else ""
        yield f"    {row.address:<{width}}  weight {row.weight}  {_seen(row)}{failing}"
    for address in one.resting:
        failing = f": {_FAILS}" if address in one.unhealthy else ""
        yield f"    {address:<{width}}  weight 0  takes no new connection{failing}"
    rules = (row.by for row in one.candidates if row.masqueraded and row.by is not None)
    for by in dict.fromkeys(rules):
        yield f"  this node's address by {by.table} {by.chain}: {by.rule}"
    yield "  because:"
    for step in one.steps:
        yield from _step_lines(step)


def _verdict(one: Explanation) -> str:
    return "served" if one.served else "not served"


def _step_lines(step: StepRow) -> Iterator[str]:
    if not step.because and step.verdict not in _DECIDING:
        return
    place = f"{step.table} {step.chain}: " if step.table else ""
    reason = "; ".join(step.because)
    if step.table:
        yield f"    {step.hook:<{_HOOK_WIDTH}}  {place}{step.rule}"
        if reason:
            yield f"    {'':<{_HOOK_WIDTH}}    {reason}"
    else:
        verdict = f" {step.verdict}:" if step.verdict else ""
        yield f"    {step.hook:<{_HOOK_WIDTH}}  {step.rule}:{verdict} {reason}"


def _server(one: Explanation) -> str:
    words = [f"scheduler {one.scheduler}"]
    if one.persistence:
        words.append(f"a client keeps its real server for {one.persistence} s")
    port = f", port {one.port}" if one.port else ""
    whose = f"of Service {one.service}{port}" if one.service else "of a Service that no agent names"
    return f"{one.virtual_server} is {whose}; {'; '.join(words)}"


def _seen(row: CandidateRow) -> str:
    if row.stopped and row.by is not None:
        return f"not reached: {row.by.table} {row.by.chain}: {row.by.rule}"
    return "sees this node" if row.source is None else f"sees {row.source}"
