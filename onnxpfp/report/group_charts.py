"""Charts of the groups and layers of a pruning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxpfp.comparison.layers import LayerErrors
from onnxpfp.report.charts import Bars, Chart, Curve, Plot, Profile, Series
from onnxpfp.report.groups import GroupReport

__all__ = ["kept_channels", "layer_errors_chart"]


SENSITIVE = frozenset({"pfp", ""})
"""Where sensitivities were measured and nothing else ranked the channels: what there is to see."""


def kept_channels(groups: Sequence[GroupReport]) -> Bars:
    """Show how many channels stay of every group, and on a choice what ranked and what widths cost."""
    return Bars(
        "Channels kept of every group",
        [group.name for group in groups],
        [
            Series("stay", [group.kept for group in groups]),
            Series("go", [group.channels - group.kept for group in groups], faint=True),
        ],
        axis="channels",
        stacked=True,
        said="Choose one to see what ranked its channels, and what narrowing it costs.",
        details={group.name: charts for group in groups if (charts := [*_of_group(group)])},
        of="group",
    )


def _of_group(group: GroupReport) -> Iterator[Chart]:
    stay = f"{group.kept:,} of {group.channels:,} stay"
    if group.sensitivities is not None:
        yield Profile(f"Sensitivities: {stay}", group.sensitivities, group.gone, axis="sensitivity")
    if group.scores and (group.sensitivities is None or group.ranked_by not in SENSITIVE):
        yield Profile(f"Scores {_ranked(group)}: {stay}", group.scores, group.gone, axis="score")
    if group.curve is not None:
        points = [*zip(map(float, group.curve.widths), group.curve.drift, strict=True)]
        chosen = [point for point in points if point[0] == group.kept]
        yield Plot(
            "Response curve: it alone is narrowed",
            across="channels kept",
            up="drift",
            curves=[
                Curve("foreseen", points),
                *([Curve("chosen", chosen, joined=False)] if chosen else []),
            ],
            units=("count", "number"),
        )


def _ranked(group: GroupReport) -> str:
    """Say what the scores are, and where they did not decide."""
    if group.ranked_by:
        return f"by {group.ranked_by}"
    return "of a group that stays" if group.kept else "of a branch that went"


def layer_errors_chart(errors: LayerErrors) -> Bars:
    """Show the error of every layer that was measured, front to back."""
    layers = [layer for layer in errors.layers if layer.mean is not None and math.isfinite(layer.mean)]
    bounded = any(layer.bound is not None for layer in layers)
    share = next((layer.share for layer in layers if layer.share is not None), None)
    bounds = [Series(f"at most, in {100 * (share or 0):g} % of inputs", [layer.bound for layer in layers], faint=True)]
    return Bars(
        "Error of every layer's output",
        [layer.name for layer in layers],
        [Series("mean", [layer.mean for layer in layers]), *(bounds if bounded else [])],
        axis="relative error",
        unit="number",
        of="layer",
    )
