"""`onnxpfp.prunability`: how little of a model can be kept."""

from __future__ import annotations

import json
import re

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp import errors
from onnxpfp.pipeline.prunability_curves import shares_down_to

POINTS = np.array([[0.6, 0.8], [1, 0], [0, 1], [0.8, -0.6], [-1, 0]], np.float32)
FIRST = np.array([[3, 4], [1, 0], [0, 2], [0.6, 0.8]])
SECOND = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])


def oracle_net() -> ModelProto:
    """The network of the oracle A in `shared/oracles/oracles.json`; its output is no matrix, so no class scores."""
    text = """g (float[5,2] x) => (float[5,2,1] y) {
        h = Gemm <transB = 1> (x, w1) a = Relu(h) z = Gemm <transB = 1> (a, w2) y = Unsqueeze(z, axes) }"""
    model = nets.build(text, {"w1": FIRST, "w2": SECOND})
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "axes"))
    return model


@pytest.fixture(scope="module")
def plain() -> onnxpfp.PrunabilityReport:
    """The network of oracle A without compensation, every sample being all of its points."""
    feeds = [{"x": POINTS}] * 16
    return onnxpfp.prunability(
        oracle_net(), calibration=feeds, compensate="none", score="l1", round_to=1, threads=1, tolerance=0.2
    )


@pytest.fixture(scope="module")
def chained() -> onnxpfp.PrunabilityReport:
    """Two groups of 8 and 10 channels before class scores, refitted."""
    return onnxpfp.prunability(nets.chain(), calibration=nets.noise(64, 3, 8, 8), threads=1, tolerance=0.05)


def test_the_numbers_of_oracle_d(plain: onnxpfp.PrunabilityReport) -> None:
    (group,) = plain.groups
    wanted = [(1.0, 0.0), (0.75, 0.333519), (0.5, 0.625736), (0.25, 1.072458)]
    for curve in (group.curve, plain.curve):
        found = [(point.share, point.loss**0.5) for point in curve]
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert plain.losses == {"y": "relative squared error"}
    # 0.333519 ** 2 = 0.111 is within 0.2, 0.625736 ** 2 = 0.392 is not.
    assert group.prunability.smallest == group.prunability.unbroken == plain.network.smallest == 0.75
    assert group.prunability.area == pytest.approx(0.125 * (2 * 0.333519**2 + 2 * 0.625736**2 + 1.072458**2), abs=1e-6)


def test_a_refit_makes_more_prunable(plain: onnxpfp.PrunabilityReport) -> None:
    feeds = [{"x": POINTS}] * 32
    refitted = onnxpfp.prunability(oracle_net(), calibration=feeds, score="l1", round_to=1, threads=1, tolerance=0.2)
    assert (refitted.compensate, refitted.compensate_groups) == ("lstsq", "lstsq")
    # Least squares without an intercept leave 0.188667, 0.188667 and 0.343378; with one it is less.
    for curve in (refitted.groups[0].curve, refitted.curve):
        bounds = zip(curve[1:], (0.1887, 0.1887, 0.3434), strict=True)
        assert all(point.loss**0.5 < bound for point, bound in bounds)
    assert refitted.groups[0].prunability.smallest == refitted.network.smallest == 0.25
    assert refitted.network.area < plain.network.area


def test_what_a_curve_looks_like(chained: onnxpfp.PrunabilityReport) -> None:
    assert {group.name: group.channels for group in chained.groups} == {"w1": 8, "w2": 10}
    for group in chained.groups:
        shares = [point.share for point in group.curve]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] == 1 / group.channels
        assert all(float(share * group.channels).is_integer() for share in shares)
        macs = [point.macs for point in group.curve]
        assert macs == sorted(macs, reverse=True)
        assert (group.curve[0].share, group.curve[0].loss, group.curve[0].macs) == (1.0, 0.0, 1.0)
    assert all(point.share == point.macs for point in chained.curve)
    assert chained.losses == {"y": "KL divergence"}


def test_macs_of_a_group_alone(chained: onnxpfp.PrunabilityReport) -> None:
    total = nets.count_macs(nets.chain(), {"x": nets.noise(1, 3, 8, 8)})
    assert chained.macs == total
    first = next(group for group in chained.groups if group.name == "w1")
    # A channel between the convolutions costs 27 multiply-adds where it is made and 90 where it is read, 64 times.
    assert first.curve[-1].macs == pytest.approx(1 - 7 * 64 * (27 + 90) / total)


def test_the_most_fragile_come_first(chained: onnxpfp.PrunabilityReport) -> None:
    order = [(-group.prunability.smallest, -group.prunability.area) for group in chained.groups]
    assert order == sorted(order)


def test_the_network_keeps_what_prune_keeps() -> None:
    model, data = nets.chain(), nets.noise(64, 3, 8, 8)
    options = {"threads": 1, "score": "l2", "allocate": "uniform", "compensate": "none"}
    found = onnxpfp.prunability(model, calibration=data, **options)  # type: ignore[arg-type]
    half = next(point for point in found.curve if point.share <= 0.5)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.5, **options)  # type: ignore[arg-type]
    assert result.report.after.macs == round(half.share * found.macs)


