"""Measure how few of a model's single weights are enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.allocation.weight_order import at_random, by_magnitude, by_sensitivity
from onnxpfp.arrays import Ints
from onnxpfp.comparison.labelled import LabelledEvaluator
from onnxpfp.data.labels import labels_of, read_labels
from onnxpfp.data.sources import SampleSource
from onnxpfp.linear.weight_layers import weight_layers
from onnxpfp.model.load import ModelSource
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.weight_prunability import Weights, weight_curves
from onnxpfp.pipeline.weight_sensitivities import weight_sensitivities
from onnxpfp.progress import Progress
from onnxpfp.report.weight_prunability import WeightPrunabilityReport

__all__ = ["LEAST_MORE", "NOISE", "largest_loss", "measure_weights"]

LEAST_MORE = 1e-3
"""What the cross-entropy may grow by at least: where the original's is next to 0, a share of it is no harm at all."""
MOST_NAMED = 3
"""Tensors that a note names."""
NOISE = "RANDOM data: the losses are those of noise, not of your inputs; use this to try things out"
"""What is noted of samples that are noise."""


def measure_weights(
    model: ModelSource, calibration: SampleSource | None, asked: PrunabilityOptions, progress: Progress | None
) -> WeightPrunabilityReport:
    """Measure how few weights are enough, on all samples: nothing is fitted to them.

    Args:
        model: A path or a model object.
        calibration: The samples.
        asked: What decides which weights stay, and the largest loss that counts as no harm.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data or the labels.
    """
    labels = None if asked.labels is None else read_labels(asked.labels)
    context = open_run(model, calibration, asked.pruning(), (), progress=progress, decides=False)
    evaluator = context.evaluator(context.data.samples)
    weights = Weights.of(context.whole.model)
    measured = evaluator if labels is None else LabelledEvaluator.of(evaluator, labels_of(evaluator.samples, labels))
    by = asked.by or "magnitude"
    orders, unknown = _orders(context, weights, asked)

    def limit(loss: float) -> float:
        return asked.tolerance if labels is None else largest_loss(loss, asked.beta)

    with context.clock.phase("network") as phase:
        curves = weight_curves(weights, orders, measured.loss, limit, phase)
    loss = curves[0].losses[0]
    return WeightPrunabilityReport(
        file=str(context.whole.source.path) if context.whole.source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        weights=weights.count,
        by=by,
        losses=measured.losses,
        loss=loss,
        limit=limit(loss),
        beta=None if labels is None else asked.beta,
        samples=len(evaluator.samples),
        curves=curves,
        providers=evaluator.providers,
        seconds=dict(context.clock.seconds),
        notes=(*_notes(context), *_without_sensitivities(unknown)),
    )


def _orders(context: RunContext, weights: Weights, asked: PrunabilityOptions) -> tuple[list[Ints], list[str]]:
    """Return the orders in which weights stay, and the tensors that lack sensitivities where these decide."""
    if asked.by == "random":
        seeds = ((asked.seed, draw) for draw in range(asked.draws))
        return [at_random(weights.arrays, np.random.default_rng(seed)) for seed in seeds], []
    if asked.by != "sipp":
        return [by_magnitude(weights.arrays)], []
    layers, _ = weight_layers(context.whole, {})
    layers = [layer for layer in layers if layer.weight in weights.names]
    with context.clock.phase("calibration") as progress:
        shares = weight_sensitivities(context, layers, "max", progress)
    known = [shares.get(name) for name in weights.names]
    unknown = [name for name, some in zip(weights.names, known, strict=True) if some is None]
    return [by_sensitivity(weights.arrays, known)], unknown


def _without_sensitivities(names: Sequence[str]) -> tuple[str, ...]:
    """Say which weights stay longest for want of a sensitivity."""
    if not names:
        return ()
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (f"the weights of {', '.join(names[:MOST_NAMED])}{more} have no sensitivities, and stay longest",)


def largest_loss(loss: float, beta: float) -> float:
    """Return the largest cross-entropy that counts as no harm, (1 + beta) L(w), or a little more than L(w)."""
    return max((1.0 + beta) * loss, loss + LEAST_MORE)


def _notes(context: RunContext) -> tuple[str, ...]:
    random = (NOISE,) if context.data.given == "random" else ()
    return (*context.whole.source.notes, *random, *context.data.notes)
