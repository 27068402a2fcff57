"""What has to be done once, with more rights than the agent needs later: modules and settings.

For an init container: `ipvsproxy run --init-only` loads the kernel's modules, where their files can
be seen, and writes the kernel settings and IPVS's timeouts that the agent would write. The agent
then finds them as they should be and writes none. Blocks; whatever goes wrong is a line of the
answer. Knows what must be there (FAIL) and what can be done without (WARN).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS, foundation
from ipvsproxy.core.node_settings import CONNTRACK_SYSCTLS
from ipvsproxy.core.operations import SetSysctl, SetTimeouts, describe
from ipvsproxy.core.sets import set_specs
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel import sysctl
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.kernel.link import families
from ipvsproxy.kernel.process import ProcessError, Processes
from ipvsproxy.model import Family, Scheduler, State, Timeouts
from ipvsproxy.telemetry import Check, Verdict

_MODULES = Path("/lib/modules")
_SYSCTLS = Path("/proc/sys")


def prepare(
    settings: Settings, *, modules: Path = _MODULES, sysctls: Path = _SYSCTLS
) -> tuple[Check, ...]:
    """Load modules and write settings; say what was done and what could not be."""
    loaded = tuple(_load_modules(settings, modules / platform.release()))
    ipvs = Ipvs()
    try:
        found = ipvs.timeouts()
    except DataplaneError as error:
        return (*loaded, Check("IPVS", Verdict.FAIL, str(error), "load the module ip_vs"))
    else:
        state = State(
            families=families(),
            sysctls=sysctl.read(WATCHED_SYSCTLS, root=sysctls),
            timeouts=found,
            processors=os.cpu_count() or 1,
        )
        needed = foundation(settings, state)
        return (
            *loaded,
            *write_settings(needed.sysctls, state.sysctls, root=sysctls),
            _write_timeouts(ipvs, needed.timeouts, found),
        )
    finally:
        ipvs.close()


def module_names(scheduler: Scheduler) -> tuple[str, ...]:
    """Name the modules that the agent uses on every node; the default scheduler is one."""
    types = sorted({spec.type for spec in set_specs(Family, 1024, 64).values()})
    return (
        "ip_vs",
        f"ip_vs_{scheduler}",
        "nf_conntrack",
        "ip_set",
        *(f"ip_set_{kind.replace(':', '_').replace(',', '')}" for kind in types),
        "xt_set",
        "dummy",
    )


def _load_modules(settings: Settings, folder: Path) -> Iterator[Check]:
    if not folder.is_dir():
        finding = f"{folder} is not there: none was loaded by us"
        mend = "mount the host's /lib/modules, or load them on the host"
        yield Check("modules", Verdict.WARN, finding, mend)
        return
    processes = Processes()
    for name in module_names(settings.default_scheduler):
        try:
            done = processes.run(("modprobe", name))
        except ProcessError as error:
            yield Check("modules", Verdict.FAIL, str(error), "install the package kmod")
            return
        if done.returncode:
            mend = f"install this kernel's package of extra modules, then modprobe {name}"
            yield Check(f"module {name}", Verdict.FAIL, done.complaint, mend)
        else:
            yield Check(f"module {name}", Verdict.OK, "loaded, or built in")


def write_settings(
    wanted: Mapping[str, str], found: Mapping[str, str], *, root: Path
) -> Iterator[Check]:
    """Write the kernel settings that differ; what cannot be written is told with the mend.

    The agent works without what is asked of connection tracking, and says so by itself.
    """
    for name, value in wanted.items():
        dotted = name.replace("/", ".")
        title, worst = (
            f"sysctl {dotted}",
            Verdict.WARN if name in CONNTRACK_SYSCTLS else Verdict.FAIL,
        )
        if found.get(name) == value:
            yield Check(title, Verdict.OK, f"{value} already")
            continue
        outcome = sysctl.apply(SetSysctl(name, value), root=root)
        if outcome.refusal is None:
            yield Check(title, Verdict.OK, f"set to {value}, was {found.get(name, 'unknown')}")
        else:
            yield Check(title, worst, outcome.reason, f"on the host: sysctl -w {dotted}={value}")


def _write_timeouts(ipvs: Ipvs, wanted: Timeouts, found: Timeouts) -> Check:
    name = "IPVS timeouts"
    if wanted == found:
        return Check(name, Verdict.OK, "as they should be already")
    operation = SetTimeouts(wanted)
    (outcome,) = ipvs.apply([operation])
    if outcome.refusal is None:
        return Check(name, Verdict.OK, describe(operation))
    return Check(name, Verdict.FAIL, outcome.reason, "run privileged, or with CAP_NET_ADMIN")
