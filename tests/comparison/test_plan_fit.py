"""The weights of a file beside those of a replayed plan."""

from __future__ import annotations

import nets
import numpy as np
from onnx import ModelProto, numpy_helper

from onnxpfp.comparison.plan_fit import compare_weights


def _changed(name: str, array: np.ndarray | None) -> ModelProto:
    """The chain with another tensor in the place of one, or without it."""
    model = nets.chain()
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if array is not None:
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_the_same_file_fits() -> None:
    fit = compare_weights(nets.chain(), nets.chain(), {"w1"})
    assert (fit.alike, fit.changed, fit.misfits) == (5, 0, ())


def test_other_numbers_are_counted_and_fit() -> None:
    fit = compare_weights(nets.chain(), _changed("w2", np.ones((10, 8, 3, 3), np.float32)), {"w2"})
    assert (fit.alike, fit.changed, fit.misfits) == (5, 1, ())


def test_equal_nans_are_the_same_numbers() -> None:
    broken = _changed("b1", np.full(8, np.nan, np.float32))
    assert compare_weights(broken, broken, set()).changed == 0


def test_another_shape_or_type_does_not_fit() -> None:
    shape = compare_weights(nets.chain(), _changed("w2", np.ones((10, 7, 3, 3), np.float32)), set())
    assert shape.misfits == ("the weight 'w2' has shape [10, 7, 3, 3], by the plan [10, 8, 3, 3]",)
    half = compare_weights(nets.chain(), _changed("w2", np.ones((10, 8, 3, 3), np.float16)), set())
    assert half.misfits == ("the weight 'w2' is float16 where the original has float",)
    assert shape.alike == half.alike == 4


def test_what_is_missing_counts_if_the_plan_names_it() -> None:
    without = _changed("b3", None)
    assert compare_weights(nets.chain(), without, {"w1"}).misfits == ()
    assert compare_weights(nets.chain(), without, {"b3"}).misfits == ("the weight 'b3' of the plan is missing",)


def test_a_file_may_store_more() -> None:
    more = nets.chain()
    more.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "new"))
    assert compare_weights(nets.chain(), more, {"w1"}).misfits == ()
