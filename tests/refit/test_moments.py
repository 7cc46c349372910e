from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from nets import noise

from onnxpfp.refit.moments import BLOCK, Moments, by_group


def moments(u: np.ndarray, t: np.ndarray) -> Moments:
    found = Moments.empty(u.shape[1], u.shape[2], t.shape[2])
    found.add(u, t.astype(np.float64))
    return found


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return noise(40, 3, 5) + 2, noise(40, 3, 4, seed=2)


def test_moments_are_the_sums_that_they_say(drawn) -> None:
    u, t = (x.astype(np.float64) for x in drawn)
    found = moments(*drawn)
    np.testing.assert_allclose(found.u, u.sum(0))
    np.testing.assert_allclose(found.uu, np.einsum("tgn,tgm->gnm", u, u))
    np.testing.assert_allclose(found.t, t.sum(0))
    np.testing.assert_allclose(found.tt, np.square(t).sum(0))
    np.testing.assert_allclose(found.tu, np.einsum("tgo,tgn->gon", t, u), atol=1e-12)
    assert found.count == 40


@pytest.mark.parametrize("cut", [1, 13, 39])
def test_batches_can_be_counted_apart_and_merged_in_any_order(drawn, cut: int) -> None:
    u, t = drawn
    whole, first, second = moments(u, t), moments(u[:cut], t[:cut]), moments(u[cut:], t[cut:])
    twice = moments(u[:cut], t[:cut])
    twice.add(u[cut:], t[cut:].astype(np.float64))
    for found in (first.merge(second), second.merge(first), twice, whole.merge(Moments.empty(3, 5, 4))):
        for name in ("u", "uu", "t", "tt", "tu", "count"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12, atol=1e-11)


def test_covariances_and_the_error_are_those_of_the_draws(drawn) -> None:
    u, t = (x.astype(np.float64) for x in drawn)
    found = moments(*drawn)
    weights, bias = noise(3, 4, 5, seed=3).astype(np.float64), noise(3, 4, seed=4).astype(np.float64)
    for group in range(3):
        gram, cross = found.gram(centred=True)[group], found.cross()[group]
        both = np.cov(np.hstack([u[:, group], t[:, group]]).T, bias=True)
        np.testing.assert_allclose(gram, both[:5, :5], atol=1e-12)
        np.testing.assert_allclose(cross, both[5:, :5], atol=1e-12)
        gram, cross = found.gram(centred=False)[group], found.cross(bias)[group]
        np.testing.assert_allclose(gram, u[:, group].T @ u[:, group] / 40)
        np.testing.assert_allclose(cross, (t[:, group] - bias[group]).T @ u[:, group] / 40, atol=1e-12)
    made = np.einsum("tgn,gon->tgo", u, weights) + bias
    np.testing.assert_allclose(found.error(weights, bias), np.square(made - t).mean(0))


def test_targets_beside_others_share_the_sums_over_the_columns(drawn) -> None:
    u, t = drawn
    first, second = Moments.empty(3, 5, 4), None
    second = Moments.beside(first, 2)
    first.add(u, t.astype(np.float64))
    wide = by_group(u)
    second.count += len(u)
    for piece in second.target_pieces(wide, by_group(t[..., :2])):
        piece()
    alone = moments(u, t[..., :2])
    assert second.uu is first.uu
    for name in ("u", "uu", "t", "tt", "tu", "count"):
        np.testing.assert_allclose(getattr(second, name), getattr(alone, name))


def test_without_gram_matrix_the_other_sums_are_there(drawn) -> None:
    u, t = drawn
    found = Moments.empty(3, 5, 4, gram=False)
    found.add(u, t.astype(np.float64))
    assert found.uu.size == 0
    np.testing.assert_allclose(found.tu, moments(u, t).tu)


@pytest.mark.parametrize(
    ("columns", "outputs", "groups"), [(2 * BLOCK + 3, 2, 1), (3, BLOCK + 5, 2), (BLOCK + 1, 1, 2)]
)
def test_blocks_of_wide_layers_give_the_whole_matrix(columns: int, outputs: int, groups: int) -> None:
    u, t = noise(20, groups, columns), noise(20, groups, outputs, seed=2)
    found = moments(u, t)
    np.testing.assert_allclose(found.uu, np.einsum("tgn,tgm->gnm", u, u, dtype=np.float64), atol=1e-10)
    np.testing.assert_allclose(found.tu, np.einsum("tgo,tgn->gon", t, u, dtype=np.float64), atol=1e-10)
    np.testing.assert_array_equal(found.uu, found.uu.swapaxes(1, 2))


def test_products_in_single_precision_are_of_what_varies_about_a_large_level() -> None:
    level = 1000 * noise(1, 2, BLOCK + 3, seed=5)
    u, t = noise(200, 2, BLOCK + 3, seed=6) + level, noise(200, 2, 4, seed=7) + level[..., :4]
    found, wanted = Moments.empty(2, BLOCK + 3, 4), moments(u, t)
    rows, targets = by_group(u, precise=False), by_group(t, precise=False)
    assert rows.above.dtype == np.float32
    found.count = rows.count
    for piece in (*found.column_pieces(rows), *found.target_pieces(rows, targets)):
        piece()
    np.testing.assert_array_equal(found.uu, found.uu.swapaxes(1, 2))
    np.testing.assert_allclose(found.gram(centred=True), wanted.gram(centred=True), atol=1e-5)
    np.testing.assert_allclose(found.cross(), wanted.cross(), atol=1e-5)
    np.testing.assert_allclose(found.tt, wanted.tt, rtol=1e-6)


@pytest.mark.parametrize("centred", [True, False])
def test_a_gram_matrix_in_single_precision_is_rounded_from_double_and_takes_no_more(centred: bool) -> None:
    sums = moments(noise(30, 1, 1024) + 2, noise(30, 1, 2, seed=2))
    found = np.empty((1, 1024, 1024), np.float32)
    tracemalloc.start()
    sums.write_gram(found, centred=centred)
    # Some of its rows in double precision, and their products.
    assert tracemalloc.get_traced_memory()[1] < 2 * found.nbytes
    tracemalloc.stop()
    np.testing.assert_array_equal(found, sums.gram(centred=centred).astype(np.float32))
