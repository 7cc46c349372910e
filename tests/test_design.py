"""`docs/design.md` names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)`", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"))))
FOLDERS = sorted(set(re.findall(r"`([a-z_/]+/)`", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", [*NAMED, *FOLDERS])
def test_a_named_file_is_there(path: str) -> None:
    assert (ROOT / "onnxpfp" / path).exists() or (ROOT / path).exists()


def test_every_package_stands_in_the_data_flow_or_below_it() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "onnxpfp").glob("*/__init__.py")}
    assert [name for name in sorted(packages) if f"{name}/" not in text] == []
