"""`onnxpfp sweep`: what it prints and writes, how it ends, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cli_models
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main
from onnxpfp.cli.phases import described

QUICK = ("--threads", "1", "--no-latency", "--round-to", "1")


@pytest.fixture
def sweep(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["sweep", "in.onnx", "-o", "models", *map(str, arguments)])

    return run


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir())


def test_every_file_is_that_of_prune(folder: Path, sweep: Callable[..., Result]) -> None:
    result = sweep("--calib-data", "data.npz", "--keep-macs", "0.8, 0.5", *QUICK)
    assert result.exit_code == 0, result.output
    assert _names(folder) == ["in-macs-0.5.onnx", "in-macs-0.8.onnx"]
    for share in ("0.8", "0.5"):
        alone = ["prune", "in.onnx", "alone.onnx", "--calib-data", "data.npz", "--keep-macs", share, *QUICK]
        assert CliRunner().invoke(main, alone).exit_code == 0
        assert (folder / "alone.onnx").read_bytes() == (folder / "models" / f"in-macs-{share}.onnx").read_bytes()


@pytest.mark.parametrize(
    "words",
    [("--share", "w1=0.5", "--keep-classes", "0,2", "--class-axis", "y:1"), ("--scores", "scores.npz")],
    ids=str,
)
def test_what_may_go_in_the_users_words(folder: Path, sweep: Callable[..., Result], words: tuple[str, ...]) -> None:
    measured = ["score", "in.onnx", "--calib-data", "data.npz", "--save", "scores.npz", "--threads", "1"]
    assert CliRunner().invoke(main, measured).exit_code == 0
    result = sweep("--calib-data", "data.npz", "--keep-macs", "0.8,0.6", *words, *QUICK)
    assert result.exit_code == 0, result.output
    for share in ("0.8", "0.6"):
        alone = ["prune", "in.onnx", "alone.onnx", "--calib-data", "data.npz", "--keep-macs", share, *words, *QUICK]
        assert CliRunner().invoke(main, alone).exit_code == 0
        assert (folder / "alone.onnx").read_bytes() == (folder / "models" / f"in-macs-{share}.onnx").read_bytes()


def test_a_file_of_scores_is_not_overwritten_by_a_report(folder: Path, sweep: Callable[..., Result]) -> None:
    measured = ["score", "in.onnx", "--calib-data", "data.npz", "--save", "scores.npz", "--threads", "1"]
    assert CliRunner().invoke(main, measured).exit_code == 0
    result = sweep("--scores", "scores.npz", "--json", "scores.npz", *QUICK)
    assert result.exit_code == 1
    assert "scores.npz" in result.stderr.splitlines()[0]
    assert not (folder / "models").exists()


def test_the_table_has_a_row_for_every_model(folder: Path, sweep: Callable[..., Result]) -> None:
    result = sweep("--calib-data", "data.npz", "--keep-macs", "0.8,0.5", *QUICK)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "in.onnx: 2 of 2 models"
    assert "MACs asked for MACs parameters bytes error top-1 best file" in lines
    rows = [line for line in lines if line.endswith(".onnx")]
    assert [row.split()[0] for row in rows] == ["original", "0.8", "0.5"]
    assert [row.split()[-1] for row in rows] == ["in.onnx", "models/in-macs-0.8.onnx", "models/in-macs-0.5.onnx"]
    assert any(line.startswith("error, top-1 on 2 held-out samples") for line in lines)


def test_phases_are_told_with_their_target(sweep: Callable[..., Result]) -> None:
    result = sweep("--calib-data", "data.npz", "--keep-macs", "0.8,0.5", "-v", *QUICK)
    begun = [line.removesuffix(" ...") for line in result.stderr.splitlines() if line.endswith(" ...")]
    assert begun.count("calibration") == 1
    assert {"macs-0.8: compensation", "macs-0.5: compensation"} <= set(begun)
    assert described("macs-0.8: compensation", 1, 2) == "macs-0.8: compensation, 1 of 2 stages"


def test_the_report_as_json(folder: Path, sweep: Callable[..., Result]) -> None:
    result = sweep("--keep-params", "0.8,0.5", "--json", "-", *QUICK)
    document = json.loads(result.stdout)
    assert (document["format"], document["input"], document["asked"]) == ("onnxpfp-sweep", "in.onnx", "keep_params")
    assert [point["file"] for point in document["points"]] == [
        "models/in-params-0.8.onnx",
        "models/in-params-0.5.onnx",
    ]
    sizes = [(folder / point["file"]).stat().st_size for point in document["points"]]
    assert [point["bytes"] for point in document["points"]] == sizes


def test_a_size_has_its_bytes_in_the_name(folder: Path, sweep: Callable[..., Result]) -> None:
    size = (folder / "in.onnx").stat().st_size
    assert sweep("--keep-size", f"0.9,{0.8 * size / 1000:.1f}kB", *QUICK).exit_code == 0
    assert _names(folder) == ["in-size-0.9.onnx", f"in-size-{100 * round(8 * size / 1000)}.onnx"]


def test_where_a_target_cannot_be_met_the_others_are_written(folder: Path, sweep: Callable[..., Result]) -> None:
    result = sweep("--keep-macs", "0.8,0.01,0.5", *QUICK)
    assert result.exit_code == 3
    assert _names(folder) == ["in-macs-0.5.onnx", "in-macs-0.8.onnx"]
    shown = " ".join(result.stdout.split())
    assert shown.startswith("in.onnx: 2 of 3 models")
    assert "macs-0.01: the target is 1.0% of the MACs, but " in shown
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: in.onnx: no model for macs-0.01: the target is 1.0% of the MACs, but ")


def test_nothing_is_written_where_nothing_can_go(folder: Path, sweep: Callable[..., Result]) -> None:
    result = sweep("--exclude", "*", *QUICK)
    assert (result.exit_code, result.stdout) == (3, "")
    assert not (folder / "models").exists()


def test_what_is_there_stays_without_force(folder: Path, sweep: Callable[..., Result]) -> None:
    (folder / "models").mkdir()
    there = folder / "models" / "in-macs-0.5.onnx"
    there.write_bytes(cli_models.EXISTING)
    result = sweep("--keep-macs", "0.8,0.5", *QUICK)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: models/in-macs-0.5.onnx: there already\nHint: name another folder, or --force to overwrite\n"
    )
    assert (_names(folder), there.read_bytes()) == (["in-macs-0.5.onnx"], cli_models.EXISTING)
    assert sweep("--keep-macs", "0.8,0.5", "--force", *QUICK).exit_code == 0
    onnx.checker.check_model(onnx.load(there), full_check=True)


def test_the_reports_of_other_targets_are_no_obstacle(folder: Path, sweep: Callable[..., Result]) -> None:
    assert sweep("--keep-macs", "0.8", *QUICK).exit_code == 0
    assert sweep("--keep-params", "0.8", "--json", "models/report.json", *QUICK).exit_code == 0
    assert _names(folder) == ["in-macs-0.8.onnx", "in-params-0.8.onnx", "report.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--keep-macs", "0.5,zero"), 2, "--keep-macs 'zero' is no number"),
        (("--keep-macs", "0.5,"), 2, "--keep-macs '' is no number"),
        (("--keep-macs", "0.5,0.5"), 2, "--keep-macs names 0.5 twice"),
        (("--keep-macs", "0.5", "--keep-size", "4MB"), 2, "give values of one target"),
        (("--keep-size", "4"), 2, "--keep-size '4' is neither a share"),
        (("--calib-data", "none.npz"), 1, "none.npz"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, sweep: Callable[..., Result], arguments: tuple[str, ...], code: int, why: str
) -> None:
    result = sweep(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert why in result.stderr.splitlines()[0]
    assert not (folder / "models").exists()


def test_a_folder_that_is_a_file_is_refused(folder: Path) -> None:
    result = CliRunner().invoke(main, ["sweep", "in.onnx", "-o", "out.onnx", *QUICK])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: out.onnx: is a file, not a directory")


def test_weights_in_other_files_stay_there(folder: Path) -> None:
    cli_models.save_external(folder, "large")
    result = CliRunner().invoke(main, ["sweep", "large.onnx", "-o", "models", "--keep-macs", "0.5", *QUICK])
    assert result.exit_code == 0, result.output
    assert _names(folder) == ["large-macs-0.5.onnx", "large-macs-0.5.onnx.data"]
