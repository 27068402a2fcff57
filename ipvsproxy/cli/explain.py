"""`ipvsproxy explain`: what happens to a packet, and why.

Knows its flags and exit statuses; what happens is found out by `agent.explain`, and put into lines
by `explain_text`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ipvsproxy.cli.options import follow, output_option, resolve, setting_options

if TYPE_CHECKING:
    from ipvsproxy.core.question import Place, Who

EPILOG = """\b
exit status:
  0  served: all that was asked for is answered by somebody
  1  not served (it is said why), or the kernel cannot be read
  2  wrong usage
"""


@click.command(short_help="Show what happens to a packet, and why.", epilog=EPILOG)
@click.option(
    "--from",
    "sender",
    metavar="outside|pod|node|ADDRESS",
    help="Who sends it (default: each of outside, pod, node).",
)
@click.option(
    "--to",
    "place",
    metavar="ADDRESS:PORT[/PROTOCOL]",
    help="Where to: tcp (the default), udp or sctp; ADDRESS/icmp is a ping.",
)
@click.option("--service", metavar="NAMESPACE/NAME", help="To every frontend of a Service.")
@click.option("--interface", metavar="NAME", help="The interface that the packet comes in by.")
@output_option
@setting_options(
    "config",
    "node_name",
    "cluster_cidrs",
    "detect_local_mode",
    "pod_bridge_interface",
    "pod_interface_name_prefix",
    "metrics_bind_address",
)
def explain(
    *,
    sender: str | None,
    place: str | None,
    service: str | None,
    interface: str | None,
    output: str,
    **flags: object,
) -> None:
    """Show what happens to a new connection, from the tables that are in the kernel now.

    The rule that decides and why it matches, the virtual server and whose it is, the real servers
    that may be chosen, and which source address they see; or who refuses it. The kernel is read
    (which needs root, or CAP_NET_ADMIN), and only our own chains and sets are: rules of others are
    not seen. Whose a virtual server is, the running agent is asked on its metrics address.

    \b
    Examples:
      ipvsproxy explain --from 10.244.1.7 --to 203.0.113.5:80/tcp
      ipvsproxy explain --from outside --to [2001:db8::5]:443
      ipvsproxy explain --service default/web
    """  # noqa: D301 - \b keeps lines as they are
    if (place is None) == (service is None):
        raise click.UsageError("give either --to ADDRESS:PORT or --service NAMESPACE/NAME")
    if (service is not None and not all(service.partition("/"))) or (service or "").count("/") > 1:
        raise click.BadParameter(
            f"{service!r} is not NAMESPACE/NAME, such as default/web", param_hint="--service"
        )
    who = _who(sender, interface)
    target = _place(place, who) if place is not None else service or ""
    settings = resolve(flags).settings

    from ipvsproxy import agent  # noqa: PLC0415 - costs time that --help need not take
    from ipvsproxy.cli import logs, render  # noqa: PLC0415
    from ipvsproxy.cli.explain_text import explain_text  # noqa: PLC0415

    logs.quiet()
    report = follow(agent.explain(settings, who, target))
    render.report(report, output, explain_text)
    answered = all(one.served for one in report.explanations) and not report.problems
    sys.exit(0 if answered else 1)


def _who(sender: str | None, interface: str | None) -> Who | None:
    from ipvsproxy.core.question import parse_who  # noqa: PLC0415 - as above

    if sender is None:
        if interface is not None:
            raise click.UsageError("--interface needs --from: say who comes in by it")
        return None
    try:
        return parse_who(sender)._replace(interface=interface)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None


def _place(text: str, who: Who | None) -> Place:
    from ipvsproxy.core.question import parse_place  # noqa: PLC0415 - as above

    try:
        place = parse_place(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from None
    given = who.address if who is not None else None
    if given is not None and given.family is not place.address.family:
        raise click.UsageError("--from and --to must be of one family, IPv4 or IPv6")
    return place
