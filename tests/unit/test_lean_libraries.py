"""What a run leaves out of libraries, and that it is there when it is asked for.

Each test has a process of its own: here everything is imported already.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from aiohttp.helpers import parse_content_type, parse_http_date

BEGINNING = """
import os, ssl, sys
from ipvsproxy.cli.lean_libraries import import_libraries
import_libraries()
assert "aiohttp" in sys.modules, "it is laid out otherwise, and is imported whole"
"""

LEFT_OUT = (
    *("rich", "email.message", "email.policy", "html", "idna", "tempfile", "urllib.request"),
    *("prometheus_client.exposition", "http.server", "wsgiref"),
)

CONTENT_TYPES = (
    "application/json",
    'Text/HTML; Charset="utf-8"; a=b',
    "application/vnd.kubernetes.protobuf;stream=watch",
    "nonsense",
    "",
)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def said(code: str, *, before: str = BEGINNING) -> str:
    """Give what code prints. Fails where it, or an assertion in it, does."""
    command = [sys.executable, "-W", "error", "-c", before + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_not_needed_is_not_imported() -> None:
    code = f"""
import prometheus_client.core, prometheus_client.process_collector
for name in {LEFT_OUT}:
    if name in sys.modules:
        print(name)
"""
    assert said(code) == ""


def test_headers_are_read_as_ever() -> None:
    code = f"""
from aiohttp.helpers import parse_content_type, parse_http_date
for one in {CONTENT_TYPES}:
    print(parse_content_type(one))
print(repr(parse_http_date({DATE!r})))
"""
    expected = [*map(parse_content_type, CONTENT_TYPES), repr(parse_http_date(DATE))]
    assert said(code).splitlines() == list(map(str, expected))


def test_a_message_has_a_class_of_its_own_and_that_of_email() -> None:
    """Whoever imports email itself has the real one, before and after."""
    said("""
from email.message import EmailMessage
from email.parser import HeaderParser
from aiohttp import helpers
helpers.parse_content_type("a/b")
assert issubclass(helpers.EnsureOctetStream, EmailMessage)
assert HeaderParser is not helpers.HeaderParser
""")


def test_proxies_of_the_environment_are_found() -> None:
    said("""
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

def proxy(url):
    try:
        return str(get_env_proxy_for_url(URL(url))[0])
    except LookupError:
        return None

assert proxy("http://10.0.0.1") is None
assert "urllib.request" not in sys.modules
os.environ["http_proxy"] = "http://192.0.2.1:3128"
assert proxy("http://10.0.0.1") == "http://192.0.2.1:3128"
assert proxy("https://10.0.0.1") is None
os.environ["NO_PROXY"] = "10.0.0.1"
assert proxy("http://10.0.0.1") is None
assert proxy("http://10.0.0.2") == "http://192.0.2.1:3128"
""")


def test_nothing_that_bears_on_tls_is_done_behind_its_back() -> None:
    said("""
from aiohttp import connector
usual = ssl.create_default_context()
usual.set_alpn_protocols(("http/1.1",))
context = connector._SSL_CONTEXT_VERIFIED
assert type(context) is ssl.SSLContext
assert context.cert_store_stats() == usual.cert_store_stats()
for name in ("verify_mode", "check_hostname", "options", "verify_flags", "minimum_version"):
    assert getattr(context, name) == getattr(usual, name), name
""")


def test_functions_that_stand_for_others_call_them() -> None:
    said("""
from aiohttp import web_protocol, web_request
from yarl import URL
assert web_protocol.html_escape("<a>") == "&lt;a&gt;"
with web_request.SpooledTemporaryFile(max_size=10) as file:
    file.write(b"a")
assert "idna" not in sys.modules
assert URL("http://bücher.example").raw_host == "xn--bcher-kva.example"
assert URL("http://xn--bcher-kva.example").host == "bücher.example"
assert "idna" in sys.modules
""")


def test_a_package_runs_for_a_name_that_is_no_modules() -> None:
    said("""
import prometheus_client
from prometheus_client import values
from prometheus_client.core import Counter
assert prometheus_client.registry.CollectorRegistry
assert "prometheus_client.exposition" not in sys.modules
assert prometheus_client.Counter is Counter
assert "prometheus_client.exposition" in sys.modules
try:
    prometheus_client.nothing
except AttributeError:
    pass
else:
    raise AssertionError
""")


@pytest.mark.parametrize("what", ["_AIOHTTP", "_stand_ins"])
def test_one_that_is_laid_out_otherwise_is_imported_whole(what: str) -> None:
    otherwise = {
        "_AIOHTTP": '("aiohttp", "aiohttp.nothing")',
        "_stand_ins": 'lambda: {"html": lean_libraries.stand_in("html")}',
    }
    said(
        """
import aiohttp.web, email.policy, html, urllib.request
assert aiohttp.helpers.HTTP is email.policy.HTTP
assert html.escape("<") == "&lt;"
""",
        before=f"""
import sys
from ipvsproxy.cli import lean_libraries
lean_libraries.{what} = {otherwise[what]}
lean_libraries.import_libraries()
assert not any(name.startswith("aiohttp") for name in sys.modules)
""",
    )
