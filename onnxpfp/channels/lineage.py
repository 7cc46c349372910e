"""The lineage of channels: from those of a pruned model, which is pruned further, back to those of the original."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels import ChannelGraph

__all__ = ["lifted", "origin_of"]

Value = TypeVar("Value", bound=np.generic)


def origin_of(old: ChannelGraph, keep: Keep, new: ChannelGraph) -> Ids:
    """Find the channel of the original for every channel of a model that was pruned from it.

    Tensors keep their names, and their indices their order.

    Args:
        old: Channels of the original.
        keep: Which of them stayed, (channels + 1,).
        new: Channels of the pruned model.

    Returns:
        (new channels + 1,) ids of the original; 0 for the fixed indices.
    """
    origin = np.zeros(new.count + 1, np.int64)
    for name, axes in new.axes.items():
        before = old.axes.get(name, ())
        if len(before) != len(axes):
            continue
        for ids, source in zip(axes, before, strict=True):
            stayed = source[keep[source]]
            if stayed.size == ids.size:
                origin[ids] = stayed
    origin[0] = 0
    assert np.unique(origin).size == origin.size, "two channels of a pruned model come from the same one"
    return origin


def lifted(values: NDArray[Value], origin: Ids, count: int) -> NDArray[Value]:
    """Tell values by channel id in terms of the original; 0 where its channel went before.

    Args:
        values: (new channels + 1,).
        origin: From `origin_of`.
        count: Channels of the original.
    """
    lifted_values = np.zeros(count + 1, values.dtype)
    lifted_values[origin] = values
    return lifted_values
