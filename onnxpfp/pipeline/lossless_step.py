"""Channels that cost nothing go first: what is pruned after that is the smaller network, which computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.channels.lineage import Lineage, lineage_of
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.lossless import Lossless, Removal, edits_of, find_lossless
from onnxpfp.pipeline.context import RunContext
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.heap import trim_heap

__all__ = ["LosslessStep", "find_in", "remove_lossless", "taken_out"]


@dataclass(frozen=True, slots=True, eq=False)
class LosslessStep:
    """The model without the channels that cost nothing.

    Attributes:
        analysis: The smaller model, understood anew; the model as it was where nothing went.
        removed: What went.
        lineage: What has become of the channels of the model as it was.
        keep: Whether each channel of the model as it was has stayed.
        fillers: How many have stayed that cost nothing, because kernels compute whole blocks of channels.
    """

    analysis: Analysis
    removed: tuple[Removal, ...]
    lineage: Lineage
    keep: Keep
    fillers: int = 0

    @classmethod
    def nothing(cls, analysis: Analysis) -> LosslessStep:
        """Leave a model as it is."""
        return cls(analysis, (), Lineage.unchanged(analysis.graph), analysis.graph.keep_all())


def remove_lossless(context: RunContext) -> LosslessStep:
    """Remove dead, constant and duplicate channels; where the data are none of the user's, what the weights show.

    Some stay, so that the widths that are left are multiples of what kernels compute at once (`lossless.fillers`).
    A channel that only held-out samples would wake goes too: the drift on them shows what that costs. Where scores come
    from a file, those go that went when it was made.
    """
    with context.clock.phase("lossless"):
        ops = linear_ops(context.whole)
    if context.scores is None:
        lossless = find_in(context, ops)
    else:
        lossless = context.scores.lossless(context.whole, ops, context.alignment)
    return taken_out(context, lossless, ops)


def find_in(context: RunContext, ops: Sequence[LinearOp]) -> Lossless:
    """Find the channels that cost nothing, given the consumers."""
    analysis, data, options = context.whole, context.data, context.options
    with context.clock.phase("lossless") as progress:
        found = find_lossless(
            analysis,
            ops,
            stored_axes_of(analysis),
            data.samples,
            trusted=data.given == "file",
            batch_size=context.batch_limit,
            providers=context.requests,
            threads=options.threads,
            workspace_bytes=options.workspace,
            progress=progress,
            alignment=context.alignment,
        )
    trim_heap()
    return found


def taken_out(context: RunContext, lossless: Lossless, ops: Sequence[LinearOp]) -> LosslessStep:
    """Take channels that cost nothing out of a network, given the consumers."""
    analysis = context.whole
    if not lossless.removed and not lossless.quieted:
        return replace(LosslessStep.nothing(analysis), fillers=lossless.fillers)
    with context.clock.phase("lossless"):
        edits = edits_of(analysis, ops, lossless, stored_axes_of(analysis), Edits())
        smaller = apply(analysis.model, analysis.graph, lossless.keep, edits, analysis.source.scratch)
    left = context.analyze(smaller)
    lineage, left_graph = lineage_of(analysis.graph, lossless.keep, left.graph)
    return LosslessStep(replace(left, graph=left_graph), lossless.removed, lineage, lossless.keep, lossless.fillers)
