"""DFS and SFS on the command line: they set the widths, or rank for a target, and refuse what they do not go with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main

Prune = Callable[..., Result]
FEATURES = ["--calib-data", "data.npz", "--score", "feature-statistics", "--no-latency"]


def test_they_set_the_widths(prune: Prune, folder: Path) -> None:
    result = prune("in.onnx", "new.onnx", *FEATURES, "--dfs", "0.5", "--json", "new.json")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert (
        "mean standard deviation of the maps (feature statistics); DFS lets a share of 0.5 of every group go" in shown
    )
    assert "maps after the activation" in shown
    assert "what the criterion itself lets go of each group" in shown
    assert "in steps of 1: what --dfs leaves is not rounded" in shown
    report = json.loads((folder / "new.json").read_text())
    assert report["allocation"] == "criterion"
    assert report["settings"] == {"dfs": 0.5, "maps": "after"}
    assert report["target"] == {}
    assert {group["widths_by"] for group in report["groups"]} == {"criterion"}
    assert all(group["kept"] == group["channels"] - group["channels"] // 2 for group in report["groups"])
    assert onnx.load(folder / "new.onnx").graph.output == onnx.load(folder / "in.onnx").graph.output


def test_with_a_target_they_rank(prune: Prune, folder: Path) -> None:
    result = prune("in.onnx", "new.onnx", *FEATURES, "--sfs", "0.9", "--keep-macs", "0.6", "--json", "new.json")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "new.json").read_text())
    assert report["target"] == {"macs": 0.6}
    assert report["allocation"] != "criterion"
    assert report["method"] == "feature-statistics"
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]


@pytest.mark.parametrize("maps", ["before", "after"])
def test_merging_runs_with_both_kinds_of_maps(prune: Prune, folder: Path, maps: str) -> None:
    flags = ["--dfs-threshold", "0.5", "--sfs", "0.5", "--compensate", "merge", "--maps", maps]
    result = prune("in.onnx", "new.onnx", *FEATURES, *flags, "--json", "new.json")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "new.json").read_text())
    assert report["compensation"] == "merge"
    assert report["settings"] == {"dfs_threshold": 0.5, "sfs": 0.5, "maps": maps}
    assert report["merged"]
    assert report["oracle"]["error"] < 1e-4


@pytest.mark.parametrize(
    ("flags", "error", "hint"),
    [
        (["--sfs", "0.9"], "--sfs goes with --score feature-statistics, not --score pfp", ""),
        (
            ["--score", "l2", "--dfs", "0.2", "--maps", "before"],
            "--dfs and --maps go with --score feature-statistics, not --score l2",
            "",
        ),
        ([*FEATURES, "--dfs", "0.2", "--dfs-threshold", "1"], "give --dfs or --dfs-threshold, not both", ""),
        ([*FEATURES, "--dfs", "1"], "--dfs 1 is outside [0, 1)", "--dfs 0.25 lets 25 % of every group go"),
        (
            [*FEATURES, "--dfs-threshold", "0"],
            "--dfs-threshold 0 must be above 0",
            "--dfs-threshold 0.5 is half of the mean of a group",
        ),
        ([*FEATURES, "--sfs", "1.5"], "--sfs 1.5 is outside (0, 1]", "--sfs 0.95 is usual"),
        (
            [*FEATURES, "--compensate", "merge"],
            "--compensate merge takes the cosine from which on channels are merged from --sfs, which is not given",
            "--score feature-statistics --sfs 0.95 --compensate merge",
        ),
        (
            [*FEATURES, "--sfs", "0.9", "--allocate", "uniform"],
            "--sfs without a target sets the widths, so not --allocate uniform",
            "give a target: --keep-macs 0.7",
        ),
        (
            [*FEATURES, "--dfs", "0.1", "--sfs", "0.9", "--steps", "2"],
            "--dfs and --sfs without a target set the widths, so not --steps 2",
            "give a target: --keep-macs 0.7",
        ),
        (
            [*FEATURES, "--sfs", "0.9", "--structure", "channels,blocks"],
            "--sfs without a target sets the widths, so not --structure channels,blocks",
            "give a target: --keep-macs 0.7",
        ),
    ],
)
def test_what_they_do_not_go_with(refuse: Callable[..., object], flags: list[str], error: str, hint: str) -> None:
    found = refuse("in.onnx", "out.onnx", *flags, code=2)
    assert (getattr(found, "error"), getattr(found, "hint")) == (error, hint)  # noqa: B009


def test_prunability_merges_nothing(folder: Path) -> None:
    result = CliRunner().invoke(main, ["prunability", "in.onnx", "--calib-data", "data.npz", "--compensate", "merge"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "Error: --compensate merge goes with --sfs, so with prune alone"
