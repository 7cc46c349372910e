"""What a near tie decides is no fault of the pruned model, and nothing else is excused by it.

The models have exact ties: columns of a weight that are equal, and numbers that lie on a threshold. The nudged copy has
every weight off by about a millionth, which is rounding; so every tie falls anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp
from onnxpfp.channels.ops import FACTS
from onnxpfp.comparison.decisions import Decisions, decision_of
from onnxpfp.comparison.equivalence import FLOAT32, Equivalence, check_equivalence
from onnxpfp.errors import VerificationError
from onnxpfp.runtime.providers import resolve_providers

X = nets.noise(24, 6)
HEAD = "h = MatMul(x, w1) r = Relu(h) m = MatMul(r, w2) s = Add(m, edge) b = MatMul(r, w3)"
"""s: 16 scores in equal pairs, the last two of them exactly 1; b: what is picked by them."""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.standard_normal((12, 8)), 2, axis=1) / 3
    pairs[:, 14:] = 0
    edge = np.zeros(16)
    edge[14:] = 1
    return {
        "w1": rng.standard_normal((6, 12)),
        "w2": pairs,
        "edge": edge,
        "w3": rng.standard_normal((12, 16)),
        "c": np.linspace(1, 2, 16),
    }


@dataclass(frozen=True)
class Kind:
    """A deciding op behind the scores.

    Attributes:
        tail: What comes behind `s` and `b`.
        outputs: The outputs.
        spoil: Attribute or op type of the deciding node (the first of the tail that has it) that makes it wrong.
        ints: Initializers of whole numbers.
    """

    tail: str
    outputs: str
    spoil: tuple[str, str, object]
    ints: dict[str, np.ndarray]


def kind(tail: str, outputs: str, spoil: tuple[str, str, object], **ints: object) -> Kind:
    return Kind(tail, outputs, spoil, {name: np.asarray(value, np.int64) for name, value in ints.items()})


FLAT = "float[N,16] y"
KINDS = {
    "TopK": kind(
        "v, i = TopK <axis = 1> (s, k) p = GatherElements <axis = 1> (e, i) y = Add(p, v)",
        "float[N,5] y, int64[N,5] i",
        ("TopK", "largest", 0),
        k=[5],
    ),
    "NonMaxSuppression": kind(
        """q = Reshape(s, four) o = Reshape(e, four) y = NonMaxSuppression <center_point_box = 1> (o, q, k)
        t = Gather <axis = 1> (y, ends) z = GatherND(o, t)""",
        "int64[M,3] y, float[M,4] z",
        ("NonMaxSuppression", "center_point_box", 0),
        four=[0, 4, 4],
        k=[3],
        ends=[0, 2],
    ),
    "ArgMax": kind(
        "a = ArgMax <axis = 1, keepdims = 1> (s) y = GatherElements <axis = 1> (e, a)",
        "float[N,1] y, int64[N,1] a",
        ("ArgMax", "select_last_index", 1),
    ),
    "ArgMin": kind(
        "a = ArgMin <axis = 1, keepdims = 1> (s) y = GatherElements <axis = 1> (e, a)",
        "float[N,1] y, int64[N,1] a",
        ("ArgMin", "op", "ArgMax"),
    ),
    "Hardmax": kind("a = Hardmax <axis = 1> (s) y = Mul(a, e)", FLAT, ("Hardmax", "axis", 0)),
    "Greater": kind("a = Greater(s, one) y = Where(a, e, s)", FLAT, ("Greater", "op", "Less")),
    "LessOrEqual": kind("a = LessOrEqual(s, one) y = Where(a, e, s)", FLAT, ("LessOrEqual", "op", "GreaterOrEqual")),
    "Equal": kind(
        """even = Gather <axis = 1> (s, evens) odd = Gather <axis = 1> (s, odds) a = Equal(even, odd)
        y = Cast <to = 7> (a)
        z = Mul(e, one)""",
        "int64[N,8] y, float[N,16] z",
        ("Equal", "op", "Greater"),
        evens=np.arange(0, 16, 2),
        odds=np.arange(1, 16, 2),
    ),
    "Sign": kind("d = Sub(s, one) a = Sign(d) y = Mul(a, e)", FLAT, ("Sign", "op", "Abs")),
    "Round": kind(
        "d = Mul(s, many) a = Round(d) f = Mod <fmod = 1> (a, two) y = Mul(f, e)", FLAT, ("Round", "op", "Ceil")
    ),
    "Floor": kind("a = Floor(s) y = Mul(a, e)", FLAT, ("Floor", "op", "Ceil")),
    "Ceil": kind("a = Ceil(s) y = Mul(a, e)", FLAT, ("Ceil", "op", "Floor")),
    "Cast": kind(
        "a = Cast <to = 7> (s) f = Cast <to = 1> (a) y = Mul(f, e)", f"{FLAT}, int64[N,16] a", ("Cast", "to", 9)
    ),
    "Mod": kind("a = Mod <fmod = 1> (s, one) y = Mul(a, e)", FLAT, ("Mod", "op", "Div")),
    "Shrink": kind("a = Shrink <lambd = 1.0> (s) y = Mul(a, e)", FLAT, ("Shrink", "lambd", 0.3)),
    "ThresholdedRelu": kind(
        "a = ThresholdedRelu <alpha = 1.0> (s) y = Mul(a, e)", FLAT, ("ThresholdedRelu", "alpha", 0.3)
    ),
    "Unique": kind(
        "y, i, j, n = Unique <sorted = 1> (s) f = Cast <to = 1> (n) z = ReduceSum(e, all)",
        "float[M] y, int64[P] j, float[M] f, float[1,1] z",
        ("Unique", "sorted", 0),
        all=[0, 1],
    ),
    "NonZero": kind(
        "a = Greater(s, one) i = NonZero(a) t = Transpose(i) y = GatherND(e, t)",
        "int64[2,M] i, float[M] y",
        ("Greater", "op", "Less"),
    ),
    "Compress": kind(
        "f = Reshape(s, flat) d = Reshape(e, flat) a = Greater(f, one) y = Compress <axis = 0> (d, a)",
        "float[M] y",
        ("Greater", "op", "GreaterOrEqual"),
        flat=[-1],
    ),
    "MaxPool": kind(
        "q = Unsqueeze(s, ax) p, i = MaxPool <kernel_shape = [2], strides = [2]> (q) y = Mul(e, one)",
        "float[N,16] y, float[N,1,8] p, int64[N,1,8] i",
        ("MaxPool", "strides", [1]),
        ax=[1],
    ),
    "If": kind(
        """d = Sub(s, one) a = ReduceMax <keepdims = 0> (d) t = Greater(a, big)
        y = If (t) <then_branch = yes () => (float[N,16] t1) { g1 = Floor(s) t1 = Mul(g1, e) },
                    else_branch = no () => (float[N,16] t2) { g2 = Ceil(s) t2 = Mul(g2, e) }>""",
        FLAT,
        ("If", "then_branch", "Ceil"),
    ),
    "Loop": kind(
        """g = Gather <axis = 1> (s, ends) z = ReduceMax <keepdims = 0> (g)
        last, y = Loop (turns, yes, z) <body = turn (int64 i, bool go, float v) => (bool more, float w, float out) {
            w = Add(v, quarter) more = LessOrEqual(v, limit) out = Mul(w, w) }> f = Mul(e, last)""",
        "float[T] y, float[N,16] f, float[N,16] s",
        ("Loop", "body", None),
        turns=9,
        ends=[14, 15],
    ),
}


def build(name: str) -> ModelProto:
    one = KINDS[name]
    text = f"g (float[N,6] x) => ({one.outputs}) {{ {HEAD} e = Mul(b, c) {one.tail} }}"
    floats = {"one": 1.0, "two": 2.0, "many": 1e4, "big": -1e3, "quarter": 0.25, "limit": 1.5, "off": [0.0, 1.0]}
    used = {key: np.asarray(value, np.float32) for key, value in floats.items() if key in one.tail}
    model = nets.build(text, {**weights(), **used})
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in one.ints.items())
    if "yes, z" in one.tail:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model


def edited(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.float32), name))
    return copy


def nudged(model: ModelProto, seed: int = 0) -> ModelProto:
    """Move every weight by about a millionth of it."""
    rng = np.random.default_rng(seed)
    for name in ("w1", "w2", "edge", "w3"):
        model = edited(model, name, lambda array: array * (1 + 1e-6 * rng.standard_normal(array.shape)))
    return model


def spoiled(model: ModelProto, name: str) -> ModelProto:
    """Let the deciding op decide otherwise."""
    op, what, value = KINDS[name].spoil
    copy = ModelProto()
    copy.CopyFrom(model)
    node = next(node for node in copy.graph.node if node.op_type == op)
    if what == "op":
        node.op_type = value
    elif op == "Loop":
        node.attribute[0].g.node[1].op_type = "Less"
    elif op == "If":
        next(attribute for attribute in node.attribute if attribute.name == what).g.node[0].op_type = value
    else:
        for attribute in [attribute for attribute in node.attribute if attribute.name == what]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(what, value))
    return copy


def hold(one: ModelProto, two: ModelProto) -> Equivalence:
    providers = resolve_providers("cpu")
    return check_equivalence(one, two, [{"x": X}], allowed=FLOAT32, providers=providers, threads=1)


@pytest.mark.parametrize("name", KINDS)
def test_ties_that_fall_the_other_way_are_no_fault(name: str) -> None:
    model = build(name)
    onnx.checker.check_model(model, full_check=True)
    assert any(_differ(model, nudged(model, seed)) for seed in range(6))
    for seed in range(6):
        assert hold(model, nudged(model, seed)).error < 3e-5


def _differ(one: ModelProto, two: ModelProto) -> bool:
    """Whether some output is another one altogether."""
    pairs = zip(nets.session(one).run(None, {"x": X}), nets.session(two).run(None, {"x": X}), strict=True)
    return any(a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_wrong_before_or_behind_a_decision_is_refused(name: str) -> None:
    """By far more than rounding, at every weight that the outputs show."""
    model, shown = build(name), 0
    for weight in ("w1", "w2", "w3", "c"):
        wrong = edited(model, weight, lambda array: array * 1.03)
        if _differ(model, wrong):
            shown += 1
            with pytest.raises(VerificationError, match="is not the masked original"):
                hold(model, nudged(wrong))
    assert shown >= 2


@pytest.mark.parametrize("name", KINDS)
def test_an_op_that_decides_otherwise_is_refused(name: str) -> None:
    model = build(name)
    with pytest.raises(VerificationError, match=r"is not the masked original|has shape|does not"):
        hold(model, spoiled(model, name))


def test_whole_numbers_that_no_tie_explains_are_refused() -> None:
    """One index of many is another one: less than a share that could be excused."""
    text = "g (float[N,6] x) => (int64[N,200] y) { m = MatMul(x, w) v, i = TopK <axis = 1> (m, k) y = Add(i, shift) }"
    shift = np.zeros(200, np.int64)

    def model(shift: np.ndarray) -> ModelProto:
        built = nets.build(text, {"w": nets.noise(6, 300)})
        built.graph.initializer.append(numpy_helper.from_array(shift, "shift"))
        built.graph.initializer.append(numpy_helper.from_array(np.array([200], np.int64), "k"))
        return built

    assert hold(model(shift), edited(model(shift), "w", lambda array: array * (1 + 1e-6))).error < 1e-5
    wrong = shift.copy()
    wrong[7] = 1
    with pytest.raises(VerificationError, match="the output 'y' differs"):
        hold(model(shift), model(wrong))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "tail",
    [
        "d = Mul(r, many) q = Round(d) t = Mod <fmod = 1> (q, two)",
        "t = ThresholdedRelu <alpha = 1.0> (r)",
        "c = Greater(r, half) t = Where(c, r, h)",
        "d = Mul(r, many) i = Cast <to = 7> (d) q = Cast <to = 1> (i) t = Mod <fmod = 1> (q, two)",
        "c = Cast <to = 9> (r) n = Not(c) f = Cast <to = 1> (n) t = Mul(f, h)",
    ],
)
def test_a_decision_on_channels_that_go_is_taken_channel_by_channel(tail: str, seed: int) -> None:
    """The masked original decides on all channels, the pruned model on some; sums in another order fall apart."""
    text = f"""g (float[N,40] x) => (float[N,5] y) {{
        k = MatMul(x, w0) o = Relu(k) h = MatMul(o, w1) r = Relu(h) {tail} y = MatMul(t, w2) }}"""
    constants = {"many": np.array(1e5), "two": np.array(2.0), "half": np.array(0.5)}
    used = {name: array for name, array in constants.items() if name in tail}
    model = nets.build(text, {"w0": (40, 64), "w1": (64, 32), "w2": (32, 5), **used})
    options = {"keep_macs": 0.5, "allocate": "uniform", "compensate": "none", "seed": seed}
    report = onnxpfp.prune(model, calibration=nets.noise(64, 40, seed=seed), **options).report
    assert all(group.kept < group.channels for group in report.groups)
    assert report.oracle.error < FLOAT32


@pytest.mark.parametrize("seed", range(6))
def test_a_detector_by_top_k_is_pruned_whatever_its_ties(seed: int) -> None:
    text = """g (float[N,3,16,16] x) => (float[N,60,6] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1) b = Relu(a) c = Conv <pads = [1,1,1,1]> (b, w2) d = Relu(c)
        e = Conv(d, w3) f = Reshape(e, box) boxes = Transpose <perm = [0,2,1]> (f)
        g1 = Conv(d, w4) g2 = Mul(g1, little) g3 = Reshape(g2, class) g4 = Transpose <perm = [0,2,1]> (g3)
        scores = Sigmoid(g4) flat = Reshape(scores, all) v, i = TopK <axis = 1> (flat, k)
        place = Div(i, classes) kind = Mod(i, classes)
        p1 = Unsqueeze(place, last) p2 = Expand(p1, four) picked = GatherElements <axis = 1> (boxes, p2)
        v1 = Unsqueeze(v, last) n1 = Cast <to = 1> (kind) n2 = Unsqueeze(n1, last)
        y = Concat <axis = 2> (picked, v1, n2) }"""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (12, 3, 3, 3), "w2": (16, 12, 3, 3), "w3": (4, 16, 1, 1), "w4": (5, 16, 1, 1)}
    model = nets.build(text, {name: rng.standard_normal(shape) / 4 for name, shape in shapes.items()})
    numbers = {"box": [0, 4, -1], "class": [0, 5, -1], "all": [0, -1], "k": [60], "classes": [5], "last": [2]}
    for name, array in {**numbers, "four": [1, 1, 4]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e-4), "little"))
    data = nets.noise(48, 3, 16, 16, seed=seed)
    drifts = []
    for options in ({}, {"allocate": "uniform", "compensate": "none"}):
        report = onnxpfp.prune(model, calibration=data, keep_macs=0.7, **options).report
        assert report.oracle.error < FLOAT32
        drifts.append(report.drift)
    # A sigmoid of next to nothing is nearly the same everywhere; what is picked by it is not, row for row.
    assert all(drift.in_place.tensors == ("scores",) and drift.relative_error < 0.8 for drift in drifts)


def test_what_is_known_of_custom_ops_is_that_they_may_decide() -> None:
    assert decision_of(helper.make_node("Nms", ["x"], ["y"], domain="com.plugin")) is not None
    assert decision_of(helper.make_node("Relu", ["x"], ["y"])) is None
    assert decision_of(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)) is None
    assert decision_of(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8)) is not None


def test_what_goes_smoothly_is_compared_as_it_is() -> None:
    """The best numbers in their order, and the largest of a window: nobody reads where they stood."""
    text = """g (float[N,6] x) => (float[N,3] y, float[N,1,8] z) { m = MatMul(x, w) y, i = TopK(m, k)
        u = Unsqueeze(m, k) z, j = MaxPool <kernel_shape = [2], strides = [2]> (u) }"""
    assert Decisions.of(nets.build(text, {"w": (6, 16), "k": np.ones(1)})).by_node == {}


def test_lengths_and_inputs_alone_decide_nothing_that_pruning_moves() -> None:
    """A mask of the inputs, and a length that becomes a number and is rounded: both stay out of the comparison."""
    text = """g (float[N,6] x) => (float[N,12] y) {
        h = MatMul(x, w1) n = Shape(h) f = Cast <to = 1> (n) q = Floor(f) t = ReduceSum <keepdims = 0> (q)
        c = Greater(x, none) g1 = Cast <to = 1> (c) m = MatMul(g1, w1) s = Add(h, m) y = Add(s, t) }"""
    model = nets.build(text, {"w1": (6, 12), "none": np.zeros(1)})
    assert Decisions.of(model).by_node == {}


def test_every_op_that_decides_has_a_rule() -> None:
    """The ops that compare, round, sort or pick by themselves, as far as onnxruntime and ONNX have them."""
    expected = {"ArgMax", "Cast", "Compress", "Equal", "Floor", "Greater", "Hardmax", "Mod", "NonMaxSuppression"}
    expected |= {"NonZero", "OneHot", "Round", "Sign", "TopK", "Unique", "ai.onnx.ml:TreeEnsemble"}
    assert expected <= {name for name, facts in FACTS.items() if facts.decides is not None}


@pytest.mark.parametrize("fill", [-1e9, -3e38, 1e4])
def test_a_number_that_fills_hidden_places_does_not_hide_a_wrong_score(fill: float) -> None:
    """Only the places come out, and they hang on scores that are tiny beside what fills the others."""
    text = """g (float[N,6] x) => (int64[N,8] i, float[N,8] v) {
        m = MatMul(x, w) c = Greater(seen, none) s = Where(c, m, fill) v, i = TopK(s, k) }"""
    seen = np.arange(16) < 12
    constants = {"none": np.zeros(1), "fill": np.array(fill), "w": nets.noise(6, 16), "seen": seen}
    model = nets.build(text, constants)
    model.graph.initializer.append(numpy_helper.from_array(np.array([8], np.int64), "k"))
    assert hold(model, edited(model, "w", lambda array: array * (1 + 1e-6))).error < FLOAT32
    with pytest.raises(VerificationError, match="the tensor 's' differs"):
        hold(model, edited(model, "w", lambda array: array * 1.01))
