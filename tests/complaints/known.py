"""What users of kube-proxy's IPVS mode complained of, and where this repository answers.

Every complaint has a test in this folder that is named after it (`test_issue_NUMBER_...`), or,
where no node agent can mend it, a row in docs/operations.md that says what helps instead;
`test_every_complaint.py` sees to that.
"""

from __future__ import annotations

from typing import NamedTuple


class Complaint(NamedTuple):
    """One thing that went wrong for many."""

    symptom: str
    issues: tuple[str, ...]
    """Numbers at github.com/kubernetes/kubernetes; others with their repository; or a KEP."""
    mendable: bool = True
    """Whether an agent on the node can do anything about it."""


COMPLAINTS: tuple[Complaint, ...] = (
    Complaint("many short connections of one client: delays of one second", ("70747",)),
    Complaint(
        "reused ports go on to the server that drains, which never ends",
        ("81775", "93297", "84322"),
    ),
    Complaint("connections are cut when an endpoint goes", ("57841", "77903")),
    Complaint("UDP goes on to a server that has gone", ("71514", "76664")),
    Complaint("session affinity goes on to a server that drains", ("71809", "81587")),
    Complaint("session affinity below 120 s is not honoured", ("89358", "94967"), mendable=False),
    Complaint("the node's own ports answer on every service address", ("72236", "k3s#7183")),
    Complaint(
        "externalTrafficPolicy Local shuts out the cluster, or loses the outside",
        ("71596", "75262", "92857", "93456", "121909", "125167"),
    ),
    Complaint("a pod's address is hidden behind a load balancer's address", ("115931",)),
    Complaint("source ranges do not hold for the node itself", ("119656", "88698")),
    Complaint("every node answers ARP for service addresses", ("59976", "metallb#153")),
    Complaint("an address on which others live is taken from them", ("66966", "75290", "93175")),
    Complaint("no NodePort on an address that is a load balancer's too", ("114815", "112185")),
    Complaint("no NodePort on localhost", ("56320", "67730", "96879", "111840"), mendable=False),
    Complaint("NodePorts on every interface there is", ("59156",)),
    Complaint("real servers have weight 0 after a restart", ("92019", "108319")),
    Complaint("connections are lost when a node is not ready for a moment", ("117205",)),
    Complaint("thousands of Services make it slow", ("53736", "73382", "84906", "88212", "138927")),
    Complaint("a new node cannot reach the API server for long", ("133773",)),
    Complaint("what others change is not repaired", ("134147",)),
    Complaint(
        "virtual servers of others are removed",
        ("55857", "59507", "76267", "85799", "96034", "kube-proxy#6"),
    ),
    Complaint("it hangs after hours, and nobody notices", ("71071",)),
    Complaint(
        "an idle TCP connection ends after 15 minutes",
        ("80298", "71358", "kube-router#521", "kubelb#539"),
        mendable=False,
    ),
    Complaint("a set is full, and new Services silently do nothing", ("129389",)),
    Complaint("an address that cannot be read takes all NodePorts away", ("129146",)),
    Complaint(
        "the node's own connections come from a service address",
        ("63241", "63985", "65158", "65358"),
    ),
    Complaint("a hostPort takes a Service's traffic", ("61938",)),
    Complaint("a pod cannot reach itself through its Service", ("53775", "92584")),
    Complaint(
        "one scheduler for all Services",
        ("58329", "75502", "94350", "118784", "121591", "121590"),
    ),
    Complaint(
        "one source port cannot reach a Service and its endpoint at a time",
        ("90042",),
        mendable=False,
    ),
    Complaint("IPVS' UDP timeout is not conntrack's", ("120076",), mendable=False),
    Complaint("a deleted Service cuts its connections", ("71894",)),
    Complaint("the load balancer is passed over on its own address", ("KEP-1860",)),
    Complaint("sets of a kind that the kernel lacks", ("68974", "67292", "65611")),
    Complaint("corner cases: without endpoints, ICMP, policies", ("website#51974", "KEP-5495")),
)
"""In the order in which they were collected; the first is number 1."""
