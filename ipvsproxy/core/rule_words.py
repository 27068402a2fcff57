"""The words of an iptables rule, taken apart: its matches and its target.

Knows the form in which iptables-save prints rules and how many values each option has; does not
know what a match asks of a packet (`core.rule_matching`), nor what a target does
(`core.rules_walk`). An option that is not known is kept as one, with all words up to the next
option: whoever asks must say that it is not understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ipvsproxy.model import Rule

__all__ = ["Match", "ParsedRule", "parse", "rule_text"]

_VALUES: Mapping[str, int] = {
    "-s": 1,
    "-d": 1,
    "-i": 1,
    "-o": 1,
    "-p": 1,
    "--sport": 1,
    "--dport": 1,
    "--match-set": 2,
    "--src-type": 1,
    "--dst-type": 1,
    "--mark": 1,
    "--ctstate": 1,
    "--icmp-type": 1,
    "--icmpv6-type": 1,
    "--ipvs": 0,
    "--vproto": 1,
    "--vaddr": 1,
    "--vport": 1,
    "--physdev-is-in": 0,
    "--physdev-is-out": 0,
    "--physdev-is-bridged": 0,
    "--set-xmark": 1,
    "--to-destination": 1,
    "--random-fully": 0,
    "--random": 0,
    "--reject-with": 1,
}
"""How many values each option has that is understood."""
_OF_TARGETS = frozenset(
    {"--set-xmark", "--to-destination", "--random-fully", "--random", "--reject-with"}
)
"""Options that say how a target does its work."""
_SILENT = frozenset({"-m", "--comment"})
"""Options that ask nothing of a packet: what a module asks is in options of its own."""


class Match(NamedTuple):
    """One question about the packet."""

    option: str
    values: tuple[str, ...] = ()
    negated: bool = False
    known: bool = True

    def __str__(self) -> str:
        return " ".join((*(("!",) if self.negated else ()), self.option, *self.values))


class ParsedRule(NamedTuple):
    """A rule: when all matches hold, its target is carried out."""

    matches: tuple[Match, ...]
    target: str
    """Empty where a rule has none."""
    options: Mapping[str, str]
    """Of the target, with their values."""
    goto: bool = False
    """The target is a chain that returns to where the present one was called (`-g`)."""
    unknown: tuple[str, ...] = ()
    """Options after the target that are not known."""


@lru_cache(maxsize=4096)
def parse(rule: Rule) -> ParsedRule:
    """Take a rule apart."""
    matches: list[Match] = []
    options: dict[str, str] = {}
    unknown: list[str] = []
    target, goto, negated = "", False, False
    index = 0
    while index < len(rule):
        word = rule[index]
        end = _end(rule, index)
        values = rule[index + 1 : end]
        index = end
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            target, goto = "".join(values), word == "-g"
        elif word in _OF_TARGETS:
            options[word] = "".join(values)
        elif target and word not in _SILENT:
            unknown.append(" ".join((word, *values)))
        elif word not in _SILENT:
            matches.append(Match(word, values, negated, word in _VALUES))
        negated = False
    return ParsedRule(tuple(matches), target, options, goto, tuple(unknown))


def _end(rule: Rule, index: int) -> int:
    """Return where the option at `index` ends, with its values."""
    word = rule[index]
    if word == "!":
        return index + 1
    if word in ("-m", "-j", "-g", "--comment"):
        return index + 2
    if word in _VALUES:
        return index + 1 + _VALUES[word]
    end = index + 1
    while end < len(rule) and not rule[end].startswith(("-", "!")):
        end += 1
    return end


def rule_text(rule: Rule) -> str:
    """Write a rule as iptables-save prints it, without its comments."""
    words: list[str] = []
    index = 0
    while index < len(rule):
        if rule[index : index + 2] == ("-m", "comment") or rule[index] == "--comment":
            index += 2
        else:
            words.append(rule[index])
            index += 1
    return " ".join(words)
