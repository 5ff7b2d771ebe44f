"""How a Prometheus server is reached: who asks, over what, and as what. Files are read again whenever they change."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

from weft.balancing.settings import SourceSettings


class AccessError(Exception):
    """A file of the settings cannot be used. The message names it, and never what is in it."""


class Access:
    """The credentials of one source. Tokens and certificates that are replaced count from the next request on."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._context: tuple[object, ssl.SSLContext] | None = None

    def headers(self) -> dict[str, str]:
        """Those of the settings, and who asks. Raises AccessError."""
        settings = self._settings
        headers = dict(settings.headers)
        if settings.bearer_token_file:
            headers["Authorization"] = f"Bearer {_secret(settings.bearer_token_file)}"
        elif settings.basic_auth is not None:
            login = f"{settings.basic_auth.username}:{_secret(settings.basic_auth.password_file)}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return headers

    def ssl(self) -> ssl.SSLContext | bool:
        """What to check a server's certificate by, and what to show it; True: as the system does."""
        settings = self._settings
        files = [one for one in (settings.ca_file, settings.certificate_file, settings.key_file) if one]
        if not files:
            return True
        try:
            state = [(one, Path(one).stat().st_mtime_ns, Path(one).stat().st_ino) for one in files]
            if self._context is None or self._context[0] != state:
                context = ssl.create_default_context(cafile=settings.ca_file or None)
                if settings.certificate_file:
                    context.load_cert_chain(settings.certificate_file, settings.key_file or None)
                self._context = state, context
        except OSError as error:  # ssl.SSLError is one
            raise AccessError(
                f"the certificates of the Prometheus server's settings cannot be used ({', '.join(files)}:"
                f" {type(error).__name__})"
            ) from error
        return self._context[1]


def _secret(path: str) -> str:
    try:
        secret = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"{path} of the Prometheus server's settings cannot be read") from error
    if not secret or not secret.isprintable():
        raise AccessError(f"{path} of the Prometheus server's settings is empty or has more than one line")
    return secret
