"""The response curves that set the widths."""

from __future__ import annotations

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.pipeline.decide import Selector
from onnxpfp.pipeline.group_trials import measure_group_trials
from onnxpfp.pipeline.scoring import Calibration
from onnxpfp.progress import Count

__all__ = ["response_curves"]

TEMPERATURE = 4.0
"""At 1 the curves of a network that is sure of itself are noise."""


def response_curves(selector: Selector, calibration: Calibration, tell: Count) -> tuple[ResponseCurve, ...]:
    """Measure the response curve of every group.

    Args:
        selector: Selects the channels at each width, as they will be selected in the end.
        calibration: What is known of the model and its data.
        tell: Told how many groups are done, of how many.
    """
    assert calibration.setup is not None
    refitted = selector.options.compensation(calibration.known) == "lstsq"
    found = measure_group_trials(
        selector, calibration.setup.problem, calibration.grams, refitted=refitted, temperature=TEMPERATURE, tell=tell
    )
    return tuple(each.curve for each in found)
