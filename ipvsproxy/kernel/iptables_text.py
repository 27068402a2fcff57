"""The language of iptables-save and iptables-restore: text in, values out, and the reverse.

Knows words and no program. What is read is brought into one form, so that it can be compared with
what is wanted whichever version wrote it. Our own chains are read as a `Ruleset`; those of others
as they stand, table by table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ipvsproxy.core.firewall import OWN_CHAINS
from ipvsproxy.core.operations import ReplaceChains
from ipvsproxy.core.rule_words import parse
from ipvsproxy.model import Chain, Jump, Network, Rule, Ruleset

BUILT_IN_CHAINS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_PROTOCOLS = {
    "1": "icmp",
    "6": "tcp",
    "17": "udp",
    "132": "sctp",
    "58": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
    "ipv6-icmpv6": "ipv6-icmp",
}
"""Names of protocols in one form: it depends on the version and on /etc/protocols."""

_WORD = re.compile(r""""((?:[^"\\]|\\.)*)(?:"|\\?$)|([^ \t"]+)""")
_ESCAPED = re.compile(r"\\(.)")

DELETION_LINES = 3
"""Lines of `deletion_text` for each chain."""


class SavedTable(NamedTuple):
    """A table, with whatever is in it."""

    name: str
    chains: tuple[str, ...]
    rules: tuple[tuple[str, Rule], ...]
    """The chain of each rule, and its words, in their order."""


def restore_text(operation: ReplaceChains) -> str:
    """Write the input of `iptables-restore --noflush` that makes `found` what is wanted.

    Chains that are not wanted it leaves empty. Without anything wanted or found there is no text.
    """
    wanted, found = operation.wanted, operation.found
    chains = {(chain.table, chain.name): chain for chain in wanted.chains}
    surplus = [chain for chain in found.chains if chain[:2] not in chains]
    lines: list[str] = []
    tables = {chain.table for chain in (*wanted.chains, *surplus)}
    tables |= {jump.table for jump in (*wanted.jumps, *found.jumps)}
    for table in sorted(tables):
        declared = [chain for chain in chains.values() if chain.table == table]
        emptied = [chain for chain in surplus if chain.table == table]
        lines.append(f"*{table}")
        lines += (f":{chain.name} - [0:0]" for chain in (*declared, *emptied))
        lines += (f"-A {chain.name} {_text(rule)}" for chain in declared for rule in chain.rules)
        lines += _jump_lines(table, wanted.jumps, found.jumps)
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def deletion_text(chains: Iterable[tuple[str, str]]) -> str:
    """Write the input of `iptables-restore --noflush` that deletes chains, given table and name.

    Each in a transaction of its own, of `DELETION_LINES` lines.
    """
    return "".join(f"*{table}\n-X {name}\nCOMMIT\n" for table, name in chains)


def parse_save(text: str) -> Ruleset:
    """Read what iptables-save prints: our chains, and the jumps into them from built-in chains.

    Chains without rules are among them.
    """
    table = ""
    own: frozenset[str] = frozenset()
    rules: dict[tuple[str, str], list[Rule]] = {}
    jumps: list[Jump] = []
    for line in text.split("\n"):  # comments may have what splitlines() takes for an end
        if line.startswith("*"):
            table = line[1:].strip()
            own = OWN_CHAINS.get(table, frozenset())
        elif line.startswith(":"):
            name = line[1:].split(" ", 1)[0]
            if name in own:
                rules[table, name] = []
        elif line.startswith("-A ") and own:
            chain = line.split(" ", 2)[1]
            if chain in own:
                rules[table, chain].append(_rule(line))
            elif chain in BUILT_IN_CHAINS and "KUBE-" in line:
                rule = _rule(line)
                if parse(rule).target in own:
                    jumps.append(Jump(table, chain, rule))
    chains = (Chain(table, name, tuple(found)) for (table, name), found in sorted(rules.items()))
    return Ruleset(tuple(chains), tuple(sorted(jumps, key=lambda jump: jump[:2])))


def parse_tables(text: str) -> list[SavedTable]:
    """Read what iptables-save prints, whosever it is."""
    found: list[SavedTable] = []
    table, chains, rules = "", [], []  # type: str, list[str], list[tuple[str, Rule]]
    for line in text.split("\n"):  # comments may have what splitlines() takes for an end
        if line.startswith("*"):
            table, chains, rules = line[1:].strip(), [], []
        elif line.startswith(":"):
            chains.append(line[1:].split(" ", 1)[0])
        elif line.startswith("-A "):
            rules.append((line.split(" ", 2)[1], _rule(line)))
        elif line == "COMMIT":
            found.append(SavedTable(table, tuple(chains), tuple(rules)))
    return found


def removal_text(table: str, rules: Iterable[tuple[str, Rule]], chains: Sequence[str]) -> str:
    """Write the input of `iptables-restore --noflush` that deletes rules and chains.

    In one transaction: chains are emptied first, as they may lead into each other.
    """
    lines = [
        f"*{table}",
        *(f":{name} - [0:0]" for name in chains),
        *(f"-D {chain} {_text(rule)}" for chain, rule in rules),
        *(f"-X {name}" for name in chains),
        "COMMIT",
    ]
    return "".join(f"{line}\n" for line in lines)


def _jump_lines(table: str, wanted: Iterable[Jump], found: Iterable[Jump]) -> Iterator[str]:
    """Delete and insert jumps so that those wanted stand in their order, before all else.

    Each is inserted at position 1, so the last one wanted is inserted first. Those that stand
    already are kept as long as only others before them are missing. kube-proxy does the same on a
    fresh node, and keeps whatever order it finds later.
    """
    there = [jump for jump in found if jump.table == table]
    meant = [jump for jump in wanted if jump.table == table]
    for chain in dict.fromkeys(jump.chain for jump in (*there, *meant)):
        present = [jump.rule for jump in there if jump.chain == chain]
        needed = [jump.rule for jump in meant if jump.chain == chain]
        kept = _kept(present, needed)
        yield from (f"-D {chain} {_text(rule)}" for rule in present if rule not in kept)
        missing = needed[: len(needed) - len(kept)]
        yield from (f"-I {chain} {_text(rule)}" for rule in reversed(missing))


def _kept(present: Sequence[Rule], needed: Sequence[Rule]) -> Sequence[Rule]:
    """Return the longest end of `needed` whose rules stand in that order.

    None is kept where a rule stands twice: deleting by its text takes the first of them, which
    may be the one that stands right.
    """
    if len(set(present)) < len(present):
        return ()
    for start in range(len(needed)):
        end = needed[start:]
        if [rule for rule in present if rule in end] == list(end):
            return end
    return ()


def _rule(line: str) -> Rule:
    """Split `-A CHAIN words` into words, in the one form in which rules are compared."""
    words = _words(line)[2:]
    for index in range(1, len(words)):
        if words[index - 1] in ("-s", "-d"):
            words[index] = _network(words[index])
        elif words[index - 1] == "-p":
            words[index] = _PROTOCOLS.get(words[index], words[index])
    return tuple(words)


def _words(line: str) -> list[str]:
    """Split a line as iptables-restore does (add_param_to_argv in iptables/xshared.c).

    Within quotes a backslash is before any character that is meant as it is; nothing is an error.
    """
    return [
        _ESCAPED.sub(r"\1", quoted) or bare  # both empty: an empty word in quotes
        for quoted, bare in _WORD.findall(line)
    ]


def _network(text: str) -> str:
    try:
        return str(Network.parse(text))
    except ValueError:
        return text


def _text(rule: Rule) -> str:
    """Join words as iptables-restore reads them: quotes around what has a space."""
    return " ".join(_quoted(word) for word in rule)


def _quoted(word: str) -> str:
    if re.fullmatch(r"[\w.,:/!+@%=-]+", word):
        return word
    escaped = re.sub(r'(["\\])', r"\\\1", word)
    return f'"{escaped}"'
