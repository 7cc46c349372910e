"""`onnxpfp latency`: what it prints and writes, and what it refuses. The times themselves are not looked at."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_models
import onnx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from onnxpfp.cli.main import main
from onnxpfp.pipeline.latency.summary import FittedPoint, LatencySummary, OpShare, PartLatency
from onnxpfp.pipeline.latency.table import LatencyTable, PartTable, TablePoint
from onnxpfp.report.latency_table import LatencyReport
from onnxpfp.report.page import ReportView
from onnxpfp.report.text import as_text
from onnxpfp.runtime.blocks import Alignment

THREADS = ("--threads", "1")


@pytest.fixture
def latency(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["latency", *map(str, arguments)])

    return run


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_table_is_measured_and_pruned_by(folder: Path, latency: Callable[..., Result]) -> None:
    result = latency("in.onnx", "-o", "table.json", *THREADS)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith("in.onnx: ")
    assert any(line.startswith("points 23 choices of widths") for line in lines)
    assert any(line.startswith("least about --keep-latency ") for line in lines)
    assert "Where the time goes, by the fitted latencies" in lines
    assert LatencyTable.read(folder / "table.json").parts[""].groups == {"w1": 6}
    # All of it is what any table allows.
    arguments = ["in.onnx", "cut.onnx", "--keep-latency", "1", "--latency-table", "table.json", "-q"]
    assert CliRunner().invoke(main, ["prune", *arguments]).exit_code == 0


def test_without_a_file_it_only_prints(folder: Path, latency: Callable[..., Result]) -> None:
    before = _files(folder)
    result = latency("in.onnx", *THREADS, "--calib-data", "data.npz", "--round-to", "2", "-v")
    assert result.exit_code == 0, result.output
    assert "slower by" not in result.stdout
    assert "Points" in result.stdout
    assert _files(folder) == before
    assert (latency("in.onnx", *THREADS, "--round-to", "2", "-q").stdout) == ""


def test_models_for_another_device(folder: Path, latency: Callable[..., Result]) -> None:
    result = latency("in.onnx", "-o", "form.json", "--models", "points", "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == "Written: form.json, points, r.json"
    assert result.stdout.startswith("in.onnx: 23 models to be timed in points\n")
    assert sorted(path.name for path in (folder / "points").iterdir()) == [f"{number:02d}.onnx" for number in range(23)]
    document = json.loads((folder / "form.json").read_text())
    assert [point["model"] for point in document["parts"][""]["points"]][::22] == ["00.onnx", "22.onnx"]
    report = json.loads((folder / "r.json").read_text())
    assert (report["table"], report["models"], report["latency"]) == ("form.json", "points", None)
    refused = CliRunner().invoke(
        main, ["prune", "in.onnx", "cut.onnx", "--keep-latency", "0.9", "--latency-table", "form.json"]
    )
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0] == (
        "Error: form.json: 'ms' of point 0 of the main graph (00.onnx) is not filled in"
    )
    # Again, over what is there.
    assert latency("in.onnx", "-o", "form.json", "--models", "points", "-q").exit_code == 0


def test_json_on_stdout_is_alone_there(latency: Callable[..., Result]) -> None:
    document = json.loads(latency("in.onnx", *THREADS, "--round-to", "2", "--json", "-").stdout)
    assert (document["file"], document["table"], document["points"]) == ("in.onnx", None, {"": 8})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.onnx",), 1, "gone.onnx: there is no such file"),
        (("out.onnx",), 1, "out.onnx: is not an ONNX model"),
        (("in.onnx", "-o", "in.onnx"), 1, "in.onnx: --output and IN are the same file"),
        (("in.onnx", "-o", "no/t.json"), 1, "no/t.json: the directory no does not exist"),
        (
            ("in.onnx", "-o", "data.npz", "--calib-data", "data.npz"),
            1,
            "data.npz: --output and --calib-data are the same",
        ),
        (("in.onnx", "-o", "t.json", "--json", "t.json"), 1, "t.json: --json and --output are the same file"),
        (("in.onnx", "--models", "points"), 2, "--models goes with --output"),
        (("in.onnx", "-o", "t.json", "--models", "."), 1, ".: --models would write beside what is read"),
        (("in.onnx", "-o", "t.json", "--models", "data.npz"), 1, "data.npz: is a file, not a directory"),
        (("in.onnx", "-o", "t.json", "--models", "no/points"), 1, "no/points: the directory no does not exist"),
        (("in.onnx", "--round-to", "0"), 2, "--round-to 0 must be at least 1"),
        (("in.onnx", "--latency-batch", "0"), 2, "--latency-batch 0 must be at least 1"),
        (("in.onnx", "--top", "0"), 2, "--top 0 must be at least 1"),
        (("in.onnx", "--calib-data", "gone.npz"), 1, "gone.npz"),
        (("in.onnx", "--exclude", "nothing"), 2, "--exclude 'nothing'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    folder: Path, latency: Callable[..., Result], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = _files(folder)
    result = latency(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    error, *hint = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert len(hint) <= 1
    assert _files(folder) == before


def test_a_table_is_whole_or_not_at_all(
    folder: Path, latency: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "table.json").write_text("what was there before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxpfp.model.save.flush", full)
    result = latency("in.onnx", "-o", "table.json", "--round-to", "2", *THREADS)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "Error: table.json: cannot be written: No space left on device"
    assert (folder / "table.json").read_text() == "what was there before"
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "in.onnx", "out.onnx", "table.json"]


def test_nothing_can_be_pruned(folder: Path, latency: Callable[..., Result]) -> None:
    onnx.save(cli_models.build("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)}), "fixed.onnx")
    result = latency("fixed.onnx", "-o", "t.json", *THREADS)
    assert result.exit_code == 0
    assert "nothing in it can be pruned" in result.stderr
    assert [len(part.points) for part in LatencyTable.read(folder / "t.json").parts.values()] == [1]


def _report(**changes: Any) -> LatencyReport:
    points = (TablePoint(0, {}, 8.0, {"a": 5.0}), TablePoint(16, {"w": 16}, 4.0, {"a": 2.0}))
    fitted = (FittedPoint(0, 1.0, 8.0, 7.6), FittedPoint(16, 0.5, 4.0, 4.2))
    given: dict[str, Any] = {
        "file": "in.onnx",
        "inputs": {"x": (1, 3, 8, 8)},
        "samples": 1,
        "table": LatencyTable("", "a processor", (), 2, 1, {"": PartTable({"w": 32}, points)}),
        "found": LatencySummary(
            ms=8.0,
            least=0.40001,
            ops=(
                OpShare("", "a", "Conv", 6.0, 2.0),
                OpShare("", "", "", 2.0, 1.0),
                OpShare("If/b", "c", "Gemm", 0.0, 0.0),
            ),
            parts=(PartLatency("", 1.0, 8.0, Alignment(16, "because", "asked"), {1: 0.125, 16: 0.0}, 0.05, fitted),),
        ),
        "models": None,
        "providers": ("CPUExecutionProvider",),
        "seconds": {"load": 0.5},
        "notes": (),
    }
    return LatencyReport(**given | changes)


def _text(report: LatencyReport, *, full: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False, emoji=False)
    return "\n".join(
        " ".join(line.split()) for line in as_text(report, ReportView(console, None, full=full)).splitlines()
    )


def test_the_page() -> None:
    lines = _text(_report()).splitlines()
    assert lines[0] == "in.onnx: 8 ms a run"
    for line in (
        "measured on a processor, CPUExecutionProvider, 2 threads",
        "at 1 sample a run; shapes x 1x3x8x8",
        "kernels in steps of 16: because (1 in groups of fewer channels)",
        "slower by 12.5 % in multiples of 1, 0.0 % in multiples of 16: time for what there is to do, over that of the "
        "fastest",
        "fit the ops' latencies add up to those measured, within 5.0 % at every point used",
        # Rounded up, for it is to be reached.
        "least about --keep-latency 0.401 (3.21 ms), by the fitted latencies at the smallest widths",
        "a Conv 6 75.0 % 2",
        "outside of all ops 2 25.0 % 1",
    ):
        assert line in lines
    assert "Points" not in lines
    assert "c Gemm" not in "\n".join(lines)
    assert "main graph 16 50.0 % 4 4.2" in _text(_report(), full=True).splitlines()


def test_the_page_of_bodies() -> None:
    report = _report()
    assert report.found is not None
    (main,) = report.found.parts
    body = PartLatency("If_0/then_branch", 0.5, 12.0, Alignment(8, "so"), {}, 0.1, main.points)
    bare = PartLatency("", 1.0, 2.0, Alignment(1, "nothing"), {}, 0.0, main.points[:1])
    ops = (OpShare("If_0/then_branch", "", "", 3.0, 1.0),)
    text = _text(_report(found=LatencySummary(8.0, 0.5, ops, (bare, body))))
    assert "kernels If_0/then_branch: in steps of 8: so" in text
    assert "If_0/then_branch: outside of all ops 3 100.0 % 1" in text
    assert "main graph 1 2 - -" in text
    assert "If_0/then_branch 0.5 12 8 10.0 %" in text


def test_the_page_of_a_form() -> None:
    points = (TablePoint(0, {}, float("nan"), {}, "00.onnx"), TablePoint(1, {"w": 3}, float("nan"), {}, "01.onnx"))
    table = LatencyTable("", "", (), None, 1, {"": PartTable({"w": 32}, points)})
    text = _text(_report(found=None, models="points", table=table))
    assert text.startswith("in.onnx: 2 models to be timed in points\n")
    assert "00.onnx is the whole network, 01.onnx the last" in text
