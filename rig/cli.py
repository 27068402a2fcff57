"""The command line of the rig: check, setup, run, shell."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rig import choose, facts, guest, native, packages, qemu, uml
from rig.model import ANY, NO_KERNEL, WITH_NFTABLES, Finding, Job, Kind, RigError, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

SETUP_FAILED = 1
USAGE = 2

DESCRIPTION = """\
Runs a command in a Linux kernel with IPVS, on any machine.

The machine's own kernel is used, in fresh namespaces, where it has IPVS, ipset and dummy devices
and we may make namespaces; else user-mode Linux (Debian's user-mode-linux), over this machine's
files. QEMU without KVM is used only when asked for."""

STATUSES = """\
exit status:
  that of the command, or
  2    wrong usage
  98   no kernel with IPVS can be used here, or no room for it; one line says what to do
  99   the guest died before it could report a status (its last words are shown)
  124  the time was up (--timeout); everything was stopped
  125  the current folder is not visible inside the guest
  127  the command was not found

environment:
  IPVSPROXY_RIG   native, uml or qemu: what --rig says when it is not given
  TMPDIR          where a guest's memory and work folder may be
Passed on to the command: PATH, HOME, TERM, LANG, LC_*, CI, PYTHON*, PYTEST_*, HYPOTHESIS_*,
IPVSPROXY_* and what --env names. IPVSPROXY_RIG_GUEST tells it which machine it is in; TMPDIR names
a folder in the guest's memory."""

UNITS = {"": 20, "M": 20, "G": 30}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except RigError as error:
        sys.stderr.write(f"rig: {error}\n")
        return SETUP_FAILED if isinstance(error, SetupError) else NO_KERNEL


def memory_size(text: str) -> int:
    """Read a size such as 2G or 512M (a bare number is megabytes)."""
    match = re.fullmatch(r"(\d+)([MG]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2G or 512M")
    return int(match[1]) << UNITS[match[2]]


def assignment(text: str) -> tuple[str, str]:
    """Read NAME=VALUE, or NAME for the value it has here."""
    name, equals, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value if equals else os.environ.get(name, "")


def asked_kind(text: str) -> Kind:
    """Read the name of a kind of machine."""
    try:
        return Kind(text)
    except ValueError:
        message = f"{text!r} is not one of {', '.join(Kind)}"
        raise argparse.ArgumentTypeError(message) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rig",
        description=DESCRIPTION,
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--rig",
        type=asked_kind,
        metavar="KIND",
        default=os.environ.get("IPVSPROXY_RIG") or None,
        help="native, uml or qemu, instead of the best one here",
    )
    common.add_argument(
        "--nftables",
        action="store_const",
        dest="among",
        const=WITH_NFTABLES,
        default=ANY,
        help="a kernel with nftables: native or qemu; another one that is asked for is passed over",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _check_command(commands, common)
    setup = commands.add_parser(
        "setup",
        parents=[common],
        help="install what is missing, by apt",
        description="Installs what is missing, by apt; does nothing where nothing is.",
        epilog="Exit status: 0 ready; 1 an installation failed; 98 no kernel is possible here.",
    )
    setup.add_argument(
        "--program",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=PACKAGE",
        help="also install this Debian package, if there is no such program; may be repeated",
    )
    setup.set_defaults(action=_setup)
    for name, text in (("run", "run a command"), ("shell", "run a shell on this terminal")):
        run = commands.add_parser(
            name,
            parents=[common],
            help=text,
            epilog=STATUSES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _run_options(run, shell=name == "shell")
    return parser


def _check_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    check = commands.add_parser(
        "check",
        parents=[common],
        help="say which kernel is used, and why",
        description="Says which kernel is used and why. Exit status 0: usable now; 1: not.",
    )
    check.add_argument("--output", choices=("text", "json"), default="text")
    check.set_defaults(action=_check)


def _run_options(run: argparse.ArgumentParser, *, shell: bool) -> None:
    run.add_argument("--memory", type=memory_size, default="2G", help="of a guest (default 2G)")
    run.add_argument(
        "--timeout",
        type=float,
        default=86400.0 if shell else 300.0,
        metavar="SECONDS",
        help="stop everything after this long (default %(default)g)",
    )
    run.add_argument(
        "--env",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="add to the command's environment; may be repeated",
    )
    run.add_argument("--tty", action="store_true", default=shell, help="connect this terminal")
    run.add_argument("command", nargs=argparse.REMAINDER, help="-- PROGRAM [ARGUMENT ...]")
    run.set_defaults(action=_run, shell=shell)


def _check(options: argparse.Namespace) -> int:
    found = choose.findings(facts.gather())
    chosen = _chosen(found, options)
    if options.output == "json":
        report = [{**asdict(one), "usable": one.usable} for one in found]
        print(json.dumps({"chosen": chosen.kind, "usable": chosen.usable, "kinds": report}))
    else:
        for one in found:
            print(describe(one, chosen=one is chosen))
    return 0 if chosen.usable else 1


def _chosen(found: list[Finding], options: argparse.Namespace) -> Finding:
    # IPVSPROXY_RIG=uml is for everything but the programs that cannot run there.
    passed_over = options.among is not ANY and options.rig not in options.among
    return choose.choose(found, None if passed_over else options.rig, options.among)


def describe(finding: Finding, *, chosen: bool) -> str:
    """Return one line about a kind of machine."""
    mark = "*" if chosen else " "
    state = "ready" if finding.usable else "needs setup" if finding.possible else "not possible"
    line = f"{mark} {finding.kind:<7} {state:<12}  {finding.reason}"
    if finding.possible and finding.missing:
        command = choose.setup_command(finding)
        return f"{line}; missing: {', '.join(finding.missing)} — run `{command}`"
    return f"{line} — {finding.mend}" if finding.mend else line


def _setup(options: argparse.Namespace) -> int:
    here = facts.gather()
    finding = _chosen(choose.findings(here), options)
    packages.install(here, finding, dict(options.program))
    if finding.kind is Kind.QEMU:
        qemu.prepare()
    after = choose.choose(choose.findings(facts.gather()), finding.kind)
    choose.usable(after)
    print(f"rig: ready ({after.kind}: {after.reason})")
    return 0


def _run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command and not options.shell:
        sys.stderr.write("rig: run what? Say: rig run -- PROGRAM [ARGUMENT ...]\n")
        return USAGE
    here = facts.gather()
    kind = choose.usable(_chosen(choose.findings(here), options)).kind
    environment = guest.guest_environment(os.environ, kind)
    if kind is Kind.NATIVE and not here.root:
        native.again_as_root(environment)
    job = Job(
        command=tuple(command or ("bash", "-i")),
        directory=Path.cwd(),
        environment={**environment, **dict(options.env)},
        memory=options.memory,
        timeout=options.timeout,
        terminal=options.tty,
    )
    machine = {Kind.NATIVE: native.run, Kind.UML: uml.run, Kind.QEMU: qemu.run}[kind]
    return machine(job)