def test_equal_seeds_give_equal_numbers(chained: onnxpfp.PrunabilityReport) -> None:
    again = onnxpfp.prunability(nets.chain(), calibration=nets.noise(64, 3, 8, 8), threads=1, tolerance=0.05)
    assert (again.curve, again.groups) == (chained.curve, chained.groups)


def test_the_tolerance_only_reads_the_curve(chained: onnxpfp.PrunabilityReport) -> None:
    model, data = nets.chain(), nets.noise(64, 3, 8, 8)
    strict = onnxpfp.prunability(model, calibration=data, threads=1, tolerance=1e-9)
    assert strict.curve == chained.curve
    assert strict.network.smallest == 1.0
    assert (
        chained.network.smallest
        <= onnxpfp.prunability(model, calibration=data, threads=1, tolerance=0.01).network.smallest
    )


@pytest.mark.parametrize(
    ("least", "shares"),
    [(0.05, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)), (0.55, (0.9, 0.8, 0.7, 0.6, 0.55)), (0.97, (0.97,))],
)
def test_shares_of_the_whole_network(least: float, shares: tuple[float, ...]) -> None:
    assert shares_down_to(least) == shares


def test_the_model_is_not_changed() -> None:
    model = nets.chain()
    before = model.SerializeToString(deterministic=True)
    onnxpfp.prunability(model, calibration=nets.noise(16, 3, 8, 8), threads=1, allocate="uniform")
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_that_cannot_be_meant(tolerance: float) -> None:
    with pytest.raises(errors.OptionError, match=r"tolerance .* must be above 0"):
        onnxpfp.prunability("there is no such file.onnx", calibration="random", tolerance=tolerance)


def test_too_few_samples() -> None:
    with pytest.raises(errors.CalibrationError, match="held out, which takes 8 samples, and 7 are given"):
        onnxpfp.prunability(nets.chain(), calibration=nets.noise(7, 3, 8, 8))


def test_whole_numbers_count_by_the_share_that_changed() -> None:
    model = nets.build(
        "g (float[N,4] x) => (int64[N,1] y) { h = MatMul(x, w1) z = MatMul(h, w2) y = ArgMax <axis = 1> (z) }",
        {"w1": (4, 6), "w2": (6, 3)},
    )
    found = onnxpfp.prunability(model, calibration=nets.noise(64, 4), compensate="none", allocate="uniform", threads=1)
    assert found.losses == {"y": "share of the numbers that changed"}
    changed = [8 * point.loss for point in found.curve]
    assert changed == [round(count) for count in changed]
    assert 0 < max(changed) <= 8


def test_outputs_that_cannot_drift() -> None:
    text = """g (float[N,4] x) => (string[N,3] y) {
        h = MatMul(x, w1) z = MatMul(h, w2) y = Cast <to = 8> (z) }"""
    model = nets.build(text, {"w1": (4, 6), "w2": (6, 3)})
    with pytest.raises(errors.ModelError, match="the model: none of its outputs is a tensor of numbers"):
        onnxpfp.prunability(model, calibration=nets.noise(16, 4))


def test_nothing_to_prune() -> None:
    model = nets.build("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    with pytest.raises(errors.TargetUnreachableError, match="nothing in it can be pruned") as caught:
        onnxpfp.prunability(model, calibration=nets.noise(16, 4))
    assert caught.value.hint == "`onnxpfp inspect` says why"


def test_noise_is_told(chained: onnxpfp.PrunabilityReport) -> None:
    found = onnxpfp.prunability(nets.chain(), calibration="random", samples=16, threads=1)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("RANDOM data")
    assert chained.notes == ()


def test_the_json_form(chained: onnxpfp.PrunabilityReport) -> None:
    document = chained.to_dict()
    assert document == json.loads(json.dumps(document, allow_nan=False))
    assert (document["format"], document["version"]) == ("onnxpfp-prunability", 1)
    assert document["network"] == {
        "smallest": chained.network.smallest,
        "unbroken": chained.network.unbroken,
        "area": chained.network.area,
    }
    assert document["curve"][0] == {"share": 1.0, "loss": 0.0, "macs": 1.0}
    assert document["groups"][0]["consumers"][0]["op"] in {"Conv", "Gemm"}


def test_every_field_of_the_json_form_is_documented(chained: onnxpfp.PrunabilityReport) -> None:
    page = (nets.ROOT / "docs" / "prunability.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z_]+)(?:\[\])?`", page.split("## As JSON")[1]))
    document = chained.to_dict()
    inner = [document["network"], *document["curve"], *document["groups"]]
    inner += [node for group in document["groups"] for node in group["consumers"]]
    assert set(document).union(*inner) - described == set()
