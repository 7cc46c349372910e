"""Gram matrices of every linear op's inputs in the original network, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.refit.channelwise import folded, predictor, zero_padded
from onnxpfp.refit.columns import columns, draw_positions, outputs_at
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.setting import Setting
from onnxpfp.refit.shelf import Shelf
from onnxpfp.refit.solve import solve
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.tasks import Task

__all__ = ["Gram", "survey"]

Floats = NDArray[np.float64]


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
        mean = self.u[group] / self.count * float(self.centred)
        return self.uu[group] / self.count - np.outer(mean, mean)

    def refit(
        self, group: int, weights: Floats, stays: NDArray[np.bool_], ridge: float, *, biased: bool
    ) -> tuple[Floats, Floats]:
        """Fit the op's own outputs from the columns that stay.

        Args:
            group: Convolution group.
            weights: Of all columns, (o, C k).
            stays: Which columns stay, (C k,).
            ridge: Share of mean diag G.
            biased: Whether the bias can change.

        Returns:
            Weights (o, kept) and what is added to the bias (o,).

        Raises:
            LinAlgError: The matrix of what stays is not positive definite even with the ridge.
        """
        if self.taps == 1:
            zero = None if biased else np.zeros((1, len(weights)))
            found = solve(self._moments(group, weights, stays), weights[None, :, stays], ridge, zero)[0][0]
        else:
            few = stays[:: self.taps]
            every = np.eye(len(few))
            moments = self._moments(group, every, few)
            padded = not (self.centred and biased)
            mixed = predictor(moments, every[None, :, few], ridge, padded=padded)
            found = folded(weights[None], mixed, self.taps)[0]
        shift = weights @ self.mean[group] - found @ self.mean[group][stays]
        return found, shift if biased else np.zeros_like(shift)

    def _moments(self, group: int, weights: Floats, stays: NDArray[np.bool_]) -> Moments:
        """Return the moments of the columns that stay, with what weights (o, n) make of all columns as the target."""
        crossed = weights @ self.uu[group]
        return Moments(
            u=self.u[group][None, stays],
            uu=self.uu[group][np.ix_(stays, stays)][None],
            t=(weights @ self.u[group])[None],
            tt=(crossed * weights).sum(1)[None],
            tu=crossed[None][:, :, stays],
            count=self.count,
        )


@dataclass(slots=True, eq=False)
class _Sums:
    """What is counted of one op."""

    task: Task
    columns: Moments
    channels: Moments | None
    finite: bool = True

    @classmethod
    def of(cls, task: Task, setting: Setting) -> _Sums:
        groups, taps = task.reader.group, task.reader.kernel_size
        per_in = len(task.reader.channels) // groups
        narrow = taps == 1 or setting.fits(per_in * taps, groups)
        return cls(
            task,
            Moments.empty(groups, per_in * taps, 0, gram=narrow),
            None if narrow else Moments.empty(groups, per_in, 0),
        )

    def add(self, data: NDArray[np.floating], shape: tuple[int, ...], positions: int, rng: np.random.Generator) -> None:
        """Count one batch in, given the data and the shape of the output."""
        reader, groups = self.task.reader, self.task.reader.group
        spatial = shape[2:] if reader.kind != "matmul" else ()
        u = columns(reader, data, spatial, draw_positions(shape, self.task.axis, positions, rng))
        self._add(self.columns, u.reshape(len(u), groups, -1))
        if self.channels is not None:
            x = outputs_at(data, 1, draw_positions(data.shape, 1, positions, rng))
            self._add(self.channels, x.reshape(len(x), groups, -1))

    def _add(self, sums: Moments, u: NDArray[np.floating]) -> None:
        self.finite = self.finite and bool(np.isfinite(u).all())
        if self.finite:
            sums.add(u, np.zeros((*u.shape[:2], 0)))

    def gram(self, shelf: Shelf) -> Gram | None:
        """Return the Gram matrix; None where some numbers were not finite, or nothing was seen."""
        if not self.finite or not self.columns.count:
            return None
        mean = self.columns.u / self.columns.count
        if self.channels is None:
            sums = self.columns
            return Gram(sums.count, sums.u, shelf.put(sums.uu), 1, centred=True, mean=mean)
        sums, reader = self.channels, self.task.reader
        centred = not zero_padded(reader)
        return Gram(sums.count, sums.u, shelf.put(sums.uu), reader.kernel_size, centred=centred, mean=mean)


def survey(
    setting: Setting, wanted: Mapping[str, Task], shelf: Shelf, progress: Callable[[int, int], None] | None = None
) -> dict[str, Gram]:
    """Collect the Gram matrices of linear ops.

    Args:
        setting: What to run; its samples to fit are used.
        wanted: The ops, by output.
        shelf: Where the matrices are kept.
        progress: Told how many stages are done, of how many.

    Returns:
        The matrices by output; ops whose inputs are not all finite have none.
    """
    stages = Stages.of(setting.model, set(wanted), setting.dtype)
    feeds = [dict(feed) for feed in setting.fit.batches(setting.batch_size)]
    runner = Runner.start(stages, feeds, setting.workspace // 2, setting.requests, setting.threads)
    found: dict[str, Gram] = {}
    for depth in range(len(stages.stages)):
        here = [task for name, task in wanted.items() if stages.depth[name] == depth]
        families: dict[tuple[object, ...], list[Task]] = {}
        for task in here:
            families.setdefault(task.sight, []).append(task)
        sums = [(_Sums.of(tasks[0], setting), tasks) for tasks in families.values()]
        session, _ = runner.open([tasks[0].output for tasks in families.values()])
        for batch in range(len(feeds)):
            given = runner.tide.batches[batch]
            shown = runner.run(session, batch)
            for number, (each, _) in enumerate(sums):
                rng = np.random.default_rng([setting.seed, depth, number, batch])
                data, shape = given[each.task.consumer.data], shown[each.task.output].shape
                each.add(data, shape, setting.positions, rng)
        for each, tasks in sums:
            gram = each.gram(shelf)
            found |= {task.output: gram for task in tasks if gram is not None}
        runner.advance()
        if progress:
            progress(depth + 1, len(stages.stages))
    return found
