"""Our iptables chains: read with one `iptables-save`, written with one `iptables-restore`.

Knows the two programs, in both of their backends (nft and legacy), and their error texts; their
language is `iptables_text`'s. Does not know which rules there ought to be, only which chains are
ours. What is written touches nothing else: `--noflush` leaves other chains alone, declaring a chain
of ours empties it, and jumps are inserted and deleted one by one, so that one which stands where it
should keeps its place. A table changes as a whole or not at all.

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
from collections.abc import Collection
from enum import StrEnum
from typing import assert_never

import structlog

from ipvsproxy.core.operations import ReplaceChains
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel.iptables_text import (
    DELETION_LINES,
    SavedTable,
    deletion_text,
    parse_save,
    parse_tables,
    restore_text,
)
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.kernel.tables import Tables
from ipvsproxy.model import Family, Ruleset

HINTS = (":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ")
"""Chains by which kubelet and the node's own iptables show which backend the node uses
(KEP-3178, and kubernetes-sigs/iptables-wrappers)."""
LOCK_SECONDS = "5"
"""How long the legacy backend waits for its lock, in whole seconds (iptables(8), -w), before it
refuses; well within the time limit of a program. The nft backend has no lock."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class Backend(StrEnum):
    """Which of the kernel's two packet filters the programs speak to."""

    NFT = "nft"
    LEGACY = "legacy"
    PLAIN = ""
    """Where only `iptables-restore` and the like are installed: whichever these are."""


_PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
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

    def __init__(
        self, processes: Processes, backend: str = "auto", tables: Tables | None = None
    ) -> None:
        """Use `backend`: "nft", "legacy", or "auto" for the one that the node uses.

        What `tables` know to be empty is not read by a program; without them all is.

        Raises ValueError for any other word. Which one the node uses is found out at the first
        call, by the hint chains, then by where our chains or kube-proxy's stand; else it is nft,
        and legacy where this kernel turns out to have no nf_tables. A program that only fails for
        now (BUSY) decides nothing: the next call looks again.
        """
        if backend not in ("auto", Backend.NFT, Backend.LEGACY):
            raise ValueError(f"iptables backend {backend!r}: give auto, nft or legacy")
        self._processes = processes
        self._tables = tables
        self._open = backend == "auto"
        """Whether the choice is ours, and not yet proved by a change that was carried out."""
        self._backend = None if backend == "auto" else Backend(backend)
        self._just_read: dict[Family, Completed | str] = {}
        """What a choice has read of the backend that was chosen, for the dumps that began it."""
        self.unusable: dict[Family, str] = {}
        """Why a family's chains cannot be read; by the last dump of each."""
        self.leftovers: dict[Family, list[tuple[str, str]]] = {}
        """Tables and names of chains of ours that stand there empty; by the last call for each."""

    @property
    def backend(self) -> Backend:
        """The backend in use; may start programs to find out, and raise ProcessError (BUSY)."""
        found = self._find_backend()
        self._just_read.clear()
        return found

    def _find_backend(self) -> Backend:
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
        try:
            backend = self._find_backend()
            done = self._just_read.pop(family, None) or self._save(backend, family)
        except ProcessError as error:
            done = str(error)
        if isinstance(done, str):
            self.unusable[family] = done
            return None
        self.unusable.pop(family, None)
        found = parse_save(done.stdout)
        self.leftovers[family] = [chain[:2] for chain in found.chains if not chain.rules]
        return Ruleset(tuple(chain for chain in found.chains if chain.rules), found.jumps)

    def dump_all(self, families: Collection[Family]) -> dict[Family, Ruleset]:
        """Read, as `dump` does, the chains of the families in use; nothing is said of others."""
        self.unusable.clear()
        found = {family: self.dump(family) for family in sorted(families)}
        self._just_read.clear()  # of a family that is not in use now, and may be later
        return {family: ruleset for family, ruleset in found.items() if ruleset is not None}

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
            position = line // DELETION_LINES
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
        return _run_restore(self._processes, self.backend, family, text)

    def _save(self, backend: Backend, family: Family) -> Completed | str:
        program = _program(backend, family, "save")
        if self._is_empty(backend, family) and self._processes.has(program):
            return Completed(0, "", "")
        return _run_save(self._processes, backend, family)

    def _is_empty(self, backend: Backend, family: Family) -> bool:
        """Whether it is known that a family has no table in a backend."""
        if self._tables is None:
            return False
        match backend:
            case Backend.NFT:
                return not self._tables.may_be_of_nft(family)
            case Backend.LEGACY:
                return not self._tables.may_be_of_legacy(family)
            case Backend.PLAIN:
                return False
            case _:
                assert_never(backend)

    def _choose(self) -> Backend:
        texts: dict[Backend, str] = {}
        saved: dict[Backend, dict[Family, Completed | str]] = {Backend.PLAIN: {}}
        for backend in (Backend.NFT, Backend.LEGACY):
            found = saved[backend] = {family: self._save(backend, family) for family in Family}
            working = [done.stdout for done in found.values() if not isinstance(done, str)]
            if working:
                texts[backend] = "\n".join(working)
            if any(hint in texts.get(backend, "") for hint in HINTS):
                break
        else:
            own = (one for one, text in texts.items() if _has_own_chain(text))
            backend = next(own, next(iter(texts), Backend.PLAIN))
        self._just_read = saved[backend]
        return backend


