"""YAML (and so JSON) as text, read into plain values by one set of strict rules.

Knows nothing of what the values mean: manifests and configuration files are both read by it.

YAML is read as strings, numbers, booleans, lists and mappings, as JSON has them: a time stays the
text that it is. A key that is written twice is an error, because which one was meant is unknown.
The limit of depth is far above any real file and keeps a broken or hostile one from taking the
agent down; libyaml itself crashes on deep nesting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import yaml

_MAXIMUM_DEPTH = 100


class Document(NamedTuple):
    """One document of a text."""

    line: int
    """At which its content begins, from 1."""
    value: object
    node: yaml.Node
    """What it was read from, merges (`<<`) carried out; it knows the lines. May contain itself."""


class UnreadableYaml(Exception):  # noqa: N818  (the noun of the operator's message)
    """The text is not YAML by these rules."""

    def __init__(self, line: int | None, reason: str) -> None:
        """Take the line, from 1, where it is known, and the reason in one line."""
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def read_yaml(text: str) -> Iterator[Document]:
    """Yield each document. Raises UnreadableYaml, after the documents before what is wrong."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield Document(node.start_mark.line + 1, loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text) from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        # The others than YAMLError come from PyYAML's constructors, for `!!bool x` or `!!int ''`.
        raise UnreadableYaml(None, _one_line(error)) from None
    finally:
        loader.dispose()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, by libyaml where that is there, with limits and with JSON's types."""

    depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        """Count the depth; called for each node before those within it are read."""
        self.depth += 1
        if self.depth > _MAXIMUM_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MAXIMUM_DEPTH} levels",
                problem_mark=None if current_node is None else current_node.start_mark,
            )
        super().descend_resolver(current_node, current_index)

    def ascend_resolver(self) -> None:
        """Count the depth."""
        self.depth -= 1
        super().ascend_resolver()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is written twice; merge (`<<`) without repeating a key.

        PyYAML repeats them, so that merges of merges grow without end.
        """
        written: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in written:
                    problem = f"the key {key.value!r} is written twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                written.add(key.value)
        super().flatten_mapping(node)
        if len(node.value) > len(written):
            unique = {
                key.value if isinstance(key, yaml.ScalarNode) else id(key): (key, value)
                for key, value in node.value
            }
            node.value = list(unique.values())


_KEPT_AS_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _KEPT_AS_TEXT]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
for _tag in _KEPT_AS_TEXT:
    _Loader.add_constructor(_tag, yaml.constructor.SafeConstructor.construct_yaml_str)


def _explained(error: yaml.MarkedYAMLError, text: str) -> UnreadableYaml:
    reason = _one_line(error.problem or error.context or "not YAML")
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return UnreadableYaml(None, reason)
    lines = text.splitlines()
    number = min(mark.line, len(lines) - 1)  # the end of the text counts as one line more
    line = lines[number]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        reason = "indented by a tab; YAML wants spaces"
    return UnreadableYaml(number + 1, reason)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
