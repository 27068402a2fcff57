"""The rig: a Linux kernel with IPVS for any command, on any machine.

The tests and the demonstration need IPVS, ipset and dummy devices, which laptops, containers and
build machines often lack. `python3 -m rig run -- COMMAND` runs a command as root in such a kernel
and hides which one it is:

- *native*: the machine's own kernel, in fresh namespaces, where it has what is needed;
- *uml*: user-mode Linux, a whole kernel as an ordinary process over this machine's own files;
- *qemu*: Debian's stock kernel in an emulated machine (no KVM needed), only when asked for.

It needs Python and nothing else, because it runs before any virtual environment exists.
"""
