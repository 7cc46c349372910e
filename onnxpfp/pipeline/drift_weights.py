"""What the measured drifts of groups and layers count, chosen by what several choices leave once all is refitted.

Curves are measured with one group or one layer cut at a time. What several cuts do together is more than their sum, and
how much more differs: a layer that reads fewer channels has fewer directions left to take its rank from. So where more
is asked for than the least, drifts are also counted by other factors. Every choice that comes out of that is refitted,
and the one that drifts least is taken. First the drift of all ranks beside that of all channels (`--effort`), up to the
choice that leaves all channels; then with streams that are cut as other groups, and by a power of all drifts; then that
of every group and of every layer by itself (`--steps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.data.samples import Samples
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.candidate import build_candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import AS_MEASURED, DriftWeights, decide_with_ranks
from onnxpfp.pipeline.selector import Decision

__all__ = ["least_drift"]

OF_RANKS: Mapping[str, tuple[float, ...]] = {"low": (), "normal": (0.5, 0.0), "high": (2.0, 0.5, 0.25, 0.0)}
"""What the drift of ranks counts, beside 1; with 0 all channels stay. By `--effort`."""
POWER = 1.4
"""Power of the drifts that is tried, too: together cuts do more than alone, the more so the larger they are."""
FACTORS = (3.0, 1.0 / 3.0)
"""How many times the drift of one group or layer counts in a step: it is cut less, or more, for all others."""
LEAST_FITTED = 64
"""Fewer samples to fit than that are not halved."""
LEAST_GAIN = 2e-3
"""Share of the drift that a step of one group or layer must take away: what lowers it by less is chance."""


def least_drift(context: RunContext, measured: Measured, decision: Decision) -> Decision:
    """Return the choice of widths and ranks that drifts least once it is refitted.

    Refits see half of the samples to fit, and the other half is compared: choices do not learn what they see by as much
    as each other. Where that leaves too few all samples that may decide are fitted or compared.

    Args:
        context: What is asked for; with the least effort, in one step, nothing else is tried, and with a target of
            latency neither: of several files only one is measured to be as fast as was asked.
        measured: The model.
        decision: The choice where all drifts count the same.
    """
    options = context.options
    asked = options.target[0] != "latency" and (options.effort != "low" or options.steps > 1)
    if not measured.ranked or not context.chooses or not asked:
        return decision
    refitted, compared = _halves(measured, context.data.samples, options.seed)
    evaluator = context.evaluator(compared, held_out=False)
    layers = len(measured.ranked)
    search = _Search(context, measured, refitted, evaluator, decision, AS_MEASURED)
    for weight in OF_RANKS[options.effort]:
        factors = np.ones(len(measured.curves))
        if weight == 0.0:
            factors[:-layers] = np.inf
        else:
            factors[-layers:] = weight
        search.try_out(DriftWeights(factors, weight))
    if options.effort != "low":
        search.try_out(replace(search.weights, free_streams=True), LEAST_GAIN)
        search.try_out(replace(search.weights, power=POWER), LEAST_GAIN)
    for _ in range(1, options.steps):
        if not search.goes_on():
            break
    return search.best


@dataclass(slots=True, eq=False)
class _Search:
    """Choices that are refitted and compared.

    Attributes:
        context: What is asked for.
        measured: The model.
        refitted: The same as it is refitted, to fewer samples.
        evaluator: Compares with the original.
        best: The choice that drifts least by now.
        weights: How drifts count there.
        least: Its drift; infinite where no output is a float, so that nothing is told apart.
        seen: All choices that were refitted.
    """

    context: RunContext
    measured: Measured
    refitted: Measured
    evaluator: Evaluator
    best: Decision
    weights: DriftWeights
    least: float = field(init=False)
    seen: list[Decision] = field(init=False)

    def __post_init__(self) -> None:
        self.least, self.seen = self._drift(self.best), [self.best]

    def try_out(self, weights: DriftWeights, gain: float = 0.0) -> bool:
        """Refit the choice that weights lead to; tell whether it is better.

        Args:
            weights: How drifts count.
            gain: Share of the drift that it must take away.
        """
        try:
            decision = decide_with_ranks(self.context, self.measured, weights)
        except TargetUnreachableError:
            # What may still go does not get there.
            return False
        if any(decision.takes_the_same(each) for each in self.seen):
            return False
        self.seen.append(decision)
        drift = self._drift(decision)
        if not drift < (1.0 - gain) * self.least:
            return False
        self.best, self.weights, self.least = decision, weights, drift
        return True

    def goes_on(self) -> bool:
        """Go over all groups and layers once; tell whether anything became better."""
        numbers = range(len(self.measured.curves))
        found = [any(self.try_out(weights, LEAST_GAIN) for weights in self._around(number)) for number in numbers]
        return any(found)

    def _around(self, number: int) -> Iterator[DriftWeights]:
        """Yield how drifts count where that of one group or layer counts more, or less."""
        for factor in FACTORS:
            factors = np.broadcast_to(self.weights.factors, len(self.measured.curves)).copy()
            factors[number] *= factor
            yield replace(self.weights, factors=factors)

    def _drift(self, decision: Decision) -> float:
        """Return how far a choice is off with every layer refitted by itself."""
        candidate = build_candidate(self.context, self.refitted, decision, effort="low")
        with self.context.clock.phase("search") as progress:
            drift = self.evaluator.drift(candidate.model, progress).relative_error
        return np.inf if drift is None else drift


def _halves(measured: Measured, samples: Samples, seed: int) -> tuple[Measured, Samples]:
    """Return a model of which half of the samples is fitted to, and what it is compared on: the other half.

    Args:
        measured: The model.
        samples: What is compared where there are too few to fit.
        seed: Of the draw.
    """
    calibration = measured.calibration
    assert isinstance(calibration, RefitCalibration)
    setup = calibration.setup
    fit = setup.problem.fit
    if len(fit) < max(LEAST_FITTED, 2 * (fit.fixed_batch or 1)):
        return measured, samples
    others, some = fit.split(len(fit) // 2, seed)
    problem = replace(setup.problem, fit=some)
    return replace(measured, calibration=replace(calibration, setup=replace(setup, problem=problem))), others
