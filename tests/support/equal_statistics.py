"""What it means that the screened and the plain path find the same."""

from __future__ import annotations

import numpy as np

from onnxpfp.calibrate.statistics import Statistics

RTOL = 1e-6


def assert_same(found: Statistics, wanted: Statistics, rtol: float = RTOL) -> None:
    """Compare all fields: shares to 1e-6 or as said, sums of float32 to 1e-5, counts exactly."""
    assert list(found) == list(wanted)
    for name in wanted:
        mine, plain = found[name], wanted[name]
        np.testing.assert_array_equal(mine.channels, plain.channels)
        np.testing.assert_allclose(mine.sensitivity, plain.sensitivity, rtol=rtol, err_msg=name)
        scale = np.abs(plain.patch_sum).max(initial=0)
        np.testing.assert_allclose(mine.patch_sum, plain.patch_sum, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
        # Squares of numbers near 1e20 are infinite in float32.
        there = np.isfinite(plain.square_sum)
        np.testing.assert_allclose(mine.square_sum[there], plain.square_sum[there], rtol=1e-5, err_msg=name)
        assert (mine.patches, mine.negative, mine.samples) == (plain.patches, plain.negative, plain.samples), name
