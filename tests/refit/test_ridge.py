"""Least squares against the oracle F1 and against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
from nets import noise

from onnxpfp.refit.best_fit import REFIT_RIDGES, Fit, best_fit
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.cholesky import Factored, LinAlgError
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.ridge import by_columns, solve
from onnxpfp.refit.rows import RowBatch, SampledRows

TINY = 1e-13


def start_of(weights: np.ndarray, bias: np.ndarray | None = None, **given) -> InitialWeights:
    o = weights.shape[:2]
    options = {"sign": np.ones(o), "biased": True, "gain": 1.0, "dtype": np.dtype(np.float64)} | given
    return InitialWeights(weights, np.zeros(o) if bias is None else bias, **options)


def drawn(u: np.ndarray, t: np.ndarray, threshold: np.ndarray | None = None, batches: int = 2) -> SampledRows:
    """Draws of columns (T, n) and targets (T, o)."""
    found = SampledRows(Moments.empty(1, u.shape[1], t.shape[1]), SpillCache(1 << 30))
    for part in np.array_split(np.arange(len(u)), batches):
        rows = None if threshold is None else threshold[part, None].astype(np.float32)
        found.add(RowBatch(u[part, None].astype(np.float32), t[part, None].astype(np.float32), rows))
    return found


def fit_of(fitted: SampledRows, tuning: SampledRows, start: InitialWeights) -> Fit:
    regression = by_columns(fitted.moments, start)
    return best_fit(regression.at, fitted, tuning, start, regression.towards)


@pytest.fixture
def f1(oracles):
    case = oracles["F1"]
    x, w, b = (np.array(case[name]) for name in ("X", "W", "b"))

    def moments(keep: list[int], batches: int = 1) -> Moments:
        u, t = x[keep].T[:, None], (w @ x + b[:, None]).T[:, None]
        found = Moments.empty(1, len(keep), 2)
        for part in np.array_split(np.arange(5), batches):
            found.add(u[part], t[part])
        return found

    return case, w, b, moments


def sse(moments: Moments, weights: np.ndarray, bias: np.ndarray) -> float:
    return float(moments.error(weights, bias).sum()) * moments.count


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_f1_recovers_a_channel_that_is_the_sum_of_two_others(f1, batches: int) -> None:
    case, w, b, moments = f1
    m = moments([0, 1, 3], batches)
    found, bias = solve(m, w[None][:, :, [0, 1, 3]], TINY, b[None])
    np.testing.assert_allclose(found[0], case["S013"]["V"], atol=1e-9)
    assert sse(m, found, bias) == pytest.approx(0, abs=1e-9)


def test_f1_two_channels_uncentred(f1) -> None:
    case, w, b, moments = f1
    m = moments([0, 1])
    found, bias = solve(m, w[None][:, :, [0, 1]], TINY, b[None])
    np.testing.assert_allclose(found[0], case["S01"]["V"], atol=2e-6)
    g = np.array(case["G"], float)
    schur = g[2:, 2:] - g[2:, :2] @ np.linalg.solve(g[:2, :2], g[:2, 2:])
    assert sse(m, found, bias) == pytest.approx(case["S01"]["SSE"], abs=2e-6)
    assert sse(m, found, bias) == pytest.approx(np.trace(w[:, 2:] @ schur @ w[:, 2:].T), abs=1e-9)
    assert sse(m, w[None][:, :, [0, 1]], b[None]) == pytest.approx(case["S01"]["plain_SSE"])


def test_f1_the_ridge_pulls_towards_the_weights_that_are_there(f1) -> None:
    case, w, b, moments = f1
    m = moments([0, 1])
    # lambda 1 on the sum over 5 columns, as a share of the mean of diag G = (6 + 7) / 2.
    found, bias = solve(m, w[None][:, :, [0, 1]], 1 / 6.5, b[None])
    np.testing.assert_allclose(found[0], case["S01_lam1"]["V"], atol=2e-6)
    assert sse(m, found, bias) == pytest.approx(case["S01_lam1"]["SSE"], abs=2e-6)
    g = np.array(case["G"], float)
    direct = (w @ g[:, :2] + w[:, :2]) @ np.linalg.inv(g[:2, :2] + np.eye(2))
    np.testing.assert_allclose(found[0], direct, atol=1e-9)


def test_f1_with_intercept(f1) -> None:
    case, w, _, moments = f1
    m = moments([0, 1])
    found, bias = solve(m, w[None][:, :, [0, 1]], TINY)
    np.testing.assert_allclose(found[0], case["S01_centered"]["V"], atol=2e-6)
    np.testing.assert_allclose(bias[0], case["S01_centered"]["b"], atol=2e-6)
    assert sse(m, found, bias) == pytest.approx(case["S01_centered"]["SSE"], abs=2e-6)


def test_f1_an_infinite_ridge_leaves_the_weights_and_fits_the_bias(f1) -> None:
    case, w, _, moments = f1
    m = moments([0, 1])
    kept = w[None][:, :, [0, 1]]
    found, bias = solve(m, kept, 1e12)
    np.testing.assert_allclose(found, kept, atol=1e-6)
    np.testing.assert_allclose(bias[0], case["S01_biasonly"]["b"], atol=1e-6)
    assert sse(m, found, bias) == pytest.approx(case["S01_biasonly"]["SSE"], abs=1e-4)


@pytest.mark.parametrize("ridge", REFIT_RIDGES)
def test_f1_a_singular_gram_matrix_is_solved(f1, ridge: float) -> None:
    _, w, b, moments = f1
    m = moments([0, 1, 2])
    found, bias = solve(m, w[None][:, :, [0, 1, 2]], ridge, b[None])
    assert np.isfinite(found).all()
    assert sse(m, found, bias) < 554


def test_no_columns_leave_the_bias() -> None:
    u, t = np.zeros((6, 1, 0)), noise(6, 1, 3).astype(np.float64)
    m = Moments.empty(1, 0, 3)
    m.add(u, t)
    found, bias = solve(m, np.zeros((1, 3, 0)), 1e-3)
    assert found.shape == (1, 3, 0)
    np.testing.assert_allclose(bias[0], t[:, 0].mean(0))


def test_constant_columns_leave_the_weights() -> None:
    m = Moments.empty(1, 2, 1)
    m.add(np.ones((6, 1, 2)), np.full((6, 1, 1), 5.0))
    found, bias = solve(m, np.array([[[1.0, 2.0]]]), 1e-3)
    np.testing.assert_array_equal(found, [[[1.0, 2.0]]])
    assert bias == pytest.approx(2.0)


def test_groups_are_solved_apart() -> None:
    u, t, w = noise(50, 3, 4), noise(50, 3, 2, seed=2).astype(np.float64), noise(3, 2, 4, seed=3).astype(np.float64)
    together = Moments.empty(3, 4, 2)
    together.add(u, t)
    found, bias = solve(together, w, 1e-2)
    for group in range(3):
        alone = Moments.empty(1, 4, 2)
        alone.add(u[:, [group]], t[:, [group]])
        one, shift = solve(alone, w[[group]], 1e-2)
        np.testing.assert_allclose(found[group], one[0])
        np.testing.assert_allclose(bias[group], shift[0])


def test_the_best_fit_is_chosen_on_samples_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1, 1, 40))
    fitted_u, tuning_u = rng.standard_normal((50, 40)), rng.standard_normal((400, 40))
    noisy = fitted_u @ w[0].T + 3 * rng.standard_normal((50, 1))
    # 50 noisy samples of 40 unknowns: the fit with the least ridge is much worse than what was there.
    fitted, tuning = drawn(fitted_u, noisy), drawn(tuning_u, tuning_u @ w[0].T)
    found = fit_of(fitted, tuning, start_of(w))
    assert not found.changed
    assert found.ridge == np.inf
    np.testing.assert_array_equal(found.weights, w)
    assert tuning.error(*solve(fitted.moments, w, REFIT_RIDGES[0]), np.ones((1, 1))) > 1


def test_what_can_be_had_exactly_is_had_exactly() -> None:
    u, w, wrong = noise(200, 6).astype(np.float64), noise(3, 6, seed=2).astype(np.float64), noise(3, 6, seed=5)
    found = fit_of(drawn(u, u @ w.T + 1), drawn(u[:50], u[:50] @ w.T + 1), start_of(wrong[None].astype(np.float64)))
    np.testing.assert_allclose(found.weights[0], w, atol=1e-5)
    np.testing.assert_allclose(found.bias, 1, atol=1e-5)
    assert found.ridge == REFIT_RIDGES[0]
    assert found.error < 1e-9 < found.plain


def test_a_bias_that_cannot_change_stays() -> None:
    u = noise(200, 4).astype(np.float64) + 1
    w, bias = noise(1, 2, 4, seed=2).astype(np.float64), np.array([[5.0, -1.0]])
    t = u @ noise(4, 2, seed=3) + 2
    found = fit_of(drawn(u, t), drawn(u, t), start_of(w, bias, biased=False))
    assert found.changed
    np.testing.assert_array_equal(found.bias, bias)
    direct = np.linalg.lstsq(u, t - bias, rcond=None)[0].T
    np.testing.assert_allclose(found.weights[0], direct, atol=1e-4)


def test_a_bias_alone_is_refitted_where_the_weights_cannot_be() -> None:
    rng = np.random.default_rng(0)
    u, w = rng.standard_normal((8, 60)), rng.standard_normal((1, 1, 60))
    more = rng.standard_normal((300, 60))
    found = fit_of(drawn(u, u @ w[0].T + 4), drawn(more, more @ w[0].T + 4), start_of(w))
    assert found.changed
    np.testing.assert_allclose(found.bias, 4, atol=1e-2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_weight_out_of_its_types_range_is_never_taken(scale: float) -> None:
    u, w = noise(100, 3).astype(np.float64), np.full((1, 1, 3), 30000.0)
    t = u @ np.array([[90000.0], [1.0], [1.0]]) * scale
    found = fit_of(drawn(u, t), drawn(u, t), start_of(w, dtype=np.dtype(np.float16)))
    assert (np.abs(found.weights) <= 65504).all()
    assert found.error <= found.plain


def test_the_error_is_that_of_the_weights_as_they_are_stored() -> None:
    u, w = noise(100, 3).astype(np.float64), noise(1, 2, 3, seed=2).astype(np.float64)
    t = u @ noise(3, 2, seed=3)
    tuning = drawn(u, t)
    found = fit_of(drawn(u, t), tuning, start_of(w, dtype=np.dtype(np.float16), gain=0.5))
    np.testing.assert_array_equal(found.weights / 0.5, (found.weights / 0.5).astype(np.float16))
    assert found.error == tuning.error(found.weights, found.bias, np.ones((1, 2)))


def test_weights_that_blow_up_are_no_fit() -> None:
    u = np.repeat(noise(100, 1), 2, axis=1).astype(np.float64)
    u[:, 1] += 1e-4 * noise(100, seed=2)
    t = (u[:, [0]] - u[:, [1]]) * 1e4
    found = fit_of(drawn(u, t), drawn(u, t), start_of(np.full((1, 1, 2), 0.1)))
    assert np.linalg.norm(found.weights) <= 10 * np.linalg.norm([0.1, 0.1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["columns", "targets"])
@pytest.mark.parametrize("whose", ["fitted", "tuning"])
def test_data_that_are_not_finite_leave_everything_as_it_is(bad: float, where: str, whose: str) -> None:
    u, t, w = noise(40, 3), noise(40, 2, seed=2), noise(1, 2, 3, seed=3).astype(np.float64)
    spoilt_u, spoilt_t = u.copy(), t.copy()
    (spoilt_u if where == "columns" else spoilt_t)[7, 1] = bad
    good, spoilt = drawn(u, t), drawn(spoilt_u, spoilt_t)
    fitted, tuning = (spoilt, good) if whose == "fitted" else (good, spoilt)
    found = fit_of(fitted, tuning, start_of(w))
    assert not found.changed
    np.testing.assert_array_equal(found.weights, w)


def test_no_data_leave_everything_as_it_is() -> None:
    none = drawn(np.zeros((0, 3)), np.zeros((0, 2)), batches=1)
    found = fit_of(none, none, start_of(np.ones((1, 2, 3))))
    assert not found.changed


def rectified(
    u: np.ndarray, weights: np.ndarray, bias: np.ndarray, threshold: np.ndarray, sign: np.ndarray
) -> np.ndarray:
    return np.maximum(sign * (u @ weights[0].T + bias[0] - threshold), 0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_targets_behind_a_relu_lower_the_rectified_error(sign: float) -> None:
    rng = np.random.default_rng(0)
    full = rng.standard_normal((600, 8))
    w = rng.standard_normal((4, 8))
    t, threshold = full @ w.T, 0.3 * rng.standard_normal((600, 4))
    u, kept = full[:, :5], w[None, :, :5]
    signs = np.full((1, 4), sign)
    start = start_of(kept, sign=signs)
    fitted, tuning = drawn(u[:400], t[:400], threshold[:400]), drawn(u[400:], t[400:], threshold[400:])
    found = fit_of(fitted, tuning, start)
    unaware = min(tuning.error(*solve(fitted.moments, kept, ridge), signs) for ridge in REFIT_RIDGES)
    assert found.error < 0.99 * unaware
    assert found.error < found.plain
    wanted = np.maximum(sign * (t[400:] - threshold[400:]), 0)
    direct = np.square(rectified(u[400:], found.weights, found.bias, threshold[400:], sign) - wanted).sum(1).mean()
    assert tuning.error(found.weights, found.bias, signs) == pytest.approx(direct, rel=1e-4)


def test_the_samples_that_chose_the_ridge_count_in_the_end() -> None:
    rng = np.random.default_rng(0)
    u, t = rng.standard_normal((300, 5)), rng.standard_normal((300, 2))
    t += u @ rng.standard_normal((5, 2))
    start = start_of(np.zeros((1, 2, 5)) + 0.5)
    found = fit_of(drawn(u[:200], t[:200]), drawn(u[200:], t[200:]), start)
    weights, bias = solve(drawn(u, t).moments, start.weights, found.ridge)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-5, atol=1e-6)


def test_relu_aware_targets_are_free_below_the_threshold_only_where_the_original_is() -> None:
    draw = RowBatch(
        np.array([[[1.0]], [[-2.0]], [[3.0]], [[1.0]]], np.float32),
        np.array([[[-1.0]], [[-1.0]], [[-1.0]], [[2.0]]], np.float32),
        np.zeros((4, 1, 1), np.float32),
    )
    # Predictions 1, -2, 3 where the original is below zero: as far down as they like, up to the threshold; 2 stays 2.
    targets = draw.relu_aware_targets(np.ones((1, 1, 1)), np.zeros((1, 1)), np.ones((1, 1)))
    assert targets.ravel().tolist() == [0.0, -2.0, 0.0, 2.0]
    unread = draw.relu_aware_targets(np.ones((1, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1)))
    assert unread.ravel().tolist() == [-1.0, -1.0, -1.0, 2.0]


@pytest.fixture
def factorised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the matrices that are factorised."""
    sizes: list[int] = []

    def factorise(matrices: np.ndarray) -> Factored:
        sizes.append(matrices.shape[-1])
        return found(matrices)

    found = Factored.of
    monkeypatch.setattr(Factored, "of", factorise)
    return sizes


