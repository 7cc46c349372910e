"""Layers with quantized weights: some are not refitted, and none becomes two of low rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxpfp.counted import counted
from onnxpfp.linear.weights import has_quantized_weight
from onnxpfp.report.outcome import Outcome

__all__ = ["quantized_notes"]

_FIRST = "Prune first: give the file that was quantized, and quantize what is written (docs/pipelines/quantization.md)"


def quantized_notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Say what is not done with layers whose weights are whole numbers."""
    yield from _not_refitted(outcomes)
    yield from _whole(outcomes[0])


def _not_refitted(outcomes: Sequence[Outcome]) -> Iterator[str]:
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
            f"which no refit changed: that costs much accuracy. {_FIRST}"
        )


def _whole(outcome: Outcome) -> Iterator[str]:
    """Say that layers keep all their ranks, where ranks were in question."""
    context = outcome.context
    if not context.options.ranked or context.plan is not None:
        return
    readers = [consumer for consumer in context.whole.graph.consumers if consumer.constant]
    count = sum(has_quantized_weight(context.whole, consumer.weight) for consumer in readers)
    if count:
        layers = counted(len(readers), "layer that reads channels", "layers that read channels")
        yield (
            f"of {layers} {counted(count, 'has', 'have')} quantized weights and can become no two ops of low rank: "
            f"these are made of floating-point weights alone. {_FIRST}"
        )
