"""`onnxpfp prune --dry-run`: the report of a pruning, and no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cli_models
from click.testing import Result
from conftest import Refusal

QUICK = ("--calib-data", "data.npz", "--keep-macs", "0.5", "--threads", "1", "--no-latency")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _untimed(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.strip().startswith("seconds")]


def test_it_reports_what_the_pruning_reports_and_writes_nothing(folder: Path, prune: Callable[..., Result]) -> None:
    before = _files(folder)
    dry = prune("in.onnx", "--dry-run", *QUICK)
    assert dry.exit_code == 0, dry.output
    assert _files(folder) == before
    assert dry.stderr.splitlines()[-1] == "dry run: nothing written"
    real = prune("in.onnx", "out.onnx", *QUICK)
    assert _untimed(dry.stdout) == _untimed(real.stdout)
    assert _files(folder) != before


def test_out_may_be_given_and_stays_as_it_is(folder: Path, prune: Callable[..., Result]) -> None:
    assert prune("in.onnx", "out.onnx", "--dry-run", *QUICK).exit_code == 0
    assert (folder / "out.onnx").read_bytes() == cli_models.EXISTING
    # It is not written, so it may be the input.
    assert prune("in.onnx", "in.onnx", "--dry-run", *QUICK).exit_code == 0


def test_a_report_for_programs_may_be_written(folder: Path, prune: Callable[..., Result]) -> None:
    result = prune("in.onnx", "--dry-run", "--json", "report.json", *QUICK)
    assert result.stderr.splitlines()[-1] == "dry run: nothing written but the report"
    document = json.loads((folder / "report.json").read_text())
    assert (document["input"], document["output"], document["plan"]) == ("in.onnx", None, None)
    assert document["after"]["macs"] <= 0.5 * document["before"]["macs"]
    shown = prune("in.onnx", "--dry-run", "--json", "-", *QUICK)
    assert json.loads(shown.stdout)["after"] == document["after"]
    assert shown.stderr.splitlines()[-1] == "dry run: nothing written"


def test_quiet_says_nothing(prune: Callable[..., Result]) -> None:
    result = prune("in.onnx", "--dry-run", "-q", *QUICK)
    assert (result.exit_code, result.output) == (0, "")


def test_a_plan_is_replayed_without_writing(folder: Path, prune: Callable[..., Result]) -> None:
    assert prune("in.onnx", "first.onnx", "--plan", "plan.json", *QUICK).exit_code == 0
    before = _files(folder)
    result = prune("in.onnx", "--from-plan", "plan.json", "--dry-run", "--no-latency")
    assert result.exit_code == 0, result.output
    assert _files(folder) == before


def test_what_it_does_not_write_is_refused(refuse: Callable[..., Refusal], prune: Callable[..., Result]) -> None:
    assert refuse("in.onnx", "--dry-run", "--plan", "plan.json", code=2).error == "--dry-run writes no plan"
    assert refuse("none.onnx", "--dry-run").error == "none.onnx: there is no such file"
    assert refuse("in.onnx", "--dry-run", "--json", "in.onnx").error.startswith("in.onnx: --json and IN are the same")
    without = prune("in.onnx")
    assert (without.exit_code, without.stdout) == (2, "")
    assert "Error: Missing argument 'OUT'." in without.stderr


def test_a_target_that_cannot_be_met_ends_as_a_pruning_does(refuse: Callable[..., Refusal]) -> None:
    assert "is the least that can be reached" in refuse("in.onnx", "--dry-run", "--keep-macs", "0.001", code=3).error
