"""The ONNX backend node tests: for every op of the standard, analysis ends without a crash."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from onnx import ModelProto

from onnxpfp.channels import Patterns, analyse
from onnxpfp.errors import OnnxPfpError
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import concrete_shapes


def node_models() -> Iterator[tuple[str, ModelProto]]:
    """The models that onnx ships for its backend tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None):
            yield case.name, case.model


def test_every_op_of_the_standard_is_analysed_without_a_crash() -> None:
    analysed, refused = set[str](), 0
    for name, model in node_models():
        try:
            shapes = concrete_shapes(model, {})
        except OnnxPfpError:
            # Newer than onnxruntime, or inputs that cannot be made up (sequences, shapes as data).
            refused += 1
            continue
        graph = analyse(model, shapes, Constants.of(model), Patterns())
        assert all(group.channels.size for group in graph.groups), name
        analysed |= {node.op_type for node in model.graph.node}
    assert len(analysed) > 150
    assert refused < 700


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "Reshape", "LSTM", "Einsum", "Loop"])
def test_the_collection_has_what_matters(op: str) -> None:
    assert any(node.op_type == op for _, model in node_models() for node in model.graph.node)
