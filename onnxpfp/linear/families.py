"""Families: linear ops that read one tensor through the same window, so that the work on their input is done once."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats32, runs_within
from onnxpfp.linear.ops import FileWeight, LinearOp

__all__ = ["OpFamily", "is_screened", "op_families", "shard_families"]


_HELD = 16
"""Bytes that screening holds for one weight: both signs in onnxruntime, what shares are computed with, and powers."""
_SHARE = 3 / 4
"""Share of the workspace that these may take: the tensors of a batch and the Gram matrices are there, too."""


def is_screened(op: LinearOp) -> bool:
    """Tell whether a linear op's sensitivities are found by screening: it has a weight, and that is in memory."""
    return op.weight is not None and not isinstance(op.weight, FileWeight)


@dataclass(frozen=True, eq=False)
class OpFamily:
    """Linear ops of one tensor through one window; an op in convolution groups is alone.

    Attributes:
        ops: The linear ops; what concerns the input is the same in all of them.
    """

    ops: tuple[LinearOp, ...]

    @property
    def lead(self) -> LinearOp:
        """One of them, for what they have in common."""
        return self.ops[0]

    @property
    def work(self) -> int:
        """Multiplications of one sample: what takes how long, roughly."""
        return sum(math.prod(op.output_shape) * _per_output(op) for op in self.ops)

    @cached_property
    def samples_last(self) -> bool:
        """Whether a sample has one position: then samples are the positions, else each product were one entry wide."""
        lead = self.lead
        rank = len(lead.data_shape)
        samples = lead.data_shape[1 if lead.axis == 0 else 0] if rank > 1 else 1
        positions = math.prod(lead.data_shape) // len(lead.channels)
        return self._is_plain and lead.group == 1 and positions == samples

    @cached_property
    def flat(self) -> bool:
        """Whether a position of the output sees one position of the (strided) input."""
        return self._is_plain or self._only_strides

    @cached_property
    def _is_plain(self) -> bool:
        lead = self.lead
        return lead.kind == "matmul" or (lead.kernel_size == 1 and lead.attributes.is_identity)

    @cached_property
    def _only_strides(self) -> bool:
        window = self.lead.attributes
        automatic = window.auto_pad in {None, "", "NOTSET", "VALID"}
        pads = any(window.pads or ()) and window.auto_pad != "VALID"
        return self.lead.kind == "conv" and self.lead.kernel_size == 1 and automatic and not pads

    def arrange(self, data: NDArray[Any]) -> Floats32:
        """Bring a batch of the tensor to (N, C, *spatial), or (1, C, N) where samples are the positions: a view."""
        lead = self.lead
        x = np.asarray(data, dtype=np.float32)
        if self.samples_last:
            return np.moveaxis(x, lead.axis, -1).reshape(1, -1, len(lead.channels)).swapaxes(1, 2)
        if lead.kind == "matmul":
            rank = x.ndim
            sample = 1 if lead.axis == 0 else 0
            rest = [axis for axis in range(rank) if axis not in (sample, lead.axis)]
            x = x.transpose(sample, *rest, lead.axis)
            return x.reshape(len(x), -1, len(lead.channels)).swapaxes(1, 2)
        return np.moveaxis(x, lead.axis, 1)

    def strided(self, x: Floats32) -> Floats32:
        """Pick what is read of an arranged batch, where a window of one tap passes over positions: a view."""
        steps = self.lead.attributes.strides
        if self._is_plain or not self._only_strides or not steps:
            return x
        return x[(slice(None), slice(None), *(slice(None, None, step) for step in steps))]


def op_families(ops: Sequence[LinearOp]) -> tuple[OpFamily, ...]:
    """Sort screened linear ops into families, in the order in which they stand."""
    families: dict[tuple[object, ...], list[LinearOp]] = {}
    for number, op in enumerate(ops):
        alone = number if op.group > 1 else -1
        key = (op.data, op.zero, op.axis, op.kind, op.kernel, op.attributes, alone)
        families.setdefault(key, []).append(op)
    return tuple(OpFamily(tuple(members)) for members in families.values())


def shard_families(families: Sequence[OpFamily], workspace: int) -> Iterator[tuple[OpFamily, ...]]:
    """Cut families into as few runs, in the given order, as can hold their weights at once, and evenly.

    Args:
        families: The families.
        workspace: Bytes that measuring may hold.
    """
    sizes = [(family, _bytes_held(family)) for family in families]
    limit = int(_SHARE * workspace)
    fewest = len(list(runs_within(sizes, limit)))
    # The smallest limit that takes no more runs.
    limit = bisect_left(range(limit), -fewest, key=lambda least: -len(list(runs_within(sizes, least))))
    return runs_within(sizes, limit)


def _bytes_held(family: OpFamily) -> int:
    return _HELD * sum(math.prod(_shape(op)) for op in family.ops if op.channels.any())


def _shape(op: LinearOp) -> tuple[int, ...]:
    assert op.weight is not None
    return op.weight.shape


def _per_output(op: LinearOp) -> int:
    """Count the products in one output."""
    shape = _shape(op)
    return math.prod(shape) // max(1, shape[1 if op.kind == "matmul" else 0])
