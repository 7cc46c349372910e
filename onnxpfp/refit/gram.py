"""Gram matrices of what linear ops read in the original network, from the runs in which that is calibrated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays, Bools, Floats
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.linear.columns import columns, output_shape, outputs_at, sample_positions
from onnxpfp.linear.layout import output_axis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.progress import Count
from onnxpfp.refit.by_channel import folded, zero_padded
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.moments import Moments, OrderedRows
from onnxpfp.refit.nested_fits import nested_fits
from onnxpfp.refit.problem import RefitProblem

__all__ = ["ColumnFit", "Gram", "GramLayer", "GramObserver", "collect_grams", "gram_observers", "observed_grams"]


class GramLayer(Protocol):
    """An op that multiplies what it reads by constant weights."""

    @property
    def op(self) -> LinearOp:
        """The op."""
        ...

    @property
    def output(self) -> str:
        """Name of its output, by which its Gram matrix is found."""
        ...

    @property
    def columns_key(self) -> tuple[object, ...]:
        """The key of its columns: ops that agree in it have the same."""
        ...


class ColumnFit(NamedTuple):
    """What makes an op's own outputs of some of its columns.

    Attributes:
        weights: Of the columns that stay, (o, kept).
        shift: What is added to the bias, (o,).
        loss: Share of the outputs' variance that is lost; of their mean square where no constant counts.
    """

    weights: Floats
    shift: Floats
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """Sums over (sample, position) pairs of what one linear op sees, by convolution group.

    They are of its columns u (n = C k of them), or of its channels x (n = C), where the columns are too many.

    Attributes:
        count: Number of pairs.
        u: Sum of u (or x), (g, n).
        uu: Sum of u u^T, (g, n, n).
        taps: Columns that one of the n stands for: 1, or k.
        centred: Whether a constant counts as an input, too: not where it is wrong on a border with zeros.
        mean: Mean of the columns in any case, (g, C k).
    """

    count: int
    u: Floats
    uu: Floats
    taps: int
    centred: bool
    mean: Floats

    def covariance(self, group: int) -> Floats:
        """Return cov(u, u), (n, n); the mean of u u^T where no constant counts."""
        return self._matrix(group, centred=self.centred)

    def refits(
        self, group: int, weights: Floats, stays: Bools, ridge: float, *, biased: bool
    ) -> list[ColumnFit | None]:
        """Fit the op's own outputs from the columns that stay, for several sets of them.

        Args:
            group: Convolution group.
            weights: Of all columns, (o, C k).
            stays: Which columns stay, (W, C k).
            ridge: Share of mean diag G.
            biased: Whether the bias can change.

        Returns:
            A fit for every set; None where a matrix is not positive definite.
        """
        centred = self.centred and biased
        matrix = self._matrix(group, centred=centred)
        whole = 0.0 if self.taps == 1 else self._energy(matrix, weights)
        fits: list[ColumnFit | None] = []
        for row, fit in enumerate(
            nested_fits(matrix, weights if self.taps == 1 else None, stays[:, :: self.taps], ridge)
        ):
            if fit is None:
                fits.append(None)
                continue
            solution, error, energy = fit.weights, fit.error, fit.energy if self.taps == 1 else whole
            if fit.residual is not None:
                few = stays[row, :: self.taps]
                mixed = np.eye(len(few))[:, few]
                mixed[~few] = fit.weights
                solution = folded(weights[None], mixed[None], self.taps)[0]
                error = self._energy(fit.residual, weights[:, ~stays[row]])
            shift = weights @ self.mean[group] - solution @ self.mean[group][stays[row]]
            loss = max(error / energy, 0.0) if energy > 0 else 0.0
            fits.append(ColumnFit(solution, shift if biased else np.zeros_like(shift), loss))
        return fits

    def _matrix(self, group: int, *, centred: bool) -> Floats:
        mean = self.u[group] / self.count * float(centred)
        return self.uu[group] / self.count - np.outer(mean, mean)

    def _energy(self, matrix: Floats, weights: Floats) -> float:
        """Return what weights (o, n taps) make of second moments (n, n), as if taps did not go together."""
        by_tap = weights.reshape(len(weights), -1, self.taps).swapaxes(1, 2).reshape(-1, len(matrix))
        return float(((by_tap @ matrix) * by_tap).sum())


@dataclass(slots=True, eq=False)
class GramObserver(Observer):
    """Adds up what all ops that see the same columns.

    Attributes:
        layers: The ops.
        number: Number of the observer, which sets its draws apart from those of others.
        positions: Output positions per sample.
        seed: Of the positions.
        columns: Of the columns; without Gram matrix where they are too many.
        channels: Of the channels, where the columns are too many.
    """

    layers: tuple[GramLayer, ...]
    number: int
    positions: int
    seed: int
    columns: Moments
    channels: Moments | None

    @classmethod
    def of(cls, layers: Sequence[GramLayer], number: int, problem: RefitProblem, spill: SpillCache) -> Self:
        """Return an observer that has seen nothing yet; its matrix lies in the spill cache."""
        op = layers[0].op
        groups, per_in = op.group, len(op.channels) // op.group
        wide = per_in * op.kernel_size
        narrow = op.kernel_size == 1 or problem.fits(wide, groups)
        columns = Moments.empty(groups, wide, 0, gram=False)
        channels = None if narrow else Moments.empty(groups, per_in, 0, gram=False)
        squared = channels or columns
        squared.uu = spill.zeros((groups, squared.u.shape[1], squared.u.shape[1]))
        positions = problem.positions_for(squared.u.shape[1])
        return cls(tuple(layers), number, positions, problem.seed, columns, channels)

    @property
    def op(self) -> LinearOp:
        """One of the ops, for what they have in common."""
        return self.layers[0].op

    @property
    def needs(self) -> Mapping[str, Shape]:
        """What the ops read."""
        return self.op.reads

    @property
    def work(self) -> int:
        """Multiplications of one sample, at most."""
        return self.positions * (self.channels or self.columns).uu.size

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in; what is not finite makes the sums so, and no Gram matrix."""
        op, key = self.op, (self.seed, self.number)
        data = np.asarray(op.numbers(tensors), np.float32)
        shape = output_shape(op, data.shape)
        first = batch.first_row(shape[0])
        axis = output_axis(len(shape), matrix=op.kind == "matmul")
        positions = sample_positions(shape, axis, self.positions, (*key, 0), first)
        self._add(self.columns, columns(op, data, shape[2:], positions))
        if self.channels is not None:
            positions = sample_positions(data.shape, 1, self.positions, (*key, 1), first)
            self._add(self.channels, outputs_at(data, 1, positions))

    def _add(self, sums: Moments, u: NDArray[np.floating]) -> None:
        if not np.isfinite(u).all():
            sums.u[:] = np.nan
            return
        # Nothing is solved with these at ridges below 1e-3 of the mean diagonal, 1e4 times what rounding is of it.
        rows = np.ascontiguousarray(u.reshape(len(u), self.op.group, -1).swapaxes(0, 1), np.float32)
        sums.count += len(u)
        for piece in sums.column_pieces(OrderedRows.of(rows)):
            piece()

    def statistics(self) -> dict[str, Moments]:
        """Return the sums."""
        name = self.op.name
        sums = {f"{name} columns": self.columns}
        return sums if self.channels is None else {**sums, f"{name} channels": self.channels}

    def gram(self) -> Gram | None:
        """Return the Gram matrix; None where some numbers were not finite, or nothing was seen."""
        sums, op = self.channels or self.columns, self.op
        finite = np.isfinite(self.columns.u).all() and np.isfinite(sums.u).all()
        if not self.columns.count or not finite or not np.isfinite(np.einsum("gnn->gn", sums.uu)).all():
            return None
        mean = self.columns.u / self.columns.count
        if self.channels is None:
            return Gram(sums.count, sums.u, sums.uu, 1, centred=True, mean=mean)
        return Gram(sums.count, sums.u, sums.uu, op.kernel_size, centred=not zero_padded(op), mean=mean)


