"""The plan of a pruning: what was decided of every part of the network, to replay it or to map channels back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.channels import Unit
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.pipeline.class_plan import plan_of_file
from onnxpfp.pipeline.plan import Plan, make_plan
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.outcome import Outcome

__all__ = ["decided_plan"]


def decided_plan(outcomes: Sequence[Outcome], groups: Sequence[GroupReport], attention: Unit) -> Plan:
    """Write down what was decided: of the main graph first, then of its bodies.

    Args:
        outcomes: The results of every part; the first is the main graph.
        groups: Decisions by group, for people who read the file.
        attention: What goes from an attention: heads or width.
    """
    plans = [_plan_of(outcome, attention) for outcome in outcomes]
    bodies = {outcome.part.place: plan.entries for outcome, plan in zip(outcomes[1:], plans[1:], strict=True)}
    rows = [{"name": g.name, "kept": g.kept, "channels": g.channels, "selection": g.selection} for g in groups]
    plan = replace(plans[0], groups=rows, bodies={place: entries for place, entries in bodies.items() if entries})
    classes = outcomes[0].context.classes
    return plan if classes is None else plan_of_file(plan, classes)


def _plan_of(outcome: Outcome, attention: Unit) -> Plan:
    """Write down what was decided of one part."""
    analysis, decision = outcome.part.context.whole, outcome.decision
    graph = analysis.graph
    stored_axes = stored_axes_of(analysis)
    scales: dict[str, dict[int, NDArray[np.float64]]] = {}
    for consumer, stored_axis in zip(graph.consumers, stored_axes, strict=True):
        factor = decision.factor[consumer.channels]
        if stored_axis is not None and ((factor != 1) & (factor != 0)).any():
            ids = graph.axes[stored_axis.tensor][stored_axis.axis]
            scales.setdefault(stored_axis.tensor, {})[stored_axis.axis] = decision.factor[ids]
    plan = make_plan(
        file_axes(analysis),
        decision.keep,
        sha256=analysis.source.sha256,
        scales=scales,
        groups=(),
        attention=attention,
    )
    return replace(plan, ranks={each.layer.weight: each.choice for each in decision.ranked})
