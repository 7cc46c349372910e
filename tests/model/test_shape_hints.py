"""The options that give inputs with free axes their shapes, as errors write them."""

from __future__ import annotations

from onnx import TensorProto, helper

from onnxpfp.model.input_shapes import shape_hint


def test_only_inputs_with_free_axes_are_in_it() -> None:
    declared: dict[str, list[str | int] | None] = {"x": ["n", 3], "fixed": [1, 3], "rate": [], "unknown": None}
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in declared.items()]
    node = helper.make_node("Sum", [*declared], ["y"])
    graph = helper.make_graph([node], "g", given, [helper.make_empty_tensor_value_info("y")])
    shapes = {"x": (2, 3), "fixed": (1, 3), "rate": (), "unknown": (4,)}
    assert shape_hint(helper.make_model(graph), shapes) == "--input-shape x:2,3 --input-shape unknown:4"
