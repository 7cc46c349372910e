"""Models with weights in bodies of If, Loop and Scan, from onnx.parser text.

What is declared and never computed is a weight. Every activation gives 0 for 0, so that a channel whose weights are
all zero is one that is gone.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, numpy_helper, parser

from onnxpfp import Plan
from onnxpfp.bodies.graphs import places_of
from onnxpfp.model.constants import stored_tensors, subgraphs
from support.graphs import fill

Array = NDArray[np.generic]


def fill_all(graph: GraphProto, seed: int) -> None:
    """Turn declared tensors that no node computes into random weights, in bodies too."""
    fill(graph, seed)
    for node in graph.node:
        for number, inner in enumerate(subgraphs(node)):
            fill_all(inner, seed + 1 + number)


def build_bodies(text: str, *, opset: int = 17, ir: int = 8) -> ModelProto:
    """Parse a model and fill in the weights of its main graph and of all bodies."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]>\n{text}')
    fill_all(model.graph, 0)
    onnx.checker.check_model(model)
    return model


def noise(*shape: int, seed: int = 0) -> Array:
    """Draw a batch of samples."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def samples(name: str, count: int = 40) -> list[dict[str, Array]]:
    """Make data for a model of `IFS` or `LOOPS`: feeds of one sample each."""
    shape = (IFS | LOOPS)[name][1]
    if shape is None:
        return [{"x": noise(7, 1, 3, seed=seed), "first": noise(1, 5, seed=seed)} for seed in range(count)]
    return [{"x": each[None]} for each in noise(count, *shape)]


def without(model: ModelProto, plan: Plan) -> ModelProto:
    """Put zeros in the place of all that a plan drops of matrices; two branches may keep other parts of one vector."""
    zeroed = ModelProto()
    zeroed.CopyFrom(model)
    graphs = {"": zeroed.graph, **dict(places_of(zeroed.graph))}
    for place, entries in {"": plan.initializers, **plan.bodies}.items():
        for name, entry in entries.items():
            if len(entry.shape) == 1:
                continue
            around = [graphs[outer] for outer in graphs if place == outer or place.startswith(f"{outer}/") or not outer]
            tensor = next(stored_tensors(g)[name] for g in reversed(around) if name in stored_tensors(g))
            array = numpy_helper.to_array(tensor).copy()
            for axis, kept in entry.keep.items():
                gone = np.setdiff1d(np.arange(array.shape[axis]), kept)
                array[(slice(None),) * axis + (gone,)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return zeroed


IFS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "weights in both branches": (
        """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16] a2, float[16,5] a3> {
                h = MatMul(x, a1) j = Add(h, a2) k = Relu(j) u = MatMul(k, a3) },
            else_branch = no () => (float[N,5] v) <float[3,24] b1, float[24,5] b2> {
                h2 = MatMul(x, b1) k2 = Tanh(h2) v = MatMul(k2, b2) } >
        }""",
        (3,),
    ),
    "weights in one branch": (
        """g (float[N,3] x) => (float[N,3] y) <float z = {0.0}> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,3] u) <float[3,16] a1, float[16,3] a2> {
                h = MatMul(x, a1) k = Relu(h) u = MatMul(k, a2) },
            else_branch = no () => (float[N,3] v) { v = Neg(x) } >
        }""",
        (3,),
    ),
    "weights around it too": (
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) <float z = {0.0}, float[12,3,3,3] w1, float[6,12,1,1] w2,
        float[9,6,1,1] w3, float[4,9,1,1] w4> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        d = Conv(b, w2)
        e = If (c) <
            then_branch = yes () => (float[N,6,6,6] u) <float[16,6,3,3] a1, float[16] a2, float[6,16,1,1] a3> {
                h = Conv<pads=[1,1,1,1]>(d, a1, a2) k = Relu(h) u = Conv(k, a3) },
            else_branch = no () => (float[N,6,6,6] v) <float[24,6,1,1] b1, float[6,24,1,1] b2> {
                h2 = Conv(d, b1) k2 = Relu(h2) v = Conv(k2, b2) } >
        f = Conv(e, w3)
        i = Relu(f)
        y = Conv(i, w4)
        }""",
        (3, 6, 6),
    ),
    "weights in the main graph that one branch reads": (
        """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}, float[3,16] a1, float[16] a2, float[16,5] a3,
        float[3,24] b1, float[24] b2, float[24,5] b3> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,5] u) {
                h = MatMul(x, a1) j = Add(h, a2) k = Relu(j) u = MatMul(k, a3) },
            else_branch = no () => (float[N,5] v) {
                h2 = MatMul(x, b1) j2 = Add(h2, b2) k2 = Tanh(j2) v = MatMul(k2, b3) } >
        }""",
        (3,),
    ),
    "a vector outside that both branches read, and a matrix": (
        """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}, float[3,16] a1, float[16] shared, float[5,5] matrix> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,5] u) <float[16,5] a3> {
                h = MatMul(x, a1) j = Add(h, shared) k = Relu(j) l = MatMul(k, a3) u = MatMul(l, matrix) },
            else_branch = no () => (float[N,5] v) <float[3,16] b1, float[16,5] b3> {
                h2 = MatMul(x, b1) j2 = Mul(h2, shared) k2 = Tanh(j2) l2 = MatMul(k2, b3) v = MatMul(l2, matrix) } >
        }""",
        (3,),
    ),
    "constants in nodes": (
        """g (float[N,3] x) => (float[N,2,8] y) <float z = {0.0}, int64[3] to = {0,2,8}> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,2,8] u) <float[3,16] a1, float[16,16] a2> {
                h = MatMul(x, a1) four = Constant<value = float {4.0}>() k = Mul(h, four) l = Relu(k)
                m = MatMul(l, a2) to2 = Constant<value = int64[3] {0,2,8}>() u = Reshape(m, to2) },
            else_branch = no () => (float[N,2,8] v) <float[3,24] b1, float[24,16] b2> {
                h2 = MatMul(x, b1) k2 = Relu(h2) m2 = MatMul(k2, b2) v = Reshape(m2, to) } >
        }""",
        (3,),
    ),
    "an If in a branch": (
        """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}, float one = {1.0}> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y = If (c) <
            then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a3> {
                h = MatMul(x, a1) k = Relu(h)
                i = MatMul(k, a3)
                c2 = Greater(s, one)
                u = If (c2) <
                    then_branch = yes2 () => (float[N,5] p) <float[5,12] d1, float[12,5] d2> {
                        q = MatMul(i, d1) r = Relu(q) p = MatMul(r, d2) },
                    else_branch = no2 () => (float[N,5] t) <float[5,20] e1, float[20,5] e2> {
                        q2 = MatMul(i, e1) r2 = Tanh(q2) t = MatMul(r2, e2) } > },
            else_branch = no () => (float[N,5] v) <float[3,24] b1, float[24,5] b2> {
                h2 = MatMul(x, b1) k2 = Tanh(h2) v = MatMul(k2, b2) } >
        }""",
        (3,),
    ),
    "tensors called alike in both branches, two outputs": (
        """g (float[N,3] x) => (float[N,5] y, float[N,3] y2) <float z = {0.0}> {
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, z)
        y, y2 = If (c) <
            then_branch = yes () => (float[N,5] u, float[N,3] o) <float[3,16] w1, float[16,5] w2> {
                h = MatMul(x, w1) k = Relu(h) u = MatMul(k, w2) o = Neg(x) },
            else_branch = no () => (float[N,5] u, float[N,3] o) <float[3,24] w1, float[24,5] w2, float[24,3] w3> {
                h = MatMul(x, w1) k = Tanh(h) u = MatMul(k, w2) o = MatMul(k, w3) } >
        }""",
        (3,),
    ),
}
"""Models by what is special about them: text, and the shape of a sample."""

