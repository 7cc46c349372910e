"""Refits of LSTM, GRU and RNN: units that are copies go without a trace, and nothing gets worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from support.graphs import build
from support.oracle import difference, run
from support.oracle import problem as problem_of

from onnxpfp import prune
from onnxpfp.model.shapes import concrete_shapes, default_input_shapes
from onnxpfp.refit.recurrent_layers import recurrent_layers
from onnxpfp.refit.recurrent_rows import Steps, states_before
from onnxpfp.refit.sweep import RefitProblem, refit
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
"""The gate with an odd activation: with all of its weights negative, so are the states."""
STEPS, WIDTH, HIDDEN = 7, 5, 6
COUNT = 128


@dataclass(frozen=True)
class Recurrence:
    """A recurrence over N sequences whose states a product reads.

    Attributes:
        op: LSTM, GRU or RNN.
        extra: Further attributes.
        ways: Directions.
        inputs: What it reads behind R.
        last: Whether only the last states are shown.
    """

    op: str
    extra: str = ""
    ways: int = 1
    inputs: str = ", b"
    last: bool = False

    def __str__(self) -> str:
        return f"{self.op}{self.extra} {self.ways}{self.inputs} {'last' if self.last else ''}"

    @property
    def timed(self) -> bool:
        """Whether sequences have lengths of their own."""
        return "lens" in self.inputs

    def model(self, seed: int = 0) -> ModelProto:
        """Return the model, with random weights."""
        ways, rows = self.ways, GATES[self.op] * HIDDEN
        declared = (
            f"float[{ways},{rows},{WIDTH}] w, float[{ways},{rows},{HIDDEN}] r, float[{ways},{2 * rows}] b, "
            f"float[{ways},1,{HIDDEN}] h1, float[{ways},1,{HIDDEN}] c1, float[{ways},{3 * HIDDEN}] p, "
            f"float[{ways * HIDDEN},4] k, float[4] e, int64[3] three = {{0, 0, {ways * HIDDEN}}}, "
            f"int64[2] two = {{0, {ways * HIDDEN}}}, int64[1] one = {{1}}"
        )
        sizes = "d = Shape<start = 0, end = 1>(x)  q = Concat<axis = 0>(one, d, one)"
        starts = f"{sizes}  h0 = Expand(h1, q)  c0 = Expand(c1, q)"
        turn = "" if "direction" in self.extra else f', direction = "{"bidirectional" if ways == 2 else "forward"}"'
        node = f"{self.op}<hidden_size = {HIDDEN}{turn}{self.extra}>(t, w, r{self.inputs})"
        shown, perm, shape = ('"", s', "1,0,2", "two") if self.last else ("s", "2,0,1,3", "three")
        fed = f"float[N,{STEPS},{WIDTH}] x" + (", int32[N] lens" if self.timed else "")
        return build(
            f"g ({fed}) => (y) <{declared}> {{ {starts if '0' in self.inputs else ''}  t = Transpose<perm = [1,0,2]>(x)"
            f"  {shown} = {node}  f = Transpose<perm = [{perm}]>(s)  g = Reshape(f, {shape})  m = MatMul(g, k)"
            "  y = Add(m, e) }",
            seed=seed,
        )

    def with_copies(self) -> ModelProto:
        """Return the model in which the last two units are copies of the first two, one of them with the other sign."""
        model = self.model()
        for tensor in model.graph.initializer:
            if tensor.name not in {"w", "r", "b", "h1", "c1", "p"}:
                continue
            array = numpy_helper.to_array(tensor).copy()
            rest = array.shape[2:] if tensor.name in {"w", "r"} else ()
            units = np.moveaxis(array.reshape(self.ways, -1, HIDDEN, *rest), 2, 0)
            sign = np.full(units.shape[2], -1.0, np.float32)
            if tensor.name in {"w", "r", "b"}:
                sign[:] = 1.0
                sign[CANDIDATE[self.op] :: GATES[self.op]] = -1.0
            units[4] = units[0]
            units[5] = units[1] * sign.reshape(-1, *[1] * len(rest))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return model

    def feeds(self, count: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
        """Return inputs of so many sequences."""
        rng = np.random.default_rng(seed)
        x = {"x": rng.standard_normal((count, STEPS, WIDTH)).astype(np.float32)}
        return x | ({"lens": rng.integers(1, STEPS + 1, count).astype(np.int32)} if self.timed else {})


AFTER = ", linear_before_reset = 1"
RECURRENCES = [
    *(Recurrence(op, ways=ways) for op in GATES for ways in (1, 2)),
    Recurrence("GRU", AFTER),
    Recurrence("GRU", AFTER, 2),
    *(Recurrence(op, ', direction = "reverse"') for op in GATES),
    *(Recurrence(op, ways=2, inputs=", b, lens") for op in GATES),
    *(Recurrence(op, inputs=", b, , h0") for op in GATES),
    Recurrence("LSTM", ways=2, inputs=", b, lens, h0, c0, p"),
    Recurrence("LSTM", ', activations = ["Sigmoid", "Tanh", "Softsign"], clip = 0.8'),
    Recurrence("GRU", ', activations = ["Tanh", "Softsign"], clip = 0.8', inputs=", b, , h0"),
    *(Recurrence(op, inputs="") for op in GATES),
    *(Recurrence(op, ways=2, inputs=", b, lens", last=True) for op in GATES),
]


def without(problem: RefitProblem, units: list[int]) -> np.ndarray:
    keep = problem.analysis.graph.keep_all()
    recurrence = problem.recurrences[0]
    keep[recurrence.units[units]] = False
    return keep


@pytest.mark.parametrize("recurrence", RECURRENCES, ids=str)
def test_units_that_are_copies_of_others_go_without_a_trace(make_problem, recurrence: Recurrence) -> None:
    model = recurrence.with_copies()
    problem, _, left = make_problem(model, recurrence.feeds(COUNT), count=COUNT)
    assert not left
    keep = without(problem, [4, 5])
    refitted = refit(problem, keep, Edits())
    plain, better = (apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), refitted.edits))
    feeds = recurrence.feeds(16, seed=9)
    wanted = run(model, feeds)
    assert difference(wanted, run(plain, feeds)) > 0.02
    assert difference(wanted, run(better, feeds)) < 1e-3
    # The oracle: the original with the new weights, in which nothing reads the units that go.
    edited = apply(model, problem.analysis.graph, problem.analysis.graph.keep_all(), refitted.edits)
    reference = masked(edited, problem.analysis.graph, keep, problem.analysis.shapes)
    assert difference(run(reference, feeds), run(better, feeds)) < 1e-5


@pytest.mark.parametrize("recurrence", [*RECURRENCES[::2][:3], RECURRENCES[5]], ids=str)
def test_random_recurrences_are_nearer_to_the_original_on_other_inputs(make_problem, recurrence: Recurrence) -> None:
    """The products behind are refitted in any case; inputs go on from step to step, as those of a sequence do."""
    ratios: list[float] = []
    feeds, others = recurrence.feeds(512), recurrence.feeds(64, seed=9)
    for each in (feeds, others):
        each["x"] = each["x"].cumsum(1) / 2
    for seed in (3, 4, 5):
        model = recurrence.model(seed)
        problem, layers, _ = make_problem(model, feeds, count=512)
        graph, keep = problem.analysis.graph, without(problem, [1, 4])
        refitted = refit(problem, keep, Edits())
        assert {record.name for record in refitted.records} == {
            layers["m"].consumer.name,
            problem.recurrences[0].name,
        }
        assert all(0 <= record.after <= record.before for record in refitted.records)
        products_alone = refit(replace(problem, recurrences=()), keep, Edits())
        wanted = run(model, others)["y"]
        with_both, with_products, without_any = (
            float(np.square(run(apply(model, graph, keep, edits), others)["y"] - wanted).mean())
            for edits in (refitted.edits, products_alone.edits, Edits())
        )
        assert with_both < without_any
        ratios.append(with_both / with_products)
    assert np.exp(np.log(ratios).mean()) < 0.97


@pytest.mark.parametrize("recurrence", RECURRENCES[:8], ids=str)
def test_with_everything_kept_a_recurrence_stays_the_same(make_problem, recurrence: Recurrence) -> None:
    model = recurrence.model()
    problem, _, _ = make_problem(model, recurrence.feeds(COUNT), count=COUNT)
    graph, everything = problem.analysis.graph, problem.analysis.graph.keep_all()
    same = apply(model, graph, everything, refit(problem, everything, Edits()).edits)
    feeds = recurrence.feeds(16, seed=9)
    assert difference(run(model, feeds), run(same, feeds)) < 1e-4


READ = """g (float[N,7,5] x) => (y)
    <float[5,6] u, float[2,24,6] w, float[2,24,6] r, float[12,4] k, int64[3] shape = {0,0,12}> {
    a = MatMul(x, u)  t = Transpose <perm = [1,0,2]> (a)
    s = LSTM <hidden_size = 6, direction = "bidirectional"> (t, w, r)
    f = Transpose <perm = [2,0,1,3]> (s)  g = Reshape(f, shape)  y = MatMul(g, k) }"""


def test_inputs_that_go_are_made_up_for(make_problem) -> None:
    """Columns 4 and 5 of what it reads are made of the first four."""
    model = build(READ)
    mixed = next(tensor for tensor in model.graph.initializer if tensor.name == "u")
    array = numpy_helper.to_array(mixed).copy()
    array[:, 4:] = array[:, :4] @ np.random.default_rng(5).standard_normal((4, 2)).astype(np.float32)
    mixed.CopyFrom(numpy_helper.from_array(array, "u"))
    feeds = RECURRENCES[0].feeds(COUNT)
    problem, _, left = make_problem(model, feeds, count=COUNT)
    assert not left
    keep = problem.analysis.graph.keep_all()
    keep[problem.recurrences[0].channels[4:]] = False
    plain, better = (
        apply(model, problem.analysis.graph, keep, edits) for edits in (Edits(), refit(problem, keep, Edits()).edits)
    )
    feeds = RECURRENCES[0].feeds(16, seed=9)
    assert difference(run(model, feeds), run(plain, feeds)) > 0.02
    assert difference(run(model, feeds), run(better, feeds)) < 1e-3


COMPUTED = READ.replace("float[2,24,6] w", "float[6,2,24] l, float[2,12,6] r1, float[2,12,6] r2").replace(
    "float[2,24,6] r,", ""
)
ORDERED = "w = Transpose <perm = [1,2,0]> (l)  r = Concat <axis = 1> (r1, r2)  a = MatMul"


def test_weights_that_are_put_in_order_first_are_replaced(make_problem) -> None:
    model = build(COMPUTED.replace("a = MatMul", ORDERED))
    problem, _, left = make_problem(model, RECURRENCES[0].feeds(COUNT), count=COUNT)
    assert not left
    keep = without(problem, [1, 4])
    pruned = apply(model, problem.analysis.graph, keep, refit(problem, keep, Edits()).edits)
    assert not {"Concat"} & {node.op_type for node in pruned.graph.node}
    # MatMul, W, R, a bias that was not there, the product behind, and the shape.
    assert len(pruned.graph.initializer) == 6
    assert sum(node.op_type == "Transpose" for node in pruned.graph.node) == 2


LEFT = {
    "weights are shared": READ.replace(
        "f = T", 's2 = LSTM <hidden_size = 6, direction = "bidirectional"> (t, w, r)  f0 = Add(s, s2)  f = T'
    ).replace("(s)  g", "(f0)  g"),
    "fewer numbers than they are": COMPUTED.replace("float[6,2,24] l", "float[1,24,6] l").replace(
        "a = MatMul", "w = Concat <axis = 0> (l, l)  r = Concat <axis = 1> (r1, r2)  a = MatMul"
    ),
    "computed at run time": READ.replace("float[2,24,6] w", "float[5,1] z, float[2,24,6] w0").replace(
        "a = MatMul", "z0 = MatMul(x, z)  z1 = ReduceMean <keepdims = 0> (z0)  w = Mul(w0, z1)  a = MatMul"
    ),
    "activations of a reset gate": Recurrence("GRU", ', activations = ["Elu", "Tanh"]').model,
}


@pytest.mark.parametrize("why", LEFT)
def test_what_cannot_be_refitted_is_named(why: str) -> None:
    given = LEFT[why]
    model = build(given) if isinstance(given, str) else given()
    shapes = concrete_shapes(model, default_input_shapes(model, {}))
    layers, left = recurrent_layers(problem_of(model, shapes=shapes).analysis)
    assert not layers
    assert all(why in reason for _, reason in left)
    assert len(left) == sum(node.op_type in GATES for node in model.graph.node)


def test_a_batch_before_the_steps_is_left() -> None:
    """onnxruntime does not run it, so its shapes are those of the model without."""
    model = build(READ)
    model.graph.node[2].attribute.append(helper.make_attribute("layout", 1))
    analysis = problem_of(build(READ)).analysis
    left = recurrent_layers(replace(analysis, source=replace(analysis.source, model=model)))[1]
    assert [reason for _, reason in left] == ["its batch comes before its steps, which onnxruntime does not run"]


def test_states_before_steps() -> None:
    states = np.arange(12.0).reshape(4, 3, 1)
    first = np.array([[-1.0], [-2.0], [-3.0]])
    steps = Steps.drawn(4, 3, np.array([4, 2, 1]), 99, np.random.default_rng(0))
    assert list(zip(steps.step.tolist(), steps.row.tolist(), strict=True)) == [
        *((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0))
    ]
    assert states_before(steps, states, first, reverse=False).ravel().tolist() == [-1, -2, -3, 0, 1, 3, 6]
    assert states_before(steps, states, None, reverse=False).ravel().tolist() == [0, 0, 0, 0, 1, 3, 6]
    assert states_before(steps, states, first, reverse=True).ravel().tolist() == [3, 4, -3, 6, -2, 9, -1]
    few = Steps.drawn(4, 3, None, 5, np.random.default_rng(0))
    assert few.step.size == 5
    assert len({*zip(few.step.tolist(), few.row.tolist(), strict=True)}) == 5


STACKED = """g (float[N,7,5] x) => (y) <float[1,48,5] w1, float[1,48,12] r1, float[1,96] b1, float[1,36,12] w2,
    float[1,36,12] r2, float[12,4] k, float[4] e, int64[1] one = {1}> {
    t = Transpose <perm = [1,0,2]> (x)  a = LSTM <hidden_size = 12> (t, w1, r1, b1)  b = Squeeze(a, one)
    c, h = GRU <hidden_size = 12> (b, w2, r2)  d = Squeeze(c, one)  f = Transpose <perm = [1,0,2]> (d)
    m = MatMul(f, k)  y = Add(m, e) }"""


@pytest.mark.parametrize("effort", ["low", "high"])
def test_a_pruned_network_says_which_recurrences_were_refitted(effort: str) -> None:
    model = build(STACKED)
    model.graph.node[1].name, model.graph.node[3].name = "first", "second"
    result = prune(model, calibration=RECURRENCES[0].feeds(512), keep_macs=0.6, round_to=1, effort=effort)
    records = {record.name: record for record in result.report.refits}
    assert {"first", "second"} <= records.keys()
    assert all(record.after <= record.before for record in records.values())
    assert records["first"].after < records["first"].before
    assert not result.report.uncompensated
    assert result.report.oracle.error < 1e-4
    plain = prune(model, calibration=RECURRENCES[0].feeds(512), keep_macs=0.6, round_to=1, compensate="none")
    assert result.report.drift.relative_error < plain.report.drift.relative_error
