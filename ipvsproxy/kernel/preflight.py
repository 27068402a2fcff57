"""Whether this node can run the agent: a checklist, with the mend for each failure.

Knows how to try things without touching the node. What can be tried (a virtual server for each
scheduler, every type of ipset, our own chains, the dummy interface) is tried by the same adapters
that the agent uses, in a network namespace that a thread of its own makes and that is gone with
that thread: the tables of IPVS, ipset and iptables belong to a network namespace, and a namespace
belongs to a thread (unshare(2)). The one trace that can stay is a kernel module that was loaded, as
the agent's first use would load it. Blocks; nothing here is raised at the caller.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ipvsproxy.config import IptablesBackend, Settings
from ipvsproxy.core.foundation import Foundation, foundation
from ipvsproxy.core.operations import (
    AddVirtualServer,
    CreateLink,
    CreateSet,
    RemoveVirtualServer,
    ReplaceChains,
)
from ipvsproxy.dataplane import DataplaneError, Outcome
from ipvsproxy.kernel import sysctl
from ipvsproxy.kernel.ipset import Ipsets
from ipvsproxy.kernel.iptables import HINTS, Iptables
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.kernel.link import Link, families
from ipvsproxy.kernel.process import ProcessError, Processes
from ipvsproxy.model import (
    Address,
    Family,
    Protocol,
    Ruleset,
    Scheduler,
    SetSpec,
    SetType,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.telemetry import Check, Verdict

_NEW_NETWORK_NAMESPACE = 0x40000000  # CLONE_NEWNET
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""What the agent needs, by bit: the second for iptables, which asks for ipsets on a raw socket."""
_OLDEST_KERNEL = (4, 1)
_GOOD_KERNEL = (5, 9)
_PROBE = VirtualServerKey(Protocol.TCP, Address.parse("198.51.100.1"), 20000)
"""Of a network that is for documentation (RFC 5737)."""
_PROBE_IPV6 = VirtualServerKey(Protocol.TCP, Address.parse("2001:db8::1"), 20000)
_MODULES = "install this kernel's package of extra modules (such as kernel-modules-extra)"


def check_node(settings: Settings) -> tuple[Check, ...]:
    """Check everything that the agent needs from this node, in the order in which it needs it."""
    processes = Processes()
    release = platform.release()
    needed = foundation(
        settings, State(families=families(), sysctls=sysctl.read(("kernel/osrelease",)))
    )
    backend = choose_backend(settings.iptables_backend, processes)
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return (
        kernel_check(release),
        rights_check(status),
        *_tried(lambda: tuple(_probe(settings, needed, backend, processes))),
        *sysctl_checks(needed.sysctls),
    )


class BackendChoice(NamedTuple):
    """Which iptables backend is used on this node, and why."""

    backend: IptablesBackend
    """`auto`: nothing on the node says; the first that works."""
    reason: str


def kernel_check(release: str) -> Check:
    """Judge the kernel's version."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers is not None else (0, 0)
    if version < _OLDEST_KERNEL:
        return Check("kernel", Verdict.FAIL, f"Linux {release}", "use Linux 4.1 or newer")
    if version < _GOOD_KERNEL:
        finding = f"Linux {release}: reused source ports cost a client a second or a connection"
        return Check("kernel", Verdict.WARN, finding, "use Linux 5.9 or newer")
    return Check("kernel", Verdict.OK, f"Linux {release}")


def rights_check(process_status: str) -> Check:
    """Judge the rights of this process, by the text of /proc/self/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", process_status, re.MULTILINE)
    capabilities = int(found[1], 16) if found is not None else 0
    missing = [name for name, bit in _CAPABILITIES.items() if not capabilities >> bit & 1]
    if not missing:
        return Check("rights", Verdict.OK, ", ".join(_CAPABILITIES))
    names = " and ".join(missing)
    mend = f"run as root, or give the container {names}"
    verb = "is" if len(missing) == 1 else "are"
    return Check("rights", Verdict.FAIL, f"{names} {verb} missing", mend)


