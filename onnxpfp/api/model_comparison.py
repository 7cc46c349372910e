"""Two models beside each other: their interfaces and sizes, outputs on the same samples, a plan's weights, latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from onnxpfp.api.prune import prune_with
from onnxpfp.channels.macs import count_macs, count_stored
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.comparison.interface import interface_differences, same_names_and_types
from onnxpfp.comparison.latency import LatencyFindings, LatencyTrial, measure_latency, seconds_for_latency
from onnxpfp.comparison.picks import Picks
from onnxpfp.comparison.plan_fit import PlanFit, compare_weights
from onnxpfp.errors import ModelError, OptionError, VerificationError
from onnxpfp.model.activation_memory import ActivationPeak, activation_peak
from onnxpfp.model.draws import drawing_ops
from onnxpfp.model.load import LoadedModel, load
from onnxpfp.options.verification import VerifyOptions
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.latency.interleaved import latency_feed, samples_in_run
from onnxpfp.pipeline.parts import open_parts
from onnxpfp.pipeline.plan import Plan
from onnxpfp.report.classes import class_notes, class_report
from onnxpfp.report.verification import ComparedSize, VerificationReport
from onnxpfp.runtime.session import SessionSource, open_session

__all__ = ["compare_models", "loadable"]

INTERFACES = "the interfaces differ"
"""Why outputs are not compared where every difference is told as a problem."""
PLAN_RUNS = 2
"""Sets of inputs on which a file is held against the replayed plan, as the oracle has it."""
PLAN_BATCH = 4


def compare_models(
    context: RunContext, other: LoadedModel, asked: VerifyOptions, plan: Plan | None = None
) -> VerificationReport:
    """Compare another model with the network of a run, on its samples.

    Args:
        context: The run.
        other: The other model.
        asked: What does not pass, and how latency is measured.
        plan: The plan by which the other model is said to be pruned; None where nobody says so.

    Raises:
        ModelError: It does not run, although it takes these inputs.
        OptionError: The outputs have nothing of what is limited.
        PlanError: The plan is not one of the original.
    """
    return _Comparison(context, other, asked, plan).report()


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """Two models that are compared.

    Attributes:
        context: The original and the samples.
        other: The other model.
        asked: The options.
        plan: The plan by which it is said to be pruned; None where nobody says so.
    """

    context: RunContext
    other: LoadedModel
    asked: VerifyOptions
    plan: Plan | None

    def report(self) -> VerificationReport:
        """Compare them."""
        context, source = self.context, self.context.whole.source
        interface = interface_differences(source.given, self.other.given)
        uncompared, opened = self._open()
        before = ComparedSize(count_stored(source.whole), _macs(context), source.size_bytes, _activations(context))
        macs, peak = (None, None) if opened is None else (_macs(opened), _activations(opened))
        after = ComparedSize(count_stored(self.other.whole), macs, self.other.size_bytes, peak)
        drift = None if opened is None else self._drift(opened)
        fit, misfits = self._fit(opened)
        latency = None
        if opened is not None and not context.options.no_latency:
            latency = self._latency(opened, (after.macs or 0) / max(before.macs or 0, 1))
        return VerificationReport(
            original=str(self._file.path) if self._file.path else None,
            pruned=str(self.other.path) if self.other.path else None,
            inputs=context.whole.shapes.inputs,
            problems=(*interface, *self._unrun(uncompared), *misfits, *self._violations(drift)),
            interface=interface,
            before=before,
            after=after,
            data="random" if context.data.given == "random" else "file",
            drift=drift,
            uncompared=uncompared,
            plan=fit,
            latency=latency,
            providers=context.providers,
            seconds=dict(context.clock.seconds),
            notes=tuple(self._notes(latency, interface)),
            classes=None if context.classes is None else class_report(context.classes),
        )

    @property
    def _file(self) -> LoadedModel:
        """The original as it was given, with all its classes."""
        classes = self.context.classes
        return self.context.whole.source if classes is None else classes.original

    def _open(self) -> tuple[str, RunContext | None]:
        """Open the other model on the samples of the original; without a context the reason why that is impossible.

        Raises:
            ModelError: It does not run, although it takes these inputs.
        """
        context = self.context
        if not same_names_and_types(context.whole.source.given, self.other.given):
            return INTERFACES, None
        with context.clock.phase("load"):
            source, session, _ = open_model(self.other, context.options)
        if not same_names_and_types(context.whole.source.model, source.model):
            tails = {"the original": context.whole.source.tail, "the pruned model": source.tail}
            lacking = " and ".join(f"{tail.titles} of {of}" for of, tail in tails.items() if tail is not None)
            return f"the parts that onnxruntime can run are not the same, for it lacks {lacking}", None
        feed = next(context.data.samples.batches(1))
        try:
            session.run(feed)
        except ModelError as error:
            return f"the pruned model does not run on the original's inputs: {error}", None
        analysis = analyze(source, context.data, context.options, context.clock)
        return "", replace(context, whole=analysis, providers=session.providers)

    def _drift(self, opened: RunContext) -> Drift:
        """Measure how far the outputs are from the original's."""
        evaluator = self.context.evaluator(self.context.data.samples, held_out=False)
        picks = evaluator.picks
        made = {name for node in opened.whole.model.graph.node for name in node.output}
        if not made.issuperset((*picks.tensors, *picks.decisions.by_node, *picks.decisions.tensors)):
            evaluator.picks = Picks()
        with self.context.clock.phase("drift") as phase:
            try:
                return evaluator.drift(opened.whole.source.model, phase)
            except ModelError:
                # The other model may take samples one by one only.
                if evaluator.batch_size == 1:
                    raise
                return replace(evaluator, batch_size=1).drift(opened.whole.source.model, phase)

    def _fit(self, opened: RunContext | None) -> tuple[PlanFit | None, tuple[str, ...]]:
        """Replay the plan and hold the other model against the result; returns the misfits, too.

        Raises:
            PlanError: The plan is not one of the original.
        """
        if self.plan is None:
            return None, ()
        with self.context.clock.phase("plan"):
            replayed = self._replayed(self.plan)
            planned = {*self.plan.entries, *(name for inner in self.plan.bodies.values() for name in inner)}
            weights = compare_weights(replayed, self.other.given, planned)
            if weights.misfits:
                return PlanFit(weights, None, "names, types and shapes of weights"), weights.misfits
            shapes = f"{weights.alike} stored tensors have the names, types and shapes of the plan"
            if weights.changed:
                others = f"{weights.changed} hold other numbers than the original's (a refit, folded means, training)"
                return PlanFit(weights, None, f"{shapes}; {others}, so outputs are not asked to be equal"), ()
            if opened is None:
                return PlanFit(weights, None, f"{shapes}; outputs cannot be compared"), ()
            try:
                equivalence = self._equivalence(replayed, opened)
            except VerificationError as error:
                reason = str(error).replace("the masked original", "the original masked by the plan")
                return PlanFit(weights, None, shapes), (reason,)
            ranks = " at the plan's ranks" if self.plan.ranks else ""
            text = f"{shapes}, and the original's numbers{ranks}; the original masked by the plan == the pruned model"
            return PlanFit(weights, equivalence, text), ()

    def _replayed(self, plan: Plan) -> ModelProto:
        """Prune the original by the plan and by nothing else; the result equals the masked original."""
        source = self._file if plan.classes is not None else self.context.whole.source
        all_classes = {"keep_classes": None, "class_names": None, "class_axes": ()}
        options = replace(self.context.options, compensate="none", no_latency=True, **all_classes)
        return prune_with(source.path or source.given, None, options, plan=plan).stored

    def _equivalence(self, replayed: ModelProto, opened: RunContext) -> Equivalence:
        """Run the other model and the replayed plan, as far as onnxruntime has their ops.

        Raises:
            VerificationError: They differ.
        """
        context, data = self.context, self.context.data
        if context.whole.source.tail is not None:
            replayed = open_model(load(replayed), context.options)[0].model
        batches = data.samples.batches(min(data.batch_size, PLAN_BATCH))
        return check_equivalence(
            replayed,
            opened.whole.source.model,
            [feed for feed, _ in zip(batches, range(PLAN_RUNS), strict=False)],
            allowed=tolerance(context.whole.model, context.whole.shapes),
            providers=context.requests,
            threads=context.options.threads,
        )

    def _latency(self, opened: RunContext, kept_macs: float) -> LatencyFindings:
        """Measure the latency of both files, as they are where onnxruntime loads them so."""
        context = self.context
        trial = LatencyTrial(
            context.whole.source.given,
            self.other.given,
            (loadable(context), loadable(opened)),
            latency_feed(context),
            context.requests,
            context.options.threads,
            kept_macs,
            samples_in_run(context),
            every_op=True,
        )
        seconds = seconds_for_latency(sum(context.clock.seconds.values()))
        with context.clock.phase("latency"):
            return measure_latency(trial, seconds)

    def _unrun(self, uncompared: str) -> Iterator[str]:
        """Say that a file with the same interface could not be held against the original."""
        if uncompared and uncompared != INTERFACES:
            yield f"the outputs cannot be compared: {uncompared}"

    def _violations(self, drift: Drift | None) -> Iterator[str]:
        """Say what of the outputs is broken, or beyond what was asked for.

        Raises:
            OptionError: The outputs have nothing of what is limited.
        """
        most, least = self.asked.max_drift, self.asked.min_agreement
        if drift is None:
            yield from (f"{flag} cannot be judged" for flag, value in _limits(self.asked) if value is not None)
            return
        if drift.lost:
            yield f"{drift.lost:,} numbers of the outputs are infinite or NaN where the original's are not"
        if most is not None:
            if drift.relative_error is None:
                raise OptionError("--max-drift limits the error of float outputs, and there are none")
            if not drift.relative_error <= most:
                yield f"the relative output error is {drift.relative_error:.3g}, and --max-drift allows {most:g}"
        if least is not None:
            if drift.top1_agreement is None:
                raise OptionError("--min-agreement asks for class scores, and no output looks like some")
            if not drift.top1_agreement >= least:
                agreement = f"{100 * drift.top1_agreement:.4g} %"
                yield f"the top-1 agreement is {agreement}, and --min-agreement asks for {100 * least:.4g} %"

    def _notes(self, latency: LatencyFindings | None, interface: Sequence[str]) -> Iterator[str]:
        source, data = self.context.whole.source, self.context.data
        if self.context.classes is not None:
            yield from class_notes(class_report(self.context.classes))
        elif any(problem.startswith("the output ") and " has shape " in problem for problem in interface):
            yield "an output has another shape: if classes went, --keep-classes or --plan says which"
        yield from source.notes
        yield from self.other.notes
        if data.given == "random":
            yield "RANDOM data: the drift is that of noise, not of your inputs; give --calib-data for that"
        yield from data.notes
        if drawing_ops(source.model) or drawing_ops(self.other.model):
            yield "the models draw random numbers; they were compared on draws that the samples decide"
        if self.plan is not None and self.plan.source_sha256 != source.sha256:
            yield "the plan was made for another file; it fits the original by names and shapes"
        if latency is not None and latency.note:
            yield latency.note


def _limits(asked: VerifyOptions) -> tuple[tuple[str, float | None], ...]:
    return ("--max-drift", asked.max_drift), ("--min-agreement", asked.min_agreement)


def _macs(context: RunContext) -> int:
    """Count the multiply-adds for one sample, bodies as often as they run on the samples."""
    parts = open_parts(context).parts
    runs = sum(part.runs * count_macs(part.context.whole.model, part.context.whole.shapes) for part in parts)
    return round(runs) // (context.data.samples.fixed_batch or 1)


def _activations(context: RunContext) -> ActivationPeak:
    return activation_peak(context.whole.model, context.whole.shapes)


def loadable(context: RunContext) -> SessionSource:
    """Return what onnxruntime loads of a model: its file, if it does that and has all its ops."""
    source, options = context.whole.source, context.options
    given: SessionSource = source.given if source.path is None else source.path
    if source.tail is not None:
        return source.model
    try:
        open_session(given, context.requests, threads=options.threads, optimize=False)
    except ModelError:
        return source.model
    return given
