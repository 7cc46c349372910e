"""The ONNX backend node tests: for every op of the standard, inspection ends without a crash."""

from __future__ import annotations

import contextlib
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp

REFUSED = frozenset({"ImageDecoder", "SequenceEmpty", "SequenceInsert", "SequenceLength", "SequenceMap"})
"""Ops whose shapes only a run would tell, and that no onnxruntime runs; ops of which every case is fed a sequence."""
OPSET, IR = 24, 10
"""What every onnxruntime loads; ops of newer opsets have their shapes inferred."""


@cache
def cases() -> tuple[Any, ...]:
    """The cases that onnx ships for its backend tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return tuple(collect_testcases(None))


def easier(case: Any) -> ModelProto:
    """Store the inputs of a case in its model but for the first matrix or image, and make it an older file.

    Shapes, axes and indices cannot be made up.
    """
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, IR)
    for opset in model.opset_import:
        opset.version = min(opset.version, OPSET)
    fed = [
        (info.name, np.asarray(array))
        for info, array in zip(model.graph.input, case.data_sets[0][0], strict=False)
        if isinstance(array, np.ndarray | np.generic)
    ]
    data = next((name for name, array in fed if array.ndim > 1), "")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in fed if name != data)
    return model


def inspected(case: Any) -> onnxpfp.Inspection | None:
    """Inspect the model of a case as it is, and where it is refused once more in an easier form."""
    for model in (case.model, easier(case)):
        with contextlib.suppress(onnxpfp.OnnxPfpError):
            return onnxpfp.inspect(model)
    return None


def test_every_op_of_the_standard_is_inspected_without_a_crash() -> None:
    found = {case.name: inspected(case) for case in cases()}
    assert all(group.channels for i in found.values() if i for group in i.groups)
    assert all(i.reachable.params <= i.total.params for i in found.values() if i)
    refused = [name for name, inspection in found.items() if inspection is None]
    # Newer than onnxruntime, or inputs that are sequences.
    assert len(refused) < len(found) / 20
    ops = {case.name: {node.op_type for node in case.model.graph.node} for case in cases()}
    inspected_ops = set[str]().union(*(ops[name] for name in found if name not in refused))
    assert set[str]().union(*ops.values()) - inspected_ops <= REFUSED


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "Reshape", "LSTM", "Einsum", "Loop"])
def test_the_collection_has_what_matters(op: str) -> None:
    assert any(node.op_type == op for case in cases() for node in case.model.graph.node)
