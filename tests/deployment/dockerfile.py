"""The Dockerfile, read and carried out without a container engine: each stage is a folder.

Knows the instructions that our Dockerfile has, and refuses others. `build` does what an engine
does with them: RUN in the folder as root, with the machine's own name service and proxies, COPY of
what `.dockerignore` allows. The base is a folder too, such as debootstrap makes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_CERTIFICATES_INSIDE = "run/certificates.pem"
_NOT_IN_SLIM = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Instruction(NamedTuple):
    """One instruction, its continued lines joined."""

    name: str
    arguments: str


class Stage(NamedTuple):
    """What stands between a FROM and the next one."""

    name: str
    """What `AS` calls it; empty for the last one, the image itself."""
    instructions: tuple[Instruction, ...]

    @property
    def commands(self) -> str:
        """Everything that is run."""
        return "\n".join(one.arguments for one in self.instructions if one.name == "RUN")


class Image(NamedTuple):
    """What an engine would start."""

    root: Path
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]


def instructions(text: str) -> list[Instruction]:
    """Return all instructions; comments are left out."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [Instruction(name, arguments.strip()) for name, _, arguments in split]


def stages(text: str) -> list[Stage]:
    """Return the stages in order; what comes before the first FROM is in none."""
    found: list[Stage] = []
    for one in instructions(text):
        if one.name == "FROM":
            _, _, name = one.arguments.partition(" AS ")
            found.append(Stage(name, ()))
        elif found:
            found[-1] = Stage(found[-1].name, (*found[-1].instructions, one))
    return found


def packages(stage: Stage) -> set[str]:
    """Return the Debian packages that a stage installs."""
    pattern = r"apt-get install -y --no-install-recommends ([^&]*)"
    return {name for words in re.findall(pattern, stage.commands) for name in words.split()}


def debian_slim(folder: Path) -> Path:
    """Make what the image debian:13-slim is, by debootstrap: without documents, texts and caches.

    Needs root and a Debian mirror. Raises CalledProcessError with neither.
    """
    root = folder / "debian"
    subprocess.run(("debootstrap", "--variant=minbase", "trixie", str(root)), check=True)
    rules = "".join(f"path-exclude {one}/*\n" for one in _NOT_IN_SLIM)
    (root / "etc" / "dpkg" / "dpkg.cfg.d" / "slim").write_text(rules)
    (root / "etc" / "apt" / "apt.conf.d" / "slim").write_text(
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
        'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
    )
    for one in (*_NOT_IN_SLIM, "/var/cache/apt", "/var/lib/apt/lists"):
        shutil.rmtree(root / one.lstrip("/"))
        (root / one.lstrip("/")).mkdir()
    return root


def build(base: Path, folder: Path) -> Image:
    """Carry out the Dockerfile over a copy of `base` for each stage; returns the last one.

    Raises CalledProcessError when a command fails, ValueError for an instruction not known here.
    """
    roots: dict[str, Path] = {}
    image = Image(folder, {}, ())
    for number, stage in enumerate(stages(DOCKERFILE.read_text())):
        root = folder / f"stage-{number}"
        subprocess.run(("cp", "-a", "--reflink=auto", str(base), str(root)), check=True)
        roots[stage.name] = root
        image = _stage(stage, root, roots)
    return image


def _stage(stage: Stage, root: Path, roots: Mapping[str, Path]) -> Image:
    folder, environment, entrypoint = "/", {"PATH": PATH}, ()
    for name, arguments in stage.instructions:
        match name:
            case "RUN":
                _run(root, folder, environment, arguments)
            case "COPY":
                _copy(root, folder, arguments, roots)
            case "ENV":
                environment |= dict(word.split("=", 1) for word in shlex.split(arguments))
            case "WORKDIR":
                folder = arguments
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENTRYPOINT":
                entrypoint = tuple(json.loads(arguments))
            case "LABEL":
                continue
            case _:
                raise ValueError(f"{name}: not known here")
    return Image(root, environment, entrypoint)


def _run(root: Path, folder: str, environment: Mapping[str, str], command: str) -> None:
    proxies = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
    lent = {**proxies, "PIP_CERT": f"/{_CERTIFICATES_INSIDE}"}
    words = ("/bin/sh", "-ec", f"cd {folder} && {command}")
    with _outside(root):
        subprocess.run(("chroot", str(root), *words), env={**lent, **environment}, check=True)


@contextmanager
def _outside(root: Path) -> Iterator[None]:
    """Lend a stage what an engine lends: /proc, devices, names; and whom this machine trusts."""
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(f"/etc/{name}", root / "etc" / name)
    inside = root / _CERTIFICATES_INSIDE
    inside.touch()
    lent = {one: f"{root}{one}" for one in ("/proc", "/dev/null", "/dev/urandom")}
    for origin, place in (lent | {_CERTIFICATES: str(inside)}).items():
        subprocess.run(("mount", "--bind", origin, place), check=True)
    try:
        yield
    finally:
        for place in (*lent.values(), str(inside)):
            subprocess.run(("umount", place), check=True)
        inside.unlink()


def _copy(root: Path, folder: str, arguments: str, roots: Mapping[str, Path]) -> None:
    words = shlex.split(arguments)
    origin, ignored = ROOT, ["__pycache__", "*.pyc"]
    if words[0].startswith("--from="):
        origin, ignored = roots[words.pop(0).removeprefix("--from=")], []
    *sources, target = words
    for source in sources:
        path = origin / source.lstrip("/")
        into = root / os.path.join(folder, target).lstrip("/")  # noqa: PTH118 - one is absolute
        if target.endswith("/"):
            into /= path.name
        into.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            pattern = shutil.ignore_patterns(*ignored)
            shutil.copytree(path, into, symlinks=True, ignore=pattern, dirs_exist_ok=True)
        else:
            shutil.copy2(path, into)
