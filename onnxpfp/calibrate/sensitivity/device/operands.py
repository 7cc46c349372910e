"""Operands of the device graphs for one linear op: its weights in their layouts, its blocks, and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats32, Ints
from onnxpfp.calibrate.sensitivity.settings import SLACK, Kernel
from onnxpfp.calibrate.sensitivity.sums import Scaled
from onnxpfp.calibrate.sensitivity.tight_bound import FLOOR, ORDER
from onnxpfp.linear.ops import BlockTable, LinearOp

__all__ = ["Operands", "operands_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """The arrays of one linear op, in the layouts of the device graphs.

    Every convolution group has the same number of rows of them for its blocks; rows without a block have no weight,
    and so a bound of zero.

    Attributes:
        ids: Channel id of every block.
        slots: Row of every block.
        count: Number of rows, b.
        entries: Products in one sum of a block, I k.
        several: Whether a block may have several channels.
        group: Convolution groups, g.
        outputs: Outputs of a group, O/g.
        products: Products in one sum z, C/g k.
    """

    ids: Ints
    slots: Ints
    count: int
    entries: int
    several: bool
    group: int
    outputs: int
    products: int

    @property
    def shapes(self) -> dict[str, Ints]:
        """Shapes that are fed to `Bounds`."""
        rows, per_group = 2 * self.outputs, self.count // self.group
        shapes = {
            "by_group": [0, self.group, self.products, -1],
            "by_sign": [0, self.group, 2, self.outputs, -1],
            "by_row": [0, self.group, rows, -1],
            "by_block": [0, self.group, per_group, -1],
            "flat": [0, self.count, -1],
            "rows": [-1, rows],
            "pairs": [self.count, -1],
        }
        return {name: np.array(shape, np.int64) for name, shape in shapes.items()}


def operands_of(op: LinearOp, weights: Scaled, kernel: Kernel) -> tuple[Operands, dict[str, NDArray[Any]]]:
    """Lay out what is fed of a linear op, by the names of the inputs of `Bounds` and `Shares`.

    Args:
        op: The linear op.
        weights: Its weights, outputs of norm one.
        kernel: "sum" or "max".
    """
    table = op.block_table(single=kernel == "max")
    group, taps = op.group, weights.taps
    outputs = taps.shape[1]
    per_group, width = int(np.bincount(table.groups).max()), int(np.diff(table.starts).max())
    # Blocks stand in the order of their groups.
    slots = table.groups * per_group + np.arange(len(table.groups)) - np.searchsorted(table.groups, table.groups)
    rows = np.repeat(slots, np.diff(table.starts))
    count = group * per_group
    channels, own = _blocks(table, rows, taps, (count, width))
    norms = _norms(own, kernel)
    largest = norms.max(1, keepdims=True)
    with np.errstate(under="ignore"):
        powers = np.maximum((norms / np.where(largest > 0, largest, 1)) ** ORDER, FLOOR)
    grouped = taps.reshape(group, -1, outputs, taps.shape[2])
    # Both signs of an output have the same.
    norm = weights.norm.max(1)
    norm = np.where(norm > 0, norm, np.float32(1))
    fixed: dict[str, NDArray[Any]] = {
        "taps": grouped.transpose(0, 2, 1, 3).reshape(group, outputs, -1),
        "norm": norm.reshape(group, 1, outputs, 1).astype(np.float32),
        "powers": powers.reshape(group, -1, 2 * outputs),
        "weight": (largest * np.float32(1 + SLACK)).reshape(group, -1, 1),
        "weights": own,
        "channels": channels,
        "group": np.repeat(np.arange(group), per_group),
        "groups": np.array([group]),
    }
    if width > 1:
        fixed["members"] = np.zeros((count, len(taps)), np.float32)
        fixed["members"][rows, table.indices] = 1
    else:
        fixed["index"] = channels[:, 0]
    inputs = fixed["taps"].shape[2]
    layout = Operands(table.channels, slots, count, own.shape[1], width > 1, group, outputs, inputs)
    return layout, fixed


def _blocks(table: BlockTable, rows: Ints, taps: Floats32, shape: tuple[int, int]) -> tuple[Ints, Floats32]:
    """Return the channels of every row (b, I), and its weights (b, I k, O/g).

    Args:
        table: The blocks.
        rows: Row of each of their indices.
        taps: V (C, O/g, k).
        shape: (b, I).
    """
    ranks = np.arange(len(rows)) - np.repeat(table.starts[:-1], np.diff(table.starts))
    channels = np.zeros(shape, np.int64)
    channels[rows, ranks] = table.indices
    own = np.zeros((*shape, *taps.shape[:0:-1]), np.float32)
    own[rows, ranks] = taps[table.indices].swapaxes(1, 2)
    return channels, own.reshape(shape[0], -1, taps.shape[1])


def _norms(own: Floats32, kernel: Kernel) -> Floats32:
    """Return the norms of blocks' weights of both signs, (b, 2 O/g): the largest for kernel="max"."""
    signed = np.concatenate([np.maximum(own, 0), np.maximum(-own, 0)], axis=2)
    if kernel == "max":
        return signed.max(1)
    # In float64, where squares of small weights do not vanish.
    return np.sqrt(np.einsum("beo,beo->bo", signed, signed, dtype=np.float64)).astype(np.float32)
