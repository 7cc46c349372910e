"""Targets by quality: prune as much of the MACs as what is asked of the output allows, and promise it.

Every trial is a whole pruning to a share of the MACs. Scores, refits and widths come from the fit and tuning samples;
so does the share that the search ends at, and the order in which shares around it are tested. The held-out samples only
test, in that order, until the first share that they do not promise (`onnxpfp.allocation.fixed_sequence` has the proof).
What they say of a trial of the search is put away unread until its turn.

What is measured is the model as it would be written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from onnxpfp.allocation.fixed_sequence import Descent, ShareTest, descend, order_of
from onnxpfp.allocation.search import SearchResult, Trial, search
from onnxpfp.arrays import Floats
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.counted import counted
from onnxpfp.data.samples import Samples
from onnxpfp.errors import TargetUnreachableError, VerificationError
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.network_steps import PrunedNetwork
from onnxpfp.pipeline.quality_target import Certified, QualityTarget, require_enough, require_measurable

__all__ = ["Evaluators", "FoundShare", "confirm", "prune_to_quality", "quality_evaluators"]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluators:
    """What compares models with the original.

    Attributes:
        tuning: On samples that may decide anything.
        held_out: On samples that only test.
    """

    tuning: Evaluator
    held_out: Evaluator


@dataclass(frozen=True, slots=True, eq=False)
class FoundShare:
    """How a share was found.

    Attributes:
        target: What was asked for.
        searched: The search on tuning samples.
        descent: The tests on held-out samples.
    """

    target: QualityTarget
    searched: SearchResult
    descent: Descent


def quality_evaluators(
    target: QualityTarget, context: RunContext, tuning: Samples, held_out: Samples, given: int | None
) -> Evaluators:
    """Return what measures a quality, if it can be measured and promised, before anything expensive is done.

    Args:
        target: What is asked of the output.
        context: What else is asked for.
        tuning: Samples that may decide anything.
        held_out: Samples that only test. They decide at which share the descent ends, so they are not held out from the
            choice of the model any more.
        given: How many samples were given, of which these are some; None where they were given apart.

    Raises:
        OptionError: The outputs have nothing of the kind.
        CalibrationError: Too few samples are held out for the promise.
    """
    source = context.whole.source
    few = context.evaluator(tuning.take(context.data.batch_size))
    require_measurable(target, few.compare(source.model), source.title)
    require_enough(target, held_out, given, context.data.how_to_hold_out_more)
    return Evaluators(context.evaluator(tuning, held_out=False), context.evaluator(held_out, held_out=False))


@dataclass(slots=True, eq=False)
class _Candidates:
    """The prunings to whole percentages of the MACs. They follow from fit and tuning samples alone.

    One is made when it is asked for, and again if it was thrown away: only one is kept beside it, for models may be
    large.

    Attributes:
        target: What is asked of the output.
        context: What else is asked for.
        evaluators: What compares with the original.
        prune: Prunes as the options of a context say.
        write: Makes of what is left the model that would be written.
        kept: The one that was good last.
        sealed: Losses on held-out samples by share; only `test` reads them.
    """

    target: QualityTarget
    context: RunContext
    evaluators: Evaluators
    prune: Callable[[RunContext], PrunedNetwork]
    write: Callable[[PrunedNetwork], ModelProto]
    kept: tuple[float, PrunedNetwork] | None = None
    sealed: dict[float, Floats] = field(default_factory=dict[float, Floats])

    def attempt(self, share: float) -> Trial:
        """Try a share on tuning samples."""
        made = self._make(share)
        foreseen = self.target.foresee(self._measure(share, made), len(self.evaluators.held_out.samples))
        if foreseen.passed and (self.kept is None or share < self.kept[0]):
            self.kept = share, made
        return Trial(share, foreseen.observed, foreseen.passed)

    def test(self, share: float) -> ShareTest:
        """Test a share on held-out samples."""
        made: PrunedNetwork | None = None
        if share not in self.sealed:
            made = self._make(share)
            self._measure(share, made)
        certified = self.target.certify(self.sealed[share])
        if certified.passed and made is not None:
            self.kept = share, made
        return ShareTest(share, certified.observed, certified.bound, certified.passed)

    def made(self, share: float) -> PrunedNetwork:
        """Return the pruning to a share."""
        if self.kept is not None and self.kept[0] == share:
            return self.kept[1]
        self.kept = None
        return self._make(share)

    def _make(self, share: float) -> PrunedNetwork:
        asked = replace(self.context.options, max_drift=None, min_agreement=None, keep_macs=share)
        return self.prune(replace(self.context, options=asked))

    def _measure(self, share: float, made: PrunedNetwork) -> Floats:
        """Return the losses on tuning samples, and put those on held-out samples away."""
        model = self.write(made)
        with self.context.clock.phase("search") as progress:
            self.sealed[share] = self._losses(self.evaluators.held_out.compare(model, progress).outcomes)
            return self._losses(self.evaluators.tuning.compare(model, progress).outcomes)

    def _losses(self, outcomes: Outcomes) -> Floats:
        losses = self.target.losses(outcomes)
        # `require_measurable` has made sure of that.
        assert losses is not None
        return losses


def prune_to_quality(
    target: QualityTarget,
    context: RunContext,
    evaluators: Evaluators,
    prune: Callable[[RunContext], PrunedNetwork],
    write: Callable[[PrunedNetwork], ModelProto],
    *,
    least: float,
    single: float,
) -> tuple[PrunedNetwork, FoundShare]:
    """Prune as much as can be promised to be within a target.

    Args:
        target: What is asked of the output.
        context: What else is asked for.
        evaluators: What compares with the model as it was given.
        prune: Prunes to a share of the MACs.
        write: Makes of what is left the model that would be written.
        least: The smallest share of the MACs that can be reached.
        single: The share with one channel in every group.

    Returns:
        The result that was tested last of those that passed, and how it was found.

    Raises:
        TargetUnreachableError: Nothing can be pruned within it.
    """
    candidates = _Candidates(target, context, evaluators, prune, write)
    searched = search(candidates.attempt, least)
    if not searched.trials:
        raise TargetUnreachableError(
            f"nothing can be pruned: {100 * least:.1f} % of the MACs is the least that can be reached",
            hint="lower --round-to or --min-channels" if single < least else "`onnxpfp inspect` says why",
        )
    # Of the held-out samples nothing goes in here.
    order = order_of(searched, least)
    descent = descend(order, candidates.test)
    if descent.passed is None:
        more = context.data.how_to_hold_out_more
        raise _unpromised(target, descent.tests[0], len(evaluators.held_out.samples), more)
    return candidates.made(descent.passed.share), FoundShare(target, searched, descent)


def _unpromised(target: QualityTarget, first: ShareTest, samples: int, more: str) -> TargetUnreachableError:
    """Say how near the first share came; `more` is how to hold out more samples."""
    what = f"{100 * first.observed:.1f} % of {counted(samples, 'held-out sample')} keep their class"
    hint = "give more samples"
    if target.quantity == "drift":
        what = f"the mean error of {counted(samples, 'held-out sample')} is {first.observed:.3g}"
    if first.bound not in {0.0, 1.0}:
        hint = f"ask for {target.flag} {target.rounded(first.bound)} and let other samples test it, or give more"
    return TargetUnreachableError(
        f"nothing can be pruned within {target.title}: with {100 * first.share:.0f} % of the MACs {what}, which "
        f"promises {first.bound:.3g}",
        hint=f"{hint}: {more}" if more else hint,
    )


def confirm(found: FoundShare, outcomes: Outcomes) -> Certified:
    """Make sure that what is written has what was promised: samples may come out otherwise in the last bits.

    Args:
        found: What was promised.
        outcomes: Of the model that will be written, on the held-out samples.

    Raises:
        VerificationError: It has not.
    """
    target, losses = found.target, found.target.losses(outcomes)
    assert losses is not None
    certified = target.certify(losses)
    if not certified.passed:
        raise VerificationError(
            f"{target.title} was promised, but measured again, the same "
            f"{counted(certified.samples, 'held-out sample gives', 'held-out samples give')} "
            f"{certified.observed:.5g}, which promises {certified.bound:.5g}",
            hint="the network does not compute the same twice; try --threads 1, or ask for a little less",
        )
    return certified
