"""Gram matrices against their definition, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from support.graphs import build

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Batch
from onnxpfp.linear.columns import sample_positions
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import Gram, collect_grams, gram_observers, observed_grams
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.runtime.session import open_session

NET = """g (float[N,3,9,9] x) => (y) <float[6,3,3,3] w, float[6] b, float[8,3,3,3] u, float[8,4,2,2] h, float[16,4] v> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)
    c = Conv <group = 2, strides = [2,2], pads = [1,0,1,0]> (r, u)  s = Relu(c)
    d = ConvTranspose <group = 2, strides = [2,2], pads = [1,1,1,1]> (s, h)
    q = GlobalMaxPool(d)  p = GlobalAveragePool(s)  j = Concat <axis = 1> (p, q)  f = Flatten(j)  y = MatMul(f, v) }"""
EVERYWHERE, LARGE = 10**6, 1 << 28


def shown(model: ModelProto, problem: RefitProblem, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return tensors of the network on the samples to fit."""
    whole = ModelProto()
    whole.CopyFrom(model)
    for name in names:
        whole.graph.output.add(name=name)
    (feed,) = problem.fit.batches(len(problem.fit))
    return {**feed, **open_session(whole, threads=1).run(feed)}


def windows(x: np.ndarray, pads: tuple[int, int, int, int], stride: int) -> np.ndarray:
    """Cut every 3x3 window out, (N, P, C * 9)."""
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    cut = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return cut.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), -1, x.shape[1] * 9)


