"""Turn a decision into a model: reweight, compensate, slice; and the masked original beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from onnxpfp.channels import Analysis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis, reweight
from onnxpfp.options import Options
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.scoring import Calibration
from onnxpfp.progress import Clock, Count
from onnxpfp.refit.means import Compensation, fold_means
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked

__all__ = ["Candidate", "build_candidate"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """The pruned model, and what it is held against.

    Attributes:
        model: The pruned model.
        mask: The original with the same edits of weights, whose consumers read zeros where a channel goes.
        compensation: What was folded into biases; None without.
    """

    model: ModelProto
    mask: ModelProto
    compensation: Compensation | None


def refit_all(
    analysis: Analysis,
    readers: tuple[LinearOp, ...],
    calibration: Calibration,
    decision: Decision,
    tell: Count,
) -> Compensation:
    """Refit every linear op, and fold means where that is not possible.

    A refit takes the place of the factors of a weighted draw: those would only add variance (algorithms.md 0).
    """
    assert calibration.setup is not None
    assert calibration.statistics is not None
    graph = analysis.graph
    refittable = {layer.output for layer in calibration.setup.problem.layers}
    others = tuple(number for number, c in enumerate(graph.consumers) if c.output not in refittable)
    factor = decision.keep.astype(np.float64)
    means = fold_means(analysis, readers, calibration.statistics, factor, Edits(), others)
    found = refit(calibration.setup.problem, decision.keep, means.edits, tell)
    reasons = dict(calibration.setup.left) | dict(means.left)
    lost = {
        graph.consumers[number].name for number in others if not decision.keep[graph.consumers[number].channels].all()
    }
    left = tuple((name, reason) for name, reason in reasons.items() if name in lost and name not in means.folded)
    return replace(means, edits=found.edits, refits=found.records, left=left)


def build_candidate(
    analysis: Analysis,
    readers: tuple[LinearOp, ...],
    calibration: Calibration,
    decision: Decision,
    places: tuple[StoredAxis | None, ...],
    options: Options,
    clock: Clock,
) -> Candidate:
    """Reweight or refit, compensate and slice; mask the edited original for the oracle."""
    model, graph = analysis.source.model, analysis.graph
    how = "none" if decision.keep.all() else options.compensation(calibration.known)
    compensation = None
    if how == "lstsq":
        with clock.phase("compensation") as tell:
            compensation = refit_all(analysis, readers, calibration, decision, tell)
        edits = compensation.edits
    else:
        with clock.phase("rewrite"):
            edits = reweight(analysis, places, np.where(decision.keep, decision.factor, 1.0))
        if how == "bias":
            assert calibration.statistics is not None
            with clock.phase("compensation"):
                compensation = fold_means(analysis, readers, calibration.statistics, decision.factor, edits)
            edits = compensation.edits
    scratch = analysis.source.scratch
    with clock.phase("rewrite"):
        pruned = apply(model, graph, decision.keep, edits, scratch)
        edited = apply(model, graph, graph.keep_all(), edits, scratch) if edits else model
        return Candidate(pruned, masked(edited, graph, decision.keep, analysis.shapes), compensation)
