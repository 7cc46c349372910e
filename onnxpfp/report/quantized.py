"""Layers with quantized weights that lose channels: nothing makes up for it but their biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxpfp.counted import counted
from onnxpfp.linear.weights import has_quantized_weight
from onnxpfp.report.outcome import Outcome

__all__ = ["quantized_notes"]


def quantized_notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Say that layers were not refitted for their weights are whole numbers, where some lose channels."""
    losing, left = 0, 0
    for each in outcomes:
        whole, keep = each.context.whole, each.decision.keep
        made = each.compensation
        refitted = {*(record.name for record in made.refits), *made.fitted} if made else set[str]()
        for consumer in whole.graph.consumers:
            if keep[consumer.channels].all():
                continue
            losing += 1
            left += consumer.name not in refitted and consumer.constant and has_quantized_weight(whole, consumer.weight)
    if left:
        losers = counted(losing, "layer that loses", "layers that lose")
        yield (
            f"of {losers} channels {counted(left, 'has', 'have')} quantized weights, whole numbers at a fixed scale, "
            "which no refit changed: that costs much accuracy. Prune first: give the file that was quantized, and "
            "quantize what is written (docs/pipelines/quantization.md)"
        )
