"""Recorded states of a kube-proxy, loaded into a real kernel, and the agent started on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.operations import AddVirtualServer, BindAddress, CreateLink, Operation
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.iptables import Backend
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.process import Processes
from tests.kernel.namespace import fresh_network_namespace
from tests.kernel.netfilter import unusable
from tests.parity.agent import SETTINGS
from tests.parity.facts import manifest
from tests.parity.recording import Case, identity, read_case
from tests.scenarios.stage import Stage

CASES = Path(__file__).parents[1] / "parity" / "cases"
SOME = (
    *("affinity-timeout", "dual-stack", "external-ips-local", "external-local", "hairpin"),
    *("health-check-two-services", "nodeport-sctp", "source-ranges"),
)
"""All kinds of frontends, sets, rules and real servers are among them."""
NODE = ("192.168.50.11/24", "fd00:50::11/64")


class Noted(LinuxDataplane):
    """The kernel, and what has been acknowledged."""

    def __init__(self) -> None:
        super().__init__(WATCHED_SYSCTLS)
        self.done: list[Operation] = []

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out, and note."""
        outcomes = await super().apply(operations)
        for operation, outcome in zip(operations, outcomes, strict=True):
            assert outcome.refusal is None, f"{operation}: {outcome.reason}"
            self.done.append(operation)
        return outcomes


@contextmanager
def kube_proxys_node(case: Case) -> Iterator[None]:
    """Be on a node in whose kernel kube-proxy has made a case."""
    with fresh_network_namespace():
        programs = Processes()

        def run(*words: str, text: str = "") -> None:
            done = programs.run(words, text)
            assert done.returncode == 0, f"{' '.join(words)}: {done.complaint}"

        run(
            "ip", "-batch", "-", text="link set lo up\nlink add eth0 type dummy\nlink set eth0 up\n"
        )
        run("ip", "-batch", "-", text="".join(f"address add {one} dev eth0\n" for one in NODE))
        run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
        bound = (case.path / "addresses.txt").read_text().split()
        run("ip", "-batch", "-", text="".join(f"address add {a} dev kube-ipvs0\n" for a in bound))
        run("ipset", "restore", text=_sets(case))
        run("ipvsadm", "-R", text=(case.path / "ipvs.txt").read_text())
        backend = next(one for one in (Backend.NFT, Backend.LEGACY) if not unusable(programs, one))
        rules, _, rules6 = (case.path / "iptables.txt").read_text().partition("# ip6tables nat\n")
        for program, text in (("iptables", rules), ("ip6tables", "# ip6tables nat\n" + rules6)):
            run(f"{program}-{backend}-restore", "--noflush", text=_tables(text))
        yield


def _sets(case: Case) -> str:
    created = []
    for name, spec in case.theirs.sets.items():
        inet = "inet" if spec.family == 4 else "inet6"
        how = f"family {inet}" if spec.type.startswith("hash") else "range 0-65535"
        created.append(f"create {name} {spec.type} {how}")
    return "\n".join([*created, (case.path / "ipset.txt").read_text()])


def _tables(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines += [*(["COMMIT"] if lines else []), f"*{line.split()[-1]}"]
        else:
            lines.append(f"{line} [0:0]" if line.startswith(":") else line)
    return "\n".join([*lines, "COMMIT", ""])


async def start(case: Case) -> Noted:
    """Start the agent with the objects that there are at the end of a case."""
    kernel = Noted()
    stage = Stage(SETTINGS, between=lambda _: kernel)
    for document in case.final:
        stage.files["-".join(identity(document)) + ".json"] = manifest(document)
    await stage.start()
    return kernel


@pytest.mark.parametrize("name", SOME)
async def test_what_a_real_kernel_holds_is_adopted_and_a_second_start_writes_nothing(
    name: str,
) -> None:
    case = read_case(CASES / name)
    with kube_proxys_node(case):
        kernel = await start(case)
        made = [one for one in kernel.done if isinstance(one, AddVirtualServer)]
        assert not {one.key for one in made} & case.theirs.virtual_servers.keys()
        bound = [one for one in kernel.done if isinstance(one, BindAddress | CreateLink)]
        assert bound == []
        state = await kernel.dump()
        await kernel.close()
        ours = Ownership(state)
        assert all(key in ours for key in case.theirs.virtual_servers)
        assert not any(map(are_others, state.rulesets.values()))
        again = await start(case)
        await again.close()
        assert again.done == []
