"""The documents are in step with the program: all that an operator can meet is explained.

What there is (metrics, conditions, settings, annotations, commands) is asked of the code; the
documents' tables are read as text. Links and paths that the documents name must exist.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest
import yaml

from ipvsproxy.cli import main
from ipvsproxy.config import Settings, effective, load
from ipvsproxy.config.load import FILE_VARIABLE, PREFIX
from ipvsproxy.config.values import ConfigurationError, seconds
from ipvsproxy.core.annotations import (
    KNOWN,
    NODE_WEIGHT,
    SCHEDULER_ALIASES,
    SLICE_WEIGHT,
    SLICE_WEIGHTS,
    read_weights,
)
from ipvsproxy.core.annotations.health_check import OPTIONS
from ipvsproxy.core.detect_local import LocalPods
from ipvsproxy.core.firewall import ruleset
from ipvsproxy.core.sets import Role, role_of, set_specs
from ipvsproxy.model import Family, Scheduler
from ipvsproxy.objects import EndpointSlice, Service
from ipvsproxy.sources.manifests import read_manifest
from ipvsproxy.store import Put
from ipvsproxy.telemetry import Conditions, ConditionType, Metrics

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
INSTALLATION = (ROOT / "docs" / "installation.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PACKET_FLOW = (ROOT / "docs" / "packet-flow.md").read_text()
DOCUMENTS = tuple(
    sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda path: path.as_posix())
)
FOLDERS = "ipvsproxy|tests|rig|testbed|demo|manifests|docs|requirements"

documents = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
)


def rows(text: str, heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the table whose first heading is `heading`, without its head."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    else:
        pytest.fail(f"no table that begins with {heading}")
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    return found


def code(cell: str) -> str:
    """Return what a cell has in code type, or its text."""
    return cell.strip("`")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------- what there is to know


def metric_names() -> Iterator[str]:
    suffixes = {"counter": "_total", "info": "_info"}
    metrics = Metrics(Conditions(), version="0")
    for family in (*metrics.registry.collect(), *metrics.traffic.registry.collect()):
        yield f"{family.name}{suffixes.get(family.type, '')}"


def test_every_metric_is_explained_and_every_explained_metric_is_there() -> None:
    explained = {code(row[0]) for row in rows(OPERATIONS, "metric")}
    own = {name for name in metric_names() if not name.startswith(("process_", "python_"))}
    assert explained - {"process_*`, `python_*"} == own


@pytest.mark.parametrize("condition", ConditionType)
def test_every_condition_has_a_section(condition: ConditionType) -> None:
    heading = f"\n### {condition}\n"
    assert heading in OPERATIONS
    section = OPERATIONS.partition(heading)[2].partition("\n#")[0]
    assert section.strip()


def test_no_section_is_about_a_condition_that_is_gone() -> None:
    part = OPERATIONS.partition("\n## Conditions\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^### (\w+)$", part, re.MULTILINE)) == set(ConditionType)


def test_every_log_line_that_is_explained_is_one_of_the_program() -> None:
    source = "".join(path.read_text() for path in (ROOT / "ipvsproxy").rglob("*.py"))
    part = OPERATIONS.partition("\n## Logs\n")[2]
    events = [
        event
        for line in re.findall(r"^- (.*)$", part, re.MULTILINE)
        for event in re.findall(r"`([^`]+)`", line)
    ]
    assert events
    assert [event for event in events if f'"{event}"' not in source] == []


def test_only_conditions_that_nothing_raises_are_said_not_to_be_raised() -> None:
    files = set((ROOT / "ipvsproxy").rglob("*.py")) - {Path(inspect.getfile(ConditionType))}
    source = "".join(path.read_text() for path in files)
    raised = {one for one in ConditionType if f"ConditionType.{one.name}" in source}
    told = set(re.findall(r"^### (\w+)\n\nNot raised yet\.", OPERATIONS, re.MULTILINE))
    assert told == set(ConditionType) - raised


def setting_rows() -> Mapping[str, tuple[str, str]]:
    """Return flag and default of each setting, by the field's name in the file."""
    return {code(row[0]): (code(row[1]), code(row[2])) for row in rows(README, "field")}


def test_every_setting_is_explained() -> None:
    assert [_field(name) for name in setting_rows()] == list(effective(Settings(node_name="a"))), (
        "the order is that of /configz"
    )


def _field(name: str) -> str:
    return re.sub(r"([A-Z]+)", r"_\1", name).lower()


