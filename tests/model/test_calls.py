"""Bodies of local functions stand in their places in a pruned file, unless that makes it larger."""

from __future__ import annotations

from collections import Counter
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import onnxpfp
from onnxpfp.model.calls import with_calls
from onnxpfp.model.functions import without_functions

OPSETS = '<opset_import: ["": 18, "local": 1], domain: "local">'
GATE = f"""{OPSETS} gate <slope: float = 0.2> (a) => (out) {{
    half = Constant<value = float {{0.5}}>()
    s = LeakyRelu<alpha: float = @slope>(a)
    t = Tanh(s)
    u = Mul(t, half)
    v = Add(u, s)
    out = Mul(v, half)
}}"""
NESTED = f"""{OPSETS} gate (a) => (out) {{ m = local.inner(a) n = local.inner(m) out = Tanh(n) }}
{OPSETS} inner (b) => (c) {{ k = Sigmoid(b) j = Tanh(k) i = Add(j, k) c = Mul(i, b) }}"""
TWO = f"""{OPSETS} gate (a) => (out, other) {{ s = Tanh(a) t = Neg(s) out = Mul(s, t) u = Abs(t) other = Add(u, s) }}"""
SIZED = f"""{OPSETS} gate (a) => (out) {{
    shape = Constant<value = int64[3] {{-1,12,1}}>()
    flat = Constant<value = int64[2] {{-1,12}}>()
    s = Reshape(a, shape)
    t = Tanh(s)
    u = Mul(t, s)
    out = Reshape(u, flat)
}}"""


def network(functions: str, calls: int = 12, call: str = "g{n} = local.gate(g{m})") -> ModelProto:
    """Two layers, and a function that is called often between them and behind the second."""
    lines = ["g0 = MatMul(x, w1)"]
    lines += [call.format(n=n, m=n - 1) for n in range(1, calls + 1)]
    lines += [f"b = MatMul(g{calls}, w2)", "o = Relu(b)", "y = MatMul(o, w3)"]
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18, "local": 1]>\n'
        f"g (float[N,6] x) => (float[N,3] y) {{\n{chr(10).join(lines)}\n}}\n{functions}"
    )
    for name, shape in {"w1": (6, 12), "w2": (12, 14), "w3": (14, 3)}.items():
        model.graph.initializer.append(numpy_helper.from_array(nets.noise(*shape) / 3, name))
    return model


def ops(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def pruned(model: ModelProto, **options: Any) -> onnxpfp.Result:
    result = onnxpfp.prune(model, **{"keep_macs": 0.6, "round_to": 1} | options)
    assert result.report.after.macs < result.report.before.macs
    return result


@pytest.mark.parametrize(
    ("functions", "call"),
    [
        (GATE, "g{n} = local.gate(g{m})"),
        (GATE, "g{n} = local.gate<slope = 0.4>(g{m})"),
        (NESTED, "g{n} = local.gate(g{m})"),
        (TWO, "g{n}, h{n} = local.gate(g{m})"),
        (TWO, "h{n}, g{n} = local.gate(g{m})"),
    ],
    ids=["constants inside", "attributes", "nested", "first of two outputs", "second of two outputs"],
)
@pytest.mark.parametrize("option", [{}, {"calibration": nets.noise(64, 6)}], ids=["weights", "data"])
def test_what_would_make_the_file_larger_is_called_again(functions: str, call: str, option: dict[str, Any]) -> None:
    model = network(functions, calls=20, call=call)
    assert without_functions(model).ByteSize() > 1.3 * model.ByteSize()
    result = pruned(model, **option)
    written = result.model
    assert ops(written)["gate"] == 20
    assert {f.name for f in written.functions} == {f.name for f in model.functions}
    assert result.report.after.bytes == len(written.SerializeToString()) < len(model.SerializeToString())
    onnx.checker.check_model(written, full_check=True)
    feed = {"x": nets.noise(5, 6)}
    flat = without_functions(written)
    np.testing.assert_allclose(nets.run(written, feed), nets.run(flat, feed), rtol=1e-5, atol=1e-6)


def test_a_body_that_changed_stays_in_place_and_the_growth_is_told() -> None:
    model = network(SIZED)
    result = pruned(model)
    assert not result.model.functions
    assert ops(result.model)["Reshape"] == 24
    assert any("bodies of local functions stand in the place of their calls" in note for note in result.report.notes)


def test_a_file_that_shrinks_has_its_bodies_in_place() -> None:
    result = pruned(network(GATE, calls=1), keep_macs=0.3)
    assert not result.model.functions
    assert result.report.after.bytes < result.report.before.bytes


def test_one_changed_body_of_many() -> None:
    model, flat = network(GATE), without_functions(network(GATE))
    flat_before = flat.SerializeToString()
    changed = ModelProto()
    changed.CopyFrom(flat)
    tanh = [node for node in changed.graph.node if node.op_type == "Tanh"]
    tanh[3].op_type = "Sin"
    written = with_calls(changed, model, flat)
    assert (ops(written)["gate"], ops(written)["Sin"], ops(written)["Tanh"]) == (11, 1, 0)
    assert flat.SerializeToString() == flat_before
    feed = {"x": nets.noise(5, 6)}
    np.testing.assert_allclose(nets.run(written, feed), nets.run(changed, feed), rtol=1e-6)


def test_a_body_that_something_else_reads_stays_in_place() -> None:
    model, flat = network(GATE), without_functions(network(GATE))
    changed = ModelProto()
    changed.CopyFrom(flat)
    inner = next(node.output[0] for node in changed.graph.node if node.op_type == "Tanh")
    changed.graph.output.append(onnx.helper.make_tensor_value_info(inner, 1, ["N", 12]))
    assert ops(with_calls(changed, model, flat))["gate"] == 11
