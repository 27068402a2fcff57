"""The cluster of the demonstration: two nodes, four pods and their successors, six Services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.layout import lay_out
from testbed.manifests import LOAD_BALANCER, LOCAL, Exposure, Service, endpoints_of

if TYPE_CHECKING:
    from testbed.layout import Pod

LAYOUT = lay_out(
    {
        "node1": ("red-1", "red-2", "blue-1", "blue-2", "client-1"),
        "node2": ("red-3", "red-4", "blue-3", "blue-4", "client-2"),
    }
)
OLD: tuple[Pod, ...] = tuple(LAYOUT.pod(f"red-{number}") for number in (1, 2, 3, 4))
NEW: tuple[Pod, ...] = tuple(LAYOUT.pod(f"blue-{number}") for number in (1, 2, 3, 4))
OLD_NAMES = tuple(pod.name for pod in OLD)
NEW_NAMES = tuple(pod.name for pod in NEW)
CLIENTS = LAYOUT.pod("client-1"), LAYOUT.pod("client-2")
WEIGHTS = {"red-1": 1, "red-2": 2, "red-3": 3, "red-4": 4}

SERVICES = {
    scheduler: Service(
        f"web-{scheduler}",
        number,
        endpoints_of(OLD, weights=WEIGHTS if scheduler == "wrr" else None),
        scheduler,
        protocols=("TCP",),
        families=(4, 6) if scheduler == "rr" else (4,),
    )
    for number, scheduler in enumerate(("rr", "wrr", "lc", "sh", "dh"), start=10)
}
"""By scheduler; the one of rr is dual-stack, the others are not, so that the table stays short."""

SLOW_SECONDS = 8
SLOW = Service(
    "web-slow",
    30,
    endpoints_of(OLD[:3]),
    "wrr",
    protocols=("TCP",),
    families=(4,),
).annotated(slow_start=f"{SLOW_SECONDS}s")
"""A Service of three pods, to which a fourth comes."""

EXPOSED = Service(
    "web-local",
    20,
    endpoints_of(NEW),
    protocols=("TCP",),
    families=(4,),
    exposure=Exposure(type=LOAD_BALANCER, policy=LOCAL),
)
"""A load balancer's Service of external policy Local, of the pods that are there at the end."""

CHECKED = Service(
    "web-checked", 21, endpoints_of(NEW), "rr", protocols=("TCP",), families=(4,)
).checked("tcp", "interval=1s, timeout=500ms, rise=2, fall=2")
"""A Service whose pods each node probes."""

DRAWING = """\
        client-1  red-1  red-2   │   red-3  red-4  client-2      pods
              └─────┴──────┘     │     └──────┴──────┘
                 node1 ──────────┴────────── node2               an agent on each
              192.168.50.11             192.168.50.12"""