@pytest.mark.parametrize("name", setting_rows())
def test_the_fields_of_the_table_are_those_of_the_file(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needed|no network"):
        load({}, {}, f"{name}: [[]]", host_name="a")


def commands() -> Mapping[str, click.Command]:
    """Return every command by its words: `run`, `config check`."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {one}": inner for one, inner in command.commands.items()}
        else:
            found[name] = command
    return found


def test_the_flags_of_the_table_are_those_of_the_program() -> None:
    options = {option for one in main.commands["run"].params for option in one.opts}
    assert {flag for flag, _ in setting_rows().values()} <= options
    shown = [one for one in main.commands["run"].params if not getattr(one, "hidden", False)]
    others = {"once", "init_only", "write_config_to", "config_file"}
    settings = {one.name for one in shown} - others
    assert settings <= effective(Settings(node_name="a")).keys()


def test_the_defaults_of_the_table_are_those_of_the_program() -> None:
    defaults = effective(Settings(node_name="a"))
    for name, (_, written) in setting_rows().items():
        value = defaults[_field(name)]
        match value:
            case bool():
                assert written == str(value).lower(), name
            case float():
                assert seconds(written) == value, name
            case None | []:
                assert written == "none", name
            case list():
                assert written == ",".join(map(str, value)), name
            case _ if name == "nodeName":
                assert written == "the host's name"
            case _:
                assert written == str(value), name


def test_every_annotation_is_explained() -> None:
    explained = [code(row[0]) for row in rows(README, "annotation")]
    assert {name: explained.count(name) for name in set(explained)} == {
        **dict.fromkeys((*KNOWN, *SCHEDULER_ALIASES, SLICE_WEIGHT), 1),
        NODE_WEIGHT: 2,  # of a Node, and of a Pod
        SLICE_WEIGHTS: 2,  # of an EndpointSlice, and of a Service
    }


def test_every_option_of_a_health_check_is_explained() -> None:
    explained = [code(name) for row in rows(OPERATIONS, "option") for name in row[0].split(", ")]
    assert explained == list(OPTIONS)


def test_every_scheduler_is_explained() -> None:
    assert {code(row[0]) for row in rows(README, "scheduler")} == set(Scheduler)
    assert f"all {len(Scheduler)} of the kernel" in README


def test_every_set_is_explained_with_its_type_and_role() -> None:
    explained = {code(row[0]): (row[1], row[3]) for row in rows(PACKET_FLOW, "set")}
    assert explained == {
        name: (str(spec.type.value), role_of(name).value)
        for name, spec in set_specs([Family.IPV4], maxelem=65536).items()
    }


def test_every_role_has_its_time() -> None:
    assert [row[0] for row in rows(PACKET_FLOW, "role")] == [role.value for role in Role]


def test_every_chain_is_explained() -> None:
    chains = ruleset(Family.IPV4, pods=LocalPods()).chains
    explained = {tuple(row[0].split()) for row in rows(PACKET_FLOW, "chain")}
    assert explained == {(chain.table, f"`{chain.name}`") for chain in chains}


def test_every_command_is_explained() -> None:
    explained = {code(row[0]) for row in rows(README, "command")}
    variants = {"ipvsproxy run --once", "ipvsproxy run --init-only"}
    assert {f"ipvsproxy {name}" for name in commands()} == explained - variants


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_exit_statuses_of_the_table_are_those_of_the_help(name: str) -> None:
    epilog = commands()[name].epilog or ""
    told = {int(number) for number in re.findall(r"^  (\d)  ", epilog, re.MULTILINE)} or {0}
    (row,) = [row for row in rows(README, "command") if code(row[0]) == f"ipvsproxy {name}"]
    assert {int(number) for number in re.findall(r"\b(\d) ", f"{row[2]} ")} == told


def test_every_http_path_is_explained() -> None:
    files = (ROOT / "ipvsproxy" / "http").glob("*.py")
    source = "".join(path.read_text() for path in files)
    paths = set(re.findall(r'"(/\w+)": \w+', source))
    assert {"/healthz", "/livez", "/metrics"} <= paths
    for path in paths:
        assert f"`{path}`" in README or path in OPERATIONS, path


# --------------------------------------------------------------------------- what is shown


def readme_manifests() -> str:
    (found,) = (block for block in blocks(README, "yaml") if "kind: EndpointSlice" in block)
    return found


def test_the_example_is_sound() -> None:
    manifest = read_manifest(readme_manifests().encode(), "services/web.yaml")
    assert not manifest.problem
    objects = [said.object for said in manifest.statements if isinstance(said, Put)]
    service, part = objects
    assert isinstance(service, Service)
    assert isinstance(part, EndpointSlice)
    assert part.service == service.name
    assert read_weights(part.weights or "")


def overlays(text: str) -> list[Mapping[str, object]]:
    return [yaml.safe_load(block) for block in blocks(text, "yaml") if "Kustomization" in block]


def test_the_overlay_sets_what_has_to_be_set() -> None:
    _, overlay = overlays(INSTALLATION)
    assert isinstance(overlay["patches"], list)
    (patch,) = (yaml.safe_load(one["patch"]) for one in overlay["patches"])
    base = yaml.safe_load((ROOT / "manifests" / "base" / "configmap.yaml").read_text())
    assert patch["metadata"]["name"] == base["metadata"]["name"]
    assert patch["data"].keys() == base["data"].keys()
    settings = load({}, {"NODE_NAME": "a"}, patch["data"]["config.yaml"]).settings
    assert settings.cluster_cidrs


def test_the_overlay_of_the_readme_is_one_of_those_for_kubeadm() -> None:
    (overlay,) = overlays(README)
    assert overlay == overlays(INSTALLATION)[0]
    assert overlay["resources"] == ["../overlays/kubeadm"]


@documents
def test_commands_that_are_shown_exist(path: Path) -> None:
    for words in shown_commands(path.read_text()):
        name, *flags = words
        assert name in commands(), words
        command = commands()[name]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {flag.partition("=")[0] for flag in flags} <= known | {"--help"}, words


def shown_commands(text: str) -> Iterator[Sequence[str]]:
    """Return the command and long flags of each line or code span that runs the program."""
    for line in re.findall(r"(?:^    |^\$ |`|-- )ipvsproxy ([a-z][^`#\n]*)", text, re.MULTILINE):
        name, *rest = line.split()
        if isinstance(main.commands.get(name), click.Group):
            name = f"{name} {rest.pop(0)}"
        yield name, *(word for word in rest if word.startswith("--"))


# --------------------------------------------------------------------------- what is named


@documents
def test_variables_that_are_named_set_something(path: Path) -> None:
    settings = {f"{PREFIX}{field.upper()}" for field in effective(Settings(node_name="a"))}
    named = set(re.findall(r"\bIPVSPROXY_[A-Z_]*[A-Z]\b", path.read_text()))
    assert named <= settings | {"IPVSPROXY_RIG", FILE_VARIABLE}


@documents
def test_conditions_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"\bconditions? ([A-Z][a-z]+[A-Z]\w+)", path.read_text()))
    assert named <= set(ConditionType)


@documents
def test_metrics_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"`((?:ipvsproxy|kubeproxy)_[a-z_]*[a-z])(?=[`{])", path.read_text()))
    assert named <= set(metric_names())


@documents
def test_settings_that_are_shown_with_a_value_may_have_it(path: Path) -> None:
    for name, value in re.findall(r"`(\w+): ([^`{]+)`", path.read_text()):
        if name in setting_rows():
            load({}, {}, f"{name}: {value}", host_name="a")


@documents
def test_a_node_is_given_the_label_that_the_overlay_asks_for(path: Path) -> None:
    """The value none is for a node that is to have neither proxy."""
    overlay = ROOT / "manifests" / "overlays" / "side-by-side" / "daemonset.yaml"
    pod = yaml.safe_load(overlay.read_text())["spec"]["template"]["spec"]
    ((label, value),) = pod["nodeSelector"].items()
    given = set(re.findall(rf"{re.escape(label)}=([\w-]+)", path.read_text()))
    assert given <= {value, "none"}
    if path.name == "migration.md":
        assert f"{label.replace('/', '~1')}\n         value: {value}\n" in path.read_text()


@documents
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, heading = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), link
        if heading:
            assert heading in set(_anchors(file.read_text())), link


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@documents
def test_paths_that_are_named_exist(path: Path) -> None:
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", path.read_text()):
        if name.startswith("manifests/my-"):
            continue
        assert (ROOT / name).exists(), name


@documents
def test_make_targets_that_are_named_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^    |`)(?:\w+=\w+ )?make ([a-z0-9-]+)", path.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_every_target_for_tests_is_explained() -> None:
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = {code(row[0]) for row in rows((ROOT / "CONTRIBUTING.md").read_text(), "target")}
    wanted = {"make lint", "make type", *(f"make {one}" for one in targets if "test" in one)}
    assert told == wanted


@documents
def test_nothing_is_said_of_places(path: Path) -> None:
    assert not re.search(r"/work\b|/home/|pypi\.org|docker\.io", path.read_text())


def test_the_layers_are_drawn_as_the_contract_has_them() -> None:
    """The order of names in the drawing is that of import-linter's contract."""
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    drawing = next(block for block in blocks(architecture, "text") if "__main__" in block)
    drawn = re.findall(r"^  [(|]? ?(\w+)", drawing, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text()
    contract = re.search(r"^layers = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert contract is not None
    assert drawn == re.findall(r"\w+", contract[1])


def test_adrs_have_their_parts() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    parts = ["Context", "Decision", "Consequences", "Alternatives", "Non-goals"]
    for path in records:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == parts, path.name


def test_the_kinds_of_waiting_that_are_told_are_those_of_the_plan() -> None:
    record = (ROOT / "docs" / "adr" / "0003-order-as-dependencies.md").read_text()
    source = (ROOT / "ipvsproxy" / "core" / "plan" / "steps.py").read_text()
    for field in re.findall(r"^- `(\w+)`: ", record, re.MULTILINE):
        assert f"    {field}: tuple[int, ...]" in source


def test_every_module_is_named_where_a_newcomer_looks() -> None:
    """At the head of its package, or in the tables of docs/architecture.md."""
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    unnamed = []
    for path in sorted((ROOT / "ipvsproxy").rglob("*.py")):
        package, own = path.parent / "__init__.py", path.relative_to(ROOT).as_posix()
        if path.stem.startswith("__") or own in architecture or f"`{path.name}`" in architecture:
            continue
        head = ast.get_docstring(ast.parse(package.read_text()), clean=False) or ""
        if not re.search(rf"(^ +|`){path.stem}\b", head, re.MULTILINE):
            unnamed.append(own)
    assert unnamed == []
