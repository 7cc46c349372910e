"""From the parts of a network to a result: each is measured, keeps a share of its cost, and takes its place again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from onnx import ModelProto

from onnxpfp.allocation.levels import share_levels
from onnxpfp.allocation.widths import unreachable
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.pipeline.calibration import Calibration, DataCalibration, Measured
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.choice_bounds import bounded
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.decide import least_cost
from onnxpfp.pipeline.lossless_step import LosslessStep, remove_lossless
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.selector import Decision
from onnxpfp.pipeline.shares import asked_channels, asked_of_rest
from onnxpfp.pipeline.steps import lift_decision, measure, prune_in_steps
from onnxpfp.pipeline.target_cost import cost_after, single_cost
from onnxpfp.rewrite import call_again, restore
from onnxpfp.score.scores import Scores

__all__ = [
    "MeasuredPart",
    "PrunedNetwork",
    "WrittenNetwork",
    "bound_choices",
    "keeps_all",
    "least_share",
    "lift_part",
    "measure_parts",
    "measure_whole",
    "measured_or_whole",
    "prune_network",
    "restore_network",
    "single_share",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPart:
    """A part with what was measured on it.

    Attributes:
        part: The part.
        lossless: What went from it for free.
        measured: What is left, and its scores.
    """

    part: NetworkPart
    lossless: LosslessStep
    measured: Measured

    @property
    def full(self) -> float:
        """What it costs in one run of the network."""
        return self._times * self.part.context.full

    @property
    def least(self) -> float:
        """The same at its smallest widths."""
        return self._times * least_cost(self.part.context, self.measured) if self.part.prunable else self.full

    @property
    def single(self) -> float:
        """The same with one channel in every group."""
        return self._times * single_cost(self.part.context, self.measured) if self.part.prunable else self.full

    def cost_after(self, decision: Decision) -> float:
        """Return what is left of the cost once only what was chosen stays."""
        if not self.part.prunable:
            return self.full
        return self._times * cost_after(self.part.context, self.measured, decision)

    @property
    def _times(self) -> float:
        """How often its cost counts."""
        return self.part.runs if QUANTITIES[self.part.context.options.target[0]].per_run else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class PrunedNetwork:
    """The choice in every part, and what it leaves of the network.

    Attributes:
        decisions: What stays of every part, in terms of what was measured.
        candidates: What is left of every part.
        whole: What is left of the network.
    """

    decisions: tuple[Decision, ...]
    candidates: tuple[Candidate, ...]
    whole: Candidate


@dataclass(frozen=True, slots=True, eq=False)
class WrittenNetwork:
    """What is left of a network, as it will be written.

    Attributes:
        parts: The models of the parts.
        whole: The main graph with its bodies.
        decisions: What stays of every part, in terms of the part as it was.
    """

    parts: tuple[ModelProto, ...]
    whole: ModelProto
    decisions: tuple[Decision, ...]


def measure_parts(network: Network) -> tuple[MeasuredPart, ...]:
    """Take out of every part what costs nothing, and measure what is left; a body that cannot be measured stays."""
    return tuple(measured_or_whole(part, _measure_part, measure_whole) for part in network.parts)


def measured_or_whole(part: NetworkPart, measure: Callable[[NetworkPart], T], stay: Callable[[NetworkPart], T]) -> T:
    """Measure a part; a body that cannot be measured, or could not be when its scores were, stays.

    Args:
        part: The part.
        measure: Measures it.
        stay: Says of a part that nothing of it goes.

    Raises:
        CalibrationError: The main graph cannot be measured.
        ModelError: Likewise.
    """
    known = part.context.scores
    if known is not None and known.part.stays:
        return stay(replace(part, stays=known.part.stays))
    try:
        return measure(part) if part.prunable else stay(part)
    except (CalibrationError, ModelError) as error:
        if part.body is None:
            raise
        return stay(replace(part, stays=str(error)))


def _measure_part(part: NetworkPart) -> MeasuredPart:
    context = part.context
    lossless = remove_lossless(context) if context.chooses else LosslessStep.nothing(context.whole)
    asked = asked_of_rest(asked_channels(part), context.whole.graph, lossless.lineage, lossless.analysis.graph)
    return MeasuredPart(part, lossless, measure(context, lossless.analysis, asked))


def measure_whole(part: NetworkPart) -> MeasuredPart:
    """Measure a part of which nothing goes: there is nothing to measure."""
    whole, data = part.context.whole, part.context.data
    calibration: Calibration = DataCalibration(Scores.nothing(whole.graph.count), data.fit, 0, None, {}, {})
    if data.given == "none":
        calibration = Calibration(calibration.scores, data.samples)
    measured = Measured(whole, linear_ops(whole), calibration, stored_axes_of(whole))
    return MeasuredPart(part, LosslessStep.nothing(whole), measured)


def keeps_all(parts: Sequence[MeasuredPart], pruned: PrunedNetwork) -> bool:
    """Tell whether nothing was removed: then the file stays as it is."""
    removed = any(each.lossless.removed for each in parts)
    return not removed and all(decision.keep.all() and not decision.ranked for decision in pruned.decisions)


def least_share(parts: Sequence[MeasuredPart]) -> float:
    """Return the smallest share of what the target counts that can be reached."""
    return sum(each.least for each in parts) / max(sum(each.full for each in parts), 1.0)


def single_share(parts: Sequence[MeasuredPart]) -> float:
    """Return that share with one channel in every group: options that set widths lead no lower."""
    return sum(each.single for each in parts) / max(sum(each.full for each in parts), 1.0)


def prune_network(context: RunContext, network: Network, parts: Sequence[MeasuredPart]) -> PrunedNetwork:
    """Choose what stays of every part, and put together what is left.

    Every part keeps the same share of its cost; what one cannot lose, the others make up for.

    Args:
        context: What is asked for.
        network: The parts.
        parts: What was measured on them.

    Raises:
        PlanError: The plan does not fit this model.
        TargetUnreachableError: The target cannot be met.
    """
    pruned = [
        prune_in_steps(
            replace(each.part.context, options=context.options.keeping(share), clock=context.clock), each.measured
        )
        for each, share in zip(parts, _shares(context, parts), strict=True)
    ]
    decisions, candidates = zip(*pruned, strict=True)
    model = network.assemble([candidate.model for candidate in candidates])
    mask = network.assemble([candidate.mask for candidate in candidates])
    return PrunedNetwork(decisions, candidates, replace(candidates[0], model=model, mask=mask))


def bound_choices(parts: Sequence[MeasuredPart], pruned: PrunedNetwork, candidates: int) -> PrunedNetwork:
    """Give the choices in all parts the bounds that the held-out samples have of their errors.

    Args:
        parts: What was chosen from.
        pruned: The choices.
        candidates: Of so many prunings the held-out samples have chosen one.
    """
    decisions = [
        bounded(each.part.context, each.measured, decision, candidates)
        for each, decision in zip(parts, pruned.decisions, strict=True)
    ]
    return replace(pruned, decisions=tuple(decisions))


def lift_part(each: MeasuredPart, decision: Decision) -> Decision:
    """Say a choice in terms of the part as it was, before what costs nothing went."""
    whole, lossless = each.part.context.whole, each.lossless
    return lift_decision(whole.graph, lossless.analysis.graph, decision, lossless.lineage)


def restore_network(network: Network, parts: Sequence[MeasuredPart], pruned: PrunedNetwork) -> WrittenNetwork:
    """Let every part compute what was not touched as the file did.

    Args:
        network: The parts.
        parts: What was measured on them.
        pruned: What is left of them.
    """
    decisions = tuple(lift_part(each, decision) for each, decision in zip(parts, pruned.decisions, strict=True))
    models = tuple(
        restore(candidate.model, part.context.whole, decision.keep)
        for part, candidate, decision in zip(network.parts, pruned.candidates, decisions, strict=True)
    )
    whole = call_again(network.assemble(models), network.parts[0].context.whole.source)
    return WrittenNetwork(models, whole, decisions)


def _shares(context: RunContext, parts: Sequence[MeasuredPart]) -> list[float]:
    """Return the share that each part is asked for.

    Raises:
        TargetUnreachableError: Together they cannot come down to the target.
    """
    share = context.options.target[1]
    if len(parts) == 1 or not context.chooses or context.options.sets_widths:
        return [share] * len(parts)
    full, least = np.array([each.full for each in parts]), np.array([each.least for each in parts])
    levels = share_levels(full, least, share)
    if levels is None:
        single = sum(each.single for each in parts)
        counts = QUANTITIES[context.options.target[0]].counts
        raise unreachable(counts, share, int(least.sum()), int(full.sum()), int(single))
    return [level if each.part.prunable else 1.0 for level, each in zip(levels, parts, strict=True)]
