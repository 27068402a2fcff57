"""What the system's own programs say of a node: the independent witness of everything.

Texts are for people and for comparing before with after; `Table` is `ipvsadm -Sn`, parsed.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

from testbed import namespaces

PROTOCOLS = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}
_CONTENT = re.compile(r"^(\*|:|-A )")


@dataclass(slots=True)
class VirtualServer:
    """One virtual server as `ipvsadm -Sn` prints it."""

    scheduler: str
    options: tuple[str, ...] = ()
    """What follows the scheduler: persistence and scheduler flags."""
    weights: dict[str, int] = field(default_factory=dict)
    """Weight by `ADDRESS:PORT` of the real server."""

    @property
    def serving(self) -> frozenset[str]:
        """The real servers that take new connections."""
        return frozenset(server for server, weight in self.weights.items() if weight > 0)


Table = dict[tuple[str, str], VirtualServer]
"""By protocol (tcp, udp, sctp) and `ADDRESS:PORT`."""


def ipvs(namespace: str) -> str:
    """`ipvsadm -Sn`."""
    return namespaces.run_inside(namespace, "ipvsadm", "-Sn")


def table(namespace: str) -> Table:
    """`ipvsadm -Sn`, parsed."""
    return parse(ipvs(namespace))


def parse(text: str) -> Table:
    """Read what `ipvsadm -Sn` prints; ValueError for a line that it never prints."""
    found: Table = {}
    for line in text.splitlines():
        action, kind, name, *rest = line.split()
        key = PROTOCOLS[kind], name
        if action == "-A":
            found[key] = VirtualServer(rest[1], tuple(rest[2:]))
        elif action == "-a":
            found[key].weights[rest[1]] = int(rest[rest.index("-w") + 1])
        else:
            raise ValueError(f"not a line of ipvsadm -Sn: {line!r}")
    return found


def scheduled(namespace: str, name: str) -> dict[str, int]:
    """Count the UDP connections of each real server of a virtual server: `ipvsadm -Ln --stats`."""
    text = namespaces.run_inside(namespace, "ipvsadm", "-Ln", "--stats", "--exact", "-u", name)
    lines = [line.split() for line in text.splitlines()]
    return {words[1]: int(words[2]) for words in lines if words[0] == "->" and words[-1].isdigit()}


def connections(namespace: str, name: str) -> int:
    """Count the connections that a virtual server of TCP has had, as of the last two seconds."""
    text = namespaces.run_inside(namespace, "ipvsadm", "-Ln", "--stats", "--exact", "-t", name)
    lines = [line.split() for line in text.splitlines()]
    return sum(int(words[2]) for words in lines if words[:2] == ["TCP", name])


def sets(namespace: str) -> str:
    """`ipset save`, sorted: a hash has no order of its own."""
    return _sorted(namespaces.run_inside(namespace, "ipset", "save", "-sorted"))


def rules(namespace: str, *, program: str = "iptables") -> str:
    """Return the rules of one family, as `iptables-save` (or ip6tables-save) prints them.

    Without counters, comments and tables' policies, in its own order. Both backends are asked,
    because which one the agent uses is its own choice; one that does not work here says nothing.
    """
    texts = []
    for backend in ("legacy", "nft"):
        try:
            texts.append(namespaces.run_inside(namespace, f"{program}-{backend}-save"))
        except namespaces.CommandError:
            continue
    lines = [line for text in texts for line in text.splitlines() if _CONTENT.match(line)]
    return "".join(re.sub(r" \[\d+:\d+\]$", "", line) + "\n" for line in lines)


def iptables(namespace: str) -> str:
    """Name the iptables program whose tables of a node have our rules; LookupError for none."""
    for backend in ("legacy", "nft"):
        with contextlib.suppress(namespaces.CommandError):
            if "KUBE-SERVICES" in namespaces.run_inside(namespace, f"iptables-{backend}-save"):
                return f"iptables-{backend}"
    raise LookupError(f"no rules of ours in {namespace}")


def addresses(namespace: str) -> str:
    """`ip addr show kube-ipvs0`, one line each, sorted; empty where the interface is missing.

    Without the interface's number, which is another one when it has been made again.
    """
    try:
        text = namespaces.run_inside(namespace, "ip", "-o", "addr", "show", "dev", "kube-ipvs0")
    except namespaces.CommandError:
        return ""
    return _sorted(re.sub(r"^\d+: ", "", text, flags=re.MULTILINE))


def everything(namespace: str) -> dict[str, str]:
    """All four kinds of kernel tables, for comparing before with after."""
    return {
        "ipvs": _sorted(ipvs(namespace)),
        "ipset": sets(namespace),
        "iptables": rules(namespace),
        "ip6tables": rules(namespace, program="ip6tables"),
        "addresses": addresses(namespace),
    }


def _sorted(text: str) -> str:
    return "".join(sorted(text.splitlines(keepends=True)))