def gram_observers(problem: RefitProblem, wanted: Iterable[GramLayer], spill: SpillCache) -> tuple[GramObserver, ...]:
    """Start to collect the Gram matrices of linear ops.

    Args:
        problem: What they are of.
        wanted: The ops; those that see the same columns share an observer.
        spill: Where the matrices are kept.
    """
    families: dict[tuple[object, ...], list[GramLayer]] = {}
    for layer in wanted:
        families.setdefault(layer.columns_key, []).append(layer)
    return tuple(GramObserver.of(layers, number, problem, spill) for number, layers in enumerate(families.values()))


def observed_grams(observers: Iterable[GramObserver]) -> dict[str, Gram]:
    """Return the Gram matrices by output; ops whose inputs are not all finite have none."""
    grams = ((observer.gram(), observer.layers) for observer in observers)
    return {layer.output: gram for gram, layers in grams if gram is not None for layer in layers}


def collect_grams(
    problem: RefitProblem, wanted: Iterable[GramLayer], spill: SpillCache, progress: Count | None = None
) -> dict[str, Gram]:
    """Collect Gram matrices where nothing else is measured: from runs of their own.

    Args:
        problem: What to run; its samples to fit are used.
        wanted: The ops.
        spill: Where the matrices are kept.
        progress: Told how many samples are done, of how many.
    """
    observers = gram_observers(problem, wanted, spill)
    run_observers(
        problem.analysis.model,
        observers,
        problem.fit,
        batch_size=problem.batch_size,
        providers=problem.requests,
        threads=problem.threads,
        workspace_bytes=problem.workspace,
        progress=progress,
    )
    return observed_grams(observers)