def scheduler_check(scheduler: Scheduler, outcome: Outcome, *, default: Scheduler) -> Check:
    """Judge one scheduler by what became of a virtual server that uses it."""
    name, module = f"scheduler {scheduler}", f"ip_vs_{scheduler}"
    if outcome.refusal is None:
        return Check(name, Verdict.OK, module)
    mend = f"modprobe {module}; where there is none, {_MODULES}"
    if scheduler is default:
        return Check(name, Verdict.FAIL, f"{outcome.reason} (it is the default)", mend)
    return Check(name, Verdict.WARN, f"{outcome.reason} (only Services that name it)", mend)


def sysctl_checks(wanted: Mapping[str, str], *, root: Path = Path("/proc/sys")) -> Iterator[Check]:
    """Judge each kernel setting: right already, or at least writable."""
    found = sysctl.read(wanted, root=root)
    for name, value in wanted.items():
        title = f"sysctl {name.replace('/', '.')}"
        if name not in found:
            mend = "load ip_vs first (modprobe ip_vs)" if "/vs/" in name else ""
            yield Check(title, Verdict.WARN, "this kernel has none, or it cannot be read", mend)
        elif found[name] == value:
            yield Check(title, Verdict.OK, value)
        elif _is_writable(root / name):
            yield Check(title, Verdict.OK, f"{found[name]}, will be set to {value}")
        else:
            mend = f"set it on the host: sysctl -w {name.replace('/', '.')}={value}"
            yield Check(title, Verdict.FAIL, f"{found[name]}, and cannot be written", mend)


def choose_backend(setting: IptablesBackend, processes: Processes) -> BackendChoice:
    """Say which backend the agent uses in this network namespace, and why; as `Iptables` does."""
    if setting is not IptablesBackend.AUTO:
        return BackendChoice(setting, "as set by --iptables-backend")
    for backend in (IptablesBackend.NFT, IptablesBackend.LEGACY):
        if any(hint in _saved(processes, backend) for hint in HINTS):
            return BackendChoice(backend, "kubelet's hint chain is there")
    for backend in (IptablesBackend.NFT, IptablesBackend.LEGACY):
        adapter = Iptables(processes, backend)
        if any((found := adapter.dump(family)) and found.chains for family in Family):
            return BackendChoice(backend, "our chains or kube-proxy's are there")
    return BackendChoice(IptablesBackend.AUTO, "no hint on this node; nft is tried before legacy")


def _saved(processes: Processes, backend: IptablesBackend) -> str:
    texts = []
    for program in ("iptables", "ip6tables"):
        try:
            texts.append(processes.run((f"{program}-{backend}-save",)).stdout)
        except ProcessError:
            continue  # not installed: nothing of it is there
    return "\n".join(texts)


def _tried(probe: Callable[[], tuple[Check, ...]]) -> tuple[Check, ...]:
    """Run `probe` in a network namespace that is gone afterwards."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="preflight") as thread:
        try:
            thread.submit(_enter_new_namespace).result()
        except OSError as error:
            finding = f"cannot be made ({error.strerror}): schedulers, sets, chains are not tried"
            mend = "run as root, or with CAP_SYS_ADMIN"
            return (Check("trial namespace", Verdict.WARN, finding, mend),)
        return thread.submit(probe).result()


def _enter_new_namespace() -> None:
    """Move the calling thread into a network namespace of its own. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEW_NETWORK_NAMESPACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _probe(
    settings: Settings, needed: Foundation, backend: BackendChoice, processes: Processes
) -> Iterator[Check]:
    yield from _probe_ipvs(settings)
    yield from _probe_sets(needed.sets, processes)
    yield from _probe_chains(needed.rulesets, backend, processes)
    yield _probe_conntrack(processes)
    yield _probe_link()


