from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def oracles() -> dict[str, Any]:
    path = Path(__file__).parents[2].parent / "shared" / "oracles" / "oracles.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text())
