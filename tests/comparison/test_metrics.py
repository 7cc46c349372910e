from __future__ import annotations

import numpy as np
import pytest
from nets import noise

from onnxpfp.comparison.metrics import divergence, looks_like_classes


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(a: np.ndarray, b: np.ndarray) -> float:
    p, q = softmax(a.astype(np.float64)), softmax(b.astype(np.float64))
    return float((p * np.log(p / q)).sum(1).mean())


def one(a: np.ndarray, b: np.ndarray) -> float:
    return divergence([{"y": a}], [{"y": b}])


def test_class_scores_count_by_the_kl_divergence_of_their_softmax() -> None:
    a, b = noise(20, 5), noise(20, 5, seed=2)
    assert one(a, b) == pytest.approx(kl(a, b), rel=1e-6)
    assert one(a, b) != pytest.approx(kl(b, a), rel=1e-3)
    assert one(a, a) == 0


def test_probabilities_are_taken_as_they_are() -> None:
    a, b = noise(20, 5), noise(20, 5, seed=2)
    assert one(softmax(a), softmax(b)) == pytest.approx(kl(a, b), rel=1e-5)


def test_shifted_scores_are_the_same_scores() -> None:
    a = noise(20, 5)
    assert one(a, a + 7) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (4, 3, 5, 5)])
def test_other_outputs_count_by_their_relative_error(shape: tuple[int, ...]) -> None:
    a, b = noise(*shape), noise(*shape, seed=2)
    wanted = np.square(a.astype(float) - b).sum() / np.square(a.astype(float)).sum()
    assert one(a, b) == pytest.approx(wanted)


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3)])
def test_batches_are_one_set_of_samples(shape: tuple[int, ...]) -> None:
    a, b = noise(*shape), noise(*shape, seed=2)
    apart = divergence([{"y": a[:5]}, {"y": a[5:]}], [{"y": b[:5]}, {"y": b[5:]}])
    assert apart == pytest.approx(one(a, b))


def test_outputs_add_up() -> None:
    a, b, c, d = (noise(6, 4, seed=seed) for seed in range(4))
    assert divergence([{"y": a, "z": c}], [{"y": b, "z": d}]) == pytest.approx(one(a, b) + one(c, d))


def test_whole_numbers_count_only_where_there_is_nothing_else() -> None:
    a, b, k = noise(6, 4), noise(6, 4, seed=2), np.arange(6)
    assert divergence([{"y": a, "k": k}], [{"y": b, "k": k + 1}]) == one(a, b)
    assert divergence([{"k": k}], [{"k": np.array([0, 1, 2, 9, 9, 9])}]) == 0.5
    assert divergence([{"k": k}], [{"k": k}]) == 0


def test_outputs_of_another_shape_are_as_far_off_as_if_they_were_missing() -> None:
    a = noise(6, 4, 2)
    assert one(a, a[:5]) == pytest.approx(1.0)
    assert one(noise(6, 4), noise(5, 4)) == pytest.approx(1.0)
    assert one(np.zeros((0, 4), np.float32), noise(3, 4)) == 1.0
    assert one(np.arange(4), np.arange(3)) == 1.0


def test_nothing_on_both_sides_is_no_drift() -> None:
    assert one(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0
    assert one(np.zeros((3, 1), np.float32), np.zeros((3, 1), np.float32)) == 0


def test_zeros_that_become_something_drift() -> None:
    assert one(np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32)) == 1.0


def test_masked_scores_have_no_probability() -> None:
    a, b = noise(6, 4), noise(6, 4, seed=2)
    masked_a, masked_b = (np.hstack([x, np.full((6, 1), -np.inf, np.float32)]) for x in (a, b))
    assert one(masked_a, masked_b) == pytest.approx(one(a, b))


def test_infinite_numbers_on_both_sides_do_not_count() -> None:
    a, b = noise(6, 4, 2), noise(6, 4, 2, seed=2)
    a[0, 0, 0] = b[0, 0, 0] = np.inf
    assert np.isfinite(one(a, b))
    assert one(a, a) == 0


@pytest.mark.parametrize(("shape", "yes"), [((3, 2), True), ((3, 1), False), ((3,), False), ((3, 2, 2), False)])
def test_what_looks_like_classes(shape: tuple[int, ...], yes: bool) -> None:
    assert looks_like_classes(noise(*shape)) == yes
    assert not looks_like_classes(np.zeros(shape, np.int64))
