"""Made-up sizes of images: sides are tried, and never as many samples as two sides have pixels."""

from __future__ import annotations

from onnx import TensorProto, helper

from onnxpfp.model.input_shapes import input_shape_trials


def test_sides_of_images_do_not_add_up_to_samples() -> None:
    # As Paddle declares its recognisers: the first axis has a name that says nothing.
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["dynamic.0", 3, None, "dynamic.1"])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [given], [helper.make_empty_tensor_value_info("y")]
    )
    shapes = [trial["x"] for trial in input_shape_trials(helper.make_model(graph), {})]
    assert {shape[0] for shape in shapes} == {1, 2, 16}
    assert {shape[2:] for shape in shapes if shape[0] == 1} == {(s, s) for s in (224, 640, 256, 512, 320, 64, 32)}
