"""The latency of what a pruning is about to write, measured beside that of the file it was given."""

from __future__ import annotations

from onnx import ModelProto

from onnxpfp.comparison.latency import LatencyFindings, LatencyTrial, measure_latency, seconds_for_latency
from onnxpfp.data.samples import Feed
from onnxpfp.errors import CalibrationError, LatencyTableError
from onnxpfp.model.draws import without_record
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.verification import Verification
from onnxpfp.runtime.external_data import is_reference
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.runtime.latency import LatencyComparison, LatencyUnknownError, compare_latency, counts_cores
from onnxpfp.runtime.session import Session

__all__ = ["latency_feed", "pruning_latency", "run_interleaved", "samples_in_run"]

PATIENCE = (1, 4, 16)
"""Multiples of the time for runs in turns that are tried: on a busy machine a short run may wait for long."""


def samples_in_run(context: RunContext) -> int:
    """Return how many samples are in a run whose latency is measured."""
    return context.data.samples.fixed_batch or context.options.latency_batch


def latency_feed(context: RunContext) -> Feed:
    """Return the inputs at which latency is measured.

    Raises:
        CalibrationError: There are not so many samples, or so many cannot run at once.
    """
    options, samples = context.options, context.data.samples
    batch, asked = options.latency_batch, f"--latency-batch {options.latency_batch}"
    if batch > 1 and len(samples) < batch:
        raise CalibrationError(
            f"{asked} measures runs of {batch} samples, and there are {len(samples)}",
            hint="leave it out, or give more samples",
        )
    if batch > 1 and context.data.batch_size < 2:
        hint = "leave out --batch-size 1" if options.batch_size == 1 else "leave it out"
        raise CalibrationError(f"{asked} measures runs of {batch} samples, and they run one by one", hint=hint)
    feed, count = next(iter(samples.runs(batch)))
    if count != batch and batch > 1:
        raise CalibrationError(f"{asked}: the model runs {count} samples at once", hint="leave it out")
    return feed


def run_interleaved(context: RunContext, one: Session, two: Session, feed: Feed, seconds: float) -> LatencyComparison:
    """Run two models in turns, where something is decided by it, so that there is time.

    Args:
        context: How they are run.
        one: A model.
        two: Another one.
        feed: Inputs of a run.
        seconds: What all runs together may take, where the machine is not so busy that a few take longer.

    Raises:
        LatencyTableError: It cannot be measured.
    """
    cores = counts_cores((*one.providers, *two.providers))
    reason = ""
    for times in PATIENCE:
        try:
            return compare_latency(one, two, feed, times * seconds, threads=context.options.threads, cores=cores)
        except LatencyUnknownError as error:
            reason = str(error)
    raise LatencyTableError(f"the latency cannot be measured: {reason}", hint="try it when the machine is less busy")


def pruning_latency(
    context: RunContext, written: ModelProto, verified: Verification, *, unchanged: bool
) -> LatencyFindings | None:
    """Measure the latency of a pruned model at as many samples as are asked for, or at one batch where that is fixed.

    What onnxruntime cannot run is left out of both models; nodes that draw random numbers are the file's own.

    Args:
        context: The run so far.
        written: The pruned model as it will be written.
        verified: What is known of it.
        unchanged: Whether nothing was removed.

    Returns:
        What was measured, or why nothing was; None where it was not asked for.
    """
    if context.options.no_latency:
        return None
    if unchanged:
        return LatencyFindings(unmeasured="nothing was removed")
    source = context.whole.source
    original = source.model if verified.refused else source.rewritten_from or source.model
    pruned = without_record(written)
    if any(is_reference(tensor) for model in (original, pruned) for tensor in model.graph.initializer):
        # They would be fed at every run, and onnxruntime would optimize neither model as it does for a user.
        return LatencyFindings(
            unmeasured="weights lie in other files; onnxpfp verify IN OUT measures the written files"
        )
    trial = LatencyTrial(
        original,
        pruned,
        (original, pruned),
        latency_feed(context),
        context.requests,
        context.options.threads,
        verified.after.macs / max(verified.before.macs, 1),
        samples_in_run(context),
    )
    seconds = seconds_for_latency(sum(context.clock.seconds.values()))
    with context.clock.phase("latency"):
        found = measure_latency(trial, seconds)
    trim_heap()
    return found
