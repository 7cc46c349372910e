"""Exact shares of chosen (sample, position, block) triples, in numpy.

share = max over outputs i and weight signs of  R[i, p] * sum over c in block, q of V2[c, i, q] u[c, q, p],  R = 1 / z;
with kernel="max" the largest single product takes the place of the sum (the two forms of PFP, ICLR 2020).

In which order BLAS adds up the products of one triple hangs on how many triples it is given. So the sums that come out
largest are added up once more, each by itself and in float64: the largest share of all is the same to the bit however
the samples are cut into batches and shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats32, Ints, chunks
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import FULL, SLACK, Kernel
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField
from onnxpfp.calibrate.sensitivity.windows import WindowReader
from onnxpfp.linear.ops import BlockTable, LinearOp

__all__ = ["Candidates", "Exact"]


_PIECE = 1 << 18
"""Numbers of one intermediate: what a core's cache holds."""
_LARGE = 2 << 20
"""Bytes of W+ and W-; to make those of a block of such an op takes little beside what is done with them."""
_DOUBLE = 8
"""Bytes of a number in float64."""


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
        return _run_starts(self.block)

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
        rows: Scaled weights, V (C, k, O/g), or W+ and W- side by side, (C, k, 2 O/g).
        signed: Whether they are W+ and W-: where every block has one product in a sum, V will do, and where they are
            large these are made of V when they are looked up.
        kernel: "sum" or "max".
        windows: Looks up what the op reads.
        entries: Largest number of products of a block in one sum.
    """

    op: LinearOp
    blocks: BlockTable
    rows: Floats32
    signed: bool
    kernel: Kernel
    windows: WindowReader
    entries: int

    @classmethod
    def of(cls, op: LinearOp, blocks: BlockTable, weights: Scaled, kernel: Kernel, *, flat: bool) -> Exact:
        """Prepare a linear op."""
        entries = int(np.diff(blocks.starts).max()) * weights.taps.shape[2]
        signed = entries > 1 and weights.signed.nbytes <= _LARGE
        rows = np.ascontiguousarray((weights.signed if signed else weights.taps).swapaxes(1, 2))
        return cls(op, blocks, rows, signed, kernel, WindowReader(op, flat), entries)

    def raise_to(self, best: Floats32, seen: SumField, candidates: Candidates, scratch: ScratchArrays) -> None:
        """Raise the largest share of every block so far to the largest among candidates, where that is larger.

        Args:
            best: The largest so far, (b,).
            seen: The samples, with infinite sums where the guard fires.
            candidates: The candidates.
            scratch: Where intermediates go.
        """
        compute = self._of_single_entries if self.entries == 1 else self._of_blocks
        for piece in self._pieces(candidates, seen.z.shape[3]):
            place, block = candidates.place[piece], candidates.block[piece]
            starts = _run_starts(block)
            which = block[starts]
            best[which] = np.maximum(best[which], compute(seen, place, block, starts, scratch, best[which]))

    def _pieces(self, candidates: Candidates, rows: int) -> Iterator[slice]:
        """Cut candidates into pieces, of one block each where blocks have unequal numbers of indices."""
        size = max(1, _PIECE // rows)
        counts = np.diff(self.blocks.starts)
        even = bool((counts == counts[:1]).all())
        cuts = [*([0] if even else candidates.starts().tolist()), len(candidates)]
        for start, stop in itertools.pairwise(cuts):
            for first in range(start, stop, size):
                yield slice(first, min(stop, first + size))

    def _of_single_entries(
        self, seen: SumField, place: Ints, block: Ints, starts: Ints, scratch: ScratchArrays, best: Floats32
    ) -> Floats32:
        """As `_of_blocks`, where one product is all of a sum."""
        index = self.blocks.indices[block]
        sums = _rows(seen.z, place, self.blocks.groups[block], scratch)
        outputs = self.rows.shape[2]
        products = scratch.take("products", (len(place), outputs))
        np.take(self.rows[:, 0], index, axis=0, out=products, mode="clip")
        products *= self.windows.inputs(seen, place, index[:, None])
        # One sign of every weight is zero: the largest share of W+ is the maximum, that of W- the minimum.
        shares = np.divide(products, sums[:, :outputs], out=scratch.take("shares", products.shape))
        positive = np.maximum.reduceat(shares.reshape(-1), starts * outputs)
        np.divide(products, sums[:, outputs:], out=shares)
        negative = np.minimum.reduceat(shares.reshape(-1), starts * outputs)
        return np.maximum(np.maximum(positive, -negative), 0)

    def _of_blocks(
        self, seen: SumField, place: Ints, block: Ints, starts: Ints, scratch: ScratchArrays, best: Floats32
    ) -> Floats32:
        """Return the largest share of every run of candidates of one block; the runs begin at `starts`.

        Where that is not above the best so far, (r,), it need not be exact.
        """
        count = int(self.blocks.starts[block[0] + 1] - self.blocks.starts[block[0]])
        u = self.windows.inputs(seen, place, self.blocks.indices[self.blocks.starts[block][:, None] + np.arange(count)])
        sums = _rows(seen.z, place, self.blocks.groups[block], scratch)
        made = scratch.take("shares", sums.shape)
        for first, last in itertools.pairwise([*starts.tolist(), len(place)]):
            rows = self._rows_of(int(block[first]))
            if self.kernel == "max":
                _largest_products(u[first:last], rows, made[first:last])
            else:
                np.matmul(u[first:last], rows, out=made[first:last])
        made /= sums
        largest = np.maximum.reduceat(made.reshape(-1), starts * made.shape[1])
        if self.kernel == "max" or u.shape[1] == 1:
            return largest
        rising = np.flatnonzero(largest > best * np.float32(1 - SLACK))
        ends = [*starts[1:].tolist(), len(place)]
        for run in rising.tolist():
            some = slice(int(starts[run]), ends[run])
            rows = self._rows_of(int(block[starts[run]]))
            largest[run] = _summed_alone(u[some], rows, sums[some], made[some], largest[run])
        return largest

    def _rows_of(self, block: int) -> Floats32:
        """Return the weights of one block, W+ and W- side by side, (E, 2 O/g)."""
        begin, end = self.blocks.starts[block : block + 2].tolist()
        several = self.blocks.indices[begin] if end == begin + 1 else self.blocks.indices[begin:end]
        rows = self.rows[several].reshape(-1, self.rows.shape[2])
        if self.signed:
            return rows
        both = np.empty((len(rows), 2, rows.shape[1]), np.float32)
        np.maximum(rows, 0, out=both[:, 0])
        np.negative(np.minimum(rows, 0, out=both[:, 1]), out=both[:, 1])
        return both.reshape(len(rows), -1)


def _summed_alone(u: Floats32, rows: Floats32, sums: Floats32, made: Floats32, largest: np.float32) -> np.float32:
    """Return the largest share of candidates of one block, those sums added up by themselves that may be it.

    Args:
        u: Inputs, (m, E).
        rows: Weights of the block, (E, 2 O/g).
        sums: Sums, (m, 2 O/g).
        made: Shares as BLAS adds them up, (m, 2 O/g).
        largest: The largest of them.
    """
    if not largest > 0:
        return largest
    # What rounding may take from a sum is within the slack of bounds.
    near = np.flatnonzero(made.reshape(-1) >= largest * np.float32(1 - SLACK))
    exact = np.float32(0)
    for piece in chunks(len(near), _DOUBLE * len(rows)):
        place, row = np.divmod(near[piece], len(rows[0]))
        # Entry by entry in memory, so that numpy sums one row as it sums several.
        products = np.multiply(u[place], rows.T[row], dtype=np.float64, order="C")
        exact = max(exact, (products.sum(1) / sums[place, row]).astype(np.float32).max())
        if exact >= FULL:
            break
    return exact


def _run_starts(numbers: Ints) -> Ints:
    """Return where runs of equal numbers begin."""
    begins = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def _rows(z: Floats32, place: Ints, group: Ints, scratch: ScratchArrays) -> Floats32:
    """Return the sums of places in their groups, (m, 2 O/g)."""
    groups, rows = z.shape[2:]
    where = place * groups + group if groups > 1 else place
    out = scratch.take("sums of candidates", (len(place), rows))
    return np.take(z.reshape(-1, rows), where, axis=0, out=out, mode="clip")


def _largest_products(u: Floats32, rows: Floats32, out: Floats32) -> None:
    """Write the largest single product of inputs u (m, E) and weights (E, rows), (m, rows)."""
    out[:] = 0
    for entry, row in enumerate(rows):
        np.maximum(out, u[:, entry, None] * row, out=out)
