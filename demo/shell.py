"""A shell in the running cluster, on its first node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from demo.scene import CLIENTS, LAYOUT, SERVICES

if TYPE_CHECKING:
    from testbed.cluster import Cluster

HINTS = """\
You are on node1. Everything runs; `exit` ends it all.

  ipvsadm -Ln                       what the kernel holds
  ipvsproxy status                  what the agent says of it
  ask {example:<29} who answers a client: ask ADDRESS [TIMES [CLIENT]]
  sed -i 's/scheduler: rr/scheduler: sh/' $MANIFESTS/web-rr.yaml
                                    another scheduler: a change takes effect at once
  tail $LOGS/node1.log              what the agent did
  ip netns exec node2 ipvsadm -Ln   the other node; also client-1, client-2, red-1 ... blue-4
"""

START = """\
PS1='node1 (exit ends the cluster) \\w# '
ask() {{
  [ -n "$1" ] || {{ echo 'ask ADDRESS [TIMES [CLIENT]]' >&2; return 2; }}
  ip netns exec "${{3:-{client}}}" bash -c '
    for ((n = 0; n < $1; n++)); do
      exec 3<>"/dev/tcp/$0/80" && echo >&3 && read -r -t 5 pod _ <&3 && echo "$pod"
      exec 3>&-
    done' "$1" "${{2:-20}}" | sort | uniq -c
}}
cat <<'HINTS'
{hints}
Services:
{services}
HINTS
"""


def run(cluster: Cluster, folder: Path) -> int:
    """Hand the terminal to a shell; return when it ends, with 0: how it ends is no failure."""
    start = folder / "shell"
    services = "\n".join(
        f"  {service.name:<8} {' '.join(service.addresses):<26} {service.annotation}"
        for service in SERVICES.values()
    )
    hints = HINTS.format(example=SERVICES["rr"].address(4))
    start.write_text(START.format(client=CLIENTS[0].namespace, hints=hints, services=services))
    environment = {
        **os.environ,
        "MANIFESTS": str(cluster.folder.path),
        "LOGS": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    node = LAYOUT.node("node1").namespace
    subprocess.run(
        ["ip", "netns", "exec", node, "bash", "--rcfile", str(start), "-i"],
        env=environment,
        check=False,
    )
    return 0
