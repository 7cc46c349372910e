"""Scores of the whole chain against the definition of PFP (ICLR 2020) in plain loops and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import nets
import numpy as np
import pytest

Array = nets.Array

NET = """g (float[N,2,6,6] x) => (float[N,3] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = ACT(a)
    c = Conv <pads = [1,0,0,1], strides = [2,2]> (r, w2, b2)
    s = ACT(c)
    p = MaxPool <kernel_shape = [2,2]> (s)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3)
}"""
SHAPES = {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (5, 4, 3, 3), "b2": (5,), "w3": (3, 20)}

FORK = """g (float[N,2,5,5] x) => (float[N,6,4,4] y, float[N,2] z) {
    a = Conv <pads = [1,1,1,1]> (x, w1)
    r = Sigmoid(a)
    y = Conv(r, w2)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = MatMul(f, w3)
}"""
FORK_SHAPES: dict[str, Any] = {"w1": (8, 2, 3, 3), "w2": (6, 8, 2, 2)}


def windows(x: Array, size: int, pads: tuple[int, int, int, int], stride: int) -> Iterator[Array]:
    """Cut (C, H, W) into the windows (C, size, size) of every output position."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right)))
    for i in range(0, padded.shape[1] - size + 1, stride):
        for j in range(0, padded.shape[2] - size + 1, stride):
            yield padded[:, i : i + size, j : j + size]


def shares(window: Array, weight: Array, kernel: str) -> Array:
    """Largest share of each channel of one window, over outputs and sign quadrants.

    Args:
        window: (C, ...).
        weight: (O, C, ...).
        kernel: How the entries of a channel are brought together.
    """
    best = np.zeros(len(window))
    for row, one, two in product(weight.astype(np.float64), (1, -1), (1, -1)):
        parts = (np.maximum(one * row, 0) * np.maximum(two * window, 0)).reshape(len(window), -1)
        if parts.sum() > 0:
            found = parts.sum(1) if kernel == "sum" else parts.max(1)
            best = np.maximum(best, found / parts.sum())
    return best


def largest(parts: Iterator[Array]) -> Array:
    return np.max(list(parts), axis=0)


@pytest.mark.parametrize("kernel", ["sum", "max"])
@pytest.mark.parametrize("act", ["Relu", "Tanh"])
def test_scores_are_the_definition(watch: Callable[..., Any], kernel: str, act: str) -> None:
    model = nets.build(NET.replace("ACT", act), SHAPES)
    data = nets.noise(3, 2, 6, 6)
    _, seen = watch(model, calibration=data, kernel=kernel, select="deterministic")
    weights, tensors = nets.weights(model), nets.values(model, {"x": data})
    first = largest(
        shares(window, weights["w2"], kernel) for x in tensors["r"] for window in windows(x, 3, (1, 0, 0, 1), 2)
    )
    # A flattened channel owns the columns of all its positions.
    second = largest(shares(x, weights["w3"].reshape(3, 5, *x.shape[1:]), kernel) for x in tensors["p"])
    groups = {group.name: seen.scores.values[group.channels] for group in seen.analysis.graph.groups}
    np.testing.assert_allclose(groups["w1"], first, rtol=2e-5)
    np.testing.assert_allclose(groups["w2"], second, rtol=2e-5)
    assert seen.scores.values[0] == 0
    assert seen.scores.method == "pfp"


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_several_consumers_give_the_largest(watch: Callable[..., Any], kernel: str) -> None:
    # One channel matters much more to the head than to the body.
    head_weight = nets.noise(8, 2) * np.where(np.arange(8) == 5, 30, 1)[:, None]
    model = nets.build(FORK, FORK_SHAPES | {"w3": head_weight})
    data = nets.noise(3, 2, 5, 5)
    _, seen = watch(model, calibration=data, kernel=kernel, keep_macs=0.9)
    weights, tensors = nets.weights(model), nets.values(model, {"x": data})
    body = largest(
        shares(window, weights["w2"], kernel) for x in tensors["r"] for window in windows(x, 2, (0, 0, 0, 0), 1)
    )
    head = largest(shares(f, weights["w3"].T, kernel) for f in tensors["f"])
    assert (body > head).any()
    assert (body < head).any()
    (group,) = seen.analysis.graph.groups
    np.testing.assert_allclose(seen.scores.values[group.channels], np.maximum(body, head), rtol=2e-5)


def test_the_largest_scores_stay_and_the_bound_is_three_times_the_rest(watch: Callable[..., Any]) -> None:
    result, seen = watch(
        nets.build(NET.replace("ACT", "Relu"), SHAPES), calibration=nets.noise(3, 2, 6, 6), select="deterministic"
    )
    for group, report in zip(seen.analysis.graph.groups, result.report.groups, strict=True):
        values, stays = seen.scores.values[group.channels], seen.decision.keep[group.channels]
        if stays.all():
            continue
        assert values[stays].min() >= values[~stays].max()
        assert report.kept == stays.sum()
        assert report.sensitivity_sum == pytest.approx(values.sum())
        assert report.epsilon == pytest.approx(min(1, 3 * values[~stays].sum()))
