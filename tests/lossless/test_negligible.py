"""Channels go that their consumers cannot tell from their biases, and no others."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from finding import filters, find

MAPS = "g (float[N,2,6,6] x) => (float[N,{}] y) {{ a = Conv(x, w1, b1) r = Relu(a) {} }}"
Weights = dict[str, Any]
DECAYED = 1e-30


def decayed(size: float = DECAYED, bias: float = DECAYED) -> Weights:
    """Six filters of 3 x 3, of which two have decayed to this size."""
    w1, b1 = filters(6, 2, 3, 3)
    w1[[1, 4]] *= size
    b1[[1, 4]] = bias
    return {"w1": w1, "b1": b1}


NORM = {"s": (3,), "t": (3,), "m": (3,), "v": np.array([0.3, 1.0, 2.0])}
TELLING: dict[str, tuple[str, Weights]] = {
    "Conv": (MAPS.format("3,4,4", "y = Conv <pads = [1,1,1,1]> (r, w2, b2)"), {"w2": (3, 6, 3, 3), "b2": (3,)}),
    "norm": (
        MAPS.format("3,4,4", "c = Conv <pads = [1,1,1,1]> (r, w2) y = BatchNormalization(c, s, t, m, v)"),
        {"w2": (3, 6, 3, 3), **NORM},
    ),
    "ConvTranspose": (
        MAPS.format("3,9,9", "y = ConvTranspose <strides = [2,2]> (r, w2, b2)"),
        {"w2": (6, 3, 3, 3), "b2": (3,)},
    ),
    "Flatten": (MAPS.format("3", "f = Flatten(r) y = Gemm <alpha = 2.0> (f, w2, b2)"), {"w2": (96, 3), "b2": (3,)}),
    "MatMul": (
        MAPS.format("3", "f = GlobalAveragePool(r) g = Flatten(f) z = MatMul(g, w2) y = Add(z, b2)"),
        {"w2": (6, 3), "b2": (3,)},
    ),
    "two consumers": (
        MAPS.format("3,2,2", "c = Conv(r, w2, b2) t = LeakyRelu(a) d = Conv(t, w3, b2) y = Add(c, d)"),
        {"w2": (3, 6, 3, 3), "w3": (3, 6, 3, 3), "b2": (3,)},
    ),
    "groups": (
        MAPS.format("4,4,4", "y = Conv <group = 2, pads = [1,1,1,1]> (r, w2, b2)"),
        {"w2": (4, 3, 3, 3), "b2": (4,)},
    ),
}


@pytest.mark.parametrize("trusted", [True, False], ids=["data", "weights"])
@pytest.mark.parametrize("case", TELLING)
def test_a_decayed_filter_goes_and_no_bit_of_the_output_moves(case: str, trusted: bool) -> None:
    text, others = TELLING[case]
    found = find(nets.build(text, {**decayed(), **others}), trusted=trusted)
    # In a grouped convolution the same places of both groups are one channel.
    assert found.kinds == {"w1 negligible": (1,) if case == "groups" else (1, 4)}
    assert found.error == 0
    assert not found.lossless.merges
    assert not found.lossless.shifts
    assert {one.source for one in found.lossless.removed} == {"data" if trusted else "weights"}


PLAIN, ADDED = "y = Conv <pads = [1,1,1,1]> (r, w2)", "y = Conv <pads = [1,1,1,1]> (r, w2, b2)"
LEFT: dict[str, tuple[str, Weights]] = {
    "no bias": (MAPS.format("3,4,4", PLAIN), {"w2": (3, 6, 3, 3)}),
    "a bias that is zero": (MAPS.format("3,4,4", ADDED), {"w2": (3, 6, 3, 3), "b2": np.array([0.1, 0.0, 0.1])}),
    "a bias as small": (MAPS.format("3,4,4", ADDED), {"w2": (3, 6, 3, 3), "b2": np.array([0.1, 1e-30, 0.1])}),
    "lifted before": (
        MAPS.format("3,4,4", f"q = Mul(r, c) {ADDED.replace('(r', '(q')}"),
        {"w2": (3, 6, 3, 3), "b2": (3,), "c": np.full((), 1e30)},
    ),
    "lifted by the weights": (MAPS.format("3,4,4", ADDED), {"w2": nets.noise(3, 6, 3, 3) * 1e30, "b2": (3,)}),
    "an output": (MAPS.format("6,4,4", "y = Mul(r, c)"), {"c": np.full((), 1e30)}),
}


@pytest.mark.parametrize("trusted", [True, False], ids=["data", "weights"])
@pytest.mark.parametrize("case", LEFT)
def test_a_decayed_filter_stays_where_something_can_tell(case: str, trusted: bool) -> None:
    text, others = LEFT[case]
    found = find(nets.build(text, {**decayed(), **others}), trusted=trusted)
    assert not any("negligible" in kind for kind in found.kinds)


@pytest.mark.parametrize("trusted", [True, False], ids=["data", "weights"])
def test_a_decayed_filter_goes_in_spite_of_a_large_bias_of_its_own_only_as_a_constant(trusted: bool) -> None:
    text, others = TELLING["Flatten"]
    found = find(nets.build(text, {**decayed(bias=0.5), **others}), trusted=trusted)
    assert found.kinds == ({"w1 constant": (1, 4)} if trusted else {})
    assert found.error < 2e-6


def test_without_data_unbounded_channels_stay() -> None:
    """A product of two activations has no bound by the weights."""
    text = MAPS.format("3,4,4", "q = Mul(r, r) y = Conv <pads = [1,1,1,1]> (q, w2, b2)")
    model = nets.build(text, {**decayed(1e-15, 1e-15), "w2": (3, 6, 3, 3), "b2": (3,)})
    assert find(model).kinds == {"w1 negligible": (1, 4)}
    assert find(model, trusted=False).kinds == {}


@pytest.mark.parametrize(("size", "goes"), [(1e-10, False), (1e-16, False), (1e-25, True)])
def test_the_criterion_leaves_room_for_larger_inputs(size: float, goes: bool) -> None:
    text, others = TELLING["Conv"]
    found = find(nets.build(text, {**decayed(size, size), **others, "b2": np.full(3, 0.5)}))
    assert bool(found.kinds) == goes


@pytest.mark.parametrize(("bias", "goes"), [(50.0, True), (1e-3, False)])
def test_half_precision(bias: float, goes: bool) -> None:
    text, others = TELLING["Conv"]
    weights = decayed(0.0, 6e-8)
    weights["w1"][1, 0, 0, 0] = weights["w1"][4, 1, 2, 2] = 1e-7
    others = {**others, "b2": np.full(3, bias)}
    found = find(nets.build(text.replace("float[", "float16["), {**weights, **others}, dtype=np.float16))
    assert found.kinds == ({"w1 negligible": (1, 4)} if goes else {})
    assert found.error <= 2.0**-10
