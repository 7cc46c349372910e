"""The pipeline, top to bottom: load, understand, score, decide, rewrite, verify, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from onnxpfp.api.decided_plan import decided_plan
from onnxpfp.api.keywords import CALIBRATION, CERTIFICATION, PROGRESS, SCORES_FILE, documented, keywords
from onnxpfp.api.save import WritableResult
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import OptionError, TargetUnreachableError
from onnxpfp.model.draws import without_record
from onnxpfp.model.load import ModelSource
from onnxpfp.model.provenance import with_provenance
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.latency.interleaved import pruning_latency
from onnxpfp.pipeline.latency.structures import prune_by_structures
from onnxpfp.pipeline.latency.target import LatencyTarget, latency_table_for, with_latencies
from onnxpfp.pipeline.network_steps import (
    MeasuredPart,
    PrunedNetwork,
    WrittenNetwork,
    bound_choices,
    keeps_all,
    least_share,
    measure_parts,
    prune_network,
    restore_network,
    single_share,
)
from onnxpfp.pipeline.nothing_to_prune import require_groups
from onnxpfp.pipeline.parts import Network, open_parts, require_planned
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.provenance import Provenance
from onnxpfp.pipeline.quality_search import Evaluators, FoundShare, confirm, prune_to_quality, quality_evaluators
from onnxpfp.pipeline.quality_target import QualityTarget
from onnxpfp.pipeline.requirements import holding_out, require_data, require_own_certification, require_split
from onnxpfp.pipeline.scores.file import ScoresFile, ScoresSource, opened_file
from onnxpfp.pipeline.scores.use import at_shapes_of, of_channels, require_usable, with_given_scores
from onnxpfp.pipeline.shares import unreachable_by_shares, with_shares
from onnxpfp.pipeline.size_target import prune_to_size, with_size_met
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.pipeline.verification import verify_pruned
from onnxpfp.progress import Progress
from onnxpfp.report.build import build_report
from onnxpfp.report.outcome import Outcome
from onnxpfp.report.pruning import Report
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["PruneArguments", "Result", "evaluators_for", "noting", "prune", "prune_measured", "prune_with"]


@dataclass(frozen=True, slots=True, eq=False)
class Result(WritableResult):
    """A pruned model.

    Attributes:
        plan: What was kept.
        report: What is known about it.
    """

    plan: Plan
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PruneArguments(Options):
    """Keywords of `prune`: the options, and what only programs give."""

    calibration: SampleSource | None = field(default=None, metadata=documented(CALIBRATION))
    certification: SampleSource | None = field(default=None, metadata=documented(CERTIFICATION))
    from_plan: Plan | str | os.PathLike[str] | None = field(
        default=None, metadata=documented("A plan to replay in place of scoring.")
    )
    scores: ScoresSource | None = field(default=None, metadata=documented(SCORES_FILE))
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(PruneArguments)
def prune(model: ModelSource, arguments: PruneArguments) -> Result:
    """Prune a model.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data, the options or the target; its
            children in `onnxpfp.errors` say which.
    """
    plan = arguments.from_plan
    if plan is not None and not isinstance(plan, Plan):
        plan = Plan.read(Path(plan))
    return prune_with(
        model,
        arguments.calibration,
        arguments,
        certification=arguments.certification,
        plan=plan,
        scores=arguments.scores,
        progress=arguments.progress,
    )


def prune_with(
    model: ModelSource,
    calibration: SampleSource | None,
    options: Options,
    *,
    certification: SampleSource | None = None,
    plan: Plan | None = None,
    scores: ScoresSource | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Result:
    """Prune a model with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None.
        options: How to prune.
        certification: Samples that only measure the result; None holds some of the others out.
        plan: A plan to replay in place of scoring.
        scores: A file of scores that the network is pruned by, in place of measuring them.
        progress: Told how far it is.
        folder: Where new weights may lie until they are written, if they are too large for the memory; None is the
            system's temporary folder.

    Raises:
        OnnxPfpError: As in `prune`.
    """
    with custom_ops(options.custom_ops), one_blas_thread():
        file = None if scores is None else opened_file(scores)
        try:
            return _prune(model, calibration, certification, options, plan, file, progress, folder)
        except TargetUnreachableError as error:
            if not options.share:
                raise
            raise unreachable_by_shares(error) from error


def _prune(
    model: ModelSource,
    calibration: SampleSource | None,
    certification: SampleSource | None,
    options: Options,
    plan: Plan | None,
    scores: ScoresFile | None,
    progress: Progress | None,
    folder: Path | None,
) -> Result:
    replaying = plan is not None
    if scores is not None:
        require_usable(scores, calibration, options, replaying=replaying)
        options = options if calibration is not None else at_shapes_of(scores, options)
    require_data(calibration, options, replaying=replaying, scored=scores is not None)
    require_own_certification(calibration, certification)
    if plan is not None:
        if options.share:
            raise OptionError("--from-plan says what stays, so --share has no meaning with it")
        options = replace(options, attention=plan.attention)
    needs = holding_out(options, replaying=replaying)
    run = options if scores is None else of_channels(options)
    context = open_run(
        model, calibration, run, needs, plan=plan, progress=progress, folder=folder, certification=certification
    )
    context = with_size_met(noting(context, options, plan))
    options = context.options
    network = zero_subnormal_weights(open_parts(context))
    if scores is not None:
        network = with_given_scores(network, scores)
    if options.share:
        network = with_shares(network, options)
    plan = context.plan
    if plan is not None:
        require_planned(network, plan)
    if context.chooses:
        require_groups(network, options)
    latency_target: LatencyTarget | None = None
    if context.chooses and options.target[0] == "latency":
        network, latency_target = with_latencies(network, latency_table_for(network))
        context = network.parts[0].context
    quality = None if replaying else QualityTarget.of(options)
    evaluators = None if quality is None else evaluators_for(quality, context, apart=certification is not None)
    return prune_measured(context, network, measure_parts(network), options, latency_target, quality, evaluators)


def prune_measured(
    context: RunContext,
    network: Network,
    measured: tuple[MeasuredPart, ...],
    options: Options,
    latency_target: LatencyTarget | None,
    quality: QualityTarget | None,
    evaluators: Evaluators | None,
) -> Result:
    """Prune a network that was measured to the target of its context, verify what comes of it, and report.

    Args:
        context: The run, with the network as it was given.
        network: The network.
        measured: What was measured on its parts.
        options: What was asked for.
        latency_target: The target of latency; None for others.
        quality: The target of quality; None for others.
        evaluators: What measures that.

    Raises:
        TargetUnreachableError: The target cannot be met.
        VerificationError: What comes of it is not what it must be.
    """

    def write(pruned: PrunedNetwork) -> WrittenNetwork:
        with context.clock.phase("rewrite"):
            return restore_network(network, measured, pruned)

    parts, found = measured, None
    prune_parts = partial(prune_network, network=network)
    if latency_target is not None and context.chooses:
        parts, pruned, latency_target = prune_by_structures(
            latency_target, context, measured, prune_parts, lambda pruned: write(pruned).whole
        )
    else:
        pruned, found = _prune_to_target(context, parts, partial(prune_parts, parts=parts), write, quality, evaluators)
    unchanged = keeps_all(parts, pruned)
    # Where nothing went but classes the file is not the input, and says so.
    given = unchanged and context.classes is None
    evaluator = evaluators.held_out if evaluators is not None else _evaluator(context, parts[0])
    candidates = len(found.descent.order) if found else int(evaluator is not None and evaluator.held_out)
    pruned = bound_choices(parts, pruned, max(candidates, 1))
    written = write(pruned)
    with context.clock.phase("verification") as phase:
        verified = verify_pruned(parts, pruned, written, evaluator, candidates, unchanged=unchanged, progress=phase)
    certified = None if found is None or verified.comparison is None else confirm(found, verified.comparison.outcomes)
    latency = pruning_latency(context, written.whole, verified, unchanged=unchanged)
    outcomes = [
        Outcome(each, decision, candidate.compensation)
        for each, decision, candidate in zip(parts, written.decisions, pruned.candidates, strict=True)
    ]
    report = build_report(network, outcomes, verified, found, certified, latency, latency_target, unchanged=unchanged)
    source = context.whole.source
    stored = source.given if unchanged else without_record(source.completed(written.whole))
    made_by = context.provenance.made_by(report.drift, stored)
    return Result(
        stored=stored if given else with_provenance(stored, context.provenance.measured(report.drift, stored)),
        plan=replace(decided_plan(outcomes, report.groups, options.attention), made_by=made_by),
        report=report,
        unchanged=source.given_bytes() if given else None,
        external=source.external,
        scratch=source.scratch,
        read=source.read,
    )


def noting(context: RunContext, options: Options, plan: Plan | None = None) -> RunContext:
    """Return a run whose file says what was asked for.

    Args:
        context: The run.
        options: What was asked for.
        plan: The plan that is replayed, or None.
    """
    provenance = Provenance.of(
        "prune",
        options,
        context.whole.source.sha256,
        telling=context.data.given == "file",
        silent=options.no_metadata,
        planned=None if plan is None else plan.made_by,
    )
    return replace(context, provenance=provenance)


def _prune_to_target(
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune_to: Callable[[RunContext], PrunedNetwork],
    write: Callable[[PrunedNetwork], WrittenNetwork],
    quality: QualityTarget | None,
    evaluators: Evaluators | None,
) -> tuple[PrunedNetwork, FoundShare | None]:
    """Prune until what is asked for holds; returns what was found on the way for a quality, too."""
    if quality is not None and evaluators is not None:
        limits = {"least": least_share(parts), "single": single_share(parts)}
        return prune_to_quality(quality, context, evaluators, prune_to, lambda pruned: write(pruned).whole, **limits)
    if context.options.keep_size is not None:
        return prune_to_size(context, parts, prune_to, write), None
    return prune_to(context), None


def evaluators_for(target: QualityTarget, context: RunContext, *, apart: bool) -> Evaluators:
    """Return what measures a target of quality.

    Args:
        target: The target.
        context: The run.
        apart: Whether the held-out samples are the user's own.

    Raises:
        OptionError: The outputs have nothing of what is limited.
        CalibrationError: Too few samples are held out to promise it.
    """
    split = require_split(context.data, f"{target.flag} holds samples out to decide on")
    held_out = context.data.held_out
    # A split comes with held-out samples, or with those of the user in their place.
    assert held_out is not None
    given = None if apart else len(context.data.samples) + len(held_out)
    with context.clock.phase("search"):
        return quality_evaluators(target, context, split.tuning, held_out, given)


def _evaluator(context: RunContext, main: MeasuredPart) -> Evaluator | None:
    """Return what compares the result with the original, on held-out samples if there are any; None without data."""
    if context.data.held_out is not None:
        return context.evaluator(context.data.held_out)
    if context.data.given == "none":
        return None
    return context.evaluator(main.measured.calibration.scored, held_out=False)
