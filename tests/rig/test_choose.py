"""Which kernel is used, from facts alone."""

from dataclasses import replace

import pytest

from rig import choose
from rig.facts import PROGRAMS, QEMU_PROGRAMS, UML_PROGRAMS, Facts, config_names, module_names
from rig.model import ESSENTIAL, WITH_NFTABLES, Finding, Kind, RigError

MACHINE = Facts(
    architecture="x86_64",
    release="6.1.0-9-amd64",
    root=True,
    sudo=False,
    apt=True,
    programs=frozenset({*PROGRAMS, *UML_PROGRAMS, *QEMU_PROGRAMS}),
    venv=True,
    kernel_modules=frozenset(ESSENTIAL),
    namespaces=None,
    module_mount_point=True,
)


def chosen(facts: Facts, asked: Kind | None = None) -> Finding:
    return choose.choose(choose.findings(facts), asked)


def test_own_kernel_comes_first() -> None:
    assert chosen(MACHINE).kind is Kind.NATIVE
    assert chosen(MACHINE).usable


@pytest.mark.parametrize("module", ESSENTIAL)
def test_a_kernel_without_an_essential_module_is_passed_over(module: str) -> None:
    facts = replace(MACHINE, kernel_modules=MACHINE.kernel_modules - {module})
    assert chosen(facts).kind is Kind.UML
    assert module in choose.findings(facts)[0].reason


def test_without_namespaces_user_mode_linux_is_used() -> None:
    facts = replace(MACHINE, namespaces="Operation not permitted")
    assert chosen(facts).kind is Kind.UML
    assert "Operation not permitted" in choose.findings(facts)[0].reason


def test_what_setup_can_install_is_possible_and_not_usable() -> None:
    facts = replace(
        MACHINE,
        kernel_modules=frozenset(),
        programs=MACHINE.programs - {"linux.uml", "ipset"},
        module_mount_point=False,
    )
    finding = chosen(facts)
    assert finding.possible
    assert finding.missing == ("ipset", "user-mode-linux", "/lib/modules")
    with pytest.raises(RigError, match="rig setup"):
        choose.usable(finding)


def test_nothing_is_possible_on_another_architecture_without_ipvs() -> None:
    facts = replace(MACHINE, architecture="aarch64", kernel_modules=frozenset())
    finding = chosen(facts)
    assert not finding.possible
    with pytest.raises(RigError, match="aarch64"):
        choose.usable(finding)


def test_qemu_is_used_only_when_asked_for() -> None:
    facts = replace(MACHINE, architecture="aarch64", kernel_modules=frozenset())
    assert chosen(facts).kind is not Kind.QEMU
    assert chosen(MACHINE, Kind.QEMU).kind is Kind.QEMU


@pytest.mark.parametrize(
    ("modules", "kind"), [(frozenset(ESSENTIAL), Kind.NATIVE), (frozenset(), Kind.QEMU)]
)
def test_for_nftables_the_emulated_machine_comes_after_the_own_kernel(
    modules: frozenset[str], kind: Kind
) -> None:
    found = choose.findings(replace(MACHINE, kernel_modules=modules))
    assert choose.choose(found, None, WITH_NFTABLES).kind is kind


def test_what_is_missing_comes_with_the_command_that_adds_it() -> None:
    facts = replace(MACHINE, programs=frozenset({*PROGRAMS, *UML_PROGRAMS}))
    with pytest.raises(RigError, match=r"qemu-system-x86.*rig setup --rig qemu"):
        choose.usable(chosen(facts, Kind.QEMU))


def test_what_was_asked_for_is_not_replaced() -> None:
    facts = replace(MACHINE, kernel_modules=frozenset())
    assert not chosen(facts, Kind.NATIVE).usable


def test_module_names_from_the_kernels_own_lists() -> None:
    lines = ["kernel/net/ipv6/ipv6.ko", "kernel/drivers/net/dummy.ko.xz: kernel/a/b-c.ko", ""]
    assert module_names(lines) == {"ipv6", "dummy"}


def test_built_in_features_from_a_configuration() -> None:
    assert config_names("CONFIG_IP_VS=y\nCONFIG_DUMMY=m\n# CONFIG_VETH is not set\n") == {"ip_vs"}
