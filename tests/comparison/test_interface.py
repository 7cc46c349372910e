"""Differences between the interfaces of two models, in sentences."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxpfp.comparison.interface import interface_differences, same_names_and_types

Info = tuple[str, int, list[int | str] | None]
X: Info = ("x", TensorProto.FLOAT, ["N", 3])
M: Info = ("m", TensorProto.INT64, [4])
Y: Info = ("y", TensorProto.FLOAT, ["N", 5])


def _model(inputs: list[Info], outputs: list[Info], *stored: str) -> ModelProto:
    infos = [[helper.make_tensor_value_info(*info) for info in infos] for infos in (inputs, outputs)]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0]) for name in stored]
    return helper.make_model(helper.make_graph([], "g", *infos, weights))


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ([X, M], [Y], []),
        ([("x", TensorProto.FLOAT, ["batch", 3]), M], [Y], []),
        ([X, M], [("y", TensorProto.FLOAT, None)], []),
        ([X], [Y], ["the input 'm' is missing"]),
        ([X, M], [Y, ("z", TensorProto.FLOAT, [1])], ["the output 'z' is new"]),
        ([M, X], [Y], ["the inputs stand in another order: m, x, not x, m"]),
        ([X, ("m", TensorProto.INT32, [4])], [Y], ["the input 'm' is int32 tensor, not int64 tensor"]),
        ([X, M], [("y", TensorProto.FLOAT, [1, 5])], ["the output 'y' has shape (1, 5), not (?, 5)"]),
        ([X, M], [("y", TensorProto.FLOAT, ["N", 5, 1])], ["the output 'y' has shape (?, 5, 1), not (?, 5)"]),
    ],
)
def test_differences_are_named(inputs: list[Info], outputs: list[Info], told: list[str]) -> None:
    original, other = _model([X, M], [Y]), _model(inputs, outputs)
    assert list(interface_differences(original, other)) == told
    only_shapes = all("has shape" in text or "order" in text for text in told)
    assert same_names_and_types(original, other) == only_shapes


def test_weights_that_are_listed_among_the_inputs_are_none() -> None:
    assert interface_differences(_model([X], [Y]), _model([X, ("w", TensorProto.FLOAT, [1])], [Y], "w")) == ()


def test_sequences_are_no_tensors() -> None:
    other = _model([X], [])
    other.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    assert interface_differences(_model([X], [Y]), other) == ("the output 'y' is sequence, not float tensor",)
    assert isinstance(other, onnx.ModelProto)
