"""Refits of LSTM, GRU and RNN: units that are copies go without a trace, and nothing gets worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from support.graphs import build
from support.oracle import difference, run

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
        starts = "d = Shape<start = 0, end = 1>(x)  q = Concat<axis = 0>(one, d, one)  h0 = Expand(h1, q)  c0 = Expand(c1, q)"
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
