from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.uniform import allocate_uniformly
from onnxpfp.allocation.widths import widths_of
from onnxpfp.errors import TargetUnreachableError

PAIR = CostModel(np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 1]]), np.array([[1, 0], [1, 2]]), np.array([10, 1]))


def allowed(*sizes: int, step: int = 1) -> list[np.ndarray]:
    return [widths_of(size, step, 1) for size in sizes]


@pytest.mark.parametrize("target", [0.05, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("step", [1, 4])
def test_all_groups_have_the_largest_share_that_meets_the_target(target: float, step: int) -> None:
    choices = allowed(32, 64, step=step)
    kept = allocate_uniformly(choices, PAIR, target)
    budget = target * PAIR.total(np.array([32, 64]))
    assert PAIR.total(kept) <= budget
    shares = np.unique(np.concatenate([choices[0] / 32, choices[1] / 64]))
    best = max(share for share in shares if PAIR.total(_at(choices, share)) <= budget or share == shares[0])
    assert kept.tolist() == _at(choices, best).tolist()


def _at(choices: list[np.ndarray], share: float) -> np.ndarray:
    return np.array([max([w for w in c if w <= share * c[-1] + 1e-9], default=c[0]) for c in choices])


def test_half_of_the_width_is_a_quarter_of_the_product() -> None:
    squares = CostModel(np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 1]]), np.array([[1, 2]]), np.array([1]))
    assert allocate_uniformly(allowed(32, 64), squares, 0.25).tolist() == [16, 32]


def test_a_target_below_the_least_widths_is_refused() -> None:
    with pytest.raises(TargetUnreachableError, match="least that can be reached"):
        allocate_uniformly(allowed(8, 8), PAIR, 0.001)


def test_the_cost_of_a_full_network_may_be_given() -> None:
    full = PAIR.total(np.array([8, 8]))
    assert allocate_uniformly(allowed(8, 8), PAIR, 0.5, reference=2 * full).tolist() == [8, 8]
