"""The way of a packet through the rules of one table at one hook.

Knows chains, jumps and targets, as net/ipv4/netfilter/ip_tables.c goes through them; does not know
in which order the kernel asks hooks and tables (`core.trace`), nor what a match asks
(`core.rule_matching`). It reads the chains and jumps that a `Ruleset` has, which are ours or
kube-proxy's: rules of others, and the policies of the built-in chains, are not seen.

It never goes past what it does not understand: such a rule ends the walk, unless one of its other
matches fails for certain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ipvsproxy.core.packet import Step
from ipvsproxy.core.rule_matching import Answer, InFlight, answer
from ipvsproxy.core.rule_words import ParsedRule, parse, rule_text
from ipvsproxy.model import Address, Family, Rule, Ruleset, State

__all__ = ["End", "Walk"]

_MOST_CHAINS = 32
"""Chains that may call each other; the kernel allows no loop."""


class End(Enum):
    """How it went at a hook."""

    PASSED = "passed"
    DROPPED = "dropped"
    REJECTED = "rejected"
    UNCLEAR = "unclear"


_ENDS: Mapping[str, End] = {
    "ACCEPT": End.PASSED,
    "DROP": End.DROPPED,
    "REJECT": End.REJECTED,
    "MASQUERADE": End.PASSED,
}
"""Targets that end the walk through a table."""


@dataclass(slots=True)
class Walk:
    """A packet on its way: what it looks like now, and what has decided on it so far."""

    state: State
    packet: InFlight
    steps: list[Step] = field(default_factory=list)
    masqueraded: Step | None = None
    """The rule that replaces the source when the packet leaves."""
    _chains: dict[tuple[str, str], tuple[Rule, ...]] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The packet's family."""
        return self.packet.destination.family

    def branch(self, packet: InFlight) -> Walk:
        """Begin anew with another form of the packet, with no steps."""
        return Walk(self.state, packet)

    def hook(self, hook: str, *tables: str) -> End:
        """Go through some tables at a hook, in order, until one does not let it pass.

        What ended it is the last step.
        """
        for table in tables:
            end = self._table(hook, table)
            if end is not End.PASSED:
                return end
        return End.PASSED

    def _table(self, hook: str, table: str) -> End:
        ruleset = self.state.rulesets.get(self.family)
        if ruleset is None:
            why = self.state.lacks.get(f"IPv{self.family} chains", "they could not be read")
            self._note(hook, table, "", (), verdict="", because=(f"not known: the chains: {why}",))
            return End.UNCLEAR
        self._chains = _chains(ruleset)
        rules = tuple(one.rule for one in ruleset.jumps if (one.table, one.chain) == (table, hook))
        return self._rules(hook, table, hook, rules, depth=0) or End.PASSED

    def _rules(
        self, hook: str, table: str, chain: str, rules: Sequence[Rule], *, depth: int
    ) -> End | None:
        """Go through the rules of a chain; None: it returns to where it was called."""
        for rule in rules:
            parsed = parse(rule)
            answers = [answer(match, self.packet, self.state) for match in parsed.matches]
            if any(one.holds is False for one in answers):
                continue
            unclear = _unclear(parsed, answers)
            if unclear:
                self._note(hook, table, chain, rule, because=unclear)
                return End.UNCLEAR
            because = tuple(one.because for one in answers if one.because)
            self._note(hook, table, chain, rule, because=because, verdict=parsed.target)
            name = (table, parsed.target)
            if name in self._chains and depth < _MOST_CHAINS:
                end = self._rules(hook, *name, self._chains[name], depth=depth + 1)
                if end is not None or parsed.goto:
                    return end
            elif parsed.target == "RETURN":
                return None
            elif parsed.target:
                decided = self._target(parsed)
                if decided is not None:
                    return decided
        return None

    def _target(self, rule: ParsedRule) -> End | None:
        """Carry out a target that is no chain; None: the next rule is asked."""
        if rule.target in _ENDS:
            if rule.target == "MASQUERADE":
                self.masqueraded = self.steps[-1]
            return _ENDS[rule.target]
        if rule.target == "MARK" and "--set-xmark" in rule.options:
            self._set_mark(rule.options["--set-xmark"])
            return None
        if rule.target == "DNAT" and "--to-destination" in rule.options:
            return self._redirect(rule.options["--to-destination"])
        return self._not_understood(f"the target {rule.target}")

    def _set_mark(self, text: str) -> None:
        """Change the mark as xt_mark.c does: the bits of the mask are cleared, then xor."""
        value, _, mask = text.partition("/")
        cleared = self.packet.mark & ~int(mask or "0xffffffff", 0)
        self.packet = self.packet._replace(mark=cleared ^ int(value, 0))

    def _redirect(self, text: str) -> End:
        """Change the destination; the port stays where none is given."""
        try:
            address, port = _destination(text)
        except ValueError:
            return self._not_understood(f"the destination {text}")
        self.packet = self.packet._replace(destination=address, port=port or self.packet.port)
        return End.PASSED

    def _not_understood(self, what: str) -> End:
        step = self.steps[-1]
        self.steps[-1] = step._replace(because=(f"not understood: {what}",), verdict="")
        return End.UNCLEAR

    def _note(
        self,
        hook: str,
        table: str,
        chain: str,
        rule: Rule,
        *,
        because: tuple[str, ...],
        verdict: str = "",
    ) -> None:
        step = Step(hook, table, chain, rule_text(rule), tuple(dict.fromkeys(because)), verdict)
        self.steps.append(step)


def _chains(ruleset: Ruleset) -> dict[tuple[str, str], tuple[Rule, ...]]:
    return {(chain.table, chain.name): chain.rules for chain in ruleset.chains}


def _unclear(rule: ParsedRule, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Say what of a rule, all of whose other matches hold, is not understood or not known."""
    options = (f"not understood: {one}" for one in rule.unknown)
    return (*(one.because for one in answers if one.holds is None), *options)


def _destination(text: str) -> tuple[Address, int]:
    """Read `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; port 0: none is given.

    Raises ValueError for ranges and anything else.
    """
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    return Address.parse(address), int(port or 0)
