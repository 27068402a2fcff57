"""Certificates for a test, made by openssl; nothing leaves the folder of the test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


class Authority(NamedTuple):
    certificate: Path
    key: Path


def authority(folder: Path, name: str) -> Authority:
    made = Authority(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(
        "req", "-x509", *_NEW_KEY, "-keyout", str(made.key), "-out", str(made.certificate),
        "-days", "2", "-subj", f"/CN={name}",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
    )  # fmt: skip
    return made


def server_context(folder: Path, signer: Authority) -> ssl.SSLContext:
    """Make a server's TLS context for 127.0.0.1, signed by an authority."""
    key, request, certificate = (folder / f"server.{kind}" for kind in ("key", "csr", "crt"))
    extensions = folder / "extensions"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"
    )
    _openssl(
        "req", *_NEW_KEY, "-keyout", str(key), "-out", str(request), "-subj", "/CN=server",
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", str(request), "-out", str(certificate), "-days", "2",
        "-CA", str(signer.certificate), "-CAkey", str(signer.key), "-CAcreateserial",
        "-extfile", str(extensions),
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def client_certificate(folder: Path, signer: Authority) -> Authority:
    """Make a certificate by which a client names itself, with its key, signed by an authority."""
    made, request = Authority(folder / "client.crt", folder / "client.key"), folder / "client.csr"
    _openssl(
        "req", *_NEW_KEY, "-keyout", str(made.key), "-out", str(request), "-subj", "/CN=node-1",
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", str(request), "-out", str(made.certificate), "-days", "2",
        "-CA", str(signer.certificate), "-CAkey", str(signer.key), "-CAcreateserial",
    )  # fmt: skip
    return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def rsa_key(path: Path) -> Path:
    _openssl("genrsa", "-out", str(path), "2048")
    return path