LOOPS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "a convolution in a Loop": (
        """g (float[N,4,6,6] x) => (float[N,4,6,6] y) <int64 times = {3}, bool go = {1}> {
        y = Loop (times, go, x) <body = step (int64 i, bool on, float[N,4,6,6] old) => (bool still, float[N,4,6,6] new)
            <float[16,4,3,3] w1, float[16] b1, float[4,16,1,1] w2> {
                h = Conv<pads=[1,1,1,1]>(old, w1, b1) r = Relu(h) q = Conv(r, w2) p = Add(q, old)
                new = Tanh(p) still = Identity(on) } >
        }""",
        (4, 6, 6),
    ),
    "a Loop that the data end": (
        """g (float[N,4] x) => (float[N,4] y, float[K,N,4] all)
        <int64 times = {6}, bool go = {1}, float limit = {9.0}> {
        y, all = Loop (times, go, x) <body = step (int64 i, bool on, float[N,4] old)
            => (bool still, float[N,4] new, float[N,4] out) <float[4,16] w1, float[16,4] w2> {
                h = MatMul(old, w1) r = Relu(h) q = MatMul(r, w2) new = Add(q, old)
                s = Abs(new) m = ReduceMax<keepdims=0>(s) still = Less(m, limit) out = Neg(new) } >
        }""",
        (4,),
    ),
    "a Loop whose state grows, and that reads the step": (
        """g (float[1,4] x) => (float[L,4] y) <int64 times = {4}, float[4,4] w0> {
        a = MatMul(x, w0)
        y = Loop (times, , a) <body = step (int64 i, bool on, float[L,4] old) => (bool still, float[M,4] new)
            <float[4,16] w1, float[16,4] w2> {
                f = Cast<to=1>(i) z = Mul(a, f)
                h = MatMul(z, w1) r = Relu(h) q = MatMul(r, w2) new = Concat<axis=0>(old, q) still = Identity(on) } >
        }""",
        (4,),
    ),
    "Gemm in a Scan, weights outside": (
        """g (float[7,N,3] x, float[N,5] first) => (float[N,5] last, float[7,N,5] all)
        <float[5,16] w1, float[16] b1, float[16,5] w2, float[3,5] w3> {
        last, all = Scan (first, x) <num_scan_inputs = 1, body = step (float[N,5] state, float[N,3] row)
            => (float[N,5] next, float[N,5] out) {
                p = MatMul(row, w3) q = Add(p, state)
                h = Gemm(q, w1, b1) r = Relu(h) s = MatMul(r, w2) next = Tanh(s) out = Identity(next) } >
        }""",
        None,
    ),
    "a Scan backwards along another axis": (
        """g (float[N,3,5] x) => (float[N,4] last, float[N,4,5] all) <float[1,4] zero> {
        z = ReduceMean<axes=[1,2],keepdims=0>(x)
        e = Unsqueeze(z, one)
        start = Mul(e, zero)
        last, all = Scan (start, x) <num_scan_inputs = 1, scan_input_axes = [2], scan_input_directions = [1],
            scan_output_axes = [2], scan_output_directions = [1],
            body = step (float[N,4] state, float[N,3] row) => (float[N,4] next, float[N,4] out)
            <float[3,16] w1, float[16,4] w2> {
                h = MatMul(row, w1) r = Relu(h) s = MatMul(r, w2) t = Add(s, state) next = Tanh(t) out = Identity(s) } >
        }""".replace("<float[1,4] zero>", "<float[1,4] zero, int64[1] one = {1}>"),
        (3, 5),
    ),
    "a Loop whose lengths follow the step": (
        """g (float[N,6,4] x) => (float[N,4] y) <int64 times = {6}, bool go = {1}, int64[1] one = {1}, float[4,4] w0> {
        first = ReduceMean<axes=[1],keepdims=0>(x)
        y = Loop (times, go, first) <body = step (int64 i, bool on, float[N,4] old) => (bool still, float[N,4] new)
            <float[4,16] w1, float[16,4] w2, int64[1] zero = {0}> {
                a = Unsqueeze(i, zero) b = Add(a, one) f = Slice(x, a, b, one) k = Slice(x, a, six, one)
                h = MatMul(k, w1) r = Relu(h) q = MatMul(r, w2) m = ReduceMean<axes=[1],keepdims=0>(q)
                t = Squeeze(f, one) n = Add(m, t) new = Add(n, old) still = Identity(on) } >
        }""".replace("float[4,4] w0", "int64[1] six = {6}"),
        (6, 4),
    ),
    "a branch in a Loop": (
        """g (float[N,4] x) => (float[N,4] y) <int64 times = {4}, bool go = {1}, int64 two = {2}> {
        y = Loop (times, go, x) <body = step (int64 i, bool on, float[N,4] old) => (bool still, float[N,4] new)
            <float[4,16] w1, float[16,4] w2> {
                h = MatMul(old, w1) r = Relu(h) q = MatMul(r, w2) still = Identity(on)
                c = Less(i, two)
                new = If (c) <
                    then_branch = yes () => (float[N,4] u) <float[4,12] a1, float[12,4] a2> {
                        a = MatMul(q, a1) b = Tanh(a) u = MatMul(b, a2) },
                    else_branch = no () => (float[N,4] v) { v = Tanh(q) } > } >
        }""",
        (4,),
    ),
}
"""The same for Loop and Scan; no shape where a test makes the data itself."""
