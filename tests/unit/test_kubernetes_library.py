"""What is used of kubernetes_asyncio is had without its models, and where that fails, with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAN = """
import sys
imported = set()
sys.addaudithook(lambda event, about: event == "import" and imported.add(about[0]))
from ipvsproxy.sources.kubernetes.library import library
found = library()
assert "kubernetes_asyncio.client.rest" in imported
assert not [one for one in imported if one.startswith("kubernetes_asyncio.client.models.")]
assert not [one for one in imported if one.startswith("kubernetes_asyncio.client.api.")]
for idle in ("urllib3.connection", "dateutil.parser._parser", "multiprocessing.pool"):
    assert idle not in imported
assert library() is found
"""
BROKEN = """
import ipvsproxy.sources.kubernetes.library as module
module._LARGE += ("kubernetes_asyncio.client.missing",)
found = module.library()
"""
SURPRISING = """
import logging
import ipvsproxy.sources.kubernetes.library as module

def surprise(name):
    raise KeyError(name)

logging.basicConfig()
module._put_empty = surprise
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
    configuration.username, configuration.password = "a", "b"
    assert configuration.get_basic_auth_token() == "Basic YTpi"
    written = client._ApiClient__deserialize("2026-01-02T03:04:05Z", "datetime")
    assert written.year == 2026 and written.utcoffset().total_seconds() == 0
    assert client.pool.apply(len, ["abc"]) == 3
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


LATER = {
    "a name of the client": """
from kubernetes_asyncio.client import CoreV1Api, V1Pod
assert CoreV1Api(client) and V1Pod
""",
    "a name of the root": """
import kubernetes_asyncio
assert kubernetes_asyncio.watch.Watch and kubernetes_asyncio.__version__
""",
    "a package of the root": """
from kubernetes_asyncio import config, dynamic, watch
assert config.load_config and dynamic.DynamicClient and watch.Watch
""",
    "everything": """
from kubernetes_asyncio.client import *
assert V1Pod and CoreV1Api
""",
    "a model": """
from kubernetes_asyncio.client.models import V1Pod
import kubernetes_asyncio.client.models
assert kubernetes_asyncio.client.models.V1Pod is V1Pod
from kubernetes_asyncio.client.models.v1_pod import V1Pod as same
assert same is V1Pod
""",
    "what is not there": """
import kubernetes_asyncio.client
assert not hasattr(kubernetes_asyncio.client, "V1Nonsense")
try:
    from kubernetes_asyncio.client import V1Nonsense
except ImportError:
    pass
else:
    raise AssertionError
""",
}
USE_LATER = """
import asyncio, sys
from ipvsproxy.sources.kubernetes.library import library

found = library()

async def use():
    client = found.api_client(found.configuration())
    exec(sys.argv[1], {"client": client})
    assert library() is found
    await client.close()

asyncio.run(use())
"""


@pytest.mark.parametrize("way", LATER)
def test_who_imports_the_library_later_has_all_of_it(way: str) -> None:
    command = [sys.executable, "-c", USE_LATER, LATER[way]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr


def test_any_failure_of_the_lean_way_is_one_line_and_no_more() -> None:
    code = SURPRISING + "assert found.api_client"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "KeyError" in line


@pytest.mark.parametrize(
    "way",
    [LEAN, BROKEN, SURPRISING, BEFORE],
    ids=["lean", "laid out otherwise", "surprising", "imported before"],
)
def test_what_is_used_of_the_installed_library_works(
    way: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("library") / "kubeconfig"
    command = [sys.executable, "-c", way + USED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "refused"
