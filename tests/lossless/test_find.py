"""Whatever goes for free leaves the outputs as they were, on other data and at borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import pytest
from finding import bare, constant, filters, find, multiple, samples_of
from onnx import TensorProto

from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.lossless import find as find_module
from onnxpfp.lossless.find import FIRST_SAMPLES

EXACT = 2e-6
MAPS = "g (float[N,2,6,6] x) => (float[N,{}] y) {{ a = Conv(x, w1, b1) r = Relu(a) {} }}"
ROWS = "g (float[N,4] x) => (float[N,3] y) {{ a = Gemm(x, w1, b1) r = Relu(a) {} }}"
Weights = dict[str, Any]


def maps(change: Callable[[Any, Any], None], **others: Any) -> Weights:
    """Six filters of 3 x 3, changed, and the other weights."""
    w1, b1 = filters(6, 2, 3, 3)
    change(w1, b1)
    return {"w1": w1, "b1": b1, **others}


def dead(w1: Any, b1: Any) -> None:
    """Channel 1 is always off because of its filter, channel 4 for any data that come."""
    constant(w1, b1, {1: -0.5})
    b1[4] = -100


def constants(w1: Any, b1: Any) -> None:
    constant(w1, b1, {1: 0.7, 4: 1.9})


def one_constant(w1: Any, b1: Any) -> None:
    constant(w1, b1, {1: 0.7})


def multiples(w1: Any, b1: Any) -> None:
    multiple((w1, b1), 4, 1, 2.7)
    multiple((w1, b1), 5, 0, 1.0)


def nothing(w1: Any, b1: Any) -> None:
    """Leave the filters as they are."""


NORM = {"s": (3,), "t": (3,), "m": (3,), "v": np.array([0.3, 1.0, 2.0])}
FOLDED: dict[str, tuple[str, Weights]] = {
    "bias": (MAPS.format("3,2,2", "y = Conv(r, w2, b2)"), {"w2": (3, 6, 3, 3), "b2": (3,)}),
    "new bias": (MAPS.format("3,2,2", "y = Conv(r, w2)"), {"w2": (3, 6, 3, 3)}),
    "auto_pad": (MAPS.format("3,2,2", 'y = Conv <auto_pad = "VALID"> (r, w2)'), {"w2": (3, 6, 3, 3)}),
    "one tap": (
        MAPS.format("3,2,2", 'y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (r, w2)'),
        {"w2": (3, 6, 1, 1)},
    ),
    "norm": (
        MAPS.format("3,2,2", "c = Conv(r, w2) y = BatchNormalization(c, s, t, m, v)"),
        {"w2": (3, 6, 3, 3), **NORM},
    ),
    "grouped": (MAPS.format("4,2,2", "y = Conv <group = 2> (q, w2)").replace("r =", "q ="), {"w2": (4, 3, 3, 3)}),
    "ConvTranspose": (MAPS.format("3,4,4", "y = ConvTranspose(r, w2)"), {"w2": (6, 3, 1, 1)}),
    "Flatten": (MAPS.format("3", "f = Flatten(r) y = Gemm <alpha = 2.0> (f, w2)"), {"w2": (96, 3)}),
    "MatMul": (
        MAPS.format("3", "f = GlobalAveragePool(r) g = Flatten(f) z = MatMul(g, w2) y = Add(z, b2)"),
        {"w2": (6, 3), "b2": (3,)},
    ),
    "two consumers": (
        MAPS.format("3,2,2", "c = Conv(r, w2) t = Tanh(r) d = Conv(t, w3) y = Add(c, d)"),
        {"w2": (3, 6, 3, 3), "w3": (3, 6, 3, 3)},
    ),
    "one weight twice": (
        MAPS.format("3,2,2", "c = Conv(r, w2) t = Tanh(r) d = Conv(t, w2) y = Sub(c, d)"),
        {"w2": (3, 6, 3, 3)},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_constants_go_into_biases(case: str) -> None:
    text, others = FOLDED[case]
    grouped = case == "grouped"
    change = (lambda w, b: constant(w, b, {1: 0.7, 4: 1.9})) if not grouped else constants
    model = nets.build(text, maps(change, **others))
    found = find(model)
    # In a grouped convolution the same places of all groups are one channel.
    assert found.kinds == {"w1 constant": (1,) if grouped else (1, 4)}
    assert found.error < EXACT
    assert bare(model, found) > 0.01
    assert not found.lossless.merges
    assert len(found.lossless.shifts) == len(found.graph.consumers)
    assert [(one.source, one.samples) for one in found.lossless.removed] == [("data", 40)]


MERGED: dict[str, tuple[str, Weights]] = {
    "padded": (MAPS.format("3,4,4", "y = Conv <pads = [1,1,1,1]> (r, w2, b2)"), {"w2": (3, 6, 3, 3), "b2": (3,)}),
    "one side": (MAPS.format("3,3,2", "y = Conv <pads = [0,0,1,0]> (r, w2)"), {"w2": (3, 6, 3, 3)}),
    "auto_pad": (MAPS.format("3,4,4", 'y = Conv <auto_pad = "SAME_LOWER"> (r, w2)'), {"w2": (3, 6, 3, 3)}),
    "one tap": (MAPS.format("3,6,6", "y = Conv <pads = [1,1,1,1]> (r, w2)"), {"w2": (3, 6, 1, 1)}),
    "ConvTranspose": (
        MAPS.format("3,9,9", "y = ConvTranspose <strides = [2,2]> (r, w2, b2)"),
        {"w2": (6, 3, 3, 3), "b2": (3,)},
    ),
    "MatMul alone": (
        MAPS.format("3", "f = GlobalAveragePool(r) g = Flatten(f) y = MatMul(g, w2)"),
        {"w2": (6, 3)},
    ),
    "Transpose": (
        MAPS.format("3", "f = GlobalAveragePool(r) g = Flatten(f) t = Transpose(w2) y = MatMul(g, t)"),
        {"w2": (3, 6)},
    ),
    "depthwise": (
        MAPS.format("3,4,4", "d = Conv <pads = [1,1,1,1], group = 6> (r, wd) y = Conv(d, w2)"),
        {"wd": np.repeat(nets.noise(1, 1, 3, 3), 6, 0), "w2": (3, 6, 1, 1)},
    ),
    "padded and not": (
        MAPS.format("3,2,2", "c = Conv(r, w2) p = Conv <pads = [1,1,1,1], strides = [2,2]> (r, w3) y = Add(c, p)"),
        {"w2": (3, 6, 3, 3), "w3": (3, 6, 3, 3)},
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_of_constants_one_stays_where_no_bias_takes_them(case: str) -> None:
    text, others = MERGED[case]
    model = nets.build(text, maps(constants, **others))
    found = find(model)
    ((title, gone),) = found.kinds.items()
    assert title == ("w1 duplicate" if case == "depthwise" else "w1 constant")
    assert gone == (1,)
    assert found.error < EXACT
    assert bare(model, found) > 0.003
    assert found.lossless.merges
    assert bool(found.lossless.shifts) == (case == "padded and not")


@pytest.mark.parametrize("case", MERGED)
def test_the_only_constant_stays_there(case: str) -> None:
    text, others = MERGED[case]
    found = find(nets.build(text, maps(one_constant, **others)))
    assert found.kinds == {}
    assert found.lossless.keep.all()
    assert not found.edits


LAYERS = FOLDED | MERGED


@pytest.mark.parametrize("case", [name for name in LAYERS if name not in {"one weight twice", "two consumers"}])
def test_multiples_are_merged(case: str) -> None:
    text, others = LAYERS[case]
    if case == "grouped":
        # Channel i is filter i and filter i + 3; factors differ by group.
        w1, b1 = filters(6, 2, 3, 3)
        multiple((w1, b1), 1, 0, 3.0)
        multiple((w1, b1), 4, 3, 2.0)
        model, expected = nets.build(text, {"w1": w1, "b1": b1, **others}), (0,)
    else:
        model, expected = nets.build(text, maps(multiples, **others)), (1, 5)
    found = find(model)
    assert found.kinds == {"w1 duplicate": expected}
    assert found.error < EXACT
    assert bare(model, found) > 0.003
    assert not found.lossless.shifts


@pytest.mark.parametrize("case", LAYERS)
def test_dead_channels_only_go(case: str) -> None:
    text, others = LAYERS[case]
    model = nets.build(text, maps(dead, **others))
    found = find(model)
    assert found.kinds == {"w1 dead": (1,) if case == "grouped" else (1, 4)}
    assert found.error < EXACT
    assert not found.edits


@pytest.mark.parametrize("case", LAYERS)
def test_nothing_goes_from_a_network_without_such_channels(case: str) -> None:
    text, others = LAYERS[case]
    found = find(nets.build(text, maps(nothing, **others)))
    assert found.lossless.keep.all()
    assert not found.lossless.removed
    assert not found.edits


def test_multiples_across_the_groups_of_a_convolution_stay() -> None:
    text, others = FOLDED["grouped"]
    w1, b1 = filters(6, 2, 3, 3)
    # Place 1 of the first group is place 0 of the second one, and the other way round.
    multiple((w1, b1), 1, 3, 2.0)
    multiple((w1, b1), 4, 0, 2.0)
    assert find(nets.build(text, {"w1": w1, "b1": b1, **others})).lossless.keep.all()


def test_a_residual_stream() -> None:
    text = MAPS.format(
        "3,4,4",
        "c = Conv <pads = [1,1,1,1]> (r, w2, b2) s = Relu(c) e = Conv <pads = [1,1,1,1]> (s, w3, b3) z = Add(r, e) "
        "q = Relu(z) y = Conv <pads = [1,1,1,1]> (q, w4)",
    )
    w1, b1 = filters(6, 2, 3, 3)
    w3, b3 = filters(6, 5, 3, 3, seed=5)
    others: Weights = {"w2": (5, 6, 3, 3), "b2": (5,), "w4": (3, 6, 3, 3)}
    for weight, bias in ((w1, b1), (w3, b3)):
        multiple((weight, bias), 2, 3, 0.5)
        constant(weight, bias, {0: 0.3, 5: 0.2, 4: -0.4})
    model = nets.build(text, {"w1": w1, "b1": b1, "w3": w3, "b3": b3, **others})
    found = find(model)
    assert found.kinds == {"w1 dead": (4,), "w1 constant": (5,), "w1 duplicate": (2,)}
    assert found.error < EXACT
    # Where one branch disagrees nothing goes.
    w3[2], w3[5], w3[4] = nets.noise(3, 5, 3, 3, seed=9)
    assert find(nets.build(text, {"w1": w1, "b1": b1, "w3": w3, "b3": b3, **others})).kinds == {}


def test_every_consumer_has_a_factor_of_its_own() -> None:
    text = MAPS.format(
        "3,4,4",
        "c = Conv <pads = [1,1,1,1]> (r, w2) n = BatchNormalization(r, s, z, z, v) "
        "d = Conv <pads = [1,1,1,1]> (n, w3) y = Add(c, d)",
    )
    others: Weights = {"w2": (3, 6, 3, 3), "w3": (3, 6, 3, 3), "z": np.zeros(6), "v": np.ones(6)}
    model = nets.build(text, maps(multiples, **others, s=np.array([1.0, 2, 3, 4, 5, 6])))
    found = find(model)
    assert found.kinds == {"w1 duplicate": (0, 1)}
    assert found.error < EXACT
    first, second = ({merge[0]: merge[2] for merge in found.lossless.merges[position]} for position in (0, 1))
    np.testing.assert_allclose([first[1], second[1]], [1 / 2.7, 2 / 5 / 2.7], rtol=1e-6)


def test_a_shared_weight_is_changed_once_and_only_if_its_readers_agree() -> None:
    w1, b1 = filters(6, 2, 3, 3)
    multiple((w1, b1), 4, 1, 2.0)
    multiple((w1, b1), 5, 0, 1.0)
    text = MAPS.format(
        "3,4,4", "c = Conv <pads = [1,1,1,1]> (r, w2) t = {}(r) d = Conv <pads = [1,1,1,1]> (t, w2) y = Sub(c, d)"
    )
    weights = {"w1": w1, "b1": b1, "w2": (3, 6, 3, 3)}
    other = find(nets.build(text.replace("{}", "Tanh"), weights))
    assert other.kinds == {"w1 duplicate": (5,)}
    assert other.error < EXACT
    same = find(nets.build(text.replace("t = {}(r)", "h = Neg(r) t = Exp(h)"), weights))
    assert same.kinds == {"w1 duplicate": (5,)}
    homogeneous = find(nets.build(text.replace("{}", "Neg"), weights))
    assert homogeneous.kinds == {"w1 duplicate": (1, 5)}
    assert homogeneous.error < EXACT


def test_what_saturates_is_constant_and_what_does_not_is_not() -> None:
    text = MAPS.format("3,2,2", "k = Clip(r, low, high) y = Conv(k, w2)")
    w1, b1 = filters(6, 2, 3, 3)
    b1[2], b1[3] = 1000, 10
    model = nets.build(text, {"w1": w1, "b1": b1, "w2": (3, 6, 3, 3), "low": np.array(0.0), "high": np.array(12.0)})
    found = find(model)
    assert found.kinds == {"w1 constant": (2,)}
    assert found.error < EXACT


def test_rows() -> None:
    w1, b1 = (array.T.copy() for array in filters(6, 4))
    w1[:, 1], b1[1] = 0, 2
    w1[:, 2], b1[2] = w1[:, 3] * 3, b1[3] * 3
    model = nets.build(ROWS.format("y = Gemm(r, w2, b2)"), {"w1": w1, "b1": b1, "w2": (6, 3), "b2": (3,)})
    found = find(model)
    assert found.kinds == {"w1 constant": (1,), "w1 duplicate": (3,)}
    assert found.error < EXACT


def test_products_of_activations_lose_dead_channels_only() -> None:
    text = """g (float[N,4,5] x) => (float[N,4,4] y) {
        q = MatMul(x, w1) k = MatMul(x, w2) t = Transpose <perm = [0,2,1]> (k) y = MatMul(q, t)
    }"""
    w1 = nets.noise(5, 6)
    w1[:, 2], w1[:, 3] = 0, w1[:, 4]
    w2 = nets.noise(5, 6, seed=4)
    w2[:, 3] = w2[:, 4]
    found = find(nets.build(text, {"w1": w1, "w2": w2}))
    assert [(one.kind, len(one.channels)) for one in found.lossless.removed] == [("dead", 1)]
    assert found.error < EXACT


def test_quantized_weights_lose_dead_channels_only() -> None:
    text = MAPS.format("3,2,2", "k = DequantizeLinear(i, s) y = Conv(r, k)")
    w1, b1 = filters(6, 2, 3, 3)
    constant(w1, b1, {0: 0.5, 1: -0.5})
    multiple((w1, b1), 3, 2, 1.0)
    model = nets.build(text, {"w1": w1, "b1": b1, "s": np.array(0.1)})
    weight = np.random.default_rng(0).integers(-9, 9, (3, 6, 3, 3)).astype(np.int8)
    model.graph.initializer.append(nets.numpy_helper.from_array(weight, "i"))
    found = find(model)
    assert found.kinds == {"w1 dead": (1,)}
    assert found.error < EXACT


def test_integers_are_dead_at_their_zero_point() -> None:
    text = MAPS.format(
        "3,2,2",
        "q = QuantizeLinear(r, sx, zx) z = QLinearConv(q, sx, zx, i, sw, zw, sy, zy) y = DequantizeLinear(z, sy, zy)",
    )
    w1, b1 = filters(6, 2, 3, 3)
    constant(w1, b1, {0: 0.5, 1: -0.5})
    model = nets.build(text, {"w1": w1, "b1": b1, "sx": np.array(0.1), "sw": np.array(0.1), "sy": np.array(0.1)})
    weight = np.random.default_rng(0).integers(-9, 9, (3, 6, 3, 3)).astype(np.int8)
    for name, array in {"i": weight, "zx": np.uint8(7), "zw": np.int8(0), "zy": np.uint8(128)}.items():
        model.graph.initializer.append(nets.numpy_helper.from_array(np.asarray(array), name))
    found = find(model)
    assert found.kinds == {"w1 dead": (1,)}
    assert found.error == 0


def test_states_of_a_recurrence_stay() -> None:
    text = """g (float[8,2,4] x) => (float[8,2,3] y) {
        h = MatMul(x, w0) q, last = RNN <hidden_size = 5> (h, w, r) p = Squeeze(q, one) y = MatMul(p, w2)
    }"""
    w0, w, r = nets.noise(4, 6), nets.noise(1, 5, 6, seed=2), nets.noise(1, 5, 5, seed=3)
    w0[:, 3] = w0[:, 1] * 2
    w[:, 4], r[:, 4] = 0, 0
    model = nets.build(text, {"w0": w0, "w": w, "r": r, "w2": (5, 3)})
    model.graph.initializer.append(nets.numpy_helper.from_array(np.array([1]), "one"))
    # Unit 4 is always 0; what it starts from is not seen, so it stays. The inputs of W are merged.
    found = find(model)
    assert found.kinds == {"w0 duplicate": (1,)}
    assert found.error < EXACT


@pytest.mark.parametrize("change", [constants, multiples, dead], ids=lambda change: change.__name__)
@pytest.mark.parametrize("case", ["new bias", "padded", "Flatten", "norm"])
def test_half_precision(case: str, change: Callable[[Any, Any], None]) -> None:
    text, others = LAYERS[case]
    model = nets.build(text.replace("float[", "float16["), maps(change, **others), dtype=np.float16)
    found = find(model)
    assert len(found.lossless.removed) == 1
    assert found.error < 4e-3
    assert {tensor.data_type for tensor in found.pruned.graph.initializer} == {TensorProto.FLOAT16}


def test_batches_of_one_see_the_same() -> None:
    text, others = MERGED["padded"]
    model = nets.build(text.replace("float[N,", "float[1,"), maps(multiples, **others))
    found = find(model)
    assert found.kinds == {"w1 duplicate": (1, 5)}
    assert found.error < EXACT


# Without data.


@pytest.mark.parametrize("few", [True, False], ids=["few samples", "no data"])
def test_without_data_weights_have_to_show_it(few: bool) -> None:
    text, others = MERGED["padded"]
    w1, b1 = filters(8, 2, 3, 3)
    constant(w1, b1, {0: -1.0, 1: 0.5, 2: 0.8})
    multiple((w1, b1), 4, 3, 1.0)
    # These need data: a channel that is off, and a multiple.
    b1[5] = -1000
    multiple((w1, b1), 7, 6, 2.0)
    model = nets.build(text, {"w1": w1, "b1": b1, **others, "w2": (3, 8, 3, 3)})
    found = find(model, trusted=few, samples=samples_of(model, 20 if few else 40))
    assert found.kinds == {"w1 dead": (0,), "w1 constant": (1,), "w1 duplicate": (4,)}
    assert {(one.source, one.samples) for one in found.lossless.removed} == {("weights", 0)}
    assert found.error < EXACT
    seen = find(model)
    assert seen.kinds == {"w1 dead": (0, 5), "w1 constant": (1,), "w1 duplicate": (4, 6)}


def test_equal_filters_with_unequal_norms_are_no_duplicates() -> None:
    text = MAPS.format("3,4,4", "n = BatchNormalization(r, s, t, m, v) y = Conv <pads = [1,1,1,1]> (n, w2)")
    w1, b1 = filters(6, 2, 3, 3)
    multiple((w1, b1), 4, 3, 1.0)
    multiple((w1, b1), 2, 1, 1.0)
    norm = {name: nets.noise(6, seed=seed) ** 2 + 0.1 for seed, name in enumerate("stmv")}
    for array in norm.values():
        array[2] = array[1]
    found = find(nets.build(text, {"w1": w1, "b1": b1, "w2": (3, 6, 3, 3), **norm}), trusted=False)
    assert found.kinds == {"w1 duplicate": (2,)}
    assert found.error < EXACT


def test_equal_channels_that_noise_leaves_off_stay() -> None:
    text, others = MERGED["padded"]
    w1, b1 = filters(6, 2, 3, 3)
    b1[3] = -1000
    multiple((w1, b1), 4, 3, 1.0)
    assert find(nets.build(text, {"w1": w1, "b1": b1, **others}), trusted=False).lossless.keep.all()


def test_a_norm_of_scale_zero_settles_its_channel() -> None:
    text = (
        "g (float[N,2,6,6] x) => (float[N,3,2,2] y) { a = Conv(x, w1) n = BatchNormalization(a, s, t, m, v) "
        "r = Relu(n) y = Conv(r, w2) }"
    )
    norm = {name: nets.noise(6, seed=seed) ** 2 + 0.1 for seed, name in enumerate("stmv")}
    norm["s"][[1, 2]], norm["t"][1] = 0, -1
    found = find(nets.build(text, {"w1": (6, 2, 3, 3), "w2": (3, 6, 3, 3), **norm}), trusted=False)
    assert found.kinds == {"w1 dead": (1,), "w1 constant": (2,)}
    assert found.error < EXACT


def test_a_gate_that_noise_leaves_shut_settles_nothing() -> None:
    text = MAPS.format("3,2,2", "h = Conv(x, wg, bg) s = Relu(h) z = Mul(r, s) y = Conv(z, w2)")
    w1, b1 = filters(6, 2, 3, 3)
    constant(w1, b1, {1: 0.5, 2: -0.5})
    gate = {"wg": (1, 2, 3, 3), "bg": np.array([-1000.0])}
    model = nets.build(text, {"w1": w1, "b1": b1, "w2": (3, 6, 3, 3), **gate})
    assert find(model, trusted=False).lossless.keep.all()
    # Data say that nothing passes it, and one channel stays all the same.
    assert find(model).kinds == {"w1 dead": (1, 2, 3, 4, 5)}


def test_noise_that_a_network_does_not_bear_shows_nothing() -> None:
    text = ROWS.format("o = Add(a, c) l = Sqrt(o) y = Gemm(l, w2)")
    w1, b1 = (array.T.copy() for array in filters(6, 4))
    w1[:, 1], b1[1] = 0, 2
    weights = {"w1": w1, "b1": b1, "w2": (6, 3), "c": np.array(15.0)}
    model = nets.build(text, weights)
    assert find(model, trusted=False).lossless.keep.all()
    assert find(model).kinds == {"w1 constant": (1,)}


def test_what_only_the_last_sample_wakes_stays() -> None:
    """The first ones show channel 1 dead and channel 4 equal to channel 0, the last one neither."""
    text, weights = ROWS.format("y = Gemm(r, w2, b2)"), {"w1": (4, 6), "b1": np.zeros(6), "w2": (6, 3), "b2": (3,)}
    w1 = np.abs(nets.noise(4, 6))
    w1[:, 1] = [-100, -100, -100, 1]
    w1[:3, 4], w1[3, 4] = w1[:3, 0], w1[3, 0] + 1
    data = np.abs(nets.noise(70, 4, seed=4)) + 0.1
    data[:, 3] = 0
    awake = data.copy()
    awake[-1] = [0, 0, 0, 1]
    model = nets.build(text, {**weights, "w1": w1})
    asleep, woken = (find(model, samples=load_samples(each, input_specs(model))) for each in (data, awake))
    assert asleep.kinds == {"w1 dead": (1,), "w1 duplicate": (4,)}
    assert woken.kinds == {}


def test_all_samples_run_only_for_groups_of_which_something_would_go(monkeypatch) -> None:
    seen: list[tuple[int, list[str]]] = []
    traced = find_module.traces_of

    def watched(watch: Any, sites: Any, shapes: Any) -> Any:
        seen.append((len(watch.keywords["samples"]), [name for name, _ in sites]))
        return traced(watch, sites, shapes)

    monkeypatch.setattr(find_module, "traces_of", watched)
    text = MAPS.format("3,2,2", "c = Conv(r, w2) t = Relu(c) y = Conv(t, w3)")
    weights = {"w2": (5, 6, 3, 3), "w3": (3, 5, 1, 1)}
    for change, again in ((dead, ["r"]), (nothing, [])):
        seen.clear()
        model = nets.build(text, maps(change, **weights))
        find(model, samples=samples_of(model, 64))
        assert seen[0] == (FIRST_SAMPLES, ["r", "t"])
        assert seen[1:] == ([(64, again)] if again else [])
