"""How many samples run together: by the activations of the network, whatever is looked at."""

from __future__ import annotations

import pytest
from support.graphs import build
from support.oracle import problem

from onnxpfp.calibrate.batch_size import largest_activation, samples_at_once

MODEL = """g (float[N,2,{side},{side}] x) => (y) <float[3,2,1,1] w, float[3,3,3,3] v> {{
    h = Conv(x, w)  y = Conv<strides = [2, 2]>(h, v) }}"""


@pytest.mark.parametrize(
    ("side", "most"),
    [
        (8, (6 << 20) // (4 * 3 * 8 * 8)),
        (512, 4),  # 3 MiB each
        (1024, 2),  # 12 MiB each
        (2048, 1),  # 48 MiB
    ],
)
def test_large_activations_run_by_few_samples(side: int, most: int) -> None:
    analysis = problem(build(MODEL.format(side=side))).analysis
    assert largest_activation(analysis) == 4 * 3 * side * side
    assert samples_at_once(analysis) == most


def test_weights_are_no_activations() -> None:
    text = "g (float[N,600] x) => (y) <float[600,40] w> { y = MatMul(x, w) }"
    assert largest_activation(problem(build(text)).analysis) == 4 * 600
