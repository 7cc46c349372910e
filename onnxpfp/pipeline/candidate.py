"""Build the pruned model, and its masked original for verification, from the chosen channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import Keep
from onnxpfp.linear.weights import reweight
from onnxpfp.low_rank.split import edits_of_rank, split
from onnxpfp.pipeline.calibration import DataCalibration, Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.merging import merge_similar
from onnxpfp.pipeline.selector import Decision
from onnxpfp.progress import Count
from onnxpfp.refit.joint_problem import JointEffort
from onnxpfp.refit.layerwise import fit_layerwise
from onnxpfp.refit.means import Compensation, fold_means
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime.heap import trim_heap

__all__ = ["Candidate", "Effort", "build_candidate"]

Effort = Literal["low", "normal", "high"]
"""How much is refitted: `--effort`."""

EFFORTS: Mapping[Effort, JointEffort | None] = {
    "low": None,
    "normal": JointEffort(sweeps=1, rounds=3, fewer=2, passes=3.0),
    "high": JointEffort(sweeps=4, rounds=3, fewer=1),
}
"""How much is done to refit producers with their consumers, by `--effort`."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """The pruned model, and the masked original that must compute the same.

    Attributes:
        model: The pruned model.
        mask: The original with the same edits of weights, whose consumers read zeros where a channel goes.
        keep: Whether each channel of the original stays.
        compensation: What made up for the channels that go, without the new weights and biases, which are in both
            models; None without.
    """

    model: ModelProto
    mask: ModelProto
    keep: Keep
    compensation: Compensation | None


def _refit_all(
    measured: Measured, calibration: RefitCalibration, decision: Decision, effort: JointEffort | None, progress: Count
) -> Compensation:
    """Refit every linear op, with as much effort, and fold means where that is not possible.

    A refit takes the place of the factors of a weighted draw, which would only add variance.
    """
    analysis, graph, setup = measured.analysis, measured.analysis.graph, calibration.setup
    refittable = {layer.consumer.node for layer in setup.problem.layers}
    refittable |= {layer.index for layer in setup.problem.recurrences}
    others = tuple(number for number, c in enumerate(graph.consumers) if c.node not in refittable)
    factor = decision.keep.astype(np.float64)
    means = fold_means(analysis, measured.ops, calibration.statistics, factor, Edits(), others)
    limits = {each.output: each.limit for each in decision.ranked}
    refitted = refit(setup.problem, decision.keep, means.edits, progress, limits, effort)
    reasons = dict(setup.left) | dict(means.left)
    lost = {
        graph.consumers[number].name for number in others if not decision.keep[graph.consumers[number].channels].all()
    }
    left = tuple((name, reason) for name, reason in reasons.items() if name in lost and name not in means.folded)
    return replace(means, edits=refitted.edits, refits=refitted.records, left=left)


def _fit_layerwise(measured: Measured, calibration: RefitCalibration, decision: Decision) -> Compensation:
    """Fit the layers that lose channels one by one, and fold means where that is not possible."""
    analysis, consumers = measured.analysis, measured.analysis.graph.consumers
    factor = decision.keep.astype(np.float64)
    found = fit_layerwise(calibration.setup.problem, decision.keep, calibration.grams, Edits())
    others = [number for number, consumer in enumerate(consumers) if consumer.output not in found.fitted]
    means = fold_means(analysis, measured.ops, calibration.statistics, factor, found.edits, others)
    fitted = [consumer.name for consumer in consumers if consumer.output in found.fitted]
    return replace(means, fitted=tuple(fitted))


def _merge(
    context: RunContext, measured: Measured, calibration: DataCalibration, decision: Decision, edits: Edits
) -> Compensation:
    """Merge what goes into what stays and is alike, and fold the means of what is left."""
    tau = context.options.sfs
    assert tau is not None
    return merge_similar(
        *(measured.analysis, measured.ops, measured.stored_axes, calibration.statistics, calibration.merge_maps),
        *(decision.factor, edits, tau),
    )


def build_candidate(
    context: RunContext, measured: Measured, decision: Decision, effort: Effort | None = None
) -> Candidate:
    """Reweight or compensate the weights, then slice the chosen channels out; mask the edited original beside it.

    Args:
        context: What is asked for.
        measured: The model.
        decision: What stays of it.
        effort: How much to refit; None is as much as is asked for.
    """
    clock, analysis, calibration = context.clock, measured.analysis, measured.calibration
    model, graph, scratch = analysis.model, analysis.graph, analysis.source.scratch
    joint = EFFORTS[effort or context.options.effort]
    how = context.compensation if decision.ranked or not decision.keep.all() else "none"
    compensation = None
    if how == "lstsq" and isinstance(calibration, RefitCalibration):
        with clock.phase("compensation") as progress:
            if context.layerwise:
                compensation = _fit_layerwise(measured, calibration, decision)
            else:
                compensation = _refit_all(measured, calibration, decision, joint, progress)
        trim_heap()
        edits = compensation.edits
    else:
        with clock.phase("rewrite"):
            edits = reweight(analysis, measured.stored_axes, np.where(decision.keep, decision.factor, 1.0))
        if how == "bias" and isinstance(calibration, DataCalibration):
            with clock.phase("compensation"):
                compensation = fold_means(analysis, measured.ops, calibration.statistics, decision.factor, edits)
            edits = compensation.edits
        elif how == "merge" and isinstance(calibration, DataCalibration):
            with clock.phase("compensation"):
                compensation = _merge(context, measured, calibration, decision, edits)
            edits = compensation.edits
        edits = edits_of_rank(analysis, decision.keep, edits, decision.ranked) if decision.ranked else edits
    with clock.phase("rewrite"):
        pruned = split(apply(model, graph, decision.keep, edits, scratch), decision.ranked)
        edited = apply(model, graph, graph.keep_all(), edits, scratch) if edits else model
        mask = masked(edited, graph, decision.keep, analysis.shapes)
        del edited
    trim_heap()
    # The new weights are in the models now.
    done = None if compensation is None else replace(compensation, edits=Edits())
    return Candidate(pruned, mask, decision.keep, done)
