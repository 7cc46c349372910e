"""Contractions of any form: Einsum and recurrences against shares computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support.brute_shares import as_dict, measure
from support.graphs import build
from support.oracle import problem

from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime import open_session

Floats = NDArray[np.float64]
RNG = np.random.default_rng(5)


def readers_of(model: ModelProto, op: str) -> list[LinearOp]:
    """Describe the consumers of type `op`."""
    case = problem(model)
    ops = linear_ops(case.analysis)
    return [ops[p] for p, c in enumerate(case.graph.consumers) if c.op == op]


def exposed(model: ModelProto, name: str, feed: dict[str, NDArray[Any]]) -> Floats:
    """Run a model, and return one of its tensors."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.add(name=name)
    return open_session(copy, optimize=False).run(feed)[name].astype(np.float64)


def shares(op: LinearOp, equation: str, data: Floats, other: Floats) -> dict[int, float]:
    """The largest share of every channel, over all signs and outputs (PFP, Definition 1)."""
    left = equation.split(",", maxsplit=1)[0]
    axis, place = op.axis, equation.split("->")[0].split(",")[1].index(left[op.axis])
    best = dict.fromkeys(op.channel_ids.tolist(), 0.0)
    for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        a, b = np.maximum(s * data, 0), np.maximum(t * other, 0)
        total = np.einsum(equation, a, b)
        for channel in best:
            mine = np.flatnonzero(op.channels == channel)
            part = np.einsum(equation, np.take(a, mine, axis), np.take(b, mine, place))
            best[channel] = max(best[channel], float((part / np.where(total > 1e-12, total, np.inf)).max()))
    return best


EINSUMS = {
    "one letter, two activations": ("a = MatMul(x, u)\nb = MatMul(x, v)", "nsc,ntc->nst", "nst"),
    "a stack of matrices": ("a = MatMul(x, u)\nb = Identity(w)", "nsc,sco->nso", "nso"),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_einsum(case: str) -> None:
    body, equation, _ = EINSUMS[case]
    model = build(
        f"""g (float[N,4,3] x) => (y) <float[3,8] u, float[3,8] v, float[4,8,6] w> {{
            {body}
            y = Einsum<equation="{equation}">(a, b)
        }}"""
    )
    unused = {"v"} if "stack" in case else {"w"}
    for tensor in [t for t in model.graph.initializer if t.name in unused]:
        model.graph.initializer.remove(tensor)
    (op,) = readers_of(model, "Einsum")
    data = RNG.standard_normal((3, 4, 3)).astype(np.float32)
    left, right = (exposed(model, name, {"x": data}) for name in "ab")
    assert as_dict(measure(model, op, data)) == pytest.approx(shares(op, equation, left, right), abs=2e-6)


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_heads_that_a_projection_contracts(kernel: str) -> None:
    """Every head is one index of the contracted letter; the width is contracted along with it."""
    model = build(
        """g (float[N,4,3] x) => (y) <float[3,8] u, float[2,4,6] w, int64[4] s = {0,4,2,4}> {
            c = MatMul(x, u)
            r = Reshape(c, s)
            y = Einsum<equation="nshd,hdo->nso">(r, w)
        }"""
    )
    op = next(op for op in readers_of(model, "Einsum") if op.channel_ids.size)
    data = RNG.standard_normal((3, 4, 3)).astype(np.float32)
    left, right = exposed(model, "r", {"x": data}), exposed(model, "w", {"x": data})
    wanted = shares(op, "nshd,hdo->nso", left, right)
    assert as_dict(measure(model, op, data, kernel=kernel)) == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("shown", ["all states", "last states"])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrences(op: str, gates: int, shown: str, opset: int) -> None:
    """W reads the inputs; R reads the states that the file shows. Before opset 12 there is no Einsum."""
    outputs, read = ("s", "s") if shown == "all states" else (", h", "h")
    model = build(
        f"""g (float[5,N,3] x) => (y) <float[3,4] u, float[2,{6 * gates},4] w, float[2,{6 * gates},6] r,
        float[6,7] v> {{
            c = MatMul(x, u)
            {outputs} = {op}<hidden_size=6, direction="bidirectional">(c, w, r)
            y = MatMul({read}, v)
        }}""",
        opset=opset,
    )
    data = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    inputs, states = readers_of(model, op)
    feed = {"x": data}
    w, r = (exposed(model, name, feed) for name in "wr")
    wanted = shares(inputs, "sbi,dgi->sbdg", exposed(model, "c", feed), w)
    assert as_dict(measure(model, inputs, data)) == pytest.approx(wanted, abs=2e-6)
    equation = "sdbh,dgh->sdbg" if shown == "all states" else "dbh,dgh->dbg"
    wanted = shares(states, equation, exposed(model, read, feed), r)
    assert as_dict(measure(model, states, data)) == pytest.approx(wanted, abs=2e-6)


def test_a_gemm_of_two_activations_in_an_old_model() -> None:
    model = build(
        """g (float[4,3] x) => (y) <float[3,8] u, float[3,8] v> {
            a = MatMul(x, u)
            b = MatMul(x, v)
            y = Gemm<transB=1>(a, b)
        }""",
        opset=11,
    )
    (op,) = readers_of(model, "Gemm")
    data = RNG.standard_normal((4, 3)).astype(np.float32)
    left, right = (exposed(model, name, {"x": data}) for name in "ab")
    assert as_dict(measure(model, op, data)) == pytest.approx(shares(op, "mk,nk->mn", left, right), abs=2e-6)
