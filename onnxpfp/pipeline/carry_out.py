"""Turn a decision into a model: reweight, compensate, slice; and the masked original beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxpfp.calibrate import Reader
from onnxpfp.config import Options
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.gather import Evidence
from onnxpfp.pipeline.prepare import Prepared
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.compensate import Compensation, fold_means
from onnxpfp.rewrite.mask import masked
from onnxpfp.rewrite.weights import StoredAxis, reweight

__all__ = ["Rewritten", "carry_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Rewritten:
    """The pruned model, and what it is held against.

    Attributes:
        model: The pruned model.
        mask: The original with the same edits of weights, whose consumers read zeros where a channel goes.
        compensation: What was folded into biases; None without.
    """

    model: ModelProto
    mask: ModelProto
    compensation: Compensation | None


def carry_out(
    prepared: Prepared,
    readers: tuple[Reader, ...],
    evidence: Evidence,
    decision: Decision,
    places: tuple[StoredAxis | None, ...],
    options: Options,
) -> Rewritten:
    """Reweight, compensate and slice; mask the edited original for the oracle."""
    model, graph, constants = prepared.source.model, prepared.graph, prepared.constants
    scale = np.where(decision.keep, decision.factor, 1.0)
    edits = reweight(graph, constants, places, scale)
    compensation = None
    if evidence.statistics is not None and options.compensate != "none":
        compensation = fold_means(model, graph, constants, readers, evidence.statistics, decision.factor, edits)
        edits = compensation.edits
    scratch = prepared.source.scratch
    pruned = apply(model, graph, decision.keep, edits, scratch)
    edited = apply(model, graph, graph.keep_all(), edits, scratch) if edits else model
    return Rewritten(pruned, masked(edited, graph, decision.keep, prepared.shapes), compensation)
