"""The text of a manifest file, read into what it says of each object.

Knows YAML and JSON, several documents in one file, and what a file can have wrong with it; knows
neither folders nor what becomes of the objects. A file either parses or it does not: one with a
syntax error says nothing at all (`UnreadableManifest`), because what was meant is unknown. In a
file that parses, an object that is nonsense is refused by itself, and something that cannot even
be named is its `problem`.

YAML is read by the rules of `config.yaml_text`. The limit of size is far above any real manifest
and keeps a broken or hostile file from taking the agent down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, TypeAlias

from ipvsproxy.config.yaml_text import UnreadableYaml, read_yaml
from ipvsproxy.objects import Contents, InvalidObject, KubernetesObject, Unnamed, read_document
from ipvsproxy.store import Put, Refused

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAXIMUM_BYTES = 64 * 1024 * 1024
"""A larger file is not read: some 20,000 Services fit in this."""

_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""Where a text may have half a surrogate pair; also a whole pair looks so."""

Statement: TypeAlias = Put | Refused
"""What a file says of one object."""


class Manifest(NamedTuple):
    """What one file says."""

    statements: tuple[Statement, ...] = ()
    """In the order of the file."""
    problem: str = ""
    """What in it could not be read as any object, in one line; empty: nothing."""
    ignored: tuple[tuple[str, int], ...] = ()
    """What was passed over because it is of no use here, and how often."""
    faults: tuple[InvalidObject, ...] = ()
    """Those of its refusals that are faults of this program."""


class UnreadableManifest(Exception):  # noqa: N818  (the noun of the operator's message)
    """The file says nothing that could be relied on; `str()` is why, in one line."""


def read_manifest(content: bytes, origin: str) -> Manifest:
    """Read a file's content; `origin` is its path, whose suffix says whether it is JSON.

    Raises UnreadableManifest.
    """
    text = _decode(content)
    documents = _json_documents(text) if origin.endswith(".json") else _yaml_documents(text)
    contents = Contents()
    problems: list[str] = []
    for line, document in documents:
        unnamed = len(contents.unnamed)
        read_document(document, contents)
        problems += (_at(line, one) for one in contents.unnamed[unnamed:])
    return Manifest(
        statements=tuple(_statement(found, origin) for found in contents.objects),
        problem=_summary(problems),
        ignored=tuple(sorted(contents.ignored.items())),
        faults=tuple(
            one for one in contents.objects if isinstance(one, InvalidObject) and one.internal
        ),
    )


def _statement(found: KubernetesObject | InvalidObject, origin: str) -> Statement:
    if not isinstance(found, InvalidObject):
        return Put(found, origin)
    assert found.reference is not None, "an object without a name is in `unnamed`"
    return Refused(
        found.reference,
        origin,
        found.reason,
        addresses=found.addresses,
        service=found.service,
    )


def _at(line: int, unnamed: Unnamed) -> str:
    place = f" {unnamed.place}:" if unnamed.place else ""
    return f"document at line {line}:{place} {unnamed.reason}"


def _summary(problems: list[str]) -> str:
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + others if problems else ""


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableManifest(f"line {line}: not UTF-8 text") from None
    if not text or text.isspace():
        # Also what a file looks like that is just being written.
        raise UnreadableManifest("the file is empty; delete it if it is to say nothing")
    return text


# ------------------------------------------------------------------------------- JSON


def _json_documents(text: str) -> Iterator[tuple[int, object]]:
    """Yield each document with its line; several may follow each other, as kubectl accepts."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    position = _skip_space(text, 0)
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        try:
            document, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UnreadableManifest(f"line {error.lineno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise UnreadableManifest(f"document at line {line}: {error}") from None
        if _HALF_A_PAIR.search(text) and not _is_text(document):
            raise UnreadableManifest(f"document at line {line}: half a surrogate pair is no text")
        yield line, document
        position = _skip_space(text, position)


def _is_text(document: object) -> bool:
    """Say whether all texts are whole: JSON can write half a character, and UTF-8 cannot."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# ------------------------------------------------------------------------------- YAML


def _yaml_documents(text: str) -> Iterator[tuple[int, object]]:
    """Yield each document with the line at which its content begins."""
    try:
        for document in read_yaml(text):
            yield document.line, document.value
    except UnreadableYaml as error:
        place = "not YAML" if error.line is None else f"line {error.line}"
        raise UnreadableManifest(f"{place}: {error.reason}") from None
