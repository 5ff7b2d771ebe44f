"""Keys and certificates of a local control plane: made before it starts, gone with its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    ca: Path
    serving_certificate: Path
    serving_key: Path
    service_account_key: Path
    """Signs service account tokens; it holds the public key too."""


def make_certificates(directory: Path, service_address: str) -> Certificates:
    """Make a serving certificate for 127.0.0.1, localhost and the `kubernetes` Service, and a signing key."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = ("ca.crt", "serving.crt", "serving.key", "service-account.key")
    made = Certificates(*(directory / name for name in names))
    authority = trustme.CA()
    serving = authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc", service_address)
    authority.cert_pem.write_to_path(made.ca)
    serving.cert_chain_pems[0].write_to_path(made.serving_certificate)
    keys = {
        made.serving_key: serving.private_key_pem,
        made.service_account_key: trustme.CA().private_key_pem,
    }
    for path, key in keys.items():
        path.touch(mode=0o600)
        key.write_to_path(path)
    return made
