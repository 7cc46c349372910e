"""The lineage of channels: from those of a pruned model, which is pruned further, back to those of the original.

What went can change what the rest is. Where one channel of eight is left, an Add that tied eight channels broadcasts
one; where a group went, nothing tells two others apart any more. So channels of the original and of the pruned model
are held against each other at every index of every tensor that both have, and what is joined by that goes together:

    vanished    A channel stays, but nothing of it may go in the pruned model: it stays for good.
    appeared    A channel of the pruned model is one index that may not go in the original: it stays.
    joined      Two channels of the original are one in the pruned model: both go with it.
    split       One channel of the original is two in the pruned model: these go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.graph import renumbered
from onnxpfp.channels.labels import Labels

__all__ = ["Lineage", "lineage_of"]

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Lineage:
    """What has become of the channels of a model from which some went.

    Attributes:
        stayed: Whether each channel was left, (channels + 1,).
        current: The channel of the pruned model that each is, (channels + 1,); 0 where it went or stays for good.
    """

    stayed: Keep
    current: Ids

    @classmethod
    def unchanged(cls, graph: ChannelGraph) -> Self:
        """Return the lineage of a model from which nothing went."""
        return cls(graph.keep_all(), np.arange(graph.count + 1))

    def lift(self, values: NDArray[Value]) -> NDArray[Value]:
        """Tell values by channel of the pruned model in terms of the original.

        Args:
            values: (channels of the pruned model + 1,); the first is that of all that stays for good.

        Returns:
            (channels + 1,); 0 where a channel went before.
        """
        return np.where(self.stayed, values[self.current], np.zeros((), values.dtype))


def lineage_of(old: ChannelGraph, keep: Keep, new: ChannelGraph) -> tuple[Lineage, ChannelGraph]:
    """Find what every channel of a model has become in one that was pruned from it.

    Args:
        old: Channels of the original.
        keep: Which of them stayed, (channels + 1,).
        new: Channels of the pruned model.

    Returns:
        The lineage, and the channels of the pruned model as far as they can be told in terms of the original.
    """
    labels = Labels()
    before = np.concatenate([np.zeros(1, np.int64), labels.fresh(old.count)])
    after = np.concatenate([np.zeros(1, np.int64), labels.fresh(new.count)])
    met = np.zeros(new.count + 1, np.bool_)
    for stayed, ids in _places(old, keep, new):
        labels.tie(before[stayed], after[ids], "")
        met[ids] = True
    parts = labels.components()
    goes = met & ~parts.fixed[parts.of_label[after]]
    goes[0] = False
    numbers = np.zeros(parts.fixed.size, np.int64)
    # In the order of the pruned model's channels, which is theirs already where nothing was joined.
    first = np.unique(parts.of_label[after[goes]], return_index=True)
    numbers[first[0][np.argsort(first[1])]] = np.arange(1, first[0].size + 1)
    current = np.where(keep, numbers[parts.of_label[before]], 0)
    return Lineage(keep, current), renumbered(new, np.where(goes, numbers[parts.of_label[after]], 0))


def _places(old: ChannelGraph, keep: Keep, new: ChannelGraph) -> Iterator[tuple[Ids, Ids]]:
    """Yield the axes that both models have, as channels of either: tensors keep their names, indices their order."""
    for name, axes in new.axes.items():
        before = old.axes.get(name, ())
        # A vector with several readers has channels per reader, and those are different ones in each model.
        if len(before) != len(axes) or name in old.uses or name in new.uses:
            continue
        for ids, source in zip(axes, before, strict=True):
            stayed = source[keep[source]]
            if stayed.size == ids.size:
                yield stayed, ids
