"""Edits of an analysed model, made in the file."""

from __future__ import annotations

import nets
import numpy as np

from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at
from onnxpfp.rewrite.edits import Edits, NewInput
from onnxpfp.rewrite.transfer import with_edits

TEXT = """g (float[N,4] x) => (float[N,3] y) {
    w = Add(u, v)  a = MatMul(x, w)  r = Relu(a)  y = Gemm(r, w2)
}"""


def test_what_is_stored_computed_and_new() -> None:
    file = nets.build(TEXT, {"u": (4, 5), "v": (4, 5), "w2": (5, 3)})
    file.metadata_props.add(key="author", value="somebody")
    analysis = analyze_at(load(file), {}, Options())
    first, second, bias = nets.noise(4, 5), nets.noise(5, 3, seed=2), nets.noise(3, seed=3)
    index = next(i for i, node in enumerate(analysis.model.graph.node) if node.output[0] == "y")
    edits = Edits({"w": first, "w2": second}, {(index, 2): NewInput(bias, (np.zeros(3, np.int64),), "w2_bias")})
    edited = with_edits(file, analysis.model, edits)
    x = nets.noise(6, 4, seed=5)
    np.testing.assert_allclose(nets.run(edited, x), np.maximum(x @ first, 0) @ second + bias, rtol=1e-5, atol=1e-5)
    # What computed the weight is gone; nothing else is.
    assert sorted(nets.weights(edited)) == ["w2", "w2_bias", "w_stored"]
    assert [node.op_type for node in edited.graph.node] == ["MatMul", "Relu", "Gemm"]
    assert edited.metadata_props == file.metadata_props
    assert sorted(nets.weights(file)) == ["u", "v", "w2"]


def test_what_the_file_computes_from_a_weight_beside_its_ops_stays() -> None:
    text = "g (float[N,4] x) => (float[N,5] y) { s = ReduceSum(w)  a = MatMul(x, w)  y = Add(a, s) }"
    file = nets.build(text, {"w": (4, 5)})
    analysis = analyze_at(load(file), {}, Options())
    new, x = nets.noise(4, 5), nets.noise(6, 4, seed=5)
    edited = with_edits(file, analysis.model, Edits({"w": new}))
    np.testing.assert_allclose(nets.run(edited, x), x @ new + nets.weights(file)["w"].sum(), rtol=1e-4, atol=1e-4)


def test_no_edits_change_nothing() -> None:
    file = nets.chain()
    assert with_edits(file, file, Edits()) == file
