"""Families are cut into runs whose copies of weights fit the workspace: few runs, of about one size."""

import numpy as np
import pytest

from onnxpfp.linear.families import op_families, shard_families
from onnxpfp.linear.ops import LinearOp

BYTES = 16 * 64 * 32
"""Held for one op below."""


def products(count: int) -> list[LinearOp]:
    weight = np.zeros((64, 32), np.float32)
    return [LinearOp(f"op{i}", "matmul", f"x{i}", (1, 64), 1, np.arange(1, 65), weight, (1, 32)) for i in range(count)]


@pytest.mark.parametrize(
    ("room", "expected"),
    [(12, [12]), (11, [6, 6]), (8, [6, 6]), (5, [4, 4, 4]), (0.5, [1] * 12)],
    ids=["all", "two", "not eight and four", "three", "each too large"],
)
def test_runs_are_few_and_even(room: float, expected: list[int]) -> None:
    families = op_families(products(12))
    # Three quarters of the workspace are for the weights.
    runs = list(shard_families(families, int(np.ceil(room * BYTES / 0.75))))
    assert [len(run) for run in runs] == expected
    assert [family for run in runs for family in run] == list(families)
