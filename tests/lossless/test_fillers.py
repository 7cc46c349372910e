"""Channels that cost nothing stay where they fill a group up to a multiple, and are the first that go later."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from finding import bare, constant, find, multiple

import onnxpfp
from onnxpfp.lossless.fillers import choose_fillers
from onnxpfp.runtime.blocks import Alignment

BY_4 = Alignment(4, "", "asked")
ROWS = "g (float[N,6] x) => (float[N,3] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }"
MAPS = "g (float[N,2,6,6] x) => (float[N,4,4,4] y) { a = Conv(x, w1, b1) y = Conv <pads = [1,1,1,1]> (a, w2) }"


def chosen(size: int, free: list[int], step: int, idle: tuple[int, ...] = ()) -> list[int]:
    one, two = (np.isin(np.arange(size), which) for which in (free, idle))
    return np.flatnonzero(choose_fillers(one, two, step)).tolist()


@pytest.mark.parametrize(
    ("size", "free", "step", "stay"),
    [
        (16, [3], 8, [3]),
        (16, [1, 5, 9], 4, [1, 5, 9]),
        (16, [1, 5, 9, 11, 12], 4, [1]),
        (16, [1, 5, 9, 11], 4, []),
        (15, [4, 6], 8, []),
        (15, [0, 1, 2, 3, 4, 5, 6, 7], 8, [0]),
        (16, [3, 4, 5], 1, []),
        (16, [], 8, []),
    ],
)
def test_so_many_stay_as_fill_the_group_up(size: int, free: list[int], step: int, stay: list[int]) -> None:
    assert chosen(size, free, step) == stay


def test_idle_ones_stay_first() -> None:
    assert chosen(16, [2, 5, 9, 12, 13], 8, idle=(9, 12)) == [2, 5, 9, 12, 13]
    assert chosen(16, [2, 5, 9, 12, 13], 4, idle=(9, 12)) == [9]
    assert chosen(18, [2, 5, 9, 12, 13], 8, idle=(9, 12)) == [2, 9, 12]


def rows(count: int = 8, **others: Any) -> dict[str, Any]:
    return {"w1": nets.noise(6, count), "b1": nets.noise(count), "w2": nets.noise(count, 3), "b2": (3,), **others}


def test_dead_channels_stay_as_they_are() -> None:
    weights = rows(10)
    weights["b1"][[1, 4, 7]] = -100
    model = nets.build(ROWS, weights)
    assert find(model).kinds == {"w1 dead": (1, 4, 7)}
    found = find(model, alignment=BY_4)
    assert found.kinds == {"w1 dead": (4, 7)}
    assert (found.lossless.fillers, found.lossless.emptied, found.error) == (1, {}, 0)
    assert not found.edits


def test_constants_and_duplicates_are_taken_over_and_read_no_more() -> None:
    w1, b1 = nets.noise(10, 2, 3, 3), nets.noise(10)
    multiple((w1, b1), 4, 1, 2.7)
    constant(w1, b1, {6: 0.7, 8: 1.9})
    model = nets.build(MAPS, {"w1": w1, "b1": b1, "w2": nets.noise(4, 10, 3, 3)})
    (gone, constants), alone = find(model).kinds.values(), find(model)
    assert sorted((*gone, *constants)) == [1, 6]
    assert bare(model, alone) > 0.003
    found = find(model, alignment=Alignment(9, "", "asked"))
    assert found.lossless.fillers == 1
    (emptied,) = found.lossless.emptied.values()
    assert found.lossless.keep[1:].sum() == 9
    assert found.error < 2e-6
    columns = np.flatnonzero(~found.edits.tensors["w2"].any((0, 2, 3)))
    assert set(emptied) <= set(columns.tolist())


def test_where_all_stay_duplicates_are_still_read_no_more() -> None:
    w1, b1 = nets.noise(8, 2, 3, 3), nets.noise(8)
    multiple((w1, b1), 4, 1, 2.7)
    found = find(nets.build(MAPS, {"w1": w1, "b1": b1, "w2": nets.noise(4, 8, 3, 3)}), alignment=BY_4)
    assert (found.kinds, found.lossless.fillers) == ({}, 1)
    assert list(found.lossless.emptied.values()) == [(1,)]
    assert not found.edits.tensors["w2"][:, 1].any()
    assert found.error < 2e-6


def test_subnormal_weights_of_fillers_become_zero() -> None:
    weights = rows(9)
    weights["b1"][[1, 4]] = -100
    weights["w1"][2, 1] = weights["w1"][3, 2] = weights["w2"][1, 2] = 1e-40
    model = nets.build(ROWS, weights)
    found = find(model, alignment=BY_4)
    assert found.kinds == {"w1 dead": (1,)}, "what has none stays first"
    assert not found.edits
    found = find(model, alignment=Alignment(9, "", "asked"))
    assert (found.kinds, found.error) == ({}, 0)
    for name, place, other in (("w1", (2, 1), (3, 2)), ("w2", (1, 2), (3, 2))):
        edited, expected = found.edits.tensors[name], weights[name].copy()
        expected[place] = 0
        np.testing.assert_array_equal(edited, expected)
        assert edited[other] != 0


FILLERS = (1, 4, 7, 9)


def dead(count: int) -> dict[str, Any]:
    """Channels of which three are dead and one is a multiple of another."""
    weights = rows(count)
    weights["b1"][[1, 4, 7]] = -100
    multiple((weights["w1"].T, weights["b1"]), 10, 9, 3.0)
    return weights


def dead_rows() -> Any:
    return nets.build(ROWS, dead(16))


OPTIONS: dict[str, Any] = {"allocate": "uniform", "threads": 1, "no_latency": True, "calibration": nets.noise(64, 6)}


def kept_by(model: Any, **options: Any) -> set[int]:
    """Prune sixteen channels, of which twelve live, to eight, and return these."""
    result = onnxpfp.prune(model, keep_macs=0.99, round_to=8, compensate="none", **{**OPTIONS, **options})
    assert result.report.fillers == len(FILLERS)
    kept = set(result.plan.initializers["w1"].keep[1])
    assert len(kept) == 8
    return kept


@pytest.mark.parametrize("score", ["pfp", "energy", "mean-share", "reconstruction", "wanda", "thinet"])
def test_fillers_are_the_first_to_go(score: str) -> None:
    assert not kept_by(dead_rows(), score=score) & set(FILLERS)


@pytest.mark.parametrize("calibration", [None, "random"])
def test_constant_fillers_are_the_first_to_go_without_data(calibration: str | None) -> None:
    weights = rows(16)
    weights["w1"][:, FILLERS] = 0
    weights["b1"] = 5 * np.abs(weights["b1"])
    assert not kept_by(nets.build(ROWS, weights), calibration=calibration) & set(FILLERS)


def test_what_was_filled_up_loses_the_fillers_for_nothing() -> None:
    model = nets.build(ROWS, dead(17))
    result = onnxpfp.prune(model, keep_macs=0.99, round_to=7, compensate="none", **OPTIONS)
    assert (result.report.fillers, [group.kept for group in result.report.groups]) == (1, [14])
    assert result.report.drift is not None
    assert (result.report.drift.relative_error or 0.0) < 1e-6


def test_with_steps_of_one_everything_goes() -> None:
    report = onnxpfp.prune(dead_rows(), keep_macs=0.99, round_to=1, compensate="none", **OPTIONS).report
    assert (report.fillers, [group.kept for group in report.groups]) == (0, [12])
    assert sum(len(removal.channels) for removal in report.removed) == 4