def test_other_targets_of_the_same_columns_factorise_nothing_again(factorised: list[int]) -> None:
    rng = np.random.default_rng(0)
    full, w = rng.standard_normal((600, 8)), rng.standard_normal((4, 8))
    t, u, start = full @ w.T, full[:, :5], start_of(w[None, :, :5])
    regression = by_columns(drawn(u, t).moments, start)
    weights, _ = regression.at(1e-3)
    other, _ = regression.towards(drawn(u, t + full[:, [7]]).moments).at(1e-3)
    regression.at(1e-4)
    regression.at(1e-3)
    assert factorised == [5, 5]  # The ridges 1e-3 and 1e-4.
    # What is only tried is float32.
    np.testing.assert_allclose(other, solve(drawn(u, t + full[:, [7]]).moments, start.weights, 1e-3)[0], rtol=1e-5)
    np.testing.assert_allclose(weights, solve(drawn(u, t).moments, start.weights, 1e-3)[0], rtol=1e-5)


def test_factors_that_take_more_than_their_share_go_but_for_the_last_two(
    factorised: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxpfp.refit.ridge.FACTOR_BYTES", 0)
    u, start = noise(50, 4).astype(np.float64), start_of(noise(1, 2, 4, seed=2).astype(np.float64))
    regression = by_columns(drawn(u, u[:, :2]).moments, start)
    for ridge in (1e-3, 1e-4, 1e-3, 1e-2, 1e-3, 1e-4):
        regression.at(ridge)
    assert len(factorised) == 4


@pytest.mark.parametrize("count", [1, 3])
def test_a_matrix_that_is_not_positive_definite_is_refused(count: int) -> None:
    matrices = np.repeat(np.diag([1.0, -1.0])[None], count, axis=0)
    with pytest.raises(LinAlgError):
        Factored.of(matrices)


@pytest.mark.parametrize("count", [1, 3])
def test_factored_matrices_solve(count: int) -> None:
    a = noise(count, 6, 6).astype(np.float64)
    matrices, right = a @ a.swapaxes(1, 2) + np.eye(6), noise(count, 6, 2, seed=2).astype(np.float64)
    np.testing.assert_allclose(matrices @ Factored.of(matrices.copy()).solved(right), right, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_sums_of_followed_targets_are_those_of_float64(offset: float) -> None:
    """Also where means are large and columns nearly depend on each other, as the smallest ridge needs it."""
    rng = np.random.default_rng(0)
    full = rng.standard_normal((4000, 6))
    u = np.hstack([full, full[:, :3] + 1e-4 * rng.standard_normal((4000, 3))]) + offset
    t = np.maximum(full @ rng.standard_normal((6, 3)), -1) - 0.2
    start = start_of(rng.standard_normal((1, 3, 9)))
    rows = drawn(u, t, np.zeros((4000, 3)))
    weights, bias = by_columns(rows.moments, start).at(1e-8)
    found = rows.relu_aware_moments(weights, bias, start.sign)
    exact = Moments.empty(1, 9, 3)
    for draw in rows.draws:
        exact.add(draw.columns, draw.relu_aware_targets(weights, bias, start.sign))
    np.testing.assert_allclose(found.t, exact.t, rtol=1e-6)
    np.testing.assert_allclose(found.tt, exact.tt, rtol=1e-6)
    one, other = (by_columns(moments, start).at(1e-8) for moments in (found, exact))
    errors = [exact.error(*each).sum() for each in (one, other)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
