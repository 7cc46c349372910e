"""Shares that the user sets: which groups they are of, and what is asked of a group as the network gets smaller.

A pattern means what it means for `--include`: the channels that a node brings forth, or a node that reads an
initializer; or a group by its name. The width of such a group is the allowed one that is nearest to its share, and the
allocation chooses the others. A share is one of the channels that the original has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.lineage import Lineage
from onnxpfp.channels.name_patterns import matching_names, name_inside, names_of
from onnxpfp.errors import OptionError, TargetUnreachableError
from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.names import node_name
from onnxpfp.options import Options
from onnxpfp.options.shares import shares_by_pattern
from onnxpfp.pipeline.context import GroupShare
from onnxpfp.pipeline.parts import Network, NetworkPart

__all__ = ["asked_channels", "asked_of_rest", "unreachable_by_shares", "with_shares"]


def with_shares(network: Network, options: Options) -> Network:
    """Find the groups whose shares the user sets.

    Args:
        network: The network.
        options: The shares, by patterns.

    Raises:
        OptionError: A pattern means nothing, or nothing that may go, or a group has two shares.
    """
    found: list[dict[int, GroupShare]] = [{} for _ in network.parts]
    names = [name for part in network.parts for name in _names(part)]
    for pattern, share in shares_by_pattern(options.share).items():
        matched = matching_names(pattern, names, "--share")
        met = False
        for part, groups in zip(network.parts, found, strict=True):
            for number in _groups(part, matched):
                before = groups.setdefault(number, GroupShare(pattern, share))
                if before.share != share:
                    name = name_inside(part.place, part.context.whole.graph.groups[number].name)
                    raise OptionError(
                        f"--share gives the group '{name}' two shares: '{before.pattern}={before.share:g}' and "
                        f"'{pattern}={share:g}'"
                    )
                met = True
        if not met:
            raise OptionError(f"--share '{pattern}={share:g}': {_why_none(network, matched)}")
    parts = [
        replace(part, context=replace(part.context, shares=groups))
        for part, groups in zip(network.parts, found, strict=True)
    ]
    return replace(network, parts=tuple(parts))


def unreachable_by_shares(error: TargetUnreachableError) -> TargetUnreachableError:
    """Return the error of a target that cannot be met with the shares that the user set: he may lower these, too."""
    others = error.hint.startswith("lower ")
    hint = error.hint.replace("lower ", "lower --share, ", 1) if others else f"lower --share, or {error.hint}"
    return TargetUnreachableError(str(error), hint=hint)


def _names(part: NetworkPart) -> list[str]:
    """List what a pattern may mean of a part, with its place and without."""
    whole = part.context.whole
    own = list(dict.fromkeys([*names_of(whole.model.graph), *(group.name for group in whole.graph.groups)]))
    return own if not part.place else [*own, *(name_inside(part.place, name) for name in own)]


def _groups(part: NetworkPart, matched: set[str]) -> Iterator[int]:
    """Yield the groups of a part that are meant, by position."""
    if not part.prunable:
        return
    graph = part.context.whole.graph
    brought = np.zeros(graph.count + 1, np.bool_)
    for output in _outputs(part.context.whole, part.place, matched):
        for ids in graph.axes.get(output, ()):
            brought[ids] = True
    for number, group in enumerate(graph.groups):
        if brought[group.channels].any() or {group.name, name_inside(part.place, group.name)} & matched:
            yield number


def _outputs(whole: Analysis, place: str, matched: set[str]) -> Iterator[str]:
    """Yield what the nodes put out that are meant."""
    graph = whole.model.graph
    weights = {name for name in stored_tensors(graph) if {name, name_inside(place, name)} & matched}
    for node in graph.node:
        name = node_name(node)
        if {name, name_inside(place, name)} & matched or weights.intersection(node.input):
            yield from (output for output in node.output if output)


def _why_none(network: Network, matched: set[str]) -> str:
    """Say why nothing that a pattern means may go."""
    for part in network.parts:
        whole = part.context.whole
        for fixed in whole.graph.fixed:
            if {fixed.tensor, name_inside(part.place, fixed.tensor)} & matched or any(
                fixed.tensor in node.input and node_name(node) in matched for node in whole.model.graph.node
            ):
                return f"none of its channels may go: {fixed.reason}"
    return "it brings forth no channels that may go"


def asked_channels(part: NetworkPart) -> dict[int, float]:
    """Return how many channels are asked of groups, by position."""
    groups = part.context.whole.graph.groups
    return {number: each.share * groups[number].channels.size for number, each in part.context.shares.items()}


def asked_of_rest(
    asked: Mapping[int, float], old: ChannelGraph, lineage: Lineage, new: ChannelGraph
) -> dict[int, float]:
    """Say what is asked of the groups of a network in terms of what is left of it.

    Where a group has become several, each is asked for its part; what others bring along stays.

    Args:
        asked: How many channels are asked of groups of the network, by position.
        old: Its channels.
        lineage: What has become of them.
        new: The channels that are left.
    """
    owner = np.full(new.count + 1, -1, np.int64)
    for number, group in enumerate(new.groups):
        owner[group.channels] = number
    left = {number: float(group.channels.size) for number, group in enumerate(new.groups)}
    met: set[int] = set()
    for number, channels in asked.items():
        current = np.setdiff1d(lineage.current[old.groups[number].channels], [0])
        owners, counts = np.unique(owner[current], return_counts=True)
        for place, count in zip(owners.tolist(), counts.tolist(), strict=True):
            left[place] += channels * count / current.size - count
            met.add(place)
    return {number: max(left[number], 1.0) for number in sorted(met)}
