"""Made-up shapes of time-first inputs: a length in axis 0 is one, where another axis is called batch."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from onnxpfp.model.input_shapes import default_input_shapes


@pytest.mark.parametrize(
    ("declared", "made_up"),
    [
        (["seq", "batch", 20], (16, 1, 20)),
        (["T", "batch_size", 20], (16, 1, 20)),
        (["time", 20, "bs"], (16, 20, 1)),
        (["frames", "batch", 3, "height"], (16, 1, 3, 224)),
        # Nothing else is called batch, or axis 0 is no length: it counts samples.
        (["seq", "hidden", 20], (1, 16, 20)),
        (["batch", "seq", 20], (1, 16, 20)),
        (["rows", "batch", 20], (1, 1, 20)),
    ],
    ids=str,
)
def test_axis_0_that_is_called_a_length_is_one(declared: list[str | int], made_up: tuple[int, ...]) -> None:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, declared)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [given], [helper.make_empty_tensor_value_info("y")]
    )
    assert default_input_shapes(helper.make_model(graph), {}) == {"x": made_up}
