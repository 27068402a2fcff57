"""The Helm chart rendered without helm: the few words of its templates, and no others.

Knows fields (`.Values.image.tag`), `if`, `with`, `else`, `end`, and the functions in `_FUNCTIONS`;
whatever else stands in a template is refused, so that the templates stay this simple. Where helm
is there, test_chart compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from tests.deployment.rendered import MANIFESTS, Json, by_kind

CHART = MANIFESTS / "helm" / "ipvsproxy"
_WORD = re.compile(r'"[^"]*"|\S+')
_ACTION = re.compile(r"(?:\s*\{\{-|\{\{)\s*(.*?)\s*(?:-\}\}\s*|\}\})", re.DOTALL)
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "default": lambda otherwise, value: value or otherwise,
    "nindent": lambda width, text: "\n" + _indented(text, width),
    "not": lambda value: not value,
    "quote": lambda value: '"{}"'.format(str(value).replace("\\", "\\\\").replace('"', '\\"')),
    "toYaml": lambda value: yaml.safe_dump(value, default_flow_style=False).rstrip("\n"),
}


class Text(NamedTuple):
    """What is written as it stands."""

    text: str


class Output(NamedTuple):
    """An expression whose value is written."""

    expression: str


class Block(NamedTuple):
    """`if` or `with`, with what is written when it holds and when it does not."""

    word: str
    expression: str
    then: list[Node]
    otherwise: list[Node]


Node: TypeAlias = Text | Output | Block


def values(**changes: Any) -> dict[str, Any]:
    """Return the chart's values, some of them changed."""
    default: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    assert changes.keys() <= default.keys()
    return {**default, **changes}


def rendered(chosen: Mapping[str, Any], namespace: str = "kube-system") -> dict[str, Json]:
    """Return the objects of a release by kind."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    context = {
        "Values": chosen,
        "Release": {"Name": "ipvsproxy", "Namespace": namespace},
        "Chart": {"Name": chart["name"], "AppVersion": chart["appVersion"]},
    }
    texts = [written(path, context) for path in sorted((CHART / "templates").glob("*.yaml"))]
    return by_kind(one for text in texts if (one := yaml.safe_load(text)) is not None)


def written(path: Path, context: Mapping[str, Any]) -> str:
    """Return what a template amounts to. Raises ValueError for what is not known here."""
    parts = iter(_parts(path.read_text()))
    nodes, end = _nodes(parts)
    if end:
        raise ValueError(f"{path.name}: {end} without a beginning")
    return "".join(_text(nodes, context, context))


def _parts(text: str) -> Iterator[Text | Output]:
    place = 0
    for found in _ACTION.finditer(text):
        yield Text(text[place : found.start()])
        yield Output(found[1])
        place = found.end()
    yield Text(text[place:])


def _nodes(parts: Iterator[Text | Output]) -> tuple[list[Node], str]:
    """Return what stands before the end of a block, and the word that ends it."""
    found: list[Node] = []
    for part in parts:
        if isinstance(part, Text):
            found.append(part)
            continue
        word, _, rest = part.expression.partition(" ")
        if word in ("else", "end"):
            return found, word
        if word not in ("if", "with"):
            found.append(part)
            continue
        then, end = _nodes(parts)
        otherwise, end = _nodes(parts) if end == "else" else ([], end)
        if end != "end":
            raise ValueError(f"{part.expression}: has no end")
        found.append(Block(word, rest, then, otherwise))
    return found, ""


def _text(nodes: Sequence[Node], root: Mapping[str, Any], dot: Any) -> Iterator[str]:
    for node in nodes:
        match node:
            case Text(text):
                yield text
            case Output(expression):
                yield str(_value(expression, root, dot))
            case Block(word, expression, then, otherwise):
                value = _value(expression, root, dot)
                inner = value if word == "with" and value else dot
                yield from _text(then if value else otherwise, root, inner)


def _value(expression: str, root: Mapping[str, Any], dot: Any) -> Any:
    """Evaluate `FUNCTION ARGUMENT | FUNCTION ARGUMENT ...`; what comes before is the last one."""
    handed_on: list[Any] = []
    for part in expression.split("|"):
        name, *words = _WORD.findall(part)
        arguments = [_operand(word, root, dot) for word in words] + handed_on
        if name in _FUNCTIONS:
            handed_on = [_FUNCTIONS[name](*arguments)]
        elif arguments:
            raise ValueError(f"{expression}: {name} is not known here")
        else:
            handed_on = [_operand(name, root, dot)]
    return handed_on[0]


def _operand(word: str, root: Mapping[str, Any], dot: Any) -> Any:
    if word == ".":
        return dot
    if word.isdigit():
        return int(word)
    if word.startswith("."):
        value: Any = root if dot is root else dot
        for name in word[1:].split("."):
            value = value[name]
        return value
    raise ValueError(f"{word}: not known here")


def _indented(text: str, width: int) -> str:
    return "\n".join(" " * width + line for line in text.splitlines())
