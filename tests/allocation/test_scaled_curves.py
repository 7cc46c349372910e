"""What the drift of ranks counts beside that of channels: a factor shifts what goes from one to the other."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.by_drift import ResponseCurve, allocate_by_drift

WIDTHS = np.arange(1, 9)


def curve(height: float) -> ResponseCurve:
    return ResponseCurve(WIDTHS, height * (8.0 - WIDTHS) ** 2)


class Sum:
    """A cost that adds widths up."""

    n_groups = 2

    def total(self, kept: np.ndarray) -> int:
        return int(kept.sum())

    def saved_at(self, kept: np.ndarray, group: int, widths: np.ndarray) -> np.ndarray:
        return kept[group] - widths


@pytest.mark.parametrize(("factor", "other"), [(4.0, "wider"), (0.25, "narrower")])
def test_a_curve_that_counts_more_keeps_more(factor: float, other: str) -> None:
    before = allocate_by_drift([curve(1.0), curve(1.0)], Sum(), 0.5)
    after = allocate_by_drift([curve(1.0), curve(1.0).times(factor)], Sum(), 0.5)
    assert before.tolist() == [4, 4]
    assert bool(after[1] > 4) == (other == "wider")
    assert after.sum() <= 8


def test_what_has_to_stay_whole_does() -> None:
    kept = allocate_by_drift([curve(1.0).whole, curve(1.0)], Sum(), 0.6)
    assert kept.tolist() == [8, 1]


def test_a_power_above_1_spreads_what_goes() -> None:
    """The steep curve is left alone unless large drifts count more than they were measured."""
    flat, steep = ResponseCurve(WIDTHS, 0.9 * (8.0 - WIDTHS)), ResponseCurve(WIDTHS, 1.0 * (8.0 - WIDTHS))
    assert allocate_by_drift([flat, steep], Sum(), 0.5625).tolist() == [1, 8]
    assert allocate_by_drift([flat.raised(1.4), steep.raised(1.4)], Sum(), 0.5625).tolist() == [4, 5]
    assert flat.raised(1.0) is flat


def test_a_free_stream_is_cut_as_others() -> None:
    stream = ResponseCurve(WIDTHS, curve(1.0).drift, stream=True)
    other = curve(1.9)
    assert allocate_by_drift([stream, curve(0.25)], Sum(), 0.75).tolist() == [8, 4]
    assert allocate_by_drift([stream.free, curve(0.25)], Sum(), 0.75).tolist() == [7, 5]
    assert stream.free.stream is False
    assert other.free is other
