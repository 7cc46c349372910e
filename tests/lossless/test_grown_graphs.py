"""Random graphs with channels that were made equal or zero by their weights: what is found leaves the outputs alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from finding import Found, find, others, samples_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from support.composer import compose
from support.composer_checks import JUMPS, examine
from support.oracle import Case, run

from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.model.constants import stored_tensors

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=CALM)
FRESH = settings(QUICK, max_examples=1000, derandomize=False, print_blob=True)


def planted(case: Case) -> ModelProto:
    """Give the second channel of every group the weights of the first, and let the third one's be zero."""
    copy = ModelProto()
    copy.CopyFrom(case.model)
    graph, places = case.graph, stored_axes_of(case.analysis)
    contracted = {(place.tensor, place.axis) for place in places if place is not None}
    tensors = stored_tensors(copy.graph)
    for name, axes in graph.stored_axes():
        array = numpy_helper.to_array(tensors[name]).copy()
        for axis, ids in enumerate(axes):
            for group in graph.groups if (name, axis) not in contracted and array.dtype.kind == "f" else ():
                moved = np.moveaxis(array, axis, 0)
                one, two, three = (np.flatnonzero(ids == channel) for channel in np.resize(group.channels, 3))
                if two.size == one.size:
                    moved[two] = moved[one]
                if group.channels.size > 2 and array.ndim > 1:
                    moved[three] = 0
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return copy


def bearable(model: ModelProto) -> bool:
    """Whether a network computes numbers: with weights of zero some divide by zero."""
    feeds = [*samples_of(model).batches(8), *others(model)]
    return all(
        np.isfinite(array).all() for feed in feeds for array in run(model, feed).values() if array.dtype.kind == "f"
    )


def check(model: ModelProto, *, trusted: bool) -> Found | None:
    case = examine(model)
    if not case.graph.count:
        return None
    changed = planted(case)
    if not bearable(changed):
        return None
    try:
        found = find(changed, trusted=trusted)
    except (CalibrationError, ModelError):
        # The same within the network, or onnxruntime fuses it into what it does not run.
        return None
    halves = any(tensor.data_type in {10, 16} for tensor in case.model.graph.initializer)
    steps = any("Quantize" in node.op_type or "QLinear" in node.op_type for node in case.model.graph.node)
    # Where an op jumps, another order of sums can decide: then one of several inputs must be free of that.
    jumps = any(node.op_type in JUMPS for node in case.model.graph.node)
    assert (min(found.errors) if jumps else found.error) < (5e-2 if halves or steps else 1e-5)
    return found


@pytest.mark.parametrize("trusted", [True, False], ids=["data", "weights"])
def test_grown_graphs(trusted: bool) -> None:
    seen: Counter[str] = Counter()

    @QUICK
    @given(data=st.data())
    def every(data: st.DataObject) -> None:
        found = check(data.draw(compose()), trusted=trusted)
        if found is not None:
            seen.update(one.kind for one in found.lossless.removed)

    every()
    assert min(seen[kind] for kind in ("dead", "constant", "duplicate")) > 5, seen


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False], ids=["data", "weights"])
@FRESH
@given(data=st.data())
def test_fresh_graphs(trusted: bool, data: st.DataObject) -> None:
    check(data.draw(compose()), trusted=trusted)
