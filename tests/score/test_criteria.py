"""The table of criteria."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest

import onnxpfp.score
from onnxpfp.options import SCORES
from onnxpfp.pipeline.criteria import criterion_of, title_of
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import ConsumerData, GroupData
from onnxpfp.score.magnitude import mean_scale

CRITERIA = {name: criterion_of(name) for name in SCORES}
NEEDS = {
    "pfp": {"sensitivity"},
    "coreset": {"reach"},
    "coreset-share": {"reach"},
    "sipp": {"sensitivity"},
    "mean-share": {"shares"},
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
    "feature-statistics": {"map-statistics"},
}
WITHOUT_DATA = {"weights", "scales", "reach", "random"}


def descendants(kind: type[Criterion]) -> set[type[Criterion]]:
    """All classes that are made from one."""
    return {one for child in kind.__subclasses__() for one in (child, *descendants(child))}


def test_table() -> None:
    assert {name: set(criterion.needs) for name, criterion in CRITERIA.items()} == NEEDS
    assert all(name == criterion.name for name, criterion in CRITERIA.items())
    assert len({criterion.title for criterion in CRITERIA.values()}) == len(CRITERIA)
    assert all(criterion_of(name) is criterion for name, criterion in CRITERIA.items())


def test_every_criterion_of_the_package_has_a_name() -> None:
    for module in iter_modules(onnxpfp.score.__path__):
        import_module(f"onnxpfp.score.{module.name}")
    classes = [kind for kind in descendants(Criterion) if kind.__module__.startswith("onnxpfp.")]
    named = {kind for kind in classes if kind.__name__[0] != "_"}
    assert named == {type(criterion) for criterion in CRITERIA.values()}


def test_a_report_calls_them_by_their_titles_and_others_by_their_names() -> None:
    assert {title_of(name) for name in SCORES} == {criterion.title for criterion in CRITERIA.values()}
    assert title_of("mine") == "mine"


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
