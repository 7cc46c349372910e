"""Changes of weights at their full size, made before anything is sliced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids

__all__ = ["Edits", "NewInput"]


@dataclass(frozen=True, slots=True, eq=False)
class NewInput:
    """A constant that one node reads in place of (or beside) what it read.

    Attributes:
        array: Its numbers at full size, in the dtype of the node's other operands.
        axes: Channel ids of its axes.
        name: The name it shall have if that is free.
    """

    array: NDArray[np.generic]
    axes: tuple[Ids, ...]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """Changes of weights, from reweighting and compensation.

    Attributes:
        tensors: New numbers of stored tensors, full size, same dtype.
        inputs: New constants by use (node, input).
    """

    tensors: Mapping[str, NDArray[np.generic]] = field(default_factory=dict[str, NDArray[np.generic]])
    inputs: Mapping[tuple[int, int], NewInput] = field(default_factory=dict[tuple[int, int], NewInput])

    def __bool__(self) -> bool:
        return bool(self.tensors or self.inputs)
