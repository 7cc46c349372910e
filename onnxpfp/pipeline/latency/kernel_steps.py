"""In what steps of channels the kernels of a device work, by what was measured at widths in several multiples.

Kernels that compute 16 channels at once take as long for 17 as for 32, and some leave their blocks where widths are no
multiples of something. How much slower widths in finer multiples are for what they do shows in a few points each, no
more exactly than these repeat. So what is clearly slower is left out here, and several multiples may stay in question:
each is a candidate, with latencies fitted to its own points, and what a pruning to the target would lose in it decides
(`step_choice.py`). Where nothing foresees that loss, the finest multiple that was not measured to be slower is taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxpfp.channels import Analysis
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, OpLatencies, fit_latencies
from onnxpfp.pipeline.latency.table import FEWEST
from onnxpfp.runtime.blocks import USUAL, Alignment

__all__ = [
    "Slower",
    "StepCandidate",
    "aligned",
    "in_question",
    "measured_alignment",
    "slower_in_multiples",
    "step_candidates",
]

SLOWER = 0.02
"""Share of the time by which widths in finer steps may be slower where nothing but time tells steps apart: repeated
measurements differ by as much."""
MUCH_SLOWER = 0.08
"""Share of the time beyond which a step is out of question: more choice of widths is not worth that."""


class Slower(NamedTuple):
    """How much slower kernels are at widths in a multiple, for what they do.

    Attributes:
        log: Logarithm of the time over that of the fastest multiple.
        noise: Standard error of it.
    """

    log: float
    noise: float


@dataclass(frozen=True, slots=True, eq=False)
class StepCandidate:
    """Steps of widths that are in question.

    Attributes:
        alignment: The steps.
        latencies: Those of the ops, fitted to the points in multiples of these steps.
        slower: Logarithm of the share of the latency that was measured at widths in just these steps, over the share
            that the fit says.
    """

    alignment: Alignment
    latencies: OpLatencies
    slower: float


def slower_in_multiples(
    analysis: Analysis, points: Sequence[MeasuredWidths], multiples: Sequence[int]
) -> dict[int, Slower]:
    """Find how much slower kernels are at widths in finer steps, for what they do.

    All points are fitted alike, and what the fit leaves of those in finer steps is how much slower they are. The first
    points of all multiples have the same shares of the groups. So what a multiple adds to one of them and not to the
    others is noise, of the measurement or of the fit: the interaction in an analysis of variance with two factors.

    Args:
        analysis: The network that was measured.
        points: What was measured, at several widths in each multiple.
        multiples: In which multiples the widths of each point are, full ones aside; 0 for the full widths.

    Returns:
        By multiple, ascending; empty where nothing was narrowed.
    """
    left = _left(fit_latencies(analysis, points, blocks=()), analysis, points, multiples)
    if not left:
        return {}
    # Later points have other shares, and would only add their own errors.
    alike = min(map(len, left.values()))
    logs = np.array([left[multiple][:alike] for multiple in sorted(left)])
    means = logs.mean(axis=1)
    rest = logs - means[:, None] - logs.mean(axis=0) + logs.mean()
    freedom = (logs.shape[0] - 1) * (alike - 1)
    # Of a difference of two means.
    noise = math.sqrt(2 / alike * float((rest**2).sum()) / freedom) if freedom else 0.0
    return {
        multiple: Slower(float(mean - means.min()), noise if mean > means.min() else 0.0)
        for multiple, mean in zip(sorted(left), means, strict=True)
    }


def measured_alignment(slower: Mapping[int, Slower], usual: int = 1) -> Alignment:
    """Return the steps in which channels are kept where only the time tells them apart.

    Args:
        slower: What was measured.
        usual: The multiple that is known of the device; a finer one must not be slower than that at all.

    Returns:
        Multiples of the smallest number that is not slower than the best by more than `SLOWER`, of 1 where nothing was
        narrowed; in narrow groups down to the smallest, from 8 on, that is not out of question.
    """
    known = slower[usual].log if usual in slower else SLOWER
    allowed = {multiple: SLOWER if multiple >= usual else min(known, SLOWER) for multiple in slower}
    step = next((multiple for multiple, each in slower.items() if each.log <= allowed[multiple]), 1)
    reason = "no multiple of channels was measured to be faster"
    if step > 1:
        reason = f"multiples of {step} are the finest that were not measured to be slower"
    questioned = in_question(slower)
    others = [str(multiple) for multiple in questioned if multiple != step]
    if others:
        reason = f"{reason}; where response curves set widths, a target of latency tries {', '.join(others)} too"
    finer = (multiple for multiple in questioned if USUAL <= multiple < step)
    return Alignment(step, reason, "measured", min(finer, default=step))


def in_question(slower: Mapping[int, Slower]) -> tuple[int, ...]:
    """Return the multiples that are not clearly much slower than the fastest, ascending."""
    return tuple(multiple for multiple, each in slower.items() if each.log - each.noise <= MUCH_SLOWER)


def step_candidates(
    analysis: Analysis,
    points: Sequence[MeasuredWidths],
    multiples: Sequence[int],
    questioned: Sequence[int],
    units: float,
) -> tuple[StepCandidate, ...]:
    """Fit latencies for all steps that are in question.

    Args:
        analysis: The network that was measured.
        points: What was measured, the full widths first.
        multiples: In which multiples the widths of each point are; 0 for the full widths.
        questioned: The multiples that are in question, ascending.
        units: Units of cost in a millisecond.

    Returns:
        Those that give groups different steps, fine ones first.
    """
    sizes = [group.channels.size for group in analysis.graph.groups]
    candidates: list[StepCandidate] = []
    seen = set[tuple[int, ...]]()
    for alignment in _alignments(questioned):
        steps = tuple(alignment.of_group(size) for size in sizes)
        if steps not in seen:
            seen.add(steps)
            latencies = fit_latencies(analysis, aligned(points, multiples, alignment.finest), units=units)
            candidates.append(
                StepCandidate(alignment, latencies, _slower(latencies, analysis, points, multiples, steps))
            )
    return tuple(candidates)


def aligned(points: Sequence[MeasuredWidths], multiples: Sequence[int], step: int) -> Sequence[MeasuredWidths]:
    """Return the points in multiples of a step; all of them where these are too few for a fit."""
    some = [point for point, multiple in zip(points, multiples, strict=True) if multiple % step == 0]
    return some if len(some) >= FEWEST else points


def _alignments(questioned: Sequence[int]) -> Iterator[Alignment]:
    """Yield steps that are the same in all groups, and those that are smaller in narrow ones."""
    for step in questioned:
        for finest in (step, *(each for each in questioned if USUAL <= each < step)):
            yield Alignment(step, "", "measured", finest)


def _left(
    latencies: OpLatencies, analysis: Analysis, points: Sequence[MeasuredWidths], multiples: Sequence[int]
) -> dict[int, list[float]]:
    """Return by multiple what a fit leaves of its points: logarithms of measured over fitted latencies."""
    cost = latencies.cost(analysis)
    left: dict[int, list[float]] = {}
    for point, multiple in zip(points, multiples, strict=True):
        if multiple:
            left.setdefault(multiple, []).append(math.log(latencies.units * point.ms / cost.total(point.kept)))
    return left


def _slower(
    latencies: OpLatencies,
    analysis: Analysis,
    points: Sequence[MeasuredWidths],
    multiples: Sequence[int],
    steps: Sequence[int],
) -> float:
    """Return what a fit leaves of a share of the latency at widths in these steps of the groups.

    A group counts by its channels, and one that cannot be cut does not.
    """
    sizes = (group.channels.size for group in analysis.graph.groups)
    left = _left(latencies, analysis, points, multiples)
    whole = math.log(latencies.units * points[0].ms / latencies.cost(analysis).total(points[0].kept))
    each = [
        (size, float(np.mean(left[_known(step, left)]))) for size, step in zip(sizes, steps, strict=True) if step < size
    ]
    return sum(size * log for size, log in each) / sum(size for size, _ in each) - whole if each else 0.0


def _known(step: int, measured: Collection[int]) -> int:
    """Return the largest multiple up to a step that was measured, or the smallest of all."""
    return max((multiple for multiple in measured if multiple <= step), default=min(measured))
