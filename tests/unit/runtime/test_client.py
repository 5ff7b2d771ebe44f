from __future__ import annotations

import pytest

from weft.runtime.client import proxy_for


def test_the_proxy_of_the_environment_is_used_except_where_it_says_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("https://10.0.0.1:443") is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert proxy_for("https://10.0.0.1:443") == "http://proxy.example:3128"
    monkeypatch.setenv("no_proxy", "10.0.0.1,.svc")
    assert proxy_for("https://10.0.0.1:443") is None
    assert proxy_for("https://kubernetes.default.svc:443") is None
    assert proxy_for("https://api.example:443") == "http://proxy.example:3128"
