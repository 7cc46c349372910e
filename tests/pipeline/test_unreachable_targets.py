"""What is said of targets that cannot be met: of what they are a share."""

from __future__ import annotations

from typing import Any

import nets
import pytest

import onnxpfp
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.costs import QUANTITIES


@pytest.mark.parametrize(("target", "counted"), [("keep_macs", "MACs"), ("keep_params", "parameters")])
@pytest.mark.parametrize(
    "options",
    [
        {"allocate": "measured"},
        {"allocate": "measured", "structure": "channels,rank"},
        {"allocate": "bound"},
        {"allocate": "uniform"},
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_the_message_names_what_the_target_counts(target: str, counted: str, options: Any) -> None:
    with pytest.raises(
        TargetUnreachableError, match=rf"the target is 0\.1% of the {counted}, but \d+\.\d% is the least"
    ):
        onnxpfp.prune(nets.chain(), calibration=nets.noise(64, 3, 8, 8), no_latency=True, **{target: 0.001}, **options)


def test_no_quantity_is_a_cost_without_a_name() -> None:
    assert {name: quantity.counts for name, quantity in QUANTITIES.items()} == {
        "macs": "MACs",
        "params": "parameters",
        "size": "bits of the weights",
        "latency": "fitted latency",
    }
