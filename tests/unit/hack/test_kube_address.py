"""Which API server a program speaks to, and as whom."""

from __future__ import annotations

import base64
import dataclasses
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from weft_dev import kube_address
from weft_dev.kube_address import read_kubeconfig, service_account


@pytest.fixture(scope="module")
def pem() -> tuple[str, str]:
    """A certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return made.public_bytes(encoding).decode(), private.decode()


def write(folder: Path, cluster: dict[str, str], user: dict[str, str]) -> Path:
    path = folder / "kubeconfig"
    config: dict[str, Any] = {
        "current-context": "here",
        "contexts": [
            {"name": "other", "context": {}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(config))
    return path


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_token_goes_with_every_request(tmp_path: Path, pem: tuple[str, str]) -> None:
    certificate, _ = pem
    (tmp_path / "ca.crt").write_text(certificate)
    found = read_kubeconfig(write(tmp_path, {"certificate-authority": "ca.crt"}, {"token": "secret"}))
    assert (found.url, found.ca_pem) == ("https://127.0.0.1:1", certificate)
    assert found.headers["Authorization"] == "Bearer secret"


def test_a_client_certificate_is_used_where_there_is_no_token(tmp_path: Path, pem: tuple[str, str]) -> None:
    certificate, key = pem
    cluster = {"certificate-authority-data": data(certificate)}
    user = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
    found = read_kubeconfig(write(tmp_path, cluster, user))
    assert "Authorization" not in found.headers
    assert found.client_pem == certificate + key
    found.tls()
    with pytest.raises(ssl.SSLError):
        dataclasses.replace(found, client_pem=certificate).tls()


def test_a_user_who_has_neither_is_named_as_the_reason(tmp_path: Path, pem: tuple[str, str]) -> None:
    path = write(tmp_path, {"certificate-authority-data": data(pem[0])}, {"username": "me"})
    with pytest.raises(ValueError, match="client-certificate"):
        read_kubeconfig(path)


def test_a_pod_speaks_as_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.crt").write_text("a certificate")
    (tmp_path / "token").write_text("secret")
    monkeypatch.setattr(kube_address, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = service_account()
    assert (found.url, found.ca_pem) == ("https://10.96.0.1:443", "a certificate")
    assert found.headers["Authorization"] == "Bearer secret"
    (tmp_path / "token").write_text("renewed by the kubelet")
    assert found.headers["Authorization"] == "Bearer renewed by the kubelet"
