"""`onnxpfp verify`: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cli_models
import onnx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from onnxpfp.cli.main import main
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.plan_fit import PlanFit, WeightFit
from onnxpfp.comparison.slow_ops import SlowOp
from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor
from onnxpfp.report.page import ReportView
from onnxpfp.report.text import as_text
from onnxpfp.report.verification import ComparedSize, VerificationReport
from onnxpfp.runtime.latency import Latency, LatencyRatio

PEAK = ActivationPeak(4096, "Relu", "r", (LiveTensor("a", 2048), LiveTensor("b", 2048)))


@pytest.fixture
def verify(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder, on a pruned file with its plan."""
    pruned = ["prune", "in.onnx", "cut.onnx", "--keep-macs", "0.5", "--plan", "plan.json", "--no-latency", "-q"]
    assert CliRunner().invoke(main, pruned).exit_code == 0

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["verify", *map(str, arguments)])

    return run


def test_a_file_that_passes(verify: Callable[..., Result]) -> None:
    result = verify("in.onnx", "cut.onnx", "--calib-data", "data.npz", "--plan", "plan.json", "--threads", "1")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert shown.startswith("in.onnx and cut.onnx")
    assert "interface the same" in shown
    assert "against the original on 16 samples plan " in shown
    assert "the original masked by the plan == the pruned model: largest difference " in shown
    assert "latency, ms" in shown
    assert "What is wrong" not in shown


def test_a_file_that_does_not_pass_ends_with_4_and_its_report_is_there(folder: Path, verify) -> None:
    result = verify("in.onnx", "cut.onnx", "--max-drift", "1e-9", "--no-latency", "--json", "r.json")
    assert result.exit_code == 4
    assert "What is wrong" in result.stdout
    assert "Error: cut.onnx does not pass: the relative output error is " in result.stderr
    assert json.loads((folder / "r.json").read_text())["passed"] is False


def test_a_missing_output_is_named(folder: Path, verify) -> None:
    other = cli_models.chain()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "z"
    onnx.save(other, folder / "other.onnx")
    result = verify("in.onnx", "other.onnx", "-q")
    assert (result.exit_code, result.stdout) == (4, "")
    expected = "Error: other.onnx does not pass: the output 'y' is missing (1 more in the report)\n"
    assert result.stderr == expected


def test_json_on_stdout_is_alone_there(verify: Callable[..., Result]) -> None:
    document = json.loads(verify("in.onnx", "cut.onnx", "--no-latency", "--json", "-").stdout)
    assert (document["original"], document["pruned"], document["latency"]) == ("in.onnx", "cut.onnx", None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.onnx", "cut.onnx"), 1, "gone.onnx: there is no such file"),
        (("in.onnx", "gone.onnx"), 1, "gone.onnx: there is no such file"),
        (("in.onnx", "out.onnx"), 1, "out.onnx: is not an ONNX model"),
        (("in.onnx", "cut.onnx", "--plan", "gone.json"), 1, "gone.json: cannot be read"),
        (("in.onnx", "cut.onnx", "--plan", "data.npz"), 1, "data.npz: is a file of arrays, not a plan of onnxpfp"),
        (("in.onnx", "cut.onnx", "--calib-data", "gone.npz"), 1, "gone.npz"),
        (("in.onnx", "cut.onnx", "--max-drift", "0"), 2, "--max-drift 0 must be above 0"),
        (("in.onnx", "cut.onnx", "--min-agreement", "2"), 2, "--min-agreement 2 is outside (0, 1]"),
        (("in.onnx", "cut.onnx", "--json", "cut.onnx"), 1, "cut.onnx: --json and PRUNED are the same file"),
        (
            ("in.onnx", "cut.onnx", "--json", "plan.json", "--plan", "plan.json"),
            1,
            "plan.json: --json and --plan are the same",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(verify, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = verify(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    error, *hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert len(hint) <= 1


def _report(**changes: object) -> VerificationReport:
    report = VerificationReport(
        original="a.onnx",
        pruned="b.onnx",
        inputs={"x": (1, 3, 8, 8)},
        problems=(),
        interface=(),
        before=ComparedSize(1000, 20000, 4000, PEAK),
        after=ComparedSize(600, 10000, 2500, replace(PEAK, bytes=3072, node="a", op="Conv")),
        data="file",
        drift=Drift(0.125, None, 0.953, 64, held_out=False),
        uncompared="",
        plan=None,
        latency=LatencyFindings(
            Latency(2.0, 1.9, 2.1, 50),
            Latency(1.5, 1.4, 1.6, 50),
            LatencyRatio(0.75, 0.7, 0.8),
            slow_ops=(SlowOp("node", "Conv", 0.5, 0.6, "because"), SlowOp("other", "Gemm", 0.1, 0.2, "")),
        ),
        providers=("CPUExecutionProvider",),
        seconds={"drift": 1.0},
        notes=(),
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def _text(report: VerificationReport) -> str:
    view = ReportView(Console(file=io.StringIO(), width=140, markup=False))
    return " ".join(as_text(report, view).split())


def test_the_page_shows_both_models_and_the_ops_that_take_more() -> None:
    text = _text(_report())
    assert "parameters 1,000 600 60.0 %" in text
    assert "latency, ms 2 1.5 75.0 %" in text
    assert "relative output error 0.125, top-1 agreement 95.3 %, against the original on 64 samples" in text
    assert "node Conv 0.5 0.6 because other Gemm 0.1 0.2 none seen" in text


def test_the_page_says_why_something_is_missing() -> None:
    text = _text(
        _report(
            drift=None,
            uncompared="the interfaces differ",
            interface=("the input 'x' is missing",),
            problems=("the input 'x' is missing",),
            after=ComparedSize(600, None, 2500, None),
            latency=None,
        )
    )
    assert "MACs, one run 20,000 - -" in text
    assert "interface 1 differences, below" not in text
    assert "drift not measured: the interfaces differ" in text
    assert text.endswith("the input 'x' is missing")


def test_the_page_says_what_was_compared_with_the_plan() -> None:
    fit = PlanFit(WeightFit(5, 0, ()), Equivalence(1e-7, 1e-4, 2, blank=False), "5 stored tensors fit")
    assert "5 stored tensors fit: largest difference 1e-07 of the largest output, 1e-04 allowed, 2 runs" in _text(
        _report(plan=fit)
    )
    misfits = PlanFit(WeightFit(4, 0, ("one", "two")), None, "names")
    assert "plan 2 misfits, below" in _text(_report(plan=misfits))