def read_tables(processes: Processes, backend: Backend, family: Family) -> list[SavedTable]:
    """Read all tables of a backend, whosever they are; none where it does not work here.

    Raises ProcessError where it does not work for now (BUSY).
    """
    done = _run_save(processes, backend, family)
    return [] if isinstance(done, str) else parse_tables(done.stdout)


def restore(processes: Processes, backend: Backend, family: Family, text: str) -> Outcome:
    """Carry out a text of one transaction."""
    try:
        done = _run_restore(processes, backend, family, text)
    except ProcessError as error:
        return error.outcome
    return _refused(done, text) if done.returncode else DONE


def _run_restore(processes: Processes, backend: Backend, family: Family, text: str) -> Completed:
    program = _program(backend, family, "restore")
    return processes.run((program, "--noflush", "-w", LOCK_SECONDS), text)


def _run_save(processes: Processes, backend: Backend, family: Family) -> Completed | str:
    """Run iptables-save, without `-t`, which would load and create a legacy table.

    Returns why it does not work here. Raises ProcessError where it does not for now (BUSY).
    """
    try:
        done = processes.run((_program(backend, family, "save"),))
    except ProcessError as error:
        if error.refusal is Refusal.BUSY:
            raise
        return str(error)
    return done if done.returncode == 0 else done.complaint


def _program(backend: Backend, family: Family, verb: str) -> str:
    return "-".join(word for word in (_PROGRAMS[family], backend, verb) if word)


def _has_own_chain(text: str) -> bool:
    """Say whether a chain of ours is in use; one that was left over has no rules."""
    return any(chain.rules for chain in parse_save(text).chains)


def _refused(done: Completed, text: str) -> Outcome:
    """Say which line was refused, as the programs give only its number."""
    complaint = " ".join(re.sub(r"Try `.*", "", done.stderr).split()) or done.complaint
    number = _refused_line(done, text)
    line = "" if number is None else _shown(text.split("\n")[number])
    reason = f"{complaint} [{line}]" if line else complaint
    if line.startswith("-D "):
        return Outcome(Refusal.CONTRADICTED, reason)
    for words, refusal in _REFUSALS:
        if words in complaint:
            return Outcome(refusal, reason)
    return Outcome(Refusal.FAILED, reason)


def _shown(line: str) -> str:
    return line.encode(errors="surrogateescape").decode(errors="replace")


def _refused_line(done: Completed, text: str) -> int | None:
    """Return the number of the line that was refused, from 0; None where that is not said."""
    found = _ERROR_LINE.search(done.stderr)
    number = int(found[1]) - 1 if found else -1
    return number if 0 <= number < text.count("\n") else None
