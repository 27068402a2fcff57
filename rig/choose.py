"""The choice of a kernel: a function of the facts and of what the caller asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rig.facts import PROGRAMS, QEMU_PROGRAMS, UML_PROGRAMS
from rig.model import ANY, ESSENTIAL, Finding, Kind, RigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rig.facts import Facts

SETUP = "python3 -m rig setup"


def findings(facts: Facts) -> list[Finding]:
    """Judge every kind of machine, the preferred one first."""
    return [_native(facts), _uml(facts), _qemu(facts)]


def choose(found: list[Finding], asked: Kind | None, among: tuple[Kind, ...] = ANY) -> Finding:
    """Return the kind to use: the one asked for, else the first possible one `among` those."""
    if asked is not None:
        return next(finding for finding in found if finding.kind is asked)
    candidates = [finding for finding in found if finding.kind in among]
    return next((finding for finding in candidates if finding.possible), candidates[-1])


def usable(finding: Finding) -> Finding:
    """Return a finding that can be used right now; refuse any other in one line."""
    if not finding.possible:
        hint = f"; {finding.mend}" if finding.mend else ""
        raise RigError(f"no kernel with IPVS: {finding.kind}: {finding.reason}{hint}")
    if finding.missing:
        raise RigError(
            f"{finding.kind} lacks {', '.join(finding.missing)}; run `{setup_command(finding)}`"
        )
    return finding


def setup_command(finding: Finding) -> str:
    """Return the command that adds what a kind of machine lacks."""
    return SETUP if finding.kind in ANY else f"{SETUP} --rig {finding.kind}"


def missing_programs(facts: Facts, programs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the Debian packages of the programs that are not there, without repetition."""
    absent = [package for name, package in programs.items() if name not in facts.programs]
    return tuple(dict.fromkeys(absent))


def _native(facts: Facts) -> Finding:
    lacking = [name for name in ESSENTIAL if name not in facts.kernel_modules]
    if lacking:
        reason = f"this machine's kernel {facts.release} lacks {', '.join(lacking)}"
        mend = "install a kernel with them, or use another rig"
        return Finding(Kind.NATIVE, possible=False, reason=reason, mend=mend)
    if facts.namespaces is not None:
        reason = f"no namespaces: {facts.namespaces}"
        return Finding(Kind.NATIVE, possible=False, reason=reason, mend="run as root")
    reason = f"this machine's kernel {facts.release} has IPVS, and we may make namespaces"
    missing = missing_programs(facts, PROGRAMS)
    return Finding(Kind.NATIVE, possible=True, reason=reason, missing=missing)


def _uml(facts: Facts) -> Finding:
    return _guest(facts, Kind.UML, UML_PROGRAMS, "user-mode Linux: a kernel as an ordinary process")


def _qemu(facts: Facts) -> Finding:
    return _guest(facts, Kind.QEMU, QEMU_PROGRAMS, "Debian's kernel in an emulated machine")


def _guest(facts: Facts, kind: Kind, programs: Mapping[str, str], good: str) -> Finding:
    if facts.architecture != "x86_64":
        reason = f"it is for x86_64, this machine is {facts.architecture}"
        mend = "use a kernel with IPVS of its own (native)"
        return Finding(kind, possible=False, reason=reason, mend=mend)
    missing = missing_programs(facts, {**PROGRAMS, **programs})
    if not facts.module_mount_point:
        missing = (*missing, "/lib/modules")
    if missing and not facts.apt:
        reason = "packages are missing, and there is no apt-get"
        mend = f"install {', '.join(missing)} by hand"
        return Finding(kind, possible=False, reason=reason, missing=missing, mend=mend)
    return Finding(kind, possible=True, reason=good, missing=missing)
