"""The Kubernetes objects that the manifests amount to, and what is asked of them by several tests.

Knows where manifests are and who renders them: the base is read as it is, an overlay is rendered
by kubectl's kustomize. Knows nothing of what they should say.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ipvsproxy.config.load import FILE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
VERSIONS = ("1.29", "1.32", "1.35", "1.37")
"""Of Kubernetes: the oldest that is promised, and the newest whose schemas are known here."""

Json = Mapping[str, Any]


def by_kind(objects: Iterable[Json]) -> dict[str, Json]:
    """Return objects by kind; no two may be of one kind."""
    found: dict[str, Json] = {}
    for one in objects:
        assert one["kind"] not in found
        found[one["kind"]] = one
    return found


def base() -> dict[str, Json]:
    """Return the manifests that the kustomization of the base names, by kind."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return by_kind(yaml.safe_load((BASE / name).read_text()) for name in kustomization["resources"])


@cache
def kustomized(folder: Path) -> dict[str, Json]:
    """Return what kubectl's kustomize makes of a folder; skips where there is none that can.

    The one in kubectl before 1.21 knows neither patches of a folder's own nor components.
    """
    kubectl = program("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here: install kubernetes-client")
    version = _output(kubectl, "version", "--client", "--output=yaml")
    found = re.search(r"gitVersion: v1\.(\d+)", version)
    if found is not None and int(found[1]) < 21:
        pytest.skip(f"kubectl 1.{found[1]} has a kustomize that is too old: 1.21 is needed")
    return by_kind(yaml.safe_load_all(_output(kubectl, "kustomize", str(folder))))


def program(name: str) -> str | None:
    """Find a program that is not ours to install: in KUBEBUILDER_ASSETS' folder, else in PATH."""
    return shutil.which(name, path=os.environ.get("KUBEBUILDER_ASSETS", "")) or shutil.which(name)


@cache
def with_component(name: str) -> dict[str, Json]:
    """Return the base with one of the components, as an overlay outside of the folder has it."""
    with TemporaryDirectory() as folder:
        copied = Path(folder) / "manifests"
        shutil.copytree(MANIFESTS, copied)
        written = {"resources": ["../../base"], "components": [f"../../components/{name}"]}
        overlay = copied / "overlays" / "with-component"
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(written))
        return kustomized(overlay)


def _output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return done.stdout


def pod(objects: Mapping[str, Json]) -> Json:
    """Return the specification of the DaemonSet's pods."""
    specification: Json = objects["DaemonSet"]["spec"]["template"]["spec"]
    return specification


def container(objects: Mapping[str, Json]) -> Json:
    """Return the agent's container."""
    (found,) = pod(objects)["containers"]
    assert isinstance(found, dict)
    return found


def file_of(one: Json) -> tuple[str, str]:
    """Return folder and name of the configuration file that a container's commands read."""
    (path,) = (each["value"] for each in one["env"] if each["name"] == FILE_VARIABLE)
    folder, _, name = str(path).rpartition("/")
    return folder, name


def sound(one: Json, version: str) -> None:
    """Raise when an object is not valid by the schemas of a version, or has a field too many."""
    kubernetes_validate.validate(one, version, strict=True)
