"""Exact shares of chosen (sample, position, block) triples, in numpy.

share = max over outputs i and weight signs of  R[i, p] * sum over c in block, q of V2[c, i, q] u[c, q, p],  R = 1 / z;
with kernel="max" the largest single product takes the place of the sum (the two forms of PFP, ICLR 2020).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats32, Ints
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.calibrate.sensitivity.sums import SumField
from onnxpfp.linear.im2col import tap_sources
from onnxpfp.linear.ops import BlockTable, LinearOp

__all__ = ["Candidates", "Exact"]


_PIECE = 1 << 18
"""Numbers of one intermediate: what a core's cache holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Triples that may raise a sensitivity, each with its bound; sorted by block.

    Attributes:
        place: Number of the (sample, position) pair, sample * P + position, (m,).
        block: (m,).
        excess: Power `order` of bound / sensitivity by then, (m,) float32.
        order: The power.
    """

    place: Ints
    block: Ints
    excess: Floats32
    order: int

    def __len__(self) -> int:
        return len(self.block)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Candidates:
        """Pick some."""
        return Candidates(self.place[which], self.block[which], self.excess[which], self.order)

    def sorted(self) -> Candidates:
        """Sort by block."""
        # numpy sorts numbers of 16 bits by counting.
        small = self.block.astype(np.uint16) if self.block.size and self.block.max() < 1 << 16 else self.block
        return self.take(np.argsort(small, kind="stable"))

    def starts(self) -> Ints:
        """Return where each block that occurs begins."""
        return np.flatnonzero(np.diff(self.block, prepend=-1))

    def promising(self, share: float) -> NDArray[np.bool_]:
        """Tell whose bound is at least a share of the largest of its block, (m,)."""
        starts = self.starts()
        largest = np.maximum.reduceat(self.excess, starts)
        counts = np.diff(starts, append=len(self))
        return self.excess >= np.repeat(largest * np.float32(share**self.order), counts)


@dataclass(slots=True, eq=False)
class Exact:
    """Computes shares of one linear op.

    Attributes:
        op: The linear op.
        blocks: What gets a share.
        taps: V (C, k, O/g), outputs of norm one.
        kernel: "sum" or "max".
        flat: Whether output positions are input positions.
        entries: Largest number of products of a block in one sum.
    """

    op: LinearOp
    blocks: BlockTable
    taps: Floats32
    kernel: Kernel
    flat: bool
    entries: int
    _sources: dict[tuple[tuple[int, ...], ...], tuple[Ints, Floats32]] = field(
        default_factory=dict[tuple[tuple[int, ...], ...], tuple[Ints, Floats32]]
    )

    @classmethod
    def of(cls, op: LinearOp, blocks: BlockTable, taps: Floats32, kernel: Kernel, *, flat: bool) -> Exact:
        """Prepare a linear op, given V (C, O/g, k)."""
        entries = int(np.diff(blocks.starts).max()) * taps.shape[2]
        return cls(op, blocks, np.ascontiguousarray(taps.swapaxes(1, 2)), kernel, flat, entries)

    def largest(self, seen: SumField, candidates: Candidates) -> Floats32:
        """Return the largest share of every block among candidates, (b,), 0 where there are none.

        Args:
            seen: The samples, with infinite sums where the guard fires.
            candidates: The candidates.
        """
        largest = np.zeros(len(self.blocks.groups), np.float32)
        for piece in self._pieces(candidates):
            place, block = candidates.place[piece], candidates.block[piece]
            if self.entries == 1:
                np.maximum.at(largest, block, self._of_single_entries(seen, place, block))
            else:
                starts = np.flatnonzero(np.diff(block, prepend=-1))
                shares = self._of_blocks(seen, place, block, starts)
                largest[block[starts]] = np.maximum(largest[block[starts]], shares)
        return largest

    def _pieces(self, candidates: Candidates) -> Iterator[slice]:
        """Cut candidates into pieces, of one block each where blocks have unequal numbers of indices."""
        size = max(1, _PIECE // (2 * self.taps.shape[2]))
        counts = np.diff(self.blocks.starts)
        even = bool((counts == counts[:1]).all())
        cuts = [*([0] if even else candidates.starts().tolist()), len(candidates)]
        for start, stop in itertools.pairwise(cuts):
            for first in range(start, stop, size):
                yield slice(first, min(stop, first + size))

    def _of_single_entries(self, seen: SumField, place: Ints, block: Ints) -> Floats32:
        index = self.blocks.indices[block]
        sums = _rows(seen.z, place, self.blocks.groups[block])
        weights = np.take(self.taps[:, 0], index, axis=0)
        outputs = weights.shape[1]
        # One sign of every weight is zero: the largest share of W+ is the maximum, that of W- the minimum.
        positive = (weights / sums[:, :outputs]).max(1)
        negative = np.divide(weights, sums[:, outputs:], out=weights).min(1)
        largest = np.maximum(np.maximum(positive, -negative), 0)
        return self._inputs(seen, place, index[:, None])[:, 0] * largest

    def _of_blocks(self, seen: SumField, place: Ints, block: Ints, starts: Ints) -> Floats32:
        """Return the largest share of every run of candidates of one block; the runs begin at `starts`."""
        count = int(self.blocks.starts[block[0] + 1] - self.blocks.starts[block[0]])
        u = self._inputs(seen, place, self.blocks.indices[self.blocks.starts[block][:, None] + np.arange(count)])
        sums = _rows(seen.z, place, self.blocks.groups[block])
        made = np.empty_like(sums)
        for first, last in itertools.pairwise([*starts.tolist(), len(place)]):
            begin = int(self.blocks.starts[block[first]])
            weights = self.taps[self.blocks.indices[begin : begin + count]].reshape(u.shape[1], -1)
            rows = np.concatenate([np.maximum(weights, 0), np.maximum(-weights, 0)], axis=1)
            if self.kernel == "max":
                _largest_products(u[first:last], rows, made[first:last])
            else:
                np.matmul(u[first:last], rows, out=made[first:last])
        made /= sums
        return np.maximum.reduceat(made.reshape(-1), starts * made.shape[1])

    def _inputs(self, seen: SumField, place: Ints, indices: Ints) -> Floats32:
        """Return the inputs at (m,) places for indices (m, I) of their blocks, (m, I * k)."""
        count = seen.z.shape[1]
        flat: Floats32 = seen.x.reshape(-1)
        if self.flat:
            return flat[place[:, None] * seen.x.shape[2] + indices]
        sample, position = np.divmod(place, count)
        source, inside = self._taps_read(seen)
        channels, size = seen.x.shape[1], math.prod(seen.sizes)
        read = np.take(source, position, axis=0)[:, None, :]
        read = read + ((sample[:, None] * channels + indices) * size)[:, :, None]
        u = cast("Floats32", np.take(flat, read))
        u *= np.take(inside, position, axis=0)[:, None, :]
        return u.reshape(len(place), -1)

    def _taps_read(self, seen: SumField) -> tuple[Ints, Floats32]:
        """Return what every tap reads at every output position, (P, k), and 0 where there is nothing, 1 elsewhere."""
        key = seen.sizes, seen.spatial
        if key not in self._sources:
            self._sources.clear()
            source, inside = tap_sources(self.op, *key, np.arange(math.prod(seen.spatial), dtype=np.int64))
            there = np.ones(source.shape, np.bool_) if inside is None else inside
            self._sources[key] = source, there.astype(np.float32)
        return self._sources[key]


def _rows(z: Floats32, place: Ints, group: Ints | int) -> Floats32:
    """Return the sums of places in their groups, (m, 2 O/g)."""
    groups, rows = z.shape[2:]
    return np.take(z.reshape(-1, rows), place * groups + group if groups > 1 else place, axis=0)


def _largest_products(u: Floats32, rows: Floats32, out: Floats32) -> None:
    """Write the largest single product of inputs u (m, E) and weights (E, rows), (m, rows)."""
    out[:] = 0
    for entry, row in enumerate(rows):
        np.maximum(out, u[:, entry, None] * row, out=out)
