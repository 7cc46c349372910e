"""What the report of a pruning says of how channels, widths and ranks were chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from onnxpfp.counted import counted
from onnxpfp.pipeline.criteria import title_of
from onnxpfp.report.groups import GroupReport

__all__ = ["channels_by", "could_go", "ranks_by", "widths_by"]

_METHODS = {
    "plan": "replay of a plan",
    "none": "nothing was scored",
}
_WIDTHS = {
    "measured": "measured drift of the output",
    "bound": "one sum of what every group drops of its scores",
    "draws": "draws in proportion to each group's sum of sensitivities",
    "uniform": "one share for all groups",
    "criterion": "what the criterion itself lets go of each group",
    "share": "the share that was asked for with --share",
}
_STRUCTURES = {"channels": "channels", "rank": "ranks of layers", "blocks": "whole branches"}
_RANKS = {
    "measured": "measured drift of the output, with the widths as one",
    "plan": "the plan",
}
_SETTINGS = {
    "dfs": "DFS lets a share of {:g} of every group go",
    "dfs_threshold": "DFS lets go what is below {:g} times the mean of its group",
    "sfs": "SFS lets go what is like another channel, with a cosine of {:g} or more",
    "maps": "maps {} the activation",
}


def channels_by(method: str, settings: Mapping[str, float | str], groups: Sequence[GroupReport]) -> str:
    """Name what ranked the channels that go, of some groups not what was asked for, and what was said about that.

    Args:
        method: The name of a criterion, plan or none.
        settings: What was said about the criterion, by the names of options.
        groups: Decisions by group.
    """
    return _ranking(method, groups) + "".join(f"; {_SETTINGS[name].format(value)}" for name, value in settings.items())


def _ranking(method: str, groups: Sequence[GroupReport]) -> str:
    title = _METHODS.get(method) or title_of(method)
    counts = Counter(group.ranked_by for group in groups if group.ranked_by)
    instead = counts["energy"] if method != "energy" else 0
    if not instead:
        return title
    others = "" if instead == counts.total() else f"; in the others, {title}"
    return (
        f"{title_of('energy')}, in {instead} of {counted(counts.total(), 'cut group')}, whose PFP bounds say "
        f"nothing{others}"
    )


def could_go(structure: str) -> str:
    """Say what could go, by the words of `--structure`."""
    return " and ".join(_STRUCTURES[part] for part in structure.split(","))


def widths_by(allocation: str, groups: Sequence[GroupReport]) -> str:
    """Name what set the widths: in a body that runs seldom it may be something else.

    Args:
        allocation: What set them in the main graph.
        groups: Decisions by group.
    """
    drawn = {"sampled", "mixed"} & {group.selection for group in groups if group.ranked_by}
    titles = _WIDTHS | ({"bound": _WIDTHS["draws"]} if drawn else {})
    counts = Counter(group.widths_by for group in groups if group.widths_by)
    others = [f"in {n} of {counted(counts.total(), 'cut group')}, {titles[by]}" for by, n in counts.items()]
    return titles[next(iter(counts), allocation)] if len(counts) < 2 else "; ".join(others)


def ranks_by(by: str, weight: float | None) -> str:
    """Name what set the ranks, and what their drift counted, where other choices drifted more.

    Args:
        by: measured or plan.
        weight: What the drift of ranks counted beside that of channels; None where no ranks were chosen.
    """
    if weight is None or weight == 1.0:
        return _RANKS[by]
    how = "all channels staying" if weight == 0.0 else f"the drift of ranks counted {weight:g} times"
    return f"{_RANKS[by]}; {how}, which drifted least of all choices tried"
