"""The agent, run on the objects of a case and on a kernel in memory."""

from __future__ import annotations

from ipvsproxy.config import Settings
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Network, State
from tests.parity.facts import manifest
from tests.parity.recording import NETWORK, NODE, Case, Document, identity
from tests.scenarios.stage import Stage

SETTINGS = Settings(
    node_name=NODE,
    cluster_cidrs=(Network.parse("10.244.0.0/16"), Network.parse("fd00:10:244::/56")),
)
"""What kube-proxy was told when the cases were recorded."""
REST = 120.0
"""Seconds after which nothing is left of what has been removed and has no connections."""


async def end_state(case: Case) -> State:
    """Give what the agent makes of the objects of a case, its changes included."""
    fake = FakeDataplane()
    fake.state.network = NETWORK
    stage = Stage(SETTINGS, fake)
    for document in case.objects:
        stage.files[_file(document)] = manifest(document)
    await stage.start()
    for verb, document in case.changes:
        if verb == "put":
            stage.files[_file(document)] = manifest(document)
        else:
            stage.files.pop(_file(document), None)
        await stage.synchronise()
        await stage.wait(REST)
    return await fake.dump()


def _file(document: Document) -> str:
    return "-".join(identity(document)) + ".json"
