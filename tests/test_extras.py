"""What hints say of extras is what the package declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import onnxpfp

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HINT = re.compile(r"pip install '?([a-z-]+)[^ ]*, which the extra '([a-z]+)' of onnxpfp brings")


def test_an_extra_brings_what_hints_say() -> None:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    told: set[tuple[str, str]] = set()
    for file in sorted(Path(onnxpfp.__file__).parent.rglob("*.py")):
        told |= set(HINT.findall(file.read_text(encoding="utf-8")))
    assert told == {("onnxruntime-gpu", "cuda"), ("pillow", "images")}
    for package, extra in {*told, ("jinja2", "report")}:
        assert any(re.match(rf"{package}\b", requirement) for requirement in extras[extra])


@pytest.mark.parametrize("file", ["onnxpfp", "docs", "README.md"])
def test_nobody_is_told_to_install_onnxpfp_from_an_index(file: str) -> None:
    """It is installed from its folder or a wheel; a name in an index may be somebody else's."""
    place = PROJECT.parent / file
    texts = [place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.md")]
    assert not [text for text in texts if re.search(r"pip install ['\"]?onnxpfp", text.read_text(encoding="utf-8"))]
