"""The latency of an op as a function of widths, fitted to what was measured at some of them.

    ms(widths) = constant + per_element * elements(widths) + per_mac * macs(widths)

`elements` are the numbers that the op reads and writes, `macs` its multiply-adds. All three factors are at least 0, so
an op never takes less when it keeps more, and each means something: what a call costs, memory, arithmetic. Kernels that
compute channels in blocks take the time of whole blocks, so both counts may be those of lengths rounded up to a block;
of the counts that are given the one that fits best is taken. Errors count relative to the time, for ratios of latencies
are what is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxpfp.arrays import Floats

__all__ = ["OpCounts", "OpLatency", "fit_op", "fit_total"]

NOISE = 1e-4
"""Milliseconds; what a profile's clock of whole microseconds can tell is not much less."""
FAR = 3.0
"""Times the median of the errors from which one is that of a run that was disturbed."""
ROUNDS = 5
"""Solutions of the least squares after the first, each with weights by the errors of the one before."""
BETTER = 0.9
"""Share of the error that is left at most where counts in blocks take the place of the plain ones."""


@dataclass(frozen=True, slots=True, eq=False)
class OpCounts:
    """What an op did at the widths that were measured.

    Attributes:
        elements: Numbers that it read and wrote, (K,).
        macs: Multiply-adds, (K,).
    """

    elements: Floats
    macs: Floats


@dataclass(frozen=True, slots=True)
class OpLatency:
    """The fitted latency of an op.

    Attributes:
        constant: Milliseconds of a call.
        per_element: Milliseconds for each number read or written.
        per_mac: Milliseconds for each multiply-add.
        block: Multiple to which the lengths of axes with channels are rounded up.
        error: Root mean square of the relative errors at the widths that were measured.
    """

    constant: float
    per_element: float
    per_mac: float
    block: int
    error: float

    def scaled(self, work: float, calls: float) -> OpLatency:
        """Return the same op where what it does takes `work` times as long, and a call `calls` times."""
        return OpLatency(calls * self.constant, work * self.per_element, work * self.per_mac, self.block, self.error)


def fit_op(ms: Floats, counts: Mapping[int, OpCounts]) -> OpLatency:
    """Fit the latency of one op by least squares of the relative errors, in which runs that were disturbed count less.

    Args:
        ms: Milliseconds at every choice of widths, (K,).
        counts: What it did there, by the block to which lengths are rounded up; 1 must be among them.
    """
    fits = {block: _fit(ms, each, block) for block, each in counts.items()}
    best = min(fits, key=lambda block: fits[block].error)
    return fits[best] if fits[best].error < BETTER * fits[1].error else fits[1]


def _fit(ms: Floats, counts: OpCounts, block: int) -> OpLatency:
    columns = np.stack([np.ones_like(ms), counts.elements, counts.macs], axis=1)
    # Columns of one size, for they differ by ten orders of magnitude.
    scale = np.maximum(columns.max(axis=0), 1e-30)
    weight = 1.0 / np.maximum(ms, NOISE)
    factors, residual = _nonnegative(columns / scale * weight[:, None], ms * weight)
    constant, per_element, per_mac = (factors / scale).tolist()
    return OpLatency(constant, per_element, per_mac, block, residual / math.sqrt(ms.size))


def fit_total(totals: Floats, sums: Floats, scale: Floats | None = None) -> tuple[float, float]:
    """Fit measured latencies of the whole network by the sums of what its ops take for what they do.

    A profile adds a microsecond or two to every op, and between ops passes time that no op has: what does not change
    with the widths is told by the whole network.

    Args:
        totals: Latencies of the network, (K,).
        sums: Sums of the fitted latencies of its ops at the same widths, without those of calls, (K,).
        scale: What errors are relative to, (K,); None is the latencies.

    Returns:
        What the sums are multiplied by, and what is added.
    """
    weight = 1.0 / (totals if scale is None else scale)
    columns = np.stack([sums, np.ones_like(sums)], axis=1) * weight[:, None]
    factor, constant = _nonnegative(columns, totals * weight)[0].tolist()
    return factor, constant


def _nonnegative(columns: Floats, values: Floats) -> tuple[Floats, float]:
    """Solve least squares with factors that are at least 0, robustly; returns them and the norm of what is left.

    A run that was disturbed is off by far more than the others are. So errors beyond `FAR` times their median count in
    proportion, and not squared (Huber's loss, by weights that are found anew a few times).
    """
    # Loading it takes a third of a second, which only those pay who ask for a latency.
    optimize: Any = importlib.import_module("scipy.optimize")

    def solved(weight: Floats) -> tuple[Floats, Floats]:
        factors: Floats = optimize.nnls(columns * weight[:, None], values * weight)[0]
        return factors, np.abs(columns @ factors - values)

    factors, errors = solved(np.ones_like(values))
    for _ in range(ROUNDS):
        # What is off by nothing cannot tell what is far.
        limit = FAR * max(float(np.median(errors)), 1e-12)
        if errors.max() <= limit:
            break
        factors, errors = solved(np.sqrt(np.minimum(1.0, limit / np.maximum(errors, limit))))
    return factors, float(np.linalg.norm(errors))
