"""The other end: how commands ask a running agent, and how a second proxy on the node is found.

Asks this machine only.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import NamedTuple

import aiohttp
import msgspec

from ipvsproxy.config.settings import IPV6_BIND_ADDRESSES, METRICS_BIND_ADDRESS
from ipvsproxy.config.values import split_bind_address
from ipvsproxy.telemetry import AgentStatus

KUBE_PROXY_ADDRESSES = (METRICS_BIND_ADDRESS, IPV6_BIND_ADDRESSES["metrics_bind_address"])
"""Where a kube-proxy serves /proxyMode unless its metricsBindAddress says otherwise
(SetDefaults_KubeProxyConfiguration in pkg/proxy/apis/config/v1alpha1/defaults.go)."""
_ANSWER_SECONDS = 2.0
"""Longest wait for a neighbour's answer: it is on this machine."""


class Neighbour(NamedTuple):
    """A service proxy that answers on this node's metrics port."""

    mode: str
    """As its /proxyMode says: `ipvs`, `iptables`, `nftables`."""
    address: str
    """Where it answers."""
    is_ours: bool
    """It is an ipvsproxy; else it is taken for kube-proxy."""


def neighbour_addresses(bind_address: str) -> tuple[str, ...]:
    """Give the addresses where another proxy is looked for: kube-proxy's, and our own metrics'."""
    return tuple(dict.fromkeys(one for one in (*KUBE_PROXY_ADDRESSES, bind_address) if one))


async def find_neighbour(bind_address: str) -> Neighbour | None:
    """Ask who serves /proxyMode on this node; None when nobody does.

    Our own metrics address alone says nothing of a kube-proxy, which has its own. Where both a
    kube-proxy and an ipvsproxy answer, the kube-proxy is told.
    """
    asked = (_ask_mode(address) for address in neighbour_addresses(bind_address))
    found = [neighbour for neighbour in await asyncio.gather(*asked) if neighbour is not None]
    return min(found, key=lambda neighbour: neighbour.is_ours, default=None)


async def _ask_mode(address: str) -> Neighbour | None:
    answer = await _get(address, "/proxyMode")
    if answer is None:
        return None
    mode = answer.body.decode(errors="replace").strip()
    return Neighbour(mode[:40], address, is_ours=answer.server.startswith("ipvsproxy/"))


async def ask_agent(bind_address: str) -> AgentStatus | None:
    """Ask the running agent for its status; None when none answers, or it is not one of ours.

    It is looked for in the usual places too: there is one in a network namespace, and its metrics
    are on another loopback address where its file has an IPv6 bindAddress.
    """
    for address in dict.fromkeys((bind_address, *KUBE_PROXY_ADDRESSES)):
        answer = await _get(address, "/status")
        if answer is not None and answer.server.startswith("ipvsproxy/"):
            try:
                return msgspec.json.decode(answer.body, type=AgentStatus)
            except msgspec.DecodeError:
                return None
    return None


class _Answer(NamedTuple):
    server: str
    body: bytes


async def _get(bind_address: str, path: str) -> _Answer | None:
    """Get a page from this machine; None when nobody listens or the answer is not 200."""
    if not bind_address:
        return None
    host, port = split_bind_address(bind_address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it stands for
    url = f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"
    limit = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
            body = await response.read()
            served = response.status == HTTPStatus.OK
            return _Answer(response.headers.get("Server", ""), body) if served else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
