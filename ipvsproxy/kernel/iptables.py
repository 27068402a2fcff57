"""Our iptables chains: read with one `iptables-save`, written with one `iptables-restore`.

Knows the language of the two programs, in both of their backends (nft and legacy), and their error
texts; does not know which rules there ought to be, only which chains are ours.

What is read is brought into one form, so that it can be compared with what is wanted whichever
version wrote it. What is written touches nothing else: `--noflush` leaves other chains alone,
declaring a chain of ours empties it, and jumps are inserted and deleted one by one, so that one
which stands where it should keeps its place. A table changes as a whole or not at all.

A chain that is no longer wanted is emptied with its table and deleted afterwards, in a transaction
of its own, as a rule of somebody else may still lead into it (portmap's externalSetMarkChain). Then
it stays, empty, and that is no failure: traffic falls through it. Nor is it read back as a chain,
for nobody wants an empty one, and there would always be something to mend. `leftovers` has such
chains, and whenever the family's chains are changed it is tried again to delete them.

Of jumps only those in the built-in chains are looked at: what leads into ours from a chain of
somebody else belongs to that chain's owner.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import structlog

from ipvsproxy.core.firewall import OWN_CHAINS
from ipvsproxy.core.operations import ReplaceChains
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.model import Chain, Family, Jump, Network, Rule, Ruleset

BUILT_IN_CHAINS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
HINTS = (":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ")
"""Chains by which kubelet and the node's own iptables show which backend the node uses
(KEP-3178, and kubernetes-sigs/iptables-wrappers)."""
LOCK_SECONDS = "5"
"""How long the legacy backend waits for its lock; the nft backend has none."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class Backend(StrEnum):
    """Which of the kernel's two packet filters the programs speak to."""

    NFT = "nft"
    LEGACY = "legacy"
    PLAIN = ""
    """Where only `iptables-restore` and the like are installed: whichever these are."""


_PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
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

_DELETION_LINES = 3
_ERROR_LINE = re.compile(r"line:? (\d+)")
_NO_SUCH_RULE = "does a matching rule exist"
_NO_NF_TABLES = re.compile(
    r"TABLE_ADD failed \(Operation not supported\)"
    r"|generation id: (Invalid argument|Operation not supported|Protocol not supported)"
)
"""This kernel has no nf_tables, or none for this family."""
_REFUSALS = (
    ("must be root", Refusal.FORBIDDEN),
    ("Permission denied", Refusal.FORBIDDEN),
    ("Operation not permitted", Refusal.FORBIDDEN),
    ("Can't open socket to ipset", Refusal.FORBIDDEN),
    ("Read-only file system", Refusal.FORBIDDEN),
    ("xtables lock", Refusal.BUSY),
    ("Device or resource busy", Refusal.BUSY),
    ("Too many links", Refusal.BUSY),
    ("Resource temporarily unavailable", Refusal.BUSY),
    ("Memory allocation problem", Refusal.BUSY),
    (_NO_SUCH_RULE, Refusal.CONTRADICTED),
    ("doesn't exist", Refusal.CONTRADICTED),
    ("does not exist (do you need to insmod", Refusal.UNSUPPORTED),
    ("Couldn't load", Refusal.UNSUPPORTED),
    ("missing kernel module", Refusal.UNSUPPORTED),
    ("not supported", Refusal.UNSUPPORTED),
    ("nitialize", Refusal.UNSUPPORTED),
    ("No chain/target/match by that name", Refusal.UNSUPPORTED),
)


