"""Sensitivities of the single weights of a network, measured on samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import Floats32
from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.calibrate.sensitivity.scratch import ScratchOfThreads
from onnxpfp.calibrate.sensitivity.settings import Positions, SensitivitySettings
from onnxpfp.calibrate.sensitivity.weight_observer import WeightSensitivityObserver
from onnxpfp.linear.families import op_families, shard_families
from onnxpfp.linear.weight_layers import WeightLayer
from onnxpfp.pipeline.context import RunContext
from onnxpfp.progress import Count

__all__ = ["weight_sensitivities"]


def weight_sensitivities(
    context: RunContext, layers: Sequence[WeightLayer], positions: Positions, progress: Count
) -> dict[str, Floats32]:
    """Measure the sensitivities of all weights of some layers; of shared weights the largest over the ops.

    They are held in memory, four bytes for each weight. Where the copies that the measurement takes of the weights are
    more than the workspace, the samples run several times.

    Args:
        context: The network and its samples.
        layers: The layers.
        positions: What of the shares at the positions of a sample counts.
        progress: Told how many samples have run, of how many; each counts once in every pass.

    Returns:
        By the name of the weight, in its shape.

    Raises:
        CalibrationError: The network computes NaN on the samples.
    """
    analysis, options, samples = context.whole, context.options, context.data.fit
    settings = SensitivitySettings("max", workspace_bytes=options.workspace)
    nonnegative = nonnegative_tensors(analysis.model)
    layer_of = {op.name: layer for layer in layers for op in layer.ops}
    found = {layer.weight: np.zeros(layer.shape, np.float32) for layer in layers}
    shards = list(shard_families(op_families([op for layer in layers for op in layer.ops]), options.workspace))
    for number, families in enumerate(shards):
        scratch = ScratchOfThreads()
        clean = [family.lead.data in nonnegative and not family.lead.zero for family in families]
        observers = [
            WeightSensitivityObserver(family, settings, each, scratch, positions=positions)
            for family, each in zip(families, clean, strict=True)
        ]

        def told(done: int, total: int, number: int = number) -> None:
            progress(number * total + done, len(shards) * total)

        run_observers(
            analysis.model,
            observers,
            samples,
            batch_size=context.batch_limit,
            providers=context.requests,
            threads=options.threads,
            workspace_bytes=options.workspace,
            progress=told,
        )
        for name, shares in ((name, each) for observer in observers for name, each in observer.weight_shares().items()):
            layer = layer_of[name]
            if shares is not None:
                largest = found[layer.weight]
                np.maximum(largest, layer.as_read(shares), out=largest)
    return found
