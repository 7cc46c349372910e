"""Several values of an option, with blanks where commas belong."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from onnxpfp.cli.main import main


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("sweep in.onnx -o models --keep-macs 0.9 0.7", "--keep-macs 0.9,0.7"),
        ("sweep in.onnx -o models --keep-macs 0.9, 0.7, .5", "--keep-macs 0.9,0.7,.5"),
        ("sweep --keep-macs 0.9 , 0.7 in.onnx -o models", "--keep-macs 0.9,0.7"),
        ("sweep in.onnx --keep-size=4MB 512kB -o models", "--keep-size 4MB,512kB"),
        ("sweep in.onnx -o models --min-agreement 0.99 0.95 -q", "--min-agreement 0.99,0.95"),
        ("prune in.onnx out.onnx --keep-classes 0 2 5-9", "--keep-classes 0,2,5-9"),
    ],
)
def test_what_to_write_is_told(typed: str, written: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2
    assert f"takes several values with commas and no blanks between them: write {written}\n" in result.stderr
    assert "unexpected" not in result.stderr


@pytest.mark.parametrize(
    "typed",
    [
        "sweep in.onnx other.onnx -o models --keep-macs 0.9,0.7",
        "sweep in.onnx -o models --keep-macs 0.9 other.onnx",
        "prune in.onnx out.onnx --keep-macs 0.9 0.7",
    ],
)
def test_other_arguments_that_nobody_expects_are_told_as_click_does(typed: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2
    assert "Got unexpected extra argument" in result.stderr
