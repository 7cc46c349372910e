"""The sensitivities of single channels, in terms of the network as it was given."""

from __future__ import annotations

from onnxpfp.channels import Group
from onnxpfp.pipeline.calibration import DataCalibration
from onnxpfp.report.outcome import Outcome
from onnxpfp.score.pfp import upper_envelope

__all__ = ["sensitivities_of"]


def sensitivities_of(outcome: Outcome, groups: tuple[Group, ...]) -> list[tuple[float | None, ...] | None]:
    """Return the sensitivity of every channel of every group, the largest over the consumers.

    Args:
        outcome: What became of the part.
        groups: Its groups.

    Returns:
        For each group one number in [0, 1] per channel, None for one that cost nothing and went before the rest was
        measured; None in place of them where nothing was measured.
    """
    calibration = outcome.calibration
    if not isinstance(calibration, DataCalibration) or not calibration.statistics:
        return [None] * len(groups)
    parts = [(each.channels, each.sensitivity) for each in calibration.statistics.values()]
    values = upper_envelope(parts, outcome.measured_part.measured.analysis.graph.count)
    current = outcome.lossless.lineage.current
    return [
        tuple(float(values[channel]) if channel else None for channel in current[group.channels].tolist())
        for group in groups
    ]
