"""Ranges of inputs, as they are typed: `--input-range NAME:LOW,HIGH`."""

from __future__ import annotations

from pathlib import Path

import nets
import onnx
import pytest

from onnxpfp.cli.parsing import parse_ranges
from onnxpfp.errors import OptionError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    onnx.save(nets.build("g (float[N,5] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": (5, 3)}), path)
    return path


@pytest.mark.parametrize(
    ("text", "name", "limits"),
    [
        ("a:0,1", "a", (0.0, 1.0)),
        ("a:-1.5, 2e3", "a", (-1.5, 2000.0)),
        ("input:0:-1,1", "input:0", (-1.0, 1.0)),
        ("-1,.5", "x", (-1.0, 0.5)),
    ],
)
def test_ranges_are_read(model: Path, text: str, name: str, limits: tuple[float, float]) -> None:
    assert parse_ranges([text], model) == {name: limits}


@pytest.mark.parametrize("text", ["", "a:", "a:1", "a:1,2,3", "a:low,high", "a:nan,1", "a:1;2"])
def test_what_is_no_range_is_refused(model: Path, text: str) -> None:
    with pytest.raises(OptionError, match="is no range") as refused:
        parse_ranges([text], model)
    assert "NAME:-1,1" in refused.value.hint


def test_an_input_has_one_range(model: Path) -> None:
    with pytest.raises(OptionError, match="gives 'x' two ranges"):
        parse_ranges(["x:0,1", "0,2"], model)
