"""Groups that are one thing in the original and another, or nothing, once some of it went."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp.report.page import Table

TAIL = "u = MatMul(t, w5) v = Relu(u) y = MatMul(v, w6)"
SIZES: dict[str, Any] = {"w5": (7, 6), "w6": (6, 3)}


def equal(axis: int, *shape: int) -> nets.Array:
    """Weights that bring forth seven times the same channel."""
    return np.repeat(nets.noise(*shape), 7, axis)


def dense(middle: str, weights: dict[str, Any], inputs: str = "float[N,6] x") -> ModelProto:
    return nets.build(f"g ({inputs}) => (float[N,3] y) {{ {middle} {TAIL} }}", SIZES | weights)


def maps(middle: str, weights: dict[str, Any], inputs: str = "float[N,3,6,6] x") -> ModelProto:
    tail = "u = Conv(t, w5) v = Relu(u) y = Conv(v, w6)"
    sizes = {"w5": (6, 7, 1, 1), "w6": (3, 6, 1, 1)}
    return nets.build(f"g ({inputs}) => (float[N,3,A,B] y) {{ {middle} {tail} }}", sizes | weights)


HEAD = "a = MatMul(x, w1) r = Relu(a)"
REDUCED = {"w1": (6, 8), "w4": equal(1, 8, 1)}
PICKED: dict[str, Any] = {"w4": equal(1, 6, 1)}
# Where seven equal channels become one, what had one channel from the start is joined with it, and that has to stay.
VANISHING: dict[str, ModelProto] = {
    "maximum": dense(
        f"{HEAD} m = ReduceMax<axes=[1],keepdims=1>(r) c = MatMul(r, w4) e = Add(c, m) t = Relu(e)", REDUCED
    ),
    "mean": dense(
        f"{HEAD} m = ReduceMean<axes=[1],keepdims=1>(r) c = MatMul(r, w4) e = Sub(c, m) t = Relu(e)", REDUCED
    ),
    "norm": dense(f"{HEAD} m = ReduceL2<axes=[1],keepdims=1>(r) c = MatMul(r, w4) e = Max(c, m) t = Relu(e)", REDUCED),
    "second input": dense("c = MatMul(x, w4) e = Add(c, z) t = Relu(e)", PICKED, "float[N,6] x, float[N,1] z"),
    "gate": dense("c = MatMul(x, w4) g = Sigmoid(z) e = Mul(c, g) t = Relu(e)", PICKED, "float[N,6] x, float[N,1] z"),
    "choice": dense("c = MatMul(x, w4) t = Where(z, c, c)", PICKED, "float[N,6] x, bool[N,1] z"),
    "maps": maps(
        "c = Conv(x, w4) e = Mul(c, z) t = Relu(e)", {"w4": equal(0, 1, 3, 3, 3)}, "float[N,3,6,6] x, float[N,1,4,4] z"
    ),
    "maximum of maps": maps(
        "a = Conv(x, w1) m = ReduceMax<axes=[1],keepdims=1>(a) r = Relu(a) c = Conv(r, w4) e = Sub(c, m) t = Relu(e)",
        {"w1": (5, 3, 3, 3), "w4": equal(0, 1, 5, 1, 1)},
    ),
}


def replayed(model: ModelProto, first: onnxpfp.Result) -> onnxpfp.Result:
    """The plan of a result leads to the same widths."""
    again = onnxpfp.prune(model, from_plan=first.plan)
    shapes = [{t.name: tuple(t.dims) for t in result.model.graph.initializer} for result in (first, again)]
    assert shapes[0] == shapes[1]
    assert first.report.after.macs == again.report.after.macs
    return again


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("case", VANISHING)
def test_a_group_that_vanishes_keeps_what_is_left(case: str, steps: int) -> None:
    model = VANISHING[case]
    result = onnxpfp.prune(model, calibration="random", keep_macs=0.8, steps=steps, round_to=1, compensate="none")
    groups = {group.name: group for group in result.report.groups}
    assert (groups["w4"].kept, groups["w4"].channels, groups["w4"].selection) == (1, 7, "lossless")
    assert groups["w5"].selection != "lossless"
    assert sum(len(one.channels) for one in result.report.removed) == 6
    again = replayed(model, result)
    assert [g.kept for g in again.report.groups] == [g.kept for g in result.report.groups]


def test_without_any_group_that_is_left() -> None:
    text = "g (float[N,6] x, float[N,1] z) => (float[N,3] y) { c = MatMul(x, w4) t = Add(c, z) y = MatMul(t, w6) }"
    model = nets.build(text, {"w4": equal(1, 6, 1), "w6": (7, 3)})
    result = onnxpfp.prune(model, keep_macs=0.5)
    assert [(g.kept, g.selection) for g in result.report.groups] == [(1, "lossless")]
    replayed(model, result)


@pytest.mark.parametrize(("steps", "share"), [(2, 0.12), (3, 0.13)])
def test_a_group_that_vanishes_by_its_own_width(steps: int, share: float) -> None:
    """A step leaves one channel of a group, which then is tied to what must stay; the next ones prune the other."""
    weak = nets.noise(6, 7) * np.array([1, *[1e-3] * 6])
    model = dense("c = MatMul(x, w4) e = Add(c, z) t = Relu(e)", {"w4": weak}, "float[N,6] x, float[N,1] z")
    data = {"x": nets.noise(64, 6), "z": nets.noise(64, 1)}
    options: Any = {"round_to": 1, "compensate": "none", "score": "l1", "allocate": "bound"}
    result = onnxpfp.prune(model, calibration=data, keep_macs=share, steps=steps, **options)
    assert [(group.name, group.kept) for group in result.report.groups] == [("w4", 1), ("w5", 1)]
    replayed(model, result)


def test_the_report_shows_no_bounds_of_what_was_not_selected() -> None:
    result = onnxpfp.prune(VANISHING["gate"], calibration="random", keep_macs=0.2, round_to=1, compensate="none")
    tables = [element for element in result.report.page(full=True, wide=True) if isinstance(element, Table)]
    rows = {row[0]: row for table in tables for row in table.rows}
    assert rows["w4"] == ("w4", "1/7", "-", "-", "-", "lossless", "-")
    assert "-" not in rows["w5"][2:4]
