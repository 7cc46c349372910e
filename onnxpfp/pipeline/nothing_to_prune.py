"""Why nothing in a network can be pruned: said after the analysis, before anything expensive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnx import NodeProto

from onnxpfp.channels import Analysis
from onnxpfp.errors import ModelError, TargetUnreachableError
from onnxpfp.model.constants import all_graphs, stores_matrix, subgraphs
from onnxpfp.model.names import node_name
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import CUSTOM_OPS_HINT
from onnxpfp.pipeline.footprint import staying_axes
from onnxpfp.pipeline.parts import Network

__all__ = ["blame_missing_ops", "require_groups", "require_groups_for_prunability", "why_no_part"]


def require_groups(network: Network, options: Options) -> None:
    """Make sure that something can be pruned.

    Raises:
        TargetUnreachableError: Nothing can; the most frequent reasons are named first.
        ModelError: Nothing can before ops that onnxruntime lacks.
    """
    if any(part.prunable for part in network.parts):
        return
    main = network.parts[0].context.whole
    hint = "--exclude and --include leave nothing" if options.exclude or options.include else ""
    stay = [(part.place, part.stays) for part in network.parts if part.stays]
    stay += [(body.place, body.reason) for body in network.left]
    why = why_no_part(main, [part.context.whole for part in network.parts[1:] if not part.stays], stay)
    if not hint:
        blame_missing_ops(main, f": {why}")
        hint = "onnxpfp factorize lowers ranks alone" if options.ranked else ""
    raise TargetUnreachableError(f"{main.source.title}: nothing in it can be pruned: {why}", hint=hint)


def why_no_part(main: Analysis, bodies: Sequence[Analysis], stay: Sequence[tuple[str, str]]) -> str:
    """Say why nothing in a network can be pruned.

    Args:
        main: The main graph.
        bodies: Bodies that were looked at.
        stay: Places of the others, and why they stay.
    """
    looked_at = [
        (body.source.place, _why_nothing(body))
        for body in bodies
        if staying_axes(body) or stores_matrix(body.model.graph)
    ]
    reasons = [f"the body {place} stays: {reason}" for place, reason in (*stay, *looked_at)][:3]
    # That all weights lie in bodies is no reason, but theirs are.
    own = [_why_nothing(main)] if staying_axes(main) or not reasons else []
    return "; ".join([*own, *reasons])


def require_groups_for_prunability(network: Network) -> None:
    """Make sure that there is something to measure.

    Raises:
        TargetUnreachableError: Nothing can be pruned.
        ModelError: Nothing can before ops that onnxruntime lacks.
    """
    if not any(part.prunable for part in network.parts):
        blame_missing_ops(network.parts[0].context.whole)
        raise TargetUnreachableError(
            f"{network.parts[0].context.whole.source.title}: nothing in it can be pruned",
            hint="`onnxpfp inspect` says why",
        )


def _why_nothing(analysis: Analysis) -> str:
    """Say why a model without groups has none; the most frequent reasons come first.

    1. Axes of weights stay: their reasons.
    2. All matrices and filter banks are stored in the graphs inside of nodes.
    3. There are some, but none brings forth channels that another op contracts, such as filters of one channel.
    4. There are none.
    """
    reasons = Counter(fixed.reason for fixed in staying_axes(analysis)).most_common(3)
    if reasons:
        return "; ".join(reason for reason, _ in reasons)
    if not any(map(stores_matrix, all_graphs(analysis.model))):
        return "it stores no matrix and no filter bank"
    if stores_matrix(analysis.model.graph):
        return "none of its weights brings forth channels that another Conv, Gemm, MatMul or other product reads"
    inside = next(node for node in analysis.model.graph.node if _holds_matrix(node))
    return f"its weights lie inside of {inside.op_type} '{node_name(inside)}'"


def _holds_matrix(node: NodeProto) -> bool:
    return any(stores_matrix(graph) or any(map(_holds_matrix, graph.node)) for graph in subgraphs(node))


def blame_missing_ops(analysis: Analysis, why: str = "") -> None:
    """Raise where a part of a model without groups is not run.

    Raises:
        ModelError: It is not, so that the ops that onnxruntime lacks are to blame.
    """
    tail = analysis.source.tail
    if tail is not None:
        raise ModelError(
            f"{analysis.source.title}: {tail.refusal}, and nothing before {tail.titles} can be pruned{why}",
            hint=CUSTOM_OPS_HINT,
        )
