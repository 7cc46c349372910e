"""Facts of ops stand beside their rules, and say what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxpfp.channels.ops import FACTS, RULES, facts_of, op_name

UNARY = [
    name
    for name, facts in FACTS.items()
    if facts.sign == "never negative" or facts.within_one
    if not name.startswith("Reduce")
]


def test_only_ops_with_a_rule_have_facts() -> None:
    assert FACTS.keys() <= RULES.keys()


def test_the_domain_of_onnx_has_two_names() -> None:
    assert op_name("Conv", "ai.onnx") == op_name("Conv", "") == op_name("Conv", None) == "Conv"
    assert facts_of(helper.make_node("Conv", ["x"], ["y"], domain="com.other")).mac_terms is None
    assert facts_of(helper.make_node("Conv", ["x"], ["y"])).layout == "conv"


@pytest.mark.parametrize("op", UNARY)
def test_declared_signs_and_ranges_hold(op: str) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 100]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(scale=5, size=(4, 100)).astype(np.float32)
    y = np.asarray(session.run(None, {"x": x})[0])
    if FACTS[op].sign == "never negative":
        assert y.min() >= 0
    if FACTS[op].within_one:
        assert np.abs(y).max() <= 1


def test_what_multiplies_says_where_its_bias_is() -> None:
    for name, facts in FACTS.items():
        if facts.layout is not None or facts.operands is not None:
            assert facts.mac_terms is not None, name
        if facts.linear:
            assert facts.layout is not None, name
        if facts.bias is not None:
            assert facts.mac_terms is not None, name


INDEX = np.array([3, 0, 3])
EXTRA: dict[str, tuple[dict[str, object], list[np.ndarray]]] = {
    "AveragePool": ({"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, []),
    "MaxPool": ({"kernel_shape": [2, 2]}, []),
    "Cast": ({"to": TensorProto.FLOAT16}, []),
    "CastLike": ({}, [np.zeros(1, np.float16)]),
    "Concat": ({"axis": 1}, [np.ones((2, 4, 6, 6), np.float32)]),
    "DepthToSpace": ({"blocksize": 2}, []),
    "SpaceToDepth": ({"blocksize": 2}, []),
    "Expand": ({}, [np.array([2, 4, 6, 6])]),
    "Gather": ({"axis": 1}, [INDEX]),
    "Pad": ({}, [np.array([0, 0, 1, 1, 0, 0, 1, 1])]),
    "Reshape": ({}, [np.array([2, -1])]),
    "Resize": ({"mode": "linear"}, [np.zeros(0, np.float32), np.array([1, 1, 1.5, 2], np.float32)]),
    "Slice": ({}, [np.array([1]), np.array([3]), np.array([1])]),
    "Split": ({"axis": 1}, [np.array([4])]),
    "Tile": ({}, [np.array([1, 2, 1, 1])]),
    "Unsqueeze": ({}, [np.array([0])]),
    "Upsample": ({"mode": "nearest"}, [np.array([1, 1, 2, 2], np.float32)]),
    "Transpose": ({"perm": [0, 2, 3, 1]}, []),
    "ThresholdedRelu": ({"alpha": 0.5}, []),
    "com.microsoft:QuickGelu": ({"alpha": 1.702}, []),
}
"""Attributes and inputs behind the first, of ops that need any."""
OPSETS = {"Upsample": 9, "Gelu": 20, "Swish": 24}
SUMMED = ("Add", "Max", "Mean", "Min", "Sub", "Sum")


@pytest.mark.parametrize("op", [name for name, facts in FACTS.items() if facts.magnitude is not None])
def test_declared_magnitudes_hold(op: str) -> None:
    attributes, extra = EXTRA.get(op, ({}, []))
    rng = np.random.default_rng(0)
    x = rng.normal(scale=3, size=(2, 4, 6, 6)).astype(np.float32)
    if op in SUMMED:
        extra = [rng.normal(scale=3, size=(2, 4, 6, 6)).astype(np.float32)]
    names = ["x", *(f"extra_{number}" for number in range(len(extra)))]
    domain, _, kind = op.rpartition(":")
    if op == "Where":
        names, extra = ["extra_0", "x", "extra_1"], [rng.random((2, 4, 6, 6)) < 0.5, -2 * x]
    node = helper.make_node(kind, names, ["y"], domain=domain, **attributes)
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_empty_tensor_value_info("y")]
    stored = [onnx.numpy_helper.from_array(array, f"extra_{number}") for number, array in enumerate(extra)]
    graph = helper.make_graph([node], "g", values[:1], values[1:], stored)
    opsets = [helper.make_opsetid("", OPSETS.get(op, 18 if op != "Upsample" else 9))]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # this onnxruntime has no kernel of the op
        pytest.skip(str(error).splitlines()[0][:100])
    y = np.abs(np.asarray(session.run(None, {"x": x})[0], np.float64)).max()
    floats = [array for array in extra if array.dtype == np.float32 and array.size > 4]
    largest = [float(np.abs(array).max()) for array in (x, *floats)]
    allowed = largest[0] if FACTS[op].magnitude == "of the first input" else sum(largest)
    assert 0 < y <= allowed * (1 + 1e-3)
