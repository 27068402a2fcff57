"""What an errno of the kernel means to us, where no adapter knows better.

Knows numbers only. What is contradicted by the kernel, or gone already, depends on the operation:
adapters decide that first and ask here for the rest.
"""

from __future__ import annotations

import errno
import os

from ipvsproxy.dataplane import Outcome, Refusal

__all__ = ["UNANSWERED", "refused"]

UNANSWERED = -1
"""In place of an errno: the kernel was asked and has not said what became of it."""

_REFUSALS = {
    errno.EPERM: Refusal.FORBIDDEN,
    errno.EACCES: Refusal.FORBIDDEN,
    errno.EROFS: Refusal.FORBIDDEN,
    errno.EINVAL: Refusal.INVALID,
    errno.ERANGE: Refusal.INVALID,
    errno.ENOMEM: Refusal.BUSY,
    errno.ENOBUFS: Refusal.BUSY,
    errno.EAGAIN: Refusal.BUSY,
    errno.EBUSY: Refusal.BUSY,
    errno.EINTR: Refusal.BUSY,
    errno.EAFNOSUPPORT: Refusal.UNSUPPORTED,
    errno.EPROTONOSUPPORT: Refusal.UNSUPPORTED,
    errno.EOPNOTSUPP: Refusal.UNSUPPORTED,
}


def refused(number: int) -> Outcome:
    """Return the outcome for an errno other than 0, or for `UNANSWERED`."""
    if number == UNANSWERED:
        return Outcome(Refusal.BUSY, "no answer from the kernel within the time limit")
    name = errno.errorcode.get(number, str(number))
    return Outcome(_REFUSALS.get(number, Refusal.FAILED), f"{os.strerror(number)} ({name})")
