"""`--max-drift` and `--min-agreement`: what they print, and what they refuse."""

from __future__ import annotations

import json
import re

import cli_models
import onnx
import pytest

DATA = ("--calib-data", "data.npz", "--threads", "1", "--score", "l2", "--compensate", "none")


def test_the_report_says_what_was_reached(folder, prune):
    result = prune("in.onnx", "out.onnx", *DATA, "--allocate", "uniform", "--max-drift", "0.7")
    assert result.exit_code == 0
    assert "as few MACs as a relative output error of 0.7 allows" in result.stdout
    found = re.search(
        r"reached +(\S+) % of the MACs, measured on the held-out samples in (\d+) trials: 80 % good", result.stdout
    )
    assert found
    printed = " ".join(result.stdout.split())
    drift = re.search(r"relative output error (\S+), against the original on 4 samples, which decided", printed)
    assert drift
    assert float(drift[1]) <= 0.7
    assert float(found[1]) < 80


def test_the_report_as_json(folder, prune):
    result = prune("in.onnx", "out.onnx", *DATA, "--max-drift", "0.7", "--json", "-", "-q")
    document = json.loads(result.stdout)
    assert document["target"] == {"max_drift": 0.7}
    best = min((trial for trial in document["trials"] if trial["good"]), key=lambda trial: trial["share"])
    assert best["value"] == document["drift"]["relative_error"] <= 0.7
    assert document["after"]["macs"] <= best["share"] * document["before"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--max-drift", "0"), "--max-drift 0 must be above 0"),
        (("--max-drift", "nan"), "--max-drift nan must be above 0"),
        (("--min-agreement", "0"), "--min-agreement 0 is outside (0, 1]"),
        (("--min-agreement", "1.1"), "--min-agreement 1.1 is outside (0, 1]"),
        (("--max-drift", "0.1", "--keep-macs", "0.5"), "give one target: --keep-macs or --max-drift, not both"),
        (
            ("--max-drift", "0.1", "--min-agreement", "0.5"),
            "give one target: --max-drift or --min-agreement, not both",
        ),
        (
            ("--max-drift", "0.1", "--from-plan", "p"),
            "--from-plan says what stays, so --max-drift has no meaning with it",
        ),
    ],
)
def test_targets_that_cannot_be_meant(refuse, arguments, says):
    assert refuse("in.onnx", "out.onnx", *DATA, *arguments, code=2).error == says


def test_without_data(refuse):
    found = refuse("in.onnx", "out.onnx", "--max-drift", "0.1", code=2)
    assert found.error == "--max-drift measures the data, and none are given"


def test_an_output_that_does_not_look_like_class_scores(refuse):
    found = refuse("in.onnx", "out.onnx", *DATA, "--min-agreement", "0.9", code=2)
    assert found.error.startswith("in.onnx: --min-agreement compares the largest class of every sample, and no output")
    assert found.hint == "--max-drift X bounds the relative output error in its place"


def test_a_bound_that_cannot_be_met(folder, refuse):
    found = refuse("in.onnx", "new.onnx", *DATA, "--max-drift", "1e-9", code=3)
    assert found.error.startswith("in.onnx: nothing can be pruned within --max-drift 1e-09: with 99 % of the MACs")
    assert re.fullmatch(r"ask for --max-drift [\d.]+, or give more calibration data", found.hint)


def test_class_scores(folder, prune):
    model = cli_models.build(
        "g (float[N,3,8,8] x) => (float[N,5] y) "
        "{ a = Conv(x, w1) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c) y = MatMul(d, w2) }",
        {"w1": (12, 3, 3, 3), "w2": (12, 5)},
    )
    onnx.save(model, folder / "classes.onnx")
    result = prune("classes.onnx", "new.onnx", *DATA, "--min-agreement", "0.5")
    assert result.exit_code == 0
    assert "as few MACs as a top-1 agreement of 50 % allows" in result.stdout
    assert re.search(r"top-1 agreement (50|75|100)\.0 %", result.stdout)
