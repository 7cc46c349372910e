"""Every score, allocation and compensation through the command line, and what they say where data are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from click.testing import Result

from onnxpfp.options import SCORES
from onnxpfp.pipeline.criteria import criterion_of

Prune = Callable[..., Result]
NEED_DATA = {"sipp", "reconstruction", "mean-share", "energy", "wanda", "thinet", "hrank", "apoz", "chip"}
NEED_DATA |= {"feature-statistics"}

NET = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1)
    n = BatchNormalization (a, scale1, shift1, mean1, variance1)
    r = Relu(n)
    c = Conv <pads = [1,1,1,1]> (r, w2, b2)
    m = BatchNormalization (c, scale2, shift2, mean2, variance2)
    s = Relu(m)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""
SHAPES: dict[str, Any] = {
    "w1": (8, 3, 3, 3),
    "scale1": np.linspace(0.5, 2, 8),
    "shift1": np.linspace(-1, 2, 8),
    "mean1": np.linspace(1, -1, 8),
    "variance1": np.linspace(10, 40, 8),
    "w2": (10, 8, 3, 3),
    "b2": (10,),
    "scale2": np.linspace(2, 1, 10),
    "shift2": np.linspace(0, 1, 10),
    "mean2": np.linspace(1, -1, 10),
    "variance2": np.linspace(40, 90, 10),
    "w3": (5, 10),
    "b3": (5,),
}
BRANCHES = """g (float[N,6] x) => (float[N,4] y) {
    a = Gemm <transB = 1> (x, w1, b1)  r = Relu(a)  k = Gemm <transB = 1> (r, w2, b2)
    c = Gemm <transB = 1> (x, w3, b3)  s = Relu(c)  l = Gemm <transB = 1> (s, w4, b4)
    y = Add(k, l)
}"""
NAMES = ["--score", "--allocate", "--compensate"]
FIXED = ["--score", "l2", "--allocate", "uniform", "--keep-macs", "0.5"]
"""Settles what stays without the data, so that compensations can be compared."""


@pytest.fixture
def net(folder: Path) -> Path:
    """A small network, with data from which 16 samples can be held out."""
    onnx.save(nets.build(NET, SHAPES), folder / "net.onnx")
    np.savez(folder / "many.npz", x=nets.noise(128, 3, 8, 8))
    return folder


def pruned(prune: Prune, *flags: str, source: str = "net.onnx") -> tuple[dict[str, Any], onnx.ModelProto]:
    """Prune, and return the report and the model."""
    result = prune(source, "small.onnx", "--json", "-", "--round-to", "1", *flags)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), onnx.load("small.onnx")


def widths(report: dict[str, Any]) -> dict[str, int]:
    return {group["name"]: group["kept"] for group in report["groups"]}


def test_every_criterion_is_offered_and_asks_for_data_where_it_looks_at_them() -> None:
    assert {name for name in SCORES if criterion_of(name).needs_data} == NEED_DATA
    assert set(SCORES) - NEED_DATA == {
        "pfp",
        "coreset",
        "coreset-share",
        "l1",
        "l2",
        "fpgm",
        "bn-scale",
        "lamp",
        "random",
    }


@pytest.mark.parametrize("data", [True, False], ids=["data", "weights"])
@pytest.mark.parametrize("score", SCORES)
def test_every_score(net: Path, prune: Prune, score: str, data: bool) -> None:
    if score in NEED_DATA and not data:
        pytest.skip("it needs data")
    source = ["--calib-data", "many.npz"] if data else []
    report, model = pruned(prune, "--score", score, *source, "--keep-macs", "0.5", "--compensate", "none")
    assert report["method"] == ("coreset-share" if score == "pfp" and not data else score)
    image = {"x": nets.noise(1, 3, 8, 8)}
    before, after = (nets.count_macs(m, image) for m in (onnx.load("net.onnx"), model))
    # Where the budget is not used up, a step more does not fit or is not worth it.
    assert 0.3 < after / before <= 0.5
    assert report["after"]["macs"] == after
    assert report["oracle"]["error"] <= 1e-5


def test_scores_choose_differently(net: Path, prune: Prune) -> None:
    chosen = {}
    for score in SCORES:
        _, model = pruned(prune, "--calib-data", "many.npz", "--score", score, *FIXED[2:], "--compensate", "none")
        weights = nets.weights(model)
        chosen[score] = (weights["w1"].tobytes(), weights["w2"].tobytes())
    # On noise many agree on the few channels that go; all alike means that the flag does nothing.
    assert len(set(chosen.values())) >= 5


@pytest.mark.parametrize("allocate", ["bound", "measured", "uniform"])
@pytest.mark.parametrize("compensate", ["none", "bias", "lstsq"])
def test_every_allocation_with_every_compensation(net: Path, prune: Prune, allocate: str, compensate: str) -> None:
    flags = ["--calib-data", "many.npz", "--keep-macs", "0.6", "--allocate", allocate, "--compensate", compensate]
    report, _ = pruned(prune, *flags)
    assert (report["allocation"], report["compensation"]) == (allocate, compensate)
    assert 0.45 < report["after"]["macs"] / report["before"]["macs"] <= 0.6
    assert bool(report["refits"]) == (compensate == "lstsq")
    assert all(refit["after"] <= refit["before"] for refit in report["refits"])
    if allocate == "uniform":
        one, two = (group["kept"] / group["channels"] for group in report["groups"])
        assert abs(one - two) <= 1 / 8


def test_only_the_measured_widths_know_what_the_output_needs(folder: Path, prune: Prune) -> None:
    rng = np.random.default_rng(3)
    shapes = {"w1": (16, 6), "b1": (16,), "w2": (4, 16), "b2": (4,), "w3": (16, 6), "b3": (16,)}
    faint = {"w4": rng.standard_normal((4, 16)) / 1000, "b4": np.zeros(4)}
    onnx.save(nets.build(BRANCHES, shapes | faint), folder / "net.onnx")
    np.savez(folder / "many.npz", x=nets.noise(128, 6))
    kept = {}
    for allocate in ("bound", "measured", "uniform"):
        flags = ["--allocate", allocate, "--compensate", "none", "--keep-macs", "0.6", "--calib-data", "many.npz"]
        kept[allocate] = widths(pruned(prune, *flags)[0])
    # Shares of a layer's own output do not tell that all of it is a thousandth of the other branch.
    assert abs(kept["bound"]["w1"] - kept["bound"]["w3"]) <= 4
    assert kept["uniform"]["w1"] == kept["uniform"]["w3"]
    assert kept["measured"]["w1"] == 16
    assert kept["measured"]["w3"] <= 4


def test_what_compensations_change(net: Path, prune: Prune) -> None:
    report: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, nets.Array]] = {}
    for name in ("none", "bias", "lstsq"):
        report[name], model = pruned(prune, "--calib-data", "many.npz", *FIXED, "--compensate", name)
        found[name] = nets.weights(model)
    stays = [widths(each) for each in report.values()]
    assert stays[0] == stays[1] == stays[2]
    for name in ("w2", "w3"):
        np.testing.assert_array_equal(found["bias"][name], found["none"][name])
        assert found["lstsq"][name].shape == found["none"][name].shape
    assert np.abs(found["lstsq"]["w2"] - found["none"]["w2"]).max() > 0.01
    for name in ("b2", "b3"):
        assert np.abs(found["bias"][name] - found["none"][name]).max() > 0.01
    drift = [report[name]["drift"]["relative_error"] for name in ("lstsq", "bias", "none")]
    assert drift[0] < drift[1] < drift[2]


def test_several_steps_meet_the_target_too(net: Path, prune: Prune) -> None:
    once, _ = pruned(prune, "--calib-data", "many.npz", "--keep-macs", "0.5", "--allocate", "bound")
    flags = ["--calib-data", "many.npz", "--keep-macs", "0.5", "--allocate", "bound", "--steps", "3"]
    report, model = pruned(prune, *flags)
    assert (once["steps"], report["steps"]) == (1, 3)
    assert report["before"] == once["before"]
    assert 0.3 < report["after"]["macs"] / report["before"]["macs"] <= 0.5
    assert nets.count_macs(model, {"x": nets.noise(1, 3, 8, 8)}) == report["after"]["macs"]
    assert {group["name"]: group["channels"] for group in report["groups"]} == {"w1": 8, "w2": 10}


def test_draws_are_made_once(refuse: Callable[..., Any]) -> None:
    flags = ["--calib-data", "data.npz", "--select", "sampled", "--steps", "2"]
    found = refuse("in.onnx", "out.onnx", *flags, code=2)
    assert found.error == "--select sampled draws once, so it goes with --steps 1"


@pytest.mark.parametrize(
    ("data", "same"),
    [
        (["--calib-data", "many.npz"], "lstsq"),
        (["--calib-data", "many.npz", "--calib-samples", "7"], "bias"),
        (["--calib-data", "random"], "bias"),
        ([], "none"),
    ],
    ids=["enough", "few", "noise", "nothing"],
)
def test_auto_does_what_the_data_allow(net: Path, prune: Prune, data: list[str], same: str) -> None:
    # What was asked for is noted in the file, and it is not the same.
    named, one = pruned(prune, *data, *FIXED, "--no-metadata", "--compensate", same)
    report, two = pruned(prune, *data, *FIXED, "--no-metadata")
    assert report["compensation"] == named["compensation"] == same
    assert one.SerializeToString() == two.SerializeToString()
    allocated, _ = pruned(prune, *data, "--compensate", "none")
    assert allocated["allocation"] == ("measured" if same == "lstsq" else "bound")


@pytest.mark.parametrize(
    ("flag", "value"), [("--score", "reconstruction"), ("--allocate", "measured"), ("--compensate", "lstsq")]
)
def test_too_few_samples_to_decide_on(refuse: Callable[..., Any], flag: str, value: str) -> None:
    few = ["--calib-data", "data.npz", "--calib-samples", "7"]
    found = refuse("in.onnx", "out.onnx", *few, flag, value)
    wanted = f"{flag} {value} holds samples out to decide on, which takes 8 samples, and 7 are given"
    assert found.error == f"data.npz: {wanted}"
    assert found.hint == "give more unlabelled samples"


@pytest.mark.parametrize(("flag", "value"), [("--allocate", "measured"), ("--compensate", "lstsq")])
def test_what_cannot_be_measured_without_data(refuse: Callable[..., Any], flag: str, value: str) -> None:
    found = refuse("in.onnx", "out.onnx", flag, value)
    assert found.error == f"{flag} {value} measures the data, and none are given"
    assert found.hint == "give --calib-data FILE.npz"


@pytest.mark.parametrize("score", sorted(NEED_DATA))
def test_scores_that_need_data(refuse: Callable[..., Any], score: str) -> None:
    found = refuse("in.onnx", "out.onnx", "--score", score, code=2)
    assert found.error == f"--score {score} measures the data, and none are given"
    assert found.hint == "give --calib-data FILE.npz"


@pytest.mark.parametrize("flag", NAMES)
def test_what_is_no_choice_is_answered_with_the_choices(prune: Prune, flag: str) -> None:
    result = prune("in.onnx", "out.onnx", flag, "best")
    assert result.exit_code == 2
    assert f"Invalid value for '{flag}': 'best' is not one of" in result.stderr
    assert ("lstsq" in result.stderr) == (flag == "--compensate")
