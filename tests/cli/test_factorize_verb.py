"""`onnxpfp factorize`: what it prints and writes, how it ends, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import cli_models
import onnx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from onnxpfp.cli.main import main
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.low_rank.layers import StayingLayer
from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor
from onnxpfp.refit.means import Record
from onnxpfp.report.factorization import FactorizationReport, FactorizedLayer
from onnxpfp.report.page import ReportView
from onnxpfp.report.text import as_text
from onnxpfp.report.verification import ComparedSize
from onnxpfp.runtime.blocks import Alignment

PEAK = ActivationPeak(4096, "Relu", "r", (LiveTensor("a", 2048), LiveTensor("b", 2048)))
QUICK = ("--threads", "1", "--no-latency")


@pytest.fixture
def factorize(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder, beside a model of two wide convolutions."""
    onnx.save(
        cli_models.build(cli_models.CHAIN.format(op="Relu"), {"w1": (16, 3, 3, 3), "w2": (4, 16, 3, 3)}), "in.onnx"
    )

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["factorize", *map(str, arguments)])

    return run


def test_a_file_is_written_after_it_was_verified(folder: Path, factorize: Callable[..., Result]) -> None:
    result = factorize("in.onnx", "out.onnx", "--calib-data", "data.npz", *QUICK)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert shown.startswith("in.onnx: 1 of 2 layers factored")
    assert "target 70 % of the multiply-adds, scheme auto, factored by the weights and 12 samples" in shown
    assert "verified one op with the product of two in their place == the file: largest difference " in shown
    assert "against the original on 2 held-out samples" in shown
    assert "node_a Conv" in shown
    assert "share of its outputs' variance on the samples" in shown
    names = [node.name for node in onnx.load(folder / "out.onnx").graph.node]
    assert "node_a/low_rank_first" in names
    assert result.stderr == "Written: out.onnx\n"


def test_without_data_the_weights_decide_and_the_drift_is_that_of_noise(factorize: Callable[..., Result]) -> None:
    result = factorize("in.onnx", "out.onnx", "--energy", "0.5", *QUICK)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "target 50 % of every layer's weights' energy, scheme auto, factored by the weights alone" in shown
    assert "on 64 samples of noise" in shown
    assert "share of its weights' energy" in shown
    assert result.stderr.startswith("Note: RANDOM data: the drift is that of noise")


def test_the_report_as_json(folder: Path, factorize: Callable[..., Result]) -> None:
    result = factorize("in.onnx", "out.onnx", "--calib-data", "data.npz", "--json", "-", *QUICK)
    document = json.loads(result.stdout)
    assert (document["format"], document["input"], document["output"]) == (
        "onnxpfp-factorization",
        "in.onnx",
        "out.onnx",
    )
    assert document["keep_macs"] == 0.7
    assert document["after"]["macs"] <= 0.7 * document["before"]["macs"]
    assert {layer["nodes"][0] for layer in document["layers"]} == {"node_a"}
    assert document["after"]["bytes"] == (folder / "out.onnx").stat().st_size


