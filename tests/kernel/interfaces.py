"""What tests of interfaces share: `ip`, and the adapter told to do what must succeed."""

import subprocess

from ipvsproxy.dataplane import DONE
from ipvsproxy.kernel.link import Link, LinkOperation


def apply(link: Link, *operations: LinkOperation) -> None:
    assert link.apply(operations) == [DONE] * len(operations)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
