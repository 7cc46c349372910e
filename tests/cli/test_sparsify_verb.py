"""`onnxpfp sparsify`: what it prints and writes, how it ends, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main


@pytest.fixture
def sparsify(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["sparsify", *map(str, arguments)])

    return run


def stored(path: Path) -> int:
    """Count the weights of matrices that are not zero."""
    return sum(int(np.count_nonzero(w)) for w in nets.weights(onnx.load(path)).values() if w.ndim > 1)


@pytest.mark.parametrize("select", ["deterministic", "sampled", "hybrid"])
def test_a_file_is_written_after_it_was_verified(folder: Path, sparsify: Callable[..., Result], select: str) -> None:
    before = stored(folder / "in.onnx")
    result = sparsify("in.onnx", "out.onnx", "--calib-data", "data.npz", "--select", select, "--threads", "1")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    after = stored(folder / "out.onnx")
    assert after <= before // 2
    assert shown.startswith(f"in.onnx: {after:,} of {before:,} weights stay in ")
    assert f"target 50 % of the weights that are not zero, {before // 2:,}; {select}, by the largest share" in shown
    assert "verified the original with its weights masked in the graph == the file: largest difference " in shown
    assert "onnxruntime's kernels are dense: they multiply by zeros as by any number" in shown
    assert "Assumed: no weight's share of a sum is ever above K = 3 times" in shown


def test_the_report_as_json(folder: Path, sparsify: Callable[..., Result]) -> None:
    result = sparsify("in.onnx", "out.onnx", "--calib-data", "data.npz", "--keep-weights", "0.3", "--json", "-")
    document = json.loads(result.stdout)
    assert (document["format"], document["version"]) == ("onnxpfp-sparsity", 1)
    assert (document["input"], document["output"]) == ("in.onnx", "out.onnx")
    assert (document["keep_weights"], document["select"], document["positions"]) == (0.3, "deterministic", "max")
    kept = sum(layer["nonzero"][1] for layer in document["layers"])
    assert kept == document["budget"] == stored(folder / "out.onnx")
    assert document["after"]["bytes"] == (folder / "out.onnx").stat().st_size
    assert all(layer["bound"] is not None for layer in document["layers"])


def test_a_plan_replays_without_data(folder: Path, sparsify: Callable[..., Result]) -> None:
    options = ("--calib-data", "data.npz", "--keep-weights", "0.4", "--select", "sampled", "--seed", "3")
    assert sparsify("in.onnx", "out.onnx", *options, "--plan", "plan.json").exit_code == 0
    result = sparsify("in.onnx", "again.onnx", "--from-plan", "plan.json")
    assert result.exit_code == 0, result.output
    assert (folder / "again.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
    assert "No bound: a plan was replayed, and nothing measured." in " ".join(result.stdout.split())


def test_what_was_pruned_can_be_sparsified(folder: Path, sparsify: Callable[..., Result]) -> None:
    pruning = ["prune", "in.onnx", "small.onnx", "--calib-data", "data.npz", "--keep-macs", "0.6", "--round-to", "1"]
    assert CliRunner().invoke(main, pruning).exit_code == 0
    result = sparsify("small.onnx", "sparse.onnx", "--calib-data", "data.npz", "--sparse-initializers")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.onnx", "out.onnx"), 1, "gone.onnx: there is no such file"),
        (("in.onnx", "in.onnx"), 1, "in.onnx: "),
        (("in.onnx", "out.onnx"), 2, "sparsify measures the shares of the weights on data, and none are given"),
        (("in.onnx", "out.onnx", "--keep-weights", "0"), 2, "--keep-weights 0 is outside (0, 1]"),
        (("in.onnx", "out.onnx", "--delta", "2"), 2, "--delta 2"),
        (
            ("in.onnx", "out.onnx", "--select", "hybrid", "--positions", "mean"),
            2,
            "--positions mean goes with --select deterministic: --select hybrid draws by the largest shares",
        ),
        (
            ("in.onnx", "out.onnx", "--from-plan", "data.npz", "--keep-weights", "0.5"),
            2,
            "--from-plan says what stays, so --keep-weights has no meaning with it",
        ),
        (("in.onnx", "out.onnx", "--from-plan", "data.npz"), 1, "data.npz: is a file of arrays, not a plan"),
        (("in.onnx", "out.onnx", "--calib-data", "data.npz", "--exclude", "nothing"), 2, "--exclude 'nothing' matches"),
        (("in.onnx", "out.onnx", "--calib-data", "data.npz", "--exclude", "*"), 3, "in.onnx: no layer has weights"),
        (("in.onnx", "out.onnx", "--calib-data", "data.npz", "--plan", "in.onnx"), 1, "in.onnx: --plan and IN are"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    folder: Path, sparsify: Callable[..., Result], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = sparsify(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    error, *hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert len(hint) <= 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_help_shows_the_verb() -> None:
    shown = " ".join(CliRunner().invoke(main, ["sparsify", "--help"], terminal_width=120).output.split())
    assert "onnxpfp sparsify in.onnx out.onnx --calib-data calibration.npz --keep-weights 0.5" in shown
    assert "and no run faster" in shown
