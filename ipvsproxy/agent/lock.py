"""One writer in a network namespace: a lock that dies with its holder.

An abstract Unix socket belongs to a network namespace, as the tables do, and is gone with the
process that bound it, however that ended (unix(7)).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "\0ipvsproxy"


class AnotherAgentError(Exception):
    """Another agent runs in this network namespace; the message says what to do."""


@contextmanager
def only_agent() -> Iterator[None]:
    """Be the only agent of this network namespace; raises AnotherAgentError when there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
        try:
            holder.bind(_NAME)
        except OSError:
            raise AnotherAgentError(
                "another ipvsproxy runs on this node and two would undo each other's work; "
                "stop it first (its status: ipvsproxy status)"
            ) from None
        yield
