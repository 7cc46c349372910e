"""Targets by quality: prune as much of the MACs as what is asked of the output allows.

Every trial is a whole pruning to a share of the MACs, measured on samples that nothing in it was chosen by. The share
itself is chosen by them, so what is measured at the share that is found is a little better than on new samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from onnxpfp.allocation.search import SearchResult, Trial, search
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.data.samples import Samples
from onnxpfp.errors import OptionError, TargetUnreachableError
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.network_steps import PrunedNetwork

__all__ = ["QualityTarget", "prune_to_quality", "quality_evaluator"]

_MISSING = {
    "drift": ("looks at float outputs, and the model has none", "--keep-macs F sets the size"),
    "agreement": (
        "compares the largest class of every sample, and no output looks like class scores: a float matrix with one "
        "row per sample and two columns at least",
        "--max-drift X bounds the relative output error in its place",
    ),
}
"""What an output lacks, and what to do about it, by quantity."""


@dataclass(frozen=True, slots=True)
class QualityTarget:
    """A target for the quality of the output.

    Attributes:
        quantity: The relative output error (drift), or the share of samples with the same largest class (agreement).
        bound: The largest drift, or the smallest agreement.
    """

    quantity: Literal["drift", "agreement"]
    bound: float

    @classmethod
    def of(cls, options: Options) -> Self | None:
        """Return what the options ask for, if they do."""
        if options.max_drift is not None:
            return cls("drift", options.max_drift)
        return None if options.min_agreement is None else cls("agreement", options.min_agreement)

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--max-drift" if self.quantity == "drift" else "--min-agreement"

    def value(self, drift: Drift) -> float:
        """Return what is limited; not a number where the outputs have nothing of the kind."""
        value = drift.relative_error if self.quantity == "drift" else drift.top1_agreement
        return math.nan if value is None else value

    def holds(self, value: float) -> bool:
        """Whether a measured value is good enough."""
        return value <= self.bound if self.quantity == "drift" else value >= self.bound


def quality_evaluator(limit: QualityTarget, context: RunContext, held_out: Samples) -> Evaluator:
    """Return what measures a limited quality, if it can be measured, before anything expensive is done.

    Its samples decide how much goes, so they are not held out from the choice any more.

    Raises:
        OptionError: The outputs have nothing of the kind.
    """
    model = context.whole.model
    if math.isnan(limit.value(context.evaluator(held_out.take(context.data.batch_size)).drift(model))):
        what, instead = _MISSING[limit.quantity]
        raise OptionError(f"{context.whole.source.title}: {limit.flag} {what}", hint=instead)
    return context.evaluator(held_out, held_out=False)


def prune_to_quality(
    limit: QualityTarget,
    context: RunContext,
    evaluator: Evaluator,
    prune: Callable[[RunContext], PrunedNetwork],
    *,
    least: float,
    single: float,
) -> tuple[PrunedNetwork, SearchResult]:
    """Prune as much as the limit allows.

    Args:
        limit: What is asked of the output.
        context: What else is asked for.
        evaluator: Compares with the model as it was given.
        prune: Prunes to a share of the MACs.
        least: The smallest share of the MACs that can be reached.
        single: The share with one channel in every group.

    Returns:
        The smallest result within the limit, and how it was found.

    Raises:
        TargetUnreachableError: Nothing can be pruned within it.
    """
    # Only the best so far is kept: models may be large.
    best: list[tuple[float, PrunedNetwork]] = []

    def measure(share: float) -> float:
        asked = replace(context.options, max_drift=None, min_agreement=None, keep_macs=share)
        trial = prune(replace(context, options=asked))
        with context.clock.phase("search") as progress:
            value = limit.value(evaluator.drift(trial.whole.model, progress))
        if limit.holds(value) and not (best and best[0][0] < share):
            best[:] = [(share, trial)]
        return value

    search_result = search(measure, limit.holds, least)
    if search_result.share is None:
        raise _unreachable(limit, least, search_result.trials, single)
    return best[0][1], search_result


def _unreachable(limit: QualityTarget, least: float, trials: Sequence[Trial], single: float) -> TargetUnreachableError:
    """Say how near the trials came; `single` is the share of the MACs with one channel in every group."""
    if not trials:
        return TargetUnreachableError(
            f"nothing can be pruned: {100 * least:.1f} % of the MACs is the least that can be reached",
            hint="lower --round-to or --min-channels" if single < least else "`onnxpfp inspect` says why",
        )
    near = max(trials, key=lambda trial: trial.share)
    return TargetUnreachableError(
        f"nothing can be pruned within {limit.flag} {limit.bound:g}: with {100 * near.share:.0f} % of the MACs the "
        f"{limit.quantity} is {near.value:.4g} already",
        hint=f"ask for {limit.flag} {_reachable(limit, near.value)}, or give more calibration data",
    )


def _reachable(limit: QualityTarget, value: float) -> str:
    """Round a measured value to what a limit would have to be, three digits."""
    if not math.isfinite(value):
        return "less"
    if limit.quantity == "agreement":
        return f"{math.floor(1000 * value) / 1000:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit) * unit:.3g}"
