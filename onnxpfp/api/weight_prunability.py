"""Measure how few of a model's single weights are enough."""

from __future__ import annotations

from onnxpfp.comparison.labelled import LabelledEvaluator
from onnxpfp.data.labels import labels_of, read_labels
from onnxpfp.data.sources import SampleSource
from onnxpfp.model.load import ModelSource
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.weight_prunability import Weights, weight_curves
from onnxpfp.progress import Progress
from onnxpfp.report.weight_prunability import WeightPrunabilityReport
from onnxpfp.verb_options import PrunabilityOptions

__all__ = ["LEAST_MORE", "NOISE", "largest_loss", "measure_weights"]

LEAST_MORE = 1e-3
"""What the cross-entropy may grow by at least: where the original's is next to 0, a share of it is no harm at all."""
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
    with context.clock.phase("network") as phase:
        curves = weight_curves(
            weights,
            measured.loss,
            lambda loss: asked.tolerance if labels is None else largest_loss(loss, asked.beta),
            random_draws=asked.draws if by == "random" else 0,
            seed=asked.seed,
            progress=phase,
        )
    loss = curves[0].losses[0]
    return WeightPrunabilityReport(
        file=str(context.whole.source.path) if context.whole.source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        weights=weights.count,
        by=by,
        losses=measured.losses,
        loss=loss,
        limit=asked.tolerance if labels is None else largest_loss(loss, asked.beta),
        beta=None if labels is None else asked.beta,
        samples=len(evaluator.samples),
        curves=curves,
        providers=evaluator.providers,
        seconds=dict(context.clock.seconds),
        notes=_notes(context),
    )


def largest_loss(loss: float, beta: float) -> float:
    """Return the largest cross-entropy that counts as no harm, (1 + beta) L(w), or a little more than L(w)."""
    return max((1.0 + beta) * loss, loss + LEAST_MORE)


def _notes(context: RunContext) -> tuple[str, ...]:
    random = (NOISE,) if context.data.given == "random" else ()
    return (*context.whole.source.notes, *random, *context.data.notes)
