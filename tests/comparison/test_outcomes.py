from __future__ import annotations

import numpy as np
import pytest
from nets import noise

from onnxpfp.comparison.outcomes import OutcomeRows, errors_of
from onnxpfp.comparison.picks import Picks


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a.astype(np.float64)))


def test_every_sample_has_its_own_error() -> None:
    a, b = noise(6, 3, 4), noise(6, 3, 4, seed=2)
    errors = errors_of(a, b, 6)
    assert errors is not None
    np.testing.assert_allclose(errors, [relative(x, y) for x, y in zip(a, b, strict=True)], rtol=1e-6)


def test_a_sample_that_is_fed_alone_has_all_numbers() -> None:
    a, b = noise(5, 3), noise(5, 3, seed=2)
    errors = errors_of(a, b, 1)
    assert errors is not None
    assert errors == pytest.approx([relative(a, b)], rel=1e-6)


def test_samples_that_the_first_axis_does_not_tell_apart_have_no_errors() -> None:
    assert errors_of(noise(5, 3), noise(5, 3), 3) is None
    assert errors_of(np.float32(1.0), np.float32(1.0), 3) is None


def test_another_shape_is_as_far_off_as_if_all_were_missing() -> None:
    errors = errors_of(noise(4, 3), noise(4, 2), 4)
    assert errors is not None
    np.testing.assert_allclose(errors, 1.0)


def test_the_worst_output_counts_and_whole_numbers_do_not() -> None:
    a, b = noise(4, 3), noise(4, 2)
    rows = OutcomeRows(Picks())
    rows.add(4, 4, {"a": a, "b": b, "n": np.arange(4)}, {"a": 0.9 * a, "b": 0.5 * b, "n": np.zeros(4, np.int64)})
    rows.add(2, 2, {"a": a[:2], "b": b[:2], "n": np.arange(2)}, {"a": a[:2], "b": b[:2], "n": np.arange(2)})
    outcomes = rows.outcomes()
    assert outcomes.errors is not None
    np.testing.assert_allclose(outcomes.errors, [0.5] * 4 + [0.0] * 2, atol=1e-6)


def test_one_output_that_cannot_be_cut_leaves_no_errors() -> None:
    rows = OutcomeRows(Picks())
    a = noise(4, 3)
    rows.add(4, 4, {"a": a, "whole": noise(7)}, {"a": a, "whole": noise(7)})
    outcomes = rows.outcomes()
    assert outcomes.errors is None
    assert outcomes.agree is not None
    assert outcomes.agree.all()


def test_agreement_and_certainty_are_those_of_the_class_scores() -> None:
    logits = np.array([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [np.nan, np.nan, np.nan]], np.float32)
    other = np.array([[8.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], np.float32)
    rows = OutcomeRows(Picks())
    rows.add(3, 3, {"y": logits}, {"y": other})
    outcomes = rows.outcomes()
    assert outcomes.agree is not None
    assert outcomes.top_probability is not None
    assert outcomes.agree.tolist() == [True, False]
    softmax = [np.exp(9) / (np.exp(9) + 2), np.e / (np.e + 2)]
    np.testing.assert_allclose(outcomes.top_probability, softmax, rtol=1e-6)


def test_without_class_scores_there_is_no_agreement() -> None:
    rows = OutcomeRows(Picks())
    rows.add(2, 2, {"y": noise(2, 3, 4)}, {"y": noise(2, 3, 4)})
    assert rows.outcomes().agree is None
    assert rows.outcomes().top_probability is None
