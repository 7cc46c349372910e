"""ThiNet: Q against the contributions themselves, and the greedy search against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp import arrays
from onnxpfp.score.thinet import Contributions, contribution_gram, removal_order, removal_ranks


def contributions(columns: np.ndarray, taps: np.ndarray, group: int) -> np.ndarray:
    """What each channel adds to every output at every point, (T, O, C), in plain loops."""
    points, channels, _ = columns.shape
    outputs, each = taps.shape[1], channels // group
    out = np.zeros((points, outputs * group, channels))
    for t in range(points):
        for c in range(channels):
            for o in range(outputs):
                out[t, c // each * outputs + o, c] = columns[t, c] @ taps[c, o].ravel()
    return out


def draw(group: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(group)
    return rng.standard_normal((7, 6, 4)), rng.standard_normal((6, 5, 2, 2))


@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [1, 4 << 20])
def test_q_is_the_gram_matrix_of_the_contributions(monkeypatch: pytest.MonkeyPatch, group: int, size: int) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", size)
    columns, taps = draw(group)
    alone = contributions(columns, taps, group).reshape(-1, 6)
    np.testing.assert_allclose(contribution_gram(columns, taps, group), alone.T @ alone, atol=1e-10)


@pytest.mark.parametrize("cut", [(1, 2), (5, 6), (3, 4)])
def test_batches_add_up(cut: tuple[int, ...]) -> None:
    columns, taps = draw(2)
    found = Contributions(lambda: taps, 6, 5, 2)
    for part in np.split(columns, cut):
        found.add(part)
    np.testing.assert_allclose(found.gram(), contribution_gram(columns, taps, 2), atol=1e-10)
    np.testing.assert_array_equal(found.gram(), found.gram())


def test_points_wait_until_there_are_as_many_as_outputs() -> None:
    columns, taps = draw(1)
    asked: list[int] = []

    def weights() -> np.ndarray:
        asked.append(1)
        return taps

    found = Contributions(weights, 6, 5)
    found.add(columns[:4])
    assert not asked
    found.add(columns[4:])
    assert asked == [1]
    found.gram()
    assert asked == [1]


def test_without_points_nothing_is_known() -> None:
    np.testing.assert_array_equal(Contributions(lambda: np.ones((3, 1, 1)), 3, 1).gram(), np.zeros((3, 3)))


def test_what_cancels_goes_together() -> None:
    # Channels 0 and 2 are large and cancel; 1 is small; 3 is alone.
    alone = np.array([[4.0, 0.5, -4.0, 3.0], [2.0, 0.5, -2.0, 3.0]])
    q = alone.T @ alone
    # Costs: 0.5 for 1; then 14 more for 2 (26 for 0, 24 for 3); then 14 less for 0, which takes 2 back.
    assert removal_order(q).tolist() == [1, 2, 0, 3]
    np.testing.assert_array_equal(removal_ranks(q), [2, 0, 1, 3])


def test_every_step_takes_what_costs_least() -> None:
    rng = np.random.default_rng(0)
    alone = rng.standard_normal((9, 6))
    gone: list[int] = []
    for chosen in removal_order(alone.T @ alone):
        cost = {j: np.square(alone[:, [*gone, j]].sum(1)).sum() for j in range(6) if j not in gone}
        assert chosen == min(cost, key=lambda j: cost[j])
        gone.append(int(chosen))
    assert sorted(gone) == list(range(6))


def test_ties_go_to_the_lower_index() -> None:
    assert removal_order(np.eye(4)).tolist() == [0, 1, 2, 3]
