"""Scenario pages: what a page of text says is done and expected, read and written back.

Knows the form of a page and nothing of agents; `stage` plays it. A page begins with what it is
about, in prose, and goes on in sections that a line `-- heading --` begins:

    -- settings --             `node`, `cluster-cidr`, `exclude-cidrs`, `lacks` (schedulers that
                               the kernel has not), `set-capacity`, `foundation: shown`, `chains:
                               shown`; other names are those of the configuration file; optional,
                               as is the next
    -- kernel --               what stands in the kernel before the agent starts: lines of
                               `ipvsadm -Sn`, `add SET MEMBER` of `ipset save`, `address ADDRESS`,
                               `network INTERFACE ADDRESS...`, `gateway ADDRESS`,
                               `listener PROTOCOL PLACE`
    -- step: what happens --   a step: what is done, then what is expected
    -- file NAME --            a file of the folder, as it is from now on
    -- delete NAME --          a file that is no longer there
    -- kernel --               what somebody else does to the kernel; `ipvsadm -D`, `-d` too
    -- do --                   `connect NAME FRONTEND from CLIENT`, `disconnect NAME`,
                               `wait SECONDS`, `restart`, `lack SCHEDULER`, `have SCHEDULER`,
                               `probes SERVICE REALSERVER healthy` (or `unhealthy`),
                               `node-address add ADDRESS INTERFACE`, `node-address remove ...`
    -- operations --           what was acknowledged in this step, in order
    -- ipvsadm --              the IPVS table, as `ipvsadm -Sn` prints it
    -- redirects --            the rules by which clients inside the cluster go elsewhere
    -- connections --          where each connection is
    -- conditions --           what is wrong; a step without this section expects that nothing is
    -- status --               what `ipvsproxy status` shows

Without a `kernel` section before the first step the agent has already synchronised an empty
folder; with one it starts when the files of the first step are there. What is the same for every
Service (the making of sets, chains, sysctls) is left out of `operations`, unless the page asks for
it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

EXPECTATIONS = ("operations", "ipvsadm", "redirects", "connections", "conditions", "status")
"""Headings of what is expected, in the order in which they stand in a step."""

_HEADING = re.compile(r"^-- (.+) --$")
OWN_SETTINGS = frozenset(
    {
        "node",
        "cluster-cidr",
        "exclude-cidrs",
        "lacks",
        "set-capacity",
        "foundation",
        "chains",
    }
)
"""Settings of a page that are not written as in the configuration file."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text below it."""

    heading: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty and no comment."""
        lines = (line.strip() for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


@dataclass(slots=True)
class Step:
    """What is done, and what is expected then."""

    title: str
    actions: list[Section] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Page:
    """One scenario."""

    prose: str
    settings: dict[str, str] = field(default_factory=dict)
    kernel: Section | None = None
    steps: list[Step] = field(default_factory=list)


class PageError(Exception):
    """A page is not written as pages are."""


def read_page(path: Path) -> Page:
    """Read a page; raises PageError with what is wrong with it."""
    prose, *sections = _sections(path.read_text())
    page = Page(prose.text.strip())
    for section in sections:
        kind, _, rest = section.heading.partition(" ")
        if kind == "step:":
            page.steps.append(Step(rest))
        elif not page.steps:
            _before_the_steps(page, section)
        elif section.heading in EXPECTATIONS:
            page.steps[-1].expected[section.heading] = section.text.strip()
        elif kind in {"file", "delete"} or section.heading in {"kernel", "do"}:
            page.steps[-1].actions.append(section)
        else:
            raise PageError(f"{path.name}: there is no section {section.heading!r}")
    if not page.steps:
        raise PageError(f"{path.name}: no steps")
    return page


def write_page(path: Path, page: Page) -> None:
    """Write a page with the expectations that it has now."""
    parts = [page.prose]
    if page.settings:
        parts.append("-- settings --")
        parts += [f"{name}: {value}" for name, value in page.settings.items()]
    if page.kernel is not None:
        parts += ["-- kernel --", page.kernel.text.strip()]
    for step in page.steps:
        parts.append(f"\n-- step: {step.title} --")
        for action in step.actions:
            parts += [f"-- {action.heading} --", *filter(None, [action.text.strip()])]
        for heading in EXPECTATIONS:
            if heading in step.expected:
                parts += [f"-- {heading} --", *filter(None, [step.expected[heading]])]
    path.write_text("\n".join(parts) + "\n")


def _before_the_steps(page: Page, section: Section) -> None:
    match section.heading:
        case "settings":
            page.settings = dict(_setting(line) for line in section.lines)
        case "kernel":
            page.kernel = section
        case other:
            raise PageError(f"section {other!r} stands before the first step")


def _setting(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value


def _sections(text: str) -> list[Section]:
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            sections.append((heading[1], []))
        else:
            sections[-1][1].append(line)
    return [Section(heading, "\n".join(lines)) for heading, lines in sections]
