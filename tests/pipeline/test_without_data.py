"""Without data: shares of the worst case (after Mussay et al., ICLR 2020), by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest

NET = """g (float[N,2,6,6] x) => (float[N,3] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    n = BatchNormalization <epsilon = 0.01> (a, s, t, m, v)
    r = Relu(n)
    c = Conv(r, w2)
    q = Relu(c)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""
SHAPES: dict[str, Any] = {
    "w1": (6, 2, 3, 3),
    "b1": (6,),
    "s": (6,),
    "t": (6,),
    "m": (6,),
    "v": np.array([0.2, 3.0, 1.0, 0.5, 8.0, 0.1]),
    "w2": (7, 6, 3, 3),
    "w3": (3, 7),
    "b3": (3,),
}

RESIDUAL = """g (float[N,5] x) => (float[N,3] y) {
    a = Gemm(x, w1, b1)
    r = Relu(a)
    h = MatMul(r, w2)
    k = Relu(h)
    j = MatMul(k, w3)
    s = Add(r, j)
    y = MatMul(s, w4)
}"""
RESIDUAL_SHAPES = {"w1": (5, 6), "b1": (6,), "w2": (6, 9), "w3": (9, 6), "w4": (6, 3)}


def shares(reach: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """s_j = max_o ||W[o, j]||_1 reach_j, over its sum, for a weight (O, C, ...)."""
    worst = np.abs(weight.reshape(*weight.shape[:2], -1)).sum(2) * reach
    return np.asarray((worst / worst.sum(1, keepdims=True)).max(0))


def reach_of(rows: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """||[F_j; b_j]|| of filters (O, ...)."""
    squares = np.square(rows.reshape(len(rows), -1)).sum(1)
    return np.sqrt(squares if bias is None else squares + np.square(bias))


def by_name(seen: Any) -> dict[str, np.ndarray]:
    return {group.name: seen.scores.values[group.channels] for group in seen.analysis.graph.groups}


def test_batch_normalization_is_folded_into_the_filters(watch: Callable[..., Any]) -> None:
    model = nets.build(NET, SHAPES)
    result, seen = watch(model)
    w = {name: array.astype(np.float64) for name, array in nets.weights(model).items()}
    scale = w["s"] / np.sqrt(w["v"] + 0.01)
    reach = reach_of(w["w1"] * scale[:, None, None, None], (w["b1"] - w["m"]) * scale + w["t"])
    found = by_name(seen)
    np.testing.assert_allclose(found["w1"], shares(reach, w["w2"]), rtol=1e-6)
    np.testing.assert_allclose(found["w2"], shares(reach_of(w["w2"]), w["w3"]), rtol=1e-6)
    # The fold matters: without it the scores are others.
    assert not np.allclose(found["w1"], shares(reach_of(w["w1"], w["b1"]), w["w2"]), rtol=0.05)
    assert seen.scores.method == result.report.method == "coreset-share"
    for group, report in zip(seen.analysis.graph.groups, result.report.groups, strict=True):
        values, stays = seen.scores.values[group.channels], seen.decision.keep[group.channels]
        assert stays.all() or values[stays].min() >= values[~stays].max()
        assert report.assumption.startswith("weights alone") or stays.all()
        assert report.selection == "deterministic"
        assert report.ranked_by == ("" if stays.all() else "coreset-share")


def test_producers_add_up_and_consumers_take_the_largest(watch: Callable[..., Any]) -> None:
    model = nets.build(RESIDUAL, RESIDUAL_SHAPES)
    _, seen = watch(model)
    w = {name: array.astype(np.float64) for name, array in nets.weights(model).items()}
    stream = reach_of(w["w1"].T, w["b1"]) + reach_of(w["w3"].T)
    expected = np.maximum(shares(stream, w["w2"].T), shares(stream, w["w4"].T))
    found = by_name(seen)
    np.testing.assert_allclose(found["w2"], shares(reach_of(w["w2"].T), w["w3"].T), rtol=1e-6)
    np.testing.assert_allclose(found["w1"], expected, rtol=1e-6)


def test_seventy_percent_of_the_macs_stay_and_the_note_says_how_to_do_better(watch: Callable[..., Any]) -> None:
    result, _ = watch(nets.build(NET, SHAPES), no_latency=True)
    report = result.report
    assert report.after.macs <= 0.7 * report.before.macs
    assert report.target == {"macs": 0.7}
    assert report.drift is None
    (note,) = report.notes
    assert "do better: --calib-data FILE.npz, arrays keyed by input name, samples along the batch axis" in note


@pytest.mark.parametrize("select", ["deterministic", "sampled", "mixed", "auto"])
def test_every_selection_works_without_data(watch: Callable[..., Any], select: str) -> None:
    result, seen = watch(nets.build(NET, SHAPES), select=select, keep_macs=0.5)
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    drawn = (seen.decision.factor != 0) & (seen.decision.factor != 1)
    assert drawn.any() == (select in {"sampled", "mixed"})


EMBEDDED = """g (int64[N,4] x) => (float[N,4,3] y) {
    e = Gather(table, x)
    h = MatMul(e, w1)
    r = Relu(h)
    k = MatMul(r, w2)
    s = Add(e, k)
    y = MatMul(s, w3)
}"""
GATED = """g (float[N,5] x) => (float[N,3] y) {
    h = Gemm(x, w1, b1)
    g = MatMul(x, w2)
    q = Sigmoid(g)
    m = Mul(h, q)
    t = Tanh(g)
    s = Add(m, t)
    y = MatMul(s, w3)
}"""
SCALED = """g (float[N,5] x) => (float[N,3] y) {
    h = MatMul(x, w1)
    r = Relu(h)
    s = BatchNormalization(r, gamma, zero, zero, one)
    y = MatMul(s, w3)
}"""
SHIFTED = "g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, w1) s = Add(h, c) r = Relu(s) y = MatMul(r, w3) }"
LARGE = np.where(np.arange(6) % 3, 0.01, 5.0)
"""Channels 0 and 3 are the ones that count."""
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "embedding": (EMBEDDED, {"table": np.ones((9, 6)) * LARGE, "w1": (6, 8), "w2": np.ones((8, 6)) * 0.1}),
    "embedding, larger where the branch is smaller": (
        EMBEDDED,
        {"table": np.ones((9, 6)) * LARGE, "w1": (6, 8), "w2": np.ones((8, 6)) / (4 + LARGE)},
    ),
    "bias behind a MatMul": (SHIFTED, {"w1": np.ones((5, 6)) * 0.3, "c": LARGE}),
    "normalization behind ReLU": (
        SCALED,
        {"w1": np.ones((5, 6)), "gamma": LARGE, "zero": np.zeros(6), "one": np.ones(6)},
    ),
    "gate": (GATED, {"w1": np.ones((5, 6)) * LARGE, "b1": np.zeros(6), "w2": np.ones((5, 6)) * LARGE[::-1] * 9}),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_channels_that_anything_makes_large_stay(watch: Callable[..., Any], name: str) -> None:
    text, shapes = STREAMS[name]
    rng = np.random.default_rng(2)  # equal columns would go first, for they cost nothing
    drawn = {
        n: a * rng.uniform(0.9, 1.1, a.shape) if isinstance(a, np.ndarray) and a.ndim == 2 else a
        for n, a in shapes.items()
    }
    model = nets.build(text, {**drawn, "w3": rng.uniform(0.9, 1.1, (6, 3))})
    result, seen = watch(model, keep_macs=0.75, allocate="uniform", round_to=1)
    (group,) = (g for g in seen.analysis.graph.groups if g.channels.size == 6)
    stays = seen.decision.keep[group.channels]
    assert not stays.all()
    assert stays[[0, 3]].all()
    (report,) = (g for g in result.report.groups if g.channels == 6)
    assert report.epsilon is not None


def test_what_does_not_follow_from_weights_has_no_bound(watch: Callable[..., Any]) -> None:
    text = GATED.replace("q = Sigmoid(g)", "q = Exp(g)").replace("m = Mul(h, q)", "m = Add(h, q)")
    result, seen = watch(nets.build(text, {"w1": (5, 6), "b1": (6,), "w2": (5, 6), "w3": (6, 3)}), keep_macs=0.75)
    (group,) = result.report.groups
    assert (group.epsilon, group.sensitivity_sum, group.assumption) == (None, None, "")
    assert group.ranked_by == "coreset-share"
    assert group.no_epsilon == "how large Exp 'node_q' can get does not follow from weights"
    assert (seen.scores.values[seen.analysis.graph.groups[0].channels] > 0).all()
