"""`onnxpfp prunability`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli_models
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from support.report_text import line_of, text_of

import onnxpfp
from onnxpfp.allocation.prunability import read_curve
from onnxpfp.cli.main import main
from onnxpfp.pipeline.prunability_curves import Point
from onnxpfp.report.inspection import NodeName
from onnxpfp.report.prunability import GroupPrunability, PrunabilityReport, sketch
from onnxpfp.runtime.blocks import Alignment

ROOT = Path(__file__).parents[2]
DATA = ("--calib-data", "data.npz", "--threads", "1")


@pytest.fixture
def measure(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["prunability", *map(str, arguments)])

    return run


@dataclass(frozen=True)
class Refusal:
    """What a refused run printed."""

    error: str
    hint: str


@pytest.fixture
def refuse(folder: Path, measure: Callable[..., Result]) -> Callable[..., Refusal]:
    """Run the verb and make sure that it refuses in one line and touches no file."""

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def run(*arguments: str | Path, code: int = 1) -> Refusal:
        before = files()
        result = measure(*arguments)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        error, *hint = result.stderr.splitlines()
        assert error.startswith("Error: ")
        assert len(hint) <= 1
        assert files() == before
        return Refusal(error.removeprefix("Error: "), "".join(hint).removeprefix("Hint: "))

    return run


def _found(*, curve: tuple[float, ...] = (0.0, 0.01, 0.02, 0.5), groups: int = 1) -> PrunabilityReport:
    points = tuple(Point(1 - 0.2 * n, loss, 1 - 0.1 * n) for n, loss in enumerate(curve))
    read = read_curve([p.share for p in points], [p.loss for p in points], 0.05)
    group = GroupPrunability("a.long.name.of.a.weight", 10, (NodeName("Conv", "node"),), read, points)
    return PrunabilityReport(
        file="in.onnx",
        inputs={"x": (1, 3, 8, 8)},
        tolerance=0.05,
        losses={"y": "KL divergence", "z": "relative squared error"},
        network_losses={"y": "KL divergence", "z": "relative squared error"},
        network_limit=0.05,
        score="pfp",
        select="auto",
        allocate="measured",
        alignment=Alignment(8, "as asked for", "asked"),
        compensate="bias",
        compensate_groups="none",
        samples=48,
        samples_groups=8,
        samples_network=9,
        macs=1_234_567,
        network=read,
        curve=points,
        groups=(group,) * groups,
        providers=("CPUExecutionProvider",),
        seconds={"load": 0.5, "groups": 1.0},
        notes=(),
    )


def test_the_header():
    text = text_of(_found())
    assert text.splitlines()[0] == "in.onnx: what can be kept within a loss of 0.05"
    assert line_of(text, "whole") == "whole network 60.0 % of the 1,234,567 MACs; area 0.056"
    assert line_of(text, "loss ") == "loss KL divergence of 'y', relative squared error of 'z'"
    chosen = "chosen by score pfp, select auto (output energy where no bound is below 1), widths by the measured drift"
    assert (
        f"{chosen} of the output widths in steps of 8: as asked for (1 in groups of fewer channels) compensation"
        in " ".join(text.split())
    )
    assert line_of(text, "compens") == "compensation bias; none for groups alone"
    assert line_of(text, "samples") == (
        "samples 48 to choose and fit by, 8 others for the groups, 9 others for the whole network"
    )
    assert line_of(text, "seconds") == "seconds 1.5 (load 0.5, groups 1.0)"
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_tables():
    text = text_of(_found())
    assert line_of(text, "100.0 %") == "100.0 % 0 within"
    assert line_of(text, "60.0 %") == "60.0 % 0.02 within"
    assert line_of(text, "40.0 %") == "40.0 % 0.5"
    assert line_of(text, "a.long") == "a.long.name.of.a.weight 6/10 60.0 % 60.0 % 0.056 80.0 % ▂▃█"


def test_a_curve_that_ends_within_the_tolerance_is_a_bound_only():
    assert line_of(text_of(_found(curve=(0.0, 0.01))), "whole") == (
        "whole network at most 80.0 % of the 1,234,567 MACs; area 0.001"
    )


def test_a_broken_curve_says_so():
    text = text_of(_found(curve=(0.0, 0.2, 0.01, 0.2)))
    assert "60.0 % of the 1,234,567 MACs, unbroken down to 100.0 %;" in line_of(text, "whole")
    assert line_of(text, "a.long").split()[1:7] == ["6/10", "60.0", "%", "100.0", "%", "0.062"]


@pytest.mark.parametrize(
    ("ratio", "letter"),
    [
        *((0.0, "▁"), (0.125, "▁"), (0.13, "▂"), (0.25, "▂"), (0.5, "▃"), (1.0, "▄"), (1.01, "▅"), (2.0, "▅")),
        *((4.0, "▆"), (8.0, "▇"), (8.1, "█"), (1e9, "█"), (float("nan"), "█"), (float("inf"), "█")),
    ],
)
def test_letters_of_a_curve(ratio, letter):
    assert sketch((Point(1.0, 0.0, 1.0), Point(0.5, 0.5 * ratio, 0.5)), 0.5) == letter


def test_rows_are_cut_and_counted():
    text = text_of(_found(groups=7), top=2)
    assert text.count("a.long.name") == 2
    assert "... and 5 more groups; --all shows all" in text
    assert text_of(_found(groups=7)).count("a.long.name") == 7


def test_nothing_is_cut_off_at_80_columns():
    text = text_of(_found(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_it_prints_what_the_library_finds(folder, measure):
    result = measure("in.onnx", *DATA)
    assert (result.exit_code, result.stderr) == (0, "")
    found = onnxpfp.prunability("in.onnx", calibration="data.npz", threads=1)
    wanted, printed = (text.splitlines() for text in (text_of(found), result.stdout))
    assert [line for line in printed if "seconds" not in line] == [line for line in wanted if "seconds" not in line]


def _without_time(document: dict[str, Any]) -> dict[str, Any]:
    assert set(document.pop("seconds")) >= {"load", "shapes", "channels", "calibration", "ranking", "groups", "network"}
    return document


def test_json_is_complete_and_alone_on_stdout(folder):
    # Its widths are those of this machine, while those of tests are the same on all.
    tail = ["--tolerance", "0.3", "--round-to", "8", "--json", "-"]
    command = [sys.executable, "-m", "onnxpfp", "prunability", "in.onnx", *DATA, *tail]
    # What sets the kernels of BLAS and their threads stays: with others the last digits differ.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    wanted = onnxpfp.prunability("in.onnx", calibration="data.npz", threads=1, tolerance=0.3, round_to=8).to_dict()
    assert _without_time(document) == _without_time(json.loads(json.dumps(wanted)))
    assert (document["file"], document["tolerance"], document["losses"]) == (
        "in.onnx",
        0.3,
        {"y": "relative squared error"},
    )


def test_quiet_prints_nothing_but_json(measure):
    assert measure("in.onnx", *DATA, "-q").output == ""
    assert json.loads(measure("in.onnx", *DATA, "-q", "--json", "-").output)["format"] == "onnxpfp-prunability"


def test_flags_mean_what_they_mean_in_prune(measure):
    arguments = ("--score", "l2", "--allocate", "uniform", "--compensate", "none", "--min-channels", "4", "--json", "-")
    document = json.loads(measure("in.onnx", *DATA, *arguments, "--calib-samples", "12").stdout)
    assert [document[name] for name in ("score", "allocate", "compensate")] == ["l2", "uniform", "none"]
    assert document["samples"] + document["samples_groups"] + document["samples_network"] == 12
    assert document["groups"][0]["curve"][-1]["share"] == 4 / 6


def test_noise_is_told_on_stderr(measure):
    result = measure("in.onnx", "--calib-data", "random", "--calib-samples", "16", "--threads", "1")
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: RANDOM data")


def test_without_data(refuse):
    found = refuse("in.onnx", code=2)
    assert found.error == "prunability is how far the output drifts on data, and none are given"
    assert found.hint == "give --calib-data FILE.npz"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tolerance", "0"), "--tolerance 0 must be above 0"),
        (("--tolerance", "nan"), "--tolerance nan must be above 0"),
        (("--top", "0"), "--top 0 must be at least 1"),
        (("--top", "3", "--all"), "--all shows every group, so --top has no meaning with it"),
        (("--top", "3", "--json", "-"), "--json shows every group, so --top has no meaning with it"),
        (("--include", "nowhere"), "--include 'nowhere' matches no node and no initializer"),
    ],
)
def test_options_that_cannot_be_meant(refuse, arguments, says):
    assert refuse("in.onnx", *DATA, *arguments, code=2).error == says


def test_targets_are_no_options_of_it(measure):
    for flag in ("--keep-macs", "--keep-params", "--max-drift", "--min-agreement", "--from-plan", "--steps"):
        result = measure("in.onnx", *DATA, flag, "0.5")
        assert result.exit_code == 2
        assert f"No such option: {flag}" in result.stderr or f"No such option '{flag}'" in result.stderr


def test_too_few_samples(folder, refuse):
    np.savez(folder / "few.npz", x=cli_models.images(5))
    found = refuse("in.onnx", "--calib-data", "few.npz")
    assert found.error.startswith("few.npz: ")
    assert found.hint == "give more unlabelled samples"


def test_files_are_named(folder, refuse):
    assert refuse("nowhere.onnx", *DATA).error.startswith("nowhere.onnx: ")
    assert refuse("in.onnx", "--calib-data", "nowhere.npz").error == "nowhere.npz does not exist"
    fixed = cli_models.build("g (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv(x, w1) }", {"w1": (4, 3, 3, 3)})
    onnx.save(fixed, folder / "fixed.onnx")
    found = refuse("fixed.onnx", *DATA, code=3)
    assert found.error == "fixed.onnx: nothing in it can be pruned"


def test_help_says_what_it_is_for(measure):
    text = measure("--help").stdout
    assert "onnxpfp prunability in.onnx --calib-data calibration.npz" in text
    for option in ("--tolerance", "--score", "--compensate", "--allocate", "--calib-samples", "--json", "--top"):
        assert option in text


def test_the_default_tolerance_is_that_of_the_library(measure):
    document = json.loads(measure("in.onnx", *DATA, "--json", "-").stdout)
    assert document["tolerance"] == 0.05