def _probe_ipvs(settings: Settings) -> Iterator[Check]:
    ipvs = Ipvs()
    try:
        ipvs.open()
    except DataplaneError as error:
        mend = f"modprobe ip_vs; where there is none, {_MODULES}"
        yield Check("IPVS", Verdict.FAIL, str(error), mend)
        return
    try:
        yield Check("IPVS", Verdict.OK, "the kernel answers by netlink")
        for scheduler in Scheduler:
            outcome = _try_virtual_server(ipvs, _PROBE, scheduler)
            yield scheduler_check(scheduler, outcome, default=settings.default_scheduler)
        if Family.IPV6 in families():
            outcome = _try_virtual_server(ipvs, _PROBE_IPV6, settings.default_scheduler)
            mend = "use a kernel with CONFIG_IP_VS_IPV6, or Services of IPv4 only"
            yield _by_outcome("IPVS over IPv6", outcome, worst=Verdict.WARN, mend=mend)
    finally:
        ipvs.close()


def _try_virtual_server(ipvs: Ipvs, key: VirtualServerKey, scheduler: Scheduler) -> Outcome:
    server = VirtualServer(scheduler, persistence_prefix=key.family.host_prefix)
    (outcome,) = ipvs.apply([AddVirtualServer(key, server)])
    if outcome.refusal is None:
        ipvs.apply([RemoveVirtualServer(key)])
    return outcome


def _probe_sets(needed: Mapping[str, SetSpec], processes: Processes) -> Iterator[Check]:
    """Create the sets that our chains use, and one of each other type."""
    used = {spec.type for spec in needed.values()}
    others = {f"TRIAL-{kind}": SetSpec(kind, Family.IPV4) for kind in SetType if kind not in used}
    specs = {**needed, **others}
    outcomes = Ipsets(processes).apply([CreateSet(*item) for item in specs.items()])
    by_type: dict[SetType, Outcome] = {}
    for spec, outcome in zip(specs.values(), outcomes, strict=True):
        if outcome.refusal is not None or spec.type not in by_type:
            by_type[spec.type] = outcome
    for kind in SetType:
        module = f"ip_set_{kind.replace(':', '_').replace(',', '')}"
        worst = Verdict.FAIL if kind in used else Verdict.WARN
        mend = f"install the package ipset and modprobe {module}; where there is none, {_MODULES}"
        yield _by_outcome(f"ipset {kind}", by_type[kind], worst=worst, mend=mend)


def _probe_chains(
    needed: Mapping[Family, Ruleset], choice: BackendChoice, processes: Processes
) -> Iterator[Check]:
    """Write all our chains, which use every match and target that the agent uses."""
    for family, wanted in needed.items():
        adapter = Iptables(processes, choice.backend)
        outcome = adapter.apply(ReplaceChains(family, wanted, Ruleset()))
        try:
            used = adapter.backend or "the plain programs"
        except ProcessError as error:
            used = str(error)
        worst = Verdict.FAIL if family is Family.IPV4 else Verdict.WARN
        mend = f"install the package iptables and modprobe xt_set; or {_MODULES}"
        finding = f"{used} ({choice.reason})"
        yield _by_outcome(f"iptables IPv{family}", outcome, worst=worst, mend=mend, finding=finding)


def _probe_conntrack(processes: Processes) -> Check:
    name = "conntrack"
    mend = "install the package conntrack and modprobe nf_conntrack_netlink"
    lost = "UDP clients of an endpoint that has left wait for their flow to time out"
    try:
        done = processes.run(("conntrack", "-C"))
    except ProcessError as error:
        return Check(name, Verdict.WARN, f"{error}; {lost}", mend)
    if done.returncode:
        return Check(name, Verdict.WARN, f"{done.complaint}; {lost}", mend)
    return Check(name, Verdict.OK, "the program works")


def _probe_link() -> Check:
    link = Link()
    try:
        (outcome,) = link.apply([CreateLink()])
    finally:
        link.close()
    mend = f"modprobe dummy; where there is none, {_MODULES}"
    return _by_outcome("dummy interface", outcome, worst=Verdict.FAIL, mend=mend)


def _by_outcome(
    name: str, outcome: Outcome, *, worst: Verdict, mend: str, finding: str = "works"
) -> Check:
    if outcome.refusal is None:
        return Check(name, Verdict.OK, finding)
    return Check(name, worst, outcome.reason, mend)


def _is_writable(path: Path) -> bool:
    """Say whether a setting could be written; opening one for writing changes nothing."""
    try:
        with path.open("r+"):
            return True
    except OSError:
        return False
