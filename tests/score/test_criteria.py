"""The table of criteria."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.options import SCORES
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import ConsumerData, GroupData
from onnxpfp.score.magnitude import mean_scale
from onnxpfp.score.registry import CRITERIA, criterion_of

NEEDS = {
    "pfp": {"sensitivity"},
    "reconstruction": {"gram", "squares"},
    "energy": {"squares"},
    "l1": {"weights"},
    "l2": {"weights"},
    "fpgm": {"weights"},
    "lamp": {"weights"},
    "bn-scale": {"scales"},
    "random": {"random"},
    "wanda": {"squares"},
    "hrank": {"maps"},
    "apoz": {"maps"},
    "chip": {"maps"},
    "thinet": {"contributions"},
}
WITHOUT_DATA = {"weights", "scales", "random"}


def test_table() -> None:
    assert {name: set(criterion.needs) for name, criterion in CRITERIA.items()} == NEEDS
    assert all(name == criterion.name for name, criterion in CRITERIA.items())
    assert len({criterion.title for criterion in CRITERIA.values()}) == len(CRITERIA)
    assert all(criterion_of(name) is criterion for name, criterion in CRITERIA.items())


def test_the_options_list_them_without_loading_numpy() -> None:
    assert {name: criterion.needs_data for name, criterion in CRITERIA.items()} == dict(SCORES)


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_data_says_so(name: str) -> None:
    needs_data = name != "pfp" and not NEEDS[name] <= WITHOUT_DATA
    assert CRITERIA[name].needs_data == needs_data


def test_a_criterion_without_maps_says_so() -> None:
    class Maps(Criterion):
        name, title, needs = "maps", "maps", frozenset({"maps"})

        def score(self, group: GroupData) -> np.ndarray:
            return np.zeros(group.size)

    with pytest.raises(TypeError, match="'maps' needs maps"):
        Maps().of_maps(np.zeros((1, 1)))


def test_shares_of_consumers_add_up_and_are_computed_once() -> None:
    calls: list[str] = []

    def compute() -> np.ndarray:
        calls.append("computed")
        return np.array([1.0, 2.0, 4.0])

    consumer = ConsumerData(np.array([[0, 2], [1, 1]]), 3, None)
    group = GroupData("g", np.array([4, 5]), consumers=(consumer,))
    for _ in range(2):
        np.testing.assert_array_equal(
            group.sum_over_consumers(c.once("shares", compute) for c in group.consumers), [5, 4]
        )
    assert calls == ["computed"]


def test_the_scale_is_the_mean_magnitude_over_all_normalizations() -> None:
    one, two = np.array([[1.0], [-2.0]]), np.array([[3.0, -5.0], [0.0, 4.0]])
    np.testing.assert_allclose(mean_scale(2, [one, two]), [3, 2])
    assert np.isnan(mean_scale(2, [])).all()
