from __future__ import annotations

from pathlib import Path

import pytest

from support.chart import Helm
from weft_dev import tools


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tools.provide(["helm"])["helm"], Path(tmp_path_factory.mktemp("helm")))
