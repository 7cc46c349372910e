"""Random graphs with channels that were made equal or zero by their weights: what is found leaves the outputs alone."""

from __future__ import annotations

from collections import Counter

import pytest
from finding import Found, bearable, find, planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from support.composer import compose
from support.composer_checks import JUMPS, examine

from onnxpfp.errors import CalibrationError, ModelError

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
QUICK = settings(max_examples=60, suppress_health_check=CALM)
FRESH = settings(QUICK, max_examples=1000, derandomize=False, print_blob=True)


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
