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
