"""Slices of weights by the channels that stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import AnyArray, Ids, Keep

__all__ = ["sliced"]


def sliced(array: AnyArray, axes: Sequence[Ids], keep: Keep) -> AnyArray:
    """Return what stays of an array.

    Args:
        array: The array.
        axes: Channel ids of its axes.
        keep: Whether each channel stays.
    """
    for number, ids in enumerate(axes):
        stays = keep[ids]
        if not stays.all():
            array = np.compress(stays, array, axis=number)
    return array
