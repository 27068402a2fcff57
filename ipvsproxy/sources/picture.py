"""What a folder has said so far, and the events that follow from reading it again.

Knows what files say; reads none. `advance` compares the picture with a new reading, and the
difference is the events, so a reading that was missed or repeated does no harm.

Two halves of rule 2 of docs/architecture.md live here:

- A file that cannot be read goes on saying what it last said.
- While any part cannot be read, nothing is `Gone`: an object that is missing may be in that part.
  It needs no list of pending removals: once all can be read, what was sent and is not said any
  more is gone.

An object that several files define belongs to the first of them by path, whether it is sound
there or not; the others are reported, each at its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

from ipvsproxy.objects import ObjectReference
from ipvsproxy.sources.manifests import Manifest, Statement
from ipvsproxy.store import Event, Gone, Listed, Put, Readable, Refused, Unreadable, reference_of

KINDS = ("Service", "EndpointSlice", "Node", "ServiceCIDR", "Nodes", "Pods")
"""What is listed with the first reading: every Node and Pod that the folder has is known. A
folder has no ServiceCIDRs: in it addresses are not allocated but written."""


class Reading(NamedTuple):
    """The whole folder, read once."""

    manifests: Mapping[str, Manifest]
    """The files that could be read, by path."""
    problems: Mapping[str, str]
    """What could not be read, by path: files, sub-folders, or the folder itself."""
    present: bool = True
    """Whether the folder itself could be read."""


class Picture(NamedTuple):
    """What the receiver of the events knows."""

    manifests: Mapping[str, Manifest] = {}
    """By path, what each file says, or last said if it cannot be read now."""
    problems: Mapping[str, str] = {}
    sent: Mapping[ObjectReference, tuple[Statement, ...]] = {}
    """What was said of each object, the owner's statement first."""
    listed: bool = False


def advance(picture: Picture, reading: Reading) -> tuple[Picture, list[Event]]:
    """Return the picture after a reading, and the events that lead there.

    What is sound comes before `Readable`, and that before `Gone`: at no moment do the events so
    far describe less than the folder did before and does now.
    """
    problems = dict(reading.problems)
    manifests = dict(_standing(picture, reading))
    for path, manifest in manifests.items():
        if manifest.problem:
            problems.setdefault(path, manifest.problem)
    said = _by_object(manifests)

    events: list[Event] = [
        Unreadable(path, reason)
        for path, reason in problems.items()
        if picture.problems.get(path) != reason
    ]
    for reference, statements in said.items():
        if picture.sent.get(reference) != statements:
            events += _told(statements)
    events += (Readable(path) for path in picture.problems if path not in problems)
    missing = {ref: was for ref, was in picture.sent.items() if ref not in said}
    if not problems:
        events += map(Gone, missing)
        missing = {}
    listed = picture.listed or reading.present
    if listed and not picture.listed:
        events += map(Listed, KINDS)
    return Picture(manifests, problems, missing | said, listed), events


def _standing(picture: Picture, reading: Reading) -> Iterator[tuple[str, Manifest]]:
    """Yield what each file says, or last said if it is within what cannot be read now."""
    for path in sorted({*picture.manifests, *reading.manifests}):
        if path in reading.manifests:
            yield path, reading.manifests[path]
        elif any(str(part) in reading.problems for part in (path, *PurePath(path).parents)):
            # Its own problem, if it had one, is not what is wrong with it now.
            yield path, picture.manifests[path]._replace(problem="")


def _by_object(manifests: Mapping[str, Manifest]) -> dict[ObjectReference, tuple[Statement, ...]]:
    said: dict[ObjectReference, tuple[Statement, ...]] = {}
    for manifest in manifests.values():
        for statement in manifest.statements:
            reference = _reference(statement)
            first = said.setdefault(reference, (statement,))
            if first[0] is not statement:
                said[reference] = (*first, _duplicate(reference, statement, first[0]))
    return said


def _told(statements: tuple[Statement, ...]) -> Iterator[Event]:
    """Tell what is said of one object: what is sound, and in one refusal all that is wrong."""
    wrong = [one for one in statements if isinstance(one, Refused)]
    if wrong != list(statements):
        yield statements[0]
    if wrong:
        first, *others = wrong
        more = [f"{one.origin}: {one.reason}" for one in others]
        yield first._replace(reason="; ".join([first.reason, *more]))


def _reference(statement: Statement) -> ObjectReference:
    match statement:
        case Put(value):
            return reference_of(value)
        case Refused(reference):
            return reference


def _duplicate(reference: ObjectReference, statement: Statement, owner: Statement) -> Refused:
    where = "earlier in this file" if owner.origin == statement.origin else f"in {owner.origin}"
    return Refused(reference, statement.origin, f"also defined {where}, and that one counts")
