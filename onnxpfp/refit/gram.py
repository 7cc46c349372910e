"""Gram matrices of what linear ops read in the original network, from the runs in which that is calibrated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Arrays, Bools, Floats, Floats32, chunks
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.linear.columns import column_sums, columns, output_shape, outputs_at, sample_positions
from onnxpfp.linear.layout import output_axis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.progress import Count
from onnxpfp.refit.by_channel import folded, zero_padded
from onnxpfp.refit.cache import SpillCache, rest
from onnxpfp.refit.moments import Moments, OrderedRows
from onnxpfp.refit.nested_fits import NestedFit, fitted_weights, nested_fits
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
        loss: Share of the outputs' variance that is lost; of their mean square where no constant counts; NaN where it
            was not asked for.
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
        uu: Sum of u u^T, (g, n, n): float32, as the products are; (0, n, n) where no fit needs it. Nothing is solved
            with it at ridges below 1e-3 of the mean diagonal, 1e4 times what rounding is of it.
        taps: Columns that one of the n stands for: 1, or k.
        centred: Whether a constant counts as an input, too: not where it is wrong on a border with zeros.
        mean: Mean of the columns in any case, (g, C k).
    """

    count: int
    u: Floats
    uu: Floats32
    taps: int
    centred: bool
    mean: Floats

    def covariance(self, group: int) -> Floats:
        """Return cov(u, u), (n, n); the mean of u u^T where no constant counts."""
        return self._matrix(group, np.dtype(np.float64), centred=self.centred).astype(np.float64, copy=False)

    def refits(
        self, group: int, weights: Floats, stays: Bools, ridge: float, *, biased: bool, losses: bool = True
    ) -> list[ColumnFit | None]:
        """Fit the op's own outputs from the columns that stay, for several sets of them.

        The products that the matrices are sums of are float32 (`GramObserver`), and so are the fits.

        Args:
            group: Convolution group.
            weights: Of all columns, (o, C k).
            stays: Which columns stay, (W, C k).
            ridge: Share of mean diag G.
            biased: Whether the bias can change.
            losses: Whether to find out what is lost.

        Returns:
            A fit for every set; None where a matrix is not positive definite.
        """
        matrix = self._matrix(group, np.dtype(np.float32), centred=self.centred and biased)
        single = weights.astype(np.float32)
        wanted, sets = single if self.taps == 1 else None, stays[:, :: self.taps]
        fitted: list[tuple[AnyFloats, float] | None]
        if losses:
            found = nested_fits(matrix, wanted, sets, ridge)
            whole = 0.0 if self.taps == 1 else self._energy(matrix, single)
            fitted = [
                fit and (fit.weights, self._loss(fit, single, row, whole))
                for row, fit in zip(stays, found, strict=True)
            ]
        else:
            alone = (fitted_weights(matrix, wanted, each, ridge) for each in sets)
            fitted = [None if found is None else (found, np.nan) for found in alone]
        fits: list[ColumnFit | None] = []
        for row, fit in zip(stays, fitted, strict=True):
            if fit is None:
                fits.append(None)
                continue
            solution = self._whole(fit[0], weights, row)
            shift = weights @ self.mean[group] - solution @ self.mean[group][row]
            fits.append(ColumnFit(solution, shift if biased else np.zeros_like(shift), fit[1]))
        return fits

    def _whole(self, found: AnyFloats, weights: Floats, stays: Bools) -> Floats:
        """Return the weights of the columns that stay, also where channels that go were fitted."""
        if self.taps == 1:
            return found.astype(np.float64)
        few = stays[:: self.taps]
        mixed = np.eye(len(few))[:, few]
        mixed[~few] = found
        return folded(weights[None], mixed[None], self.taps)[0]

    def _loss(self, fit: NestedFit, weights: AnyFloats, stays: Bools, whole: float) -> float:
        """Return the share of the outputs' energy that a fit loses; it is `whole` where channels were fitted."""
        error, energy = fit.error, fit.energy
        if fit.residual is not None:
            error, energy = self._energy(fit.residual, weights[:, ~stays]), whole
        return max(error / energy, 0.0) if energy > 0 else 0.0

    def _matrix(self, group: int, dtype: np.dtype[np.floating], *, centred: bool) -> AnyFloats:
        """Return the mean of u u^T, (n, n), with that of u taken off or not."""
        mean = self.u[group] / self.count * float(centred)
        sums, matrix = self.uu[group], np.empty(self.uu.shape[1:], dtype)
        for rows in chunks(len(mean), sums[:1].nbytes):
            matrix[rows] = sums[rows] / self.count - mean[rows, None] * mean
        rest(self.uu)
        return matrix

    def _energy(self, matrix: AnyFloats, weights: AnyFloats) -> float:
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
    def of(
        cls, layers: Sequence[GramLayer], number: int, problem: RefitProblem, spill: SpillCache, *, fits_only: bool
    ) -> Self:
        """Return an observer that has seen nothing yet; its matrix lies in the spill cache."""
        op = layers[0].op
        groups, per_in = op.group, len(op.channels) // op.group
        wide = per_in * op.kernel_size
        narrow = op.kernel_size == 1 or problem.fits(wide, groups)
        columns = Moments.empty(groups, wide, 0, gram=False)
        channels = None if narrow else Moments.empty(groups, per_in, 0, gram=False)
        squared = channels or columns
        # The columns of a single channel stay or go together: there is nothing to fit.
        if per_in > 1 or not fits_only:
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
        return self.positions * max((self.channels or self.columns).uu.size, self.columns.u.size)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in; what is not finite makes the sums so, and no Gram matrix."""
        op, key = self.op, (self.seed, self.number)
        data = np.asarray(op.numbers(tensors), np.float32)
        shape = output_shape(op, data.shape)
        first = batch.first_row(shape[0])
        axis = output_axis(len(shape), matrix=op.kind == "matmul")
        positions = sample_positions(shape, axis, self.positions, (*key, 0), first)
        if len(self.columns.uu):
            self._add(self.columns, columns(op, data, shape[2:], positions))
        else:
            self.columns.u += column_sums(op, data, shape[2:], positions).reshape(self.columns.u.shape)
            self.columns.count += positions.size
        if self.channels is not None:
            positions = sample_positions(data.shape, 1, self.positions, (*key, 1), first)
            self._add(self.channels, outputs_at(data, 1, positions))
        rest((self.channels or self.columns).uu)

    def _add(self, sums: Moments, u: NDArray[np.floating]) -> None:
        if not np.isfinite(u).all():
            sums.u[:] = np.nan
            return
        rows = np.ascontiguousarray(u.reshape(len(u), self.op.group, -1).swapaxes(0, 1), np.float32)
        sums.count += len(u)
        for piece in sums.column_pieces(OrderedRows.of(rows)):
            piece()

    def statistics(self) -> dict[str, Moments]:
        """Return the sums."""
        name = self.op.name
        sums = {f"{name} columns": self.columns}
        return sums if self.channels is None else {**sums, f"{name} channels": self.channels}

    def restore(self, known: Mapping[str, Moments]) -> None:
        """Take the sums of an observer that has seen all samples, in place of seeing them.

        Args:
            known: Sums by name, as `statistics` gives them; a matrix that is not needed is left out.

        Raises:
            KeyError: They are not among them.
            ValueError: They have other shapes.
        """
        for name, sums in self.statistics().items():
            found = known[name]
            if found.u.shape != sums.u.shape or (len(sums.uu) and found.uu.shape != sums.uu.shape):
                raise ValueError(name)
            sums.u[:] = found.u
            if len(sums.uu):
                # It may lie in a file, and stay there.
                sums.uu[:] = found.uu
            sums.count = found.count

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


def gram_observers(
    problem: RefitProblem, wanted: Iterable[GramLayer], spill: SpillCache, *, fits_only: bool = False
) -> tuple[GramObserver, ...]:
    """Start to collect the Gram matrices of linear ops.

    Args:
        problem: What they are of.
        wanted: The ops; those that see the same columns share an observer.
        spill: Where the matrices are kept.
        fits_only: Whether they only serve fits by some of the channels, which ops of single channels need no matrix
            for.
    """
    families: dict[tuple[object, ...], list[GramLayer]] = {}
    for layer in wanted:
        families.setdefault(layer.columns_key, []).append(layer)
    return tuple(
        GramObserver.of(layers, number, problem, spill, fits_only=fits_only)
        for number, layers in enumerate(families.values())
    )


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
