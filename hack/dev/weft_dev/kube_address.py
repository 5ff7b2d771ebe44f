"""Where an API server is, and who we are there: out of a kubeconfig, or as a pod's service account."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ApiAddress:
    """`token`, `token_file` or `client_pem` (certificate and key) say who we are; the others are empty."""

    url: str
    ca_pem: str
    token: str = ""
    client_pem: str = ""
    token_file: Path | None = None

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca_pem)
        if self.client_pem:
            # The library takes them from a file only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(self.client_pem)
                file.flush()
                context.load_cert_chain(file.name)
        return context

    @property
    def headers(self) -> dict[str, str]:
        """What goes with a request; to be asked for each, since a token in a file is renewed."""
        accept = {"Accept": "application/json"}
        token = self.token if self.token_file is None else self.token_file.read_text()
        return accept | {"Authorization": f"Bearer {token}"} if token else accept


def read_kubeconfig(path: Path) -> ApiAddress:
    """The kubeconfig's current context. Raises ValueError where its user has neither token nor certificate."""
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    url, ca_pem = cluster["server"].rstrip("/"), _content(path, cluster, "certificate-authority")
    if "token" in user:
        return ApiAddress(url, ca_pem, token=user["token"])
    try:
        pem = _content(path, user, "client-certificate") + _content(path, user, "client-key")
    except KeyError as error:
        raise ValueError(f"{path}: the user of the current context has no {error} and no token") from error
    return ApiAddress(url, ca_pem, client_pem=pem)


def service_account() -> ApiAddress:
    """The one of the pod that this process runs in."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    ca_pem, token_file = (SERVICE_ACCOUNT / "ca.crt").read_text(), SERVICE_ACCOUNT / "token"
    return ApiAddress(f"https://{host}:{port}", ca_pem, token_file=token_file)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _content(kubeconfig: Path, entry: dict[str, Any], key: str) -> str:
    """A value that a kubeconfig holds itself, or in a file that it names."""
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"]).decode()
    file: str = entry[key]
    return (kubeconfig.parent / file).read_text()