class Iptables:
    """Our chains in the tables of each family, through one backend."""

    def __init__(self, processes: Processes, backend: str = "auto") -> None:
        """Use `backend`: "nft", "legacy", or "auto" for the one that the node uses.

        Raises ValueError for any other word. Which one the node uses is found out at the first
        call, by the hint chains, then by where our chains or kube-proxy's stand; else it is nft,
        and legacy where this kernel turns out to have no nf_tables.
        """
        if backend not in ("auto", Backend.NFT, Backend.LEGACY):
            raise ValueError(f"iptables backend {backend!r}: give auto, nft or legacy")
        self._processes = processes
        self._open = backend == "auto"
        """Whether the choice is ours, and not yet proved by a change that was carried out."""
        self._backend = None if backend == "auto" else Backend(backend)
        self.unusable: dict[Family, str] = {}
        """Why a family's chains cannot be read; by the last dump of each."""
        self.leftovers: dict[Family, list[tuple[str, str]]] = {}
        """Tables and names of chains of ours that stand there empty; by the last call for each."""

    @property
    def backend(self) -> Backend:
        """The backend in use; may start programs to find out."""
        if self._backend is not None:
            return self._backend
        chosen = self._choose()
        if chosen is not Backend.PLAIN:  # else nothing worked, and the next call looks again
            self._backend = chosen
        return chosen

    def dump(self, family: Family) -> Ruleset | None:
        """Read our chains and the jumps into them, in the order in which they stand.

        None where the programs are missing or do not work for this family; `unusable` says why.
        """
        done = self._save(self.backend, family)
        if isinstance(done, str):
            self.unusable[family] = done
            return None
        self.unusable.pop(family, None)
        found = parse_save(done.stdout)
        self.leftovers[family] = [chain[:2] for chain in found.chains if not chain.rules]
        return Ruleset(tuple(chain for chain in found.chains if chain.rules), found.jumps)

    def apply(self, operation: ReplaceChains) -> Outcome:
        """Make our chains what is wanted; a table that was refused is as it was before."""
        text = restore_text(operation)
        if text:
            try:
                done = self._restore(operation.family, text)
                if done.returncode and self._open and _NO_NF_TABLES.search(done.stderr):
                    self._backend = Backend.LEGACY
                    done = self._restore(operation.family, text)
            except ProcessError as error:
                return error.outcome
            if done.returncode:
                return _refused(done, text)
            self._open = False
        self._delete_surplus(operation)
        return DONE

    def _delete_surplus(self, operation: ReplaceChains) -> None:
        """Delete the chains that are not wanted, which are empty by now, or leave them there."""
        family = operation.family
        wanted = {chain[:2] for chain in operation.wanted.chains}
        found = (chain[:2] for chain in operation.found.chains)
        surplus = sorted({*found, *self.leftovers.get(family, ())} - wanted)
        left: list[tuple[str, str]] = []
        reason = ""
        while surplus:
            text = deletion_text(surplus)
            try:
                done = self._restore(family, text)
            except ProcessError as error:
                reason, left = str(error), left + surplus
                break
            if not done.returncode:
                break
            reason = _refused(done, text).reason
            line = _refused_line(done, text)
            if line is None:
                left += surplus
                break
            position = line // _DELETION_LINES
            left.append(surplus[position])
            surplus = surplus[position + 1 :]
        if left:
            log.info(
                "chains of ours stay, empty, as rules of others lead into them",
                family=int(family),
                chains=[" ".join(chain) for chain in left],
                reason=reason,
            )
        self.leftovers[family] = left

    def _restore(self, family: Family, text: str) -> Completed:
        program = _program(self.backend, family, "restore")
        return self._processes.run((program, "--noflush", "-w", LOCK_SECONDS), text)

    def _save(self, backend: Backend, family: Family) -> Completed | str:
        """Run iptables-save, without `-t`, which would load and create a legacy table."""
        try:
            done = self._processes.run((_program(backend, family, "save"),))
        except ProcessError as error:
            return str(error)
        return done if done.returncode == 0 else done.complaint

    def _choose(self) -> Backend:
        texts: dict[Backend, str] = {}
        for backend in (Backend.NFT, Backend.LEGACY):
            saved = [self._save(backend, family) for family in Family]
            working = [done.stdout for done in saved if not isinstance(done, str)]
            if working:
                texts[backend] = "\n".join(working)
            if any(hint in texts.get(backend, "") for hint in HINTS):
                return backend
        for backend, text in texts.items():
            if _has_own_chain(text):
                return backend
        return next(iter(texts), Backend.PLAIN)


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

    Each in a transaction of its own, of `_DELETION_LINES` lines.
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
    for line in text.splitlines():
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
                if _target(rule) in own:
                    jumps.append(Jump(table, chain, rule))
    chains = (Chain(table, name, tuple(found)) for (table, name), found in sorted(rules.items()))
    return Ruleset(tuple(chains), tuple(sorted(jumps, key=lambda jump: jump[:2])))


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
    words = shlex.split(line)[2:]
    for index in range(1, len(words)):
        if words[index - 1] in ("-s", "-d"):
            words[index] = _network(words[index])
        elif words[index - 1] == "-p":
            words[index] = _PROTOCOLS.get(words[index], words[index])
    return tuple(words)


def _network(text: str) -> str:
    try:
        return str(Network.parse(text))
    except ValueError:
        return text


def _target(rule: Rule) -> str:
    for option in ("-j", "-g"):
        if option in rule[:-1]:
            return rule[rule.index(option) + 1]
    return ""


def _text(rule: Rule) -> str:
    """Join words as iptables-restore reads them: quotes around what has a space."""
    return " ".join(_quoted(word) for word in rule)


def _quoted(word: str) -> str:
    if re.fullmatch(r"[\w.,:/!+@%=-]+", word):
        return word
    escaped = re.sub(r'(["\\])', r"\\\1", word)
    return f'"{escaped}"'


def _program(backend: Backend, family: Family, verb: str) -> str:
    return "-".join(word for word in (_PROGRAMS[family], backend, verb) if word)


def _has_own_chain(text: str) -> bool:
    """Say whether a chain of ours is in use; one that was left over has no rules."""
    return any(chain.rules for chain in parse_save(text).chains)


def _refused(done: Completed, text: str) -> Outcome:
    """Say which line was refused, as the programs give only its number."""
    complaint = " ".join(re.sub(r"Try `.*", "", done.stderr).split()) or done.complaint
    number = _refused_line(done, text)
    line = "" if number is None else text.splitlines()[number]
    reason = f"{complaint} [{line}]" if line else complaint
    if line.startswith("-D "):
        return Outcome(Refusal.CONTRADICTED, reason)
    for words, refusal in _REFUSALS:
        if words in complaint:
            return Outcome(refusal, reason)
    return Outcome(Refusal.FAILED, reason)


def _refused_line(done: Completed, text: str) -> int | None:
    """Return the number of the line that was refused, from 0; None where that is not said."""
    found = _ERROR_LINE.search(done.stderr)
    number = int(found[1]) - 1 if found else -1
    return number if 0 <= number < len(text.splitlines()) else None
