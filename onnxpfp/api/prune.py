"""The pipeline, top to bottom: load, understand, score, decide, rewrite, verify, report."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.allocation.search import SearchResult
from onnxpfp.api.keywords import CALIBRATION, PROGRESS, ModelSource, documented, keywords
from onnxpfp.channels import Analysis
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import OptionError, TargetUnreachableError
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze, open_model, read_data
from onnxpfp.pipeline.decide import Decision, full_cost
from onnxpfp.pipeline.lossless_step import LosslessStep, remove_lossless
from onnxpfp.pipeline.plan import Plan, make_plan
from onnxpfp.pipeline.quality_search import QualityTarget, prune_to_quality, quality_evaluator
from onnxpfp.pipeline.scoring import split_of
from onnxpfp.pipeline.steps import RunContext, lift_decision, measure, prune_in_steps
from onnxpfp.pipeline.verification import verify
from onnxpfp.progress import Clock, Progress
from onnxpfp.report.build import Outcome, build_report
from onnxpfp.report.pruning import Report
from onnxpfp.runtime.external_data import WeightFile, with_weights_in_memory
from onnxpfp.score.registry import criterion_of
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["PruneArguments", "Result", "prune", "prune_with"]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A pruned model.

    Attributes:
        stored: The pruned model to be written: large weights may lie in files (`onnxpfp.runtime.external_data`).
        plan: What was kept.
        report: What is known about it.
        unchanged: The bytes of the input where nothing was removed, else None.
        external: Whether the input kept its weights in other files.
        scratch: What keeps those files.
        read: The input and the files of its weights; empty for a model object.
    """

    stored: ModelProto
    plan: Plan
    report: Report
    unchanged: bytes | None
    external: bool
    scratch: WeightFile
    read: tuple[Path, ...]

    @property
    def model(self) -> ModelProto:
        """The pruned model with all its weights; large ones are loaded at every call, so `save_result` takes less."""
        return with_weights_in_memory(self.stored)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PruneArguments(Options):
    """Keywords of `prune`: the options, and what only programs give."""

    calibration: SampleSource | None = field(default=None, metadata=documented(CALIBRATION))
    from_plan: Plan | str | os.PathLike[str] | None = field(
        default=None, metadata=documented("A plan to replay in place of scoring.")
    )
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
    return prune_with(model, arguments.calibration, arguments, plan=plan, progress=arguments.progress)


def prune_with(
    model: ModelSource,
    calibration: SampleSource | None,
    options: Options,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Result:
    """Prune a model with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None.
        options: How to prune.
        plan: A plan to replay in place of scoring.
        progress: Told how far it is.
        folder: Where new weights may lie until they are written, if they are too large for the memory; None is the
            system's temporary folder.

    Raises:
        OnnxPfpError: As in `prune`.
    """
    clock = Clock(progress) if progress else Clock()
    limit = QualityTarget.of(options.max_drift, options.min_agreement) if plan is None else None
    if (options.needs_data or limit is not None) and calibration is None and plan is None:
        measuring = limit.flag if limit is not None else f"--score {criterion_of(options.score).name}"
        raise OptionError(f"{measuring} measures the data, and none are given", hint="give --calib-data FILE.npz")
    if plan is not None:
        options = replace(options, attention=plan.attention)
    with clock.phase("load"):
        source = load(model, folder)
        session, requests = open_model(source, options)
        data = read_data(source, session, calibration, options)
    whole = analyze(source, data, options, clock)
    _refuse_if_nothing(whole, options, plan)
    context = RunContext(data, split_of(data, options.seed), requests, options, plan, full_cost(whole, options), clock)
    evaluator = _evaluator(limit, whole, context)
    lossless = LosslessStep.nothing(whole)
    if context.chooses:
        lossless = remove_lossless(whole, data, requests, options, clock)
    analysis = lossless.analysis
    measured = measure(context, analysis)
    prune_to = partial(prune_in_steps, first=measured)
    search_result: SearchResult | None = None
    if limit is None or evaluator is None:
        decision, done = prune_to(context)
    else:
        (decision, done), search_result = prune_to_quality(limit, context, measured, evaluator, prune_to)
    if evaluator is None and data.given != "none":
        evaluator = context.evaluator(whole.source.model, measured.calibration.seen, held_out=False)
    with clock.phase("verification") as tell:
        unchanged = bool(decision.keep.all()) and not lossless.removed
        verified = verify(
            whole,
            analysis,
            done,
            evaluator,
            measured.calibration,
            data,
            requests,
            options,
            unchanged=unchanged,
            tell=tell,
        )
    lifted = lift_decision(whole.graph, analysis.graph, decision, lossless.origin)
    report = build_report(
        Outcome(
            whole,
            data,
            options,
            measured.calibration.lifted(lossless.origin, whole.graph.count),
            lifted,
            lossless.removed,
            done.compensation,
            verified,
            session.providers,
            clock.seconds,
            plan,
            search_result,
        )
    )
    return Result(
        stored=(source.rewritten_from or source.model) if unchanged else done.model,
        plan=_plan(whole, lifted, report, options),
        report=report,
        unchanged=source.data if unchanged else None,
        external=source.external,
        scratch=source.scratch,
        read=source.read,
    )


def _evaluator(limit: QualityTarget | None, whole: Analysis, context: RunContext) -> Evaluator | None:
    """Return what compares with the original on samples that are held out; None if there are none.

    Raises:
        CalibrationError: A quality is limited, and there are none.
        OptionError: The outputs have nothing of what is limited.
    """
    if limit is not None:
        with context.clock.phase("search"):
            return quality_evaluator(limit, whole, context)
    held = context.split.held_out
    return None if held is None else context.evaluator(whole.source.model, held)


def _refuse_if_nothing(analysis: Analysis, options: Options, plan: Plan | None) -> None:
    """Say why nothing can be pruned, the most frequent reasons first."""
    if analysis.graph.groups or plan is not None or options.target[1] == 1:
        return
    reasons = Counter(fixed.reason for fixed in analysis.graph.fixed).most_common(3)
    lifted = "; ".join(reason for reason, _ in reasons) or "no Conv, Gemm or MatMul has weights in it"
    raise TargetUnreachableError(
        f"{analysis.source.title}: nothing in it can be pruned: {lifted}",
        hint="--exclude and --include leave nothing" if options.exclude or options.include else "",
    )


def _plan(
    analysis: Analysis,
    decision: Decision,
    report: Report,
    options: Options,
) -> Plan:
    graph = analysis.graph
    places = stored_axes_of(analysis)
    scales: dict[str, dict[int, NDArray[np.float64]]] = {}
    for consumer, place in zip(graph.consumers, places, strict=True):
        factor = decision.factor[consumer.channels]
        if place is not None and ((factor != 1) & (factor != 0)).any():
            ids = graph.axes[place.tensor][place.axis]
            scales.setdefault(place.tensor, {})[place.axis] = decision.factor[ids]
    return make_plan(
        graph,
        decision.keep,
        sha256=analysis.source.sha256,
        scales=scales,
        stored=tuple(graph.stored_axes()),
        groups=[
            {"name": g.name, "kept": g.kept, "channels": g.channels, "selection": g.selection} for g in report.groups
        ],
        attention=options.attention,
    )
