"""Reads the two kinds of configuration file into values by field of `Settings`.

Our own: YAML or JSON, the fields of `Settings` in camelCase (`defaultScheduler: lc`), read here.
And kube-proxy's `KubeProxyConfiguration`, of which `kube_proxy` knows what means what.
Everything that is wrong is told, not only the first of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import yaml

from ipvsproxy.config import kube_proxy
from ipvsproxy.config.contents import FileContents, FileValue, Lines, place
from ipvsproxy.config.fields import READERS, name_in_file
from ipvsproxy.config.values import ConfigurationError
from ipvsproxy.config.yaml_text import UnreadableYaml, read_yaml

OWN_KIND = "IpvsproxyConfiguration"
"""Optional in our own file."""
_CONFIG_MAP = "ConfigMap"
_OWN_EXTRA = frozenset({"apiVersion", "kind"})
_OWN_FIELDS = {name_in_file(field): field for field in READERS}


def read_file(text: str) -> FileContents:
    """Read a configuration file of either kind.

    Raises ConfigurationError where nothing of it can be read; what is wrong with single fields is
    in the contents' `problems`.
    """
    document, lines = _parse(text)
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind == kube_proxy.KIND or str(version).startswith(kube_proxy.GROUP):
        contents = kube_proxy.read(document, lines)
        section = document.get(kube_proxy.OWN_SECTION)
        return contents if section is None else _with_section(contents, section, lines)
    if kind == _CONFIG_MAP:
        raise ConfigurationError(
            f"{place(lines, 'kind')}: a ConfigMap is not read itself, but one text of its data "
            "(kubeadm: config.conf); `ipvsproxy config convert` makes a file of it"
        )
    if kind not in (None, OWN_KIND):
        raise ConfigurationError(
            f"{place(lines, 'kind')}: {kind!r}: {OWN_KIND} or {kube_proxy.KIND} is needed"
        )
    return _own(document, lines)


def config_of_config_map(text: str) -> str:
    """Give the configuration within a ConfigMap's manifest; any other text is one itself.

    What `kubectl get configmap kube-proxy -o yaml` prints has it in one of the texts of `data`
    (kubeadm: config.conf); ours has it in config.yaml. Raises ConfigurationError where neither is.
    """
    document, _ = _parse(text)
    if document.get("kind") != _CONFIG_MAP:
        return text
    data = document.get("data")
    texts = [value for value in data.values() if isinstance(value, str)] if _is_map(data) else []
    for found in texts:
        if kube_proxy.KIND in found:
            return found
    if _is_map(data) and isinstance(own := data.get("config.yaml"), str):
        return own
    raise ConfigurationError(
        f"the ConfigMap has no {kube_proxy.KIND} in its data: "
        "is it what `kubectl -n kube-system get configmap kube-proxy -o yaml` prints?"
    )


def _with_section(contents: FileContents, section: object, lines: Lines) -> FileContents:
    """Add our own section of kube-proxy's file, which goes before what means the same there."""
    if not _is_map(section):
        problem = f"{place(lines, kube_proxy.OWN_SECTION)}: fields and values are needed"
        return contents._replace(problems=(*contents.problems, problem))
    own = _own(section, lines, f"{kube_proxy.OWN_SECTION}.")
    return FileContents(
        {**contents.values, **own.values},
        contents.warnings,
        (*contents.problems, *own.problems),
    )


def _own(document: Mapping[str, object], lines: Lines, above: str = "") -> FileContents:
    found: dict[str, FileValue] = {}
    problems = []
    for key, value in document.items():
        where = place(lines, f"{above}{key}")
        field = _OWN_FIELDS.get(key)
        if field is not None:
            if value is not None:
                found[field] = FileValue(where, value)
        elif above or key not in _OWN_EXTRA:
            near = difflib.get_close_matches(key, _OWN_FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "`ipvsproxy config show` lists all"
            problems.append(f"{where}: no such field; {hint}")
    return FileContents(found, problems=tuple(problems))


def _parse(text: str) -> tuple[Mapping[str, object], Lines]:
    """Return the document and the line number of each field's path."""
    try:
        documents = list(read_yaml(text))
    except UnreadableYaml as error:
        line = f", line {error.line}" if error.line is not None else ""
        raise ConfigurationError(
            f"configuration file{line}: not readable as YAML or JSON: {error.reason}"
        ) from None
    if len(documents) > 1:
        line = f", line {documents[1].line}"
        raise ConfigurationError(f"configuration file{line}: a second document; one is needed")
    if not documents or documents[0].value is None:
        # Also what a file looks like that is just being written.
        raise ConfigurationError(
            "configuration file: it says nothing; write {} if all defaults are meant"
        )
    document = documents[0].value
    if not _is_map(document):
        raise ConfigurationError("configuration file: fields and values (a mapping) are needed")
    return document, dict(_lines(documents[0].node, ()))


def _lines(
    node: yaml.Node, containing: tuple[yaml.MappingNode, ...], above: str = ""
) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path, line = f"{above}{key.value}", key.start_mark.line + 1
        yield path, line
        if value is node or value in containing:
            raise ConfigurationError(f"configuration file, line {line}, {path}: it contains itself")
        yield from _lines(value, (*containing, node), f"{path}.")


def _is_map(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
