"""The errors of the layers of the written network: which layers there are, and what their refits left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.layers import LayerError, LayerErrors, joint_limits, layer_errors, too_few
from onnxpfp.pipeline.calibration import RefitCalibration
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, lift_part
from onnxpfp.progress import Count
from onnxpfp.refit.means import Record
from onnxpfp.rewrite.apply import what_stays

__all__ = ["measure_layer_errors"]


def measure_layer_errors(
    main: MeasuredPart,
    pruned: PrunedNetwork,
    evaluator: Evaluator,
    candidates: int,
    progress: Count | None = None,
) -> LayerErrors:
    """Measure how far the layers of the main graph are from the original's: all that read channels, and all refitted.

    Layers in bodies of If, Loop and Scan are left out: they run several times for a sample, or not at all.

    Args:
        main: The main graph.
        pruned: What is left of the network.
        evaluator: Compares with the original on held-out samples.
        candidates: The network is one of so many, chosen with these samples.
        progress: Told how many samples are done, of how many.
    """
    analysis = main.part.context.whole
    names = _layers(main)
    records = _records(main, pruned, names)
    keep = lift_part(main, pruned.decisions[0]).keep
    shapes = {tensor: analysis.shapes.shape[tensor] for tensor in names}
    errors = layer_errors(evaluator, pruned.whole.model, shapes, partial(what_stays, analysis.graph, keep), progress)
    measured = {tensor: each for tensor, each in errors.items() if not isinstance(each, str)}
    reasons = {tensor: each for tensor, each in errors.items() if isinstance(each, str)}
    confidence, why = main.part.context.options.confidence, main.part.context.data.no_promise
    bounds, share = dict[str, float](), None
    if not why:
        bounds, share, why = _bounds(measured, 1.0 - confidence, candidates)
    layers = [
        LayerError(
            name=name,
            mean=float(measured[tensor].mean()) if tensor in measured else None,
            bound=bounds.get(tensor),
            share=share if tensor in bounds else None,
            refit_before=records[tensor].before if tensor in records else None,
            refit_after=records[tensor].after if tensor in records else None,
            reason=reasons.get(tensor, why),
        )
        for tensor, name in names.items()
    ]
    return LayerErrors(tuple(layers), len(evaluator.samples), confidence)


def _bounds(errors: Mapping[str, Floats], alpha: float, candidates: int) -> tuple[dict[str, float], float | None, str]:
    """Return what the errors are at most by tensor, for which share of the inputs, or why there is no bound."""
    if not errors:
        return {}, None, ""
    rows = np.stack([*errors.values()])
    joint = joint_limits(rows, alpha, candidates)
    if joint is None:
        return {}, None, too_few(len(rows), rows.shape[1], alpha / candidates)
    share, limits = joint
    return dict(zip(errors, limits.tolist(), strict=True)), share, ""


def _layers(main: MeasuredPart) -> dict[str, str]:
    """Return the names of the layers by the tensor that each makes, in the order of the nodes."""
    analysis, calibration = main.part.context.whole, main.measured.calibration
    names = {consumer.output: consumer.name for consumer in analysis.graph.consumers}
    if isinstance(calibration, RefitCalibration):
        names |= {layer.output: layer.consumer.name for layer in calibration.setup.problem.layers}
    order = (name for node in analysis.model.graph.node for name in node.output)
    return {tensor: names[tensor] for tensor in order if tensor in names}


def _records(main: MeasuredPart, pruned: PrunedNetwork, names: Mapping[str, str]) -> dict[str, Record]:
    """Return what became of the refits to a layer's own output, by tensor.

    Of nodes that share a name it is not known which is which.
    """
    compensation = pruned.candidates[0].compensation
    refits = () if compensation is None else compensation.refits
    records = {record.name: record for record in refits if not record.joint and not record.recurrent}
    times = Counter(names.values())
    return {tensor: records[name] for tensor, name in names.items() if name in records and times[name] == 1}