def test_a_second_time_factors_the_factors(folder: Path, factorize: Callable[..., Result]) -> None:
    assert factorize("in.onnx", "out.onnx", *QUICK).exit_code == 0
    result = factorize("out.onnx", "again.onnx", "--keep-macs", "0.6", *QUICK)
    assert result.exit_code == 0, result.output
    assert "of 3 layers factored" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.onnx", "out.onnx"), 1, "gone.onnx: there is no such file"),
        (("in.onnx", "in.onnx"), 1, "in.onnx: "),
        (("in.onnx", "out.onnx", "--json", "out.onnx"), 1, "out.onnx: --json and OUT are the same file"),
        (("in.onnx", "out.onnx", "--keep-macs", "0"), 2, "--keep-macs 0 is outside (0, 1]"),
        (("in.onnx", "out.onnx", "--energy", "1.5"), 2, "--energy 1.5 is outside (0, 1]"),
        (
            ("in.onnx", "out.onnx", "--energy", "0.9", "--keep-macs", "0.5"),
            2,
            "give one target: --keep-macs or --energy",
        ),
        (("in.onnx", "out.onnx", "--round-to", "0"), 2, "--round-to 0 must be at least 1"),
        (("in.onnx", "out.onnx", "--exclude", "nothing"), 2, "--exclude 'nothing' matches no node and no initializer"),
        (("in.onnx", "out.onnx", "--keep-macs", "0.01"), 3, "in.onnx: the target is 1.0% of the multiply-adds, but "),
        (
            ("in.onnx", "out.onnx", "--energy", "1"),
            3,
            "in.onnx: no layer takes fewer multiply-adds where it keeps 100 %",
        ),
        (("in.onnx", "out.onnx", "--calib-data", "gone.npz"), 1, "gone.npz"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    folder: Path, factorize: Callable[..., Result], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = factorize(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    error, *hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert len(hint) <= 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def _report() -> FactorizationReport:
    layer = FactorizedLayer(("c1",), "Conv", "spatial", 1, 16, (16, 8, 3, 1), (32, 16, 1, 3), 0.98765, (10000, 6000))
    return FactorizationReport(
        file="a.onnx",
        inputs={"x": (1, 3, 8, 8)},
        keep_macs=0.5,
        energy=None,
        scheme="auto",
        alignment=Alignment(16, "it computes 16 at once"),
        factored_by="data",
        samples=56,
        refits=(Record("c1/low_rank_second", 0.08, 0.02, 1e-3), Record("d", 0.04, 0.02, 1e-3)),
        layers=(layer, FactorizedLayer(("d", "e"), "Conv", "channel", 2, 8, (16, 4), (8, 8), 0.9, (5000, 2000))),
        staying=(
            StayingLayer("dw", "Conv", 300, "it is depthwise"),
            StayingLayer("s", "Conv", 90, "others lose less"),
            StayingLayer("t", "Conv", 400, "others lose less"),
        ),
        before=ComparedSize(1000, 20000, 4000, PEAK),
        after=ComparedSize(600, 10000, 2500, PEAK),
        oracle=Equivalence(2e-7, 1e-4, 2, blank=False),
        drift=Drift(0.125, None, 0.953, 8, held_out=True),
        data="file",
        latency=None,
        providers=("CPUExecutionProvider",),
        seconds={"load": 0.5, "factors": 1.0},
        notes=(),
    )


def test_the_page_of_a_report() -> None:
    console = Console(file=io.StringIO(), width=160)
    text = [" ".join(line.split()) for line in as_text(_report(), ReportView(console)).splitlines()]
    for line in (
        "a.onnx: 2 of 5 layers factored",
        "MACs, one run 20,000 10,000 50.0 %",
        "target 50 % of the multiply-adds, scheme auto, factored by the weights and 56 samples",
        "ranks in steps of 16, finer ones in layers that have few: it computes 16 at once",
        "drift relative output error 0.125, top-1 agreement 95.3 %, against the original on 8 held-out samples",
        "c1 Conv spatial 16 98.77 % 10,000 6,000 60.0 %",
        "d, e Conv channel 8 x 2 90.00 % 5,000 2,000 40.0 %",
        "others lose less s and 1 more 490",
        "it is depthwise dw 300",
        "seconds 1.5 (load 0.5, factors 1.0)",
    ):
        assert line in text, line
    refits = "2 of 2 linear ops refitted by least squares: median error of an output on samples kept out of the fit, "
    assert f"{refits}as a share of its variance: 6 % before, 2 % after; no op got worse" in " ".join(text)


def test_help_shows_both_ways() -> None:
    shown = " ".join(CliRunner().invoke(main, ["factorize", "--help"], terminal_width=120).output.split())
    assert "onnxpfp factorize in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.7" in shown
    assert "onnxpfp factorize in.onnx out.onnx --energy 0.95" in shown