def is_gram_of(gram: Gram, u: np.ndarray, groups: int = 1) -> None:
    """Compare with the columns themselves, (T, C * k)."""
    u = u.reshape(len(u), groups, -1).astype(np.float64)
    assert gram.count == len(u)
    np.testing.assert_allclose(gram.u, u.sum(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gram.uu, np.einsum("tgi,tgj->gij", u, u), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gram.mean, u.mean(0), rtol=1e-4, atol=1e-4)


def looked_at(make_problem: Any, **given: Any) -> tuple[RefitProblem, dict[str, RefitLayer], dict[str, np.ndarray]]:
    model = build(NET)
    problem, layers, _ = make_problem(model, **given)
    assert layers.keys() == {"a", "c", "d", "y"}
    return problem, layers, shown(model, problem, ["r", "s", "f"])


@pytest.mark.parametrize("batch", [1, 7, 48])
@pytest.mark.parametrize("limit", [0, LARGE])
def test_everywhere_they_are_the_sums_over_all_positions(make_problem, batch: int, limit: int) -> None:
    problem, layers, there = looked_at(make_problem, positions=EVERYWHERE, batch_size=batch)
    grams = collect_grams(problem, layers.values(), SpillCache(limit))
    is_gram_of(grams["a"], windows(there["x"], (1, 1, 1, 1), 1).reshape(-1, 27))
    is_gram_of(grams["c"], windows(there["r"], (1, 0, 1, 0), 2).reshape(-1, 54), groups=2)
    is_gram_of(grams["y"], there["f"])
    assert all(isinstance(gram.uu, np.memmap) == (limit == 0) for gram in grams.values())


def test_columns_of_a_transposed_convolution(make_problem) -> None:
    """Its columns make its output, so their Gram matrix makes that of the output."""
    problem, layers, _ = looked_at(make_problem, positions=EVERYWHERE)
    gram = collect_grams(problem, [layers["d"]], SpillCache(LARGE))["d"]
    taps = layers["d"].op.taps().astype(np.float64)
    blocks = taps.reshape(2, 4, 4, -1).transpose(0, 2, 1, 3).reshape(2, 4, -1)
    output = shown(problem.analysis.model, problem, ["d"])["d"].astype(np.float64)
    assert gram.count == len(problem.fit) * output[0, 0].size
    for group, (block, made) in enumerate(zip(blocks, np.split(output, 2, axis=1), strict=True)):
        flat = made.swapaxes(0, 1).reshape(4, -1)
        np.testing.assert_allclose(block @ gram.uu[group] @ block.T, flat @ flat.T, rtol=1e-3, atol=1e-3)


def test_positions_are_drawn_anew_for_every_sample_and_op(make_problem) -> None:
    problem, layers, there = looked_at(make_problem, positions=5, batch_size=8, seed=3)
    (gram,) = collect_grams(problem, [layers["a"]], SpillCache(LARGE)).values()
    rows = windows(there["x"], (1, 1, 1, 1), 1)
    drawn = [sample_positions((8, 1, 9, 9), 1, 5, (3, 0, 0), 8 * batch) for batch in range(6)]
    is_gram_of(gram, np.take_along_axis(rows, np.concatenate(drawn)[:, :, None], axis=1).reshape(-1, 27))
    assert len({tuple(row) for each in drawn for row in each.tolist()}) == len(problem.fit)
    both = collect_grams(problem, [layers["a"], layers["c"]], SpillCache(LARGE))
    np.testing.assert_array_equal(both["a"].uu, gram.uu)
    assert not np.allclose(collect_grams(problem, [layers["c"]], SpillCache(LARGE))["c"].uu, both["c"].uu)


def test_they_come_out_of_the_runs_that_measure_readers(make_problem) -> None:
    problem, layers, _ = looked_at(make_problem)
    alone = collect_grams(problem, layers.values(), SpillCache(LARGE))
    observers = gram_observers(problem, layers.values(), SpillCache(LARGE))
    ops = [layers["c"].op]
    found = calibrate(problem.analysis.model, ops, problem.fit, batch_size=8, threads=3, observers=observers)
    assert found["c"].samples == len(problem.fit)
    beside = observed_grams(observers)
    assert beside.keys() == alone.keys()
    for name, gram in beside.items():
        assert gram.count == alone[name].count
        np.testing.assert_allclose(gram.uu, alone[name].uu, rtol=1e-5, atol=1e-4)


def test_ops_that_see_the_same_share_their_matrix(make_problem) -> None:
    model = build(
        """g (float[N,3,6,6] x) => (y, z, t) <float[6,3,1,1] w, float[4,6,3,3] u, float[5,6,3,3] v, float[5,6,1,1] k> {
        a = Conv(x, w)  r = Relu(a)  y = Conv(r, u)  z = Conv(r, v)  t = Conv(r, k) }"""
    )
    problem, layers, _ = make_problem(model)
    observers = gram_observers(problem, layers.values(), SpillCache(LARGE))
    assert [[layer.output for layer in each.layers] for each in observers] == [["a"], ["y", "z"], ["t"]]
    grams = collect_grams(problem, layers.values(), SpillCache(LARGE))
    assert grams["y"] is grams["z"]
    assert grams["t"].uu.shape == (1, 6, 6)


@pytest.mark.parametrize("limit", [0, LARGE])
def test_what_is_not_finite_has_none(make_problem, limit: int) -> None:
    problem, layers, there = looked_at(make_problem, positions=EVERYWHERE)
    one, two = (gram_observers(problem, [layers["c"]], SpillCache(limit))[0] for _ in range(2))
    assert one.gram() is None
    one.see(there, Batch(0, len(there["r"])))
    gram = one.gram()
    assert gram is not None
    is_gram_of(gram, windows(there["r"], (1, 0, 1, 0), 2).reshape(-1, 54), groups=2)
    two.see({"r": np.full_like(there["r"], np.nan)}, Batch(0, len(there["r"])))
    for observer in (one, two):
        observer.see({"r": np.full_like(there["r"], np.nan)}, Batch(0, len(there["r"])))
        observer.see(there, Batch(0, len(there["r"])))
        assert observer.gram() is None


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_draws_do_not_depend_on_the_batches_where_a_sample_has_several_rows(make_problem, rows: int) -> None:
    problem, layers, there = looked_at(make_problem, positions=5)
    whole, parts = (gram_observers(problem, [layers["c"]], SpillCache(LARGE))[0] for _ in range(2))
    whole.see(there, Batch(0, 48 // rows))
    for first in (0, 16, 32):
        parts.see({"r": there["r"][first : first + 16]}, Batch(first // rows, 16 // rows))
    np.testing.assert_allclose(parts.columns.uu, whole.columns.uu, rtol=1e-6, atol=1e-6)


def test_products_in_float32_are_a_millionth_of_the_diagonal_off(make_problem) -> None:
    problem, layers, _ = looked_at(make_problem, positions=EVERYWHERE)
    gram = collect_grams(problem, [layers["a"]], SpillCache(LARGE))["a"]
    u = windows(shown(problem.analysis.model, problem, ["a"])["x"], (1, 1, 1, 1), 1).reshape(-1, 27).astype(np.float64)
    assert np.abs(gram.uu[0] - u.T @ u).max() < 1e-6 * np.square(u).sum() / 27
