"""One writer in a network namespace: no second agent, and no start beside a live kube-proxy.

The lock is an abstract Unix socket: it belongs to a network namespace, as the tables do, and is
gone with the process that bound it, however that ended (unix(7)). kube-proxy has none; it is known
by its answer on /proxyMode, wherever we ourselves are to listen.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ipvsproxy.config import Settings
from ipvsproxy.http import find_neighbour

_NAME = "\0ipvsproxy"


class AnotherAgentError(Exception):
    """This may not be the only agent or proxy of the node; the message says what to do."""


@contextmanager
def only_agent() -> Iterator[None]:
    """Be the only agent of this network namespace; raises AnotherAgentError when there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
        try:
            holder.bind(_NAME)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = os.strerror(error.errno or 0)
                raise AnotherAgentError(
                    f"the lock against a second agent cannot be had: {reason}"
                ) from None
            raise AnotherAgentError(
                "another ipvsproxy runs on this node and two would undo each other's work; "
                "stop it first (its status: ipvsproxy status; who holds the lock: "
                "ss -xap | grep @ipvsproxy)"
            ) from None
        yield


async def refuse_beside_kube_proxy(settings: Settings) -> None:
    """Raise AnotherAgentError when a kube-proxy answers here, unless it is to be taken over.

    Its chains and sets have our names: whatever we write or remove, it writes or removes too.
    """
    if settings.take_over:
        return
    neighbour = await find_neighbour(settings.metrics_bind_address)
    if neighbour is not None and not neighbour.is_ours:
        raise AnotherAgentError(
            f"a kube-proxy in {neighbour.mode} mode runs on this node (it answers on "
            f"{neighbour.address}) and two proxies would undo each other's work; stop it first, "
            "or give --take-over"
        )
