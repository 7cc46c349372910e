"""The response curves of all groups: how far the output drifts when one group alone is narrowed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxpfp.budget.measured import Curve
from onnxpfp.budget.widths import grid
from onnxpfp.pipeline.decide import Selector
from onnxpfp.pipeline.gather import Evidence
from onnxpfp.refit.respond import Question, respond

__all__ = ["response_curves"]


def response_curves(selector: Selector, evidence: Evidence, tell: Callable[[int, int], None]) -> tuple[Curve, ...]:
    """Measure the response curve of every group.

    Args:
        selector: Selects the channels at each width, as they will be selected in the end.
        evidence: What is known of the model and its data.
        tell: Told how many groups are done, of how many.
    """
    assert evidence.study is not None
    numbers = range(len(selector.groups))
    widths = [grid(*selector.allowed(number)) for number in numbers]
    rng = np.random.default_rng(selector.options.seed)
    questions = [
        Question(
            selector.groups[number],
            np.array([selector.select(number, width, rng).keep for width in widths[number].tolist()], np.bool_),
        )
        for number in numbers
    ]
    refitted = selector.options.compensation(evidence.known) == "lstsq"
    drifts = respond(evidence.study.setting, questions, evidence.grams, refitted=refitted, progress=tell)
    return tuple(Curve.of(*selector.allowed(number), widths[number], drifts[number]) for number in numbers)
