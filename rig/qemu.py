"""QEMU without KVM: Debian's stock kernel in an emulated PC, over this machine's files (9p).

The second opinion: another kernel build, with the nftables backend, and evenly slow, so that times
of unlike programs can be compared. It is used only when asked for.

The kernel is Debian's package, downloaded by apt and unpacked (not installed) below `.cache/rig`.
Its first root is a small archive in memory: busybox and the modules needed to mount the machine's
files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from rig import boot, guest
from rig.facts import find_program
from rig.guest import SYSTEM_PATH
from rig.model import Kind, RigError, SetupError

if TYPE_CHECKING:
    from rig.boot import Lines
    from rig.model import Job

STORE = Path(__file__).resolve().parent.parent / ".cache" / "rig" / "qemu"
IMAGE = STORE / "initrd.gz"
METAPACKAGE = "linux-image-amd64"
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p")

FIRST_PROCESS = """\
#!/bin/busybox sh
for module in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$module; done
/bin/busybox mount -t 9p \\
  -o trans=virtio,version=9p2000.L,msize=512000,cache=loose hostroot /root || {
  echo "rig: cannot mount this machine's files"
  exec /bin/busybox poweroff -f
}
exec /bin/busybox switch_root /root "$RIG_INIT"
"""


def prepare() -> None:
    """Fetch and unpack the kernel, unless that was done already."""
    if IMAGE.exists():
        return
    shutil.rmtree(STORE, ignore_errors=True)
    STORE.mkdir(parents=True)
    package = _kernel_package(_output("apt-cache", "depends", METAPACKAGE))
    print(f"rig: downloading {package}", flush=True)
    _output("apt-get", "-qq", "download", package)
    (archive,) = STORE.glob("linux-image-*.deb")
    _output("dpkg-deb", "--extract", str(archive), str(STORE))
    archive.unlink()
    release = package.removeprefix("linux-image-")
    _output("depmod", "--basedir", str(STORE), release)
    _make_image(release)


def arguments(*, init: Path, work: Path, memory: int, lines: Lines, kernel: Path) -> list[str]:
    """Return the emulator's command line: three serial ports, and the machine's files."""
    append = (
        f"console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off RIG_INIT={init} RIG_WORK={work}"
    )
    output = f"file,id=output,path=/dev/fd/{lines.output}"
    if lines.keys is not None:
        output = f"pipe,id=output,path={work / 'terminal'}"  # terminal.in and terminal.out
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(memory >> 20)),
        *("-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none"),
        *("-chardev", f"file,id=console,path=/dev/fd/{lines.console}"),
        *("-chardev", output),
        *("-chardev", f"file,id=errors,path=/dev/fd/{lines.errors}"),
        *("-serial", "chardev:console", "-serial", "chardev:output", "-serial", "chardev:errors"),
        *("-kernel", str(kernel), "-initrd", str(IMAGE), "-append", append),
        *("-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"),
    ]


def run(job: Job) -> int:
    """Run a job in an emulated machine; return its exit status."""
    if not IMAGE.exists():
        raise RigError("the kernel for qemu is not there; run `python3 -m rig setup --rig qemu`")
    (kernel,) = (STORE / "boot").glob("vmlinuz-*")

    def command(init: Path, folder: Path, lines: Lines) -> list[str]:
        if lines.keys is not None:
            (folder / "terminal.in").symlink_to(f"/proc/self/fd/{lines.keys}")
            (folder / "terminal.out").symlink_to(f"/proc/self/fd/{lines.output}")
        return arguments(init=init, work=folder, memory=job.memory, lines=lines, kernel=kernel)

    machine = boot.Guest(
        kind=Kind.QEMU,
        module_tree=STORE / "lib" / "modules",
        output="/dev/ttyS1",
        errors="/dev/ttyS2",
        arguments=command,
        environment={},
    )
    with guest.work_folder() as work:
        return boot.run(job, machine, work)


def _kernel_package(depends: str) -> str:
    """Return the package that Debian's kernel metapackage depends on."""
    for line in depends.splitlines():
        if "Depends: linux-image-" in line:
            return line.split()[-1]
    raise SetupError(f"apt knows no {METAPACKAGE}; run apt-get update, or use another rig")


def _make_image(release: str) -> None:
    root = STORE / "initrd"
    for name in ("bin", "modules", "root", "proc"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(find_program("busybox")), root / "bin" / "busybox")
    order: list[str] = []
    for module in BOOT_MODULES:
        words = ("modprobe", "-d", str(STORE), "-S", release, "--show-depends", module)
        for line in _output(*words).splitlines():
            kind, _, path = line.partition(" ")
            if kind == "insmod" and Path(path.strip()).name not in order:
                shutil.copy(path.strip(), root / "modules")
                order.append(Path(path.strip()).name)
    (root / "order").write_text("\n".join(order) + "\n")
    (root / "init").write_text(FIRST_PROCESS)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        cwd=root,
        input=names.encode(),
        capture_output=True,
        check=True,
    ).stdout
    zipped = subprocess.run(["gzip", "-1"], input=archive, capture_output=True, check=True).stdout
    IMAGE.with_suffix(".new").write_bytes(zipped)
    IMAGE.with_suffix(".new").rename(IMAGE)  # last, because it says that all is there


def _output(*words: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATH])
    result = subprocess.run(
        words,
        cwd=STORE,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise SetupError(f"{' '.join(words)} failed: {result.stderr.strip()[-300:]}")
    return result.stdout
