"""What is used of kubernetes_asyncio is had without its models, and where that fails, with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAN = """
import sys
from ipvsproxy.sources.kubernetes.library import library
found = library()
assert not [one for one in sys.modules if one.startswith("kubernetes_asyncio.client.models.")]
assert not [one for one in sys.modules if one.startswith("kubernetes_asyncio.client.api.")]
assert library() is found
"""
BROKEN = """
import ipvsproxy.sources.kubernetes.library as module
module._LARGE += ("kubernetes_asyncio.client.missing",)
found = module.library()
"""
BEFORE = """
import kubernetes_asyncio.client
from ipvsproxy.sources.kubernetes.library import library
found = library()
assert found.api_client is kubernetes_asyncio.client.ApiClient
"""
USED = """
import asyncio, pathlib, sys
kubeconfig = pathlib.Path(sys.argv[1])
kubeconfig.write_text('''
current-context: here
clusters: [{name: a, cluster: {server: "https://[fd00::1]:6443"}}]
users: [{name: b, user: {token: secret}}]
contexts: [{name: here, context: {cluster: a, user: b}}]
''')

async def use():
    configuration = found.configuration()
    await found.load_kube_config(
        config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
    )
    assert configuration.host == "https://[fd00::1]:6443"
    assert configuration.api_key["BearerToken"] == "Bearer secret"
    client = found.api_client(configuration)
    await client.update_params_for_auth(headers := {}, [], ["BearerToken"])
    assert headers == {"authorization": "Bearer secret"}
    await client.close()
    kubeconfig.write_text("nonsense: true")
    try:
        await found.load_kube_config(
            config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
        )
    except found.config_error:
        print("refused")

asyncio.run(use())
"""


@pytest.mark.parametrize(
    "way", [LEAN, BROKEN, BEFORE], ids=["lean", "laid out otherwise", "imported before"]
)
def test_what_is_used_of_the_installed_library_works(
    way: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("library") / "kubeconfig"
    command = [sys.executable, "-c", way + USED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
