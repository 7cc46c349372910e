"""Gram matrices of every linear op's inputs in the original network, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.refit.columns import columns, draw_positions
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.shelf import Shelf
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.sweep import Setting
from onnxpfp.refit.tasks import Task

__all__ = ["Gram", "survey"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """Sums over (sample, position) pairs of the columns u of one linear op, by convolution group.

    Attributes:
        count: Number of pairs.
        u: Sum of u, (g, n).
        uu: Sum of u u^T, (g, n, n).
    """

    count: int
    u: Floats
    uu: Floats

    def covariance(self, group: int) -> Floats:
        """Return cov(u, u), (n, n)."""
        mean = self.u[group] / self.count
        return self.uu[group] / self.count - np.outer(mean, mean)

    def moments(self, group: int, weights: Floats, stays: NDArray[np.bool_]) -> Moments:
        """Return the moments of the columns that stay, with the output of all columns as the target.

        Args:
            group: Convolution group.
            weights: Of all columns, (o, n).
            stays: Which columns stay, (n,).
        """
        crossed = weights @ self.uu[group]
        return Moments(
            u=self.u[group][None, stays],
            uu=self.uu[group][np.ix_(stays, stays)][None],
            t=(weights @ self.u[group])[None],
            tt=(crossed * weights).sum(1)[None],
            tu=crossed[None][:, :, stays],
            count=self.count,
        )


def survey(
    setting: Setting, wanted: Mapping[str, Task], shelf: Shelf, progress: Callable[[int, int], None] | None = None
) -> dict[str, Gram]:
    """Collect the Gram matrices of linear ops.

    Args:
        setting: What to run; its samples to fit are used.
        wanted: The ops, by output.
        shelf: Where the matrices are kept.
        progress: Told how many stages are done, of how many.
    """
    stages = Stages.of(setting.model, set(wanted), setting.shapes.dtype)
    feeds = [dict(feed) for feed in setting.fit.batches(setting.batch_size)]
    runner = Runner.start(stages, feeds, setting.workspace // 2, setting.requests, setting.threads)
    found: dict[str, Gram] = {}
    for depth in range(len(stages.stages)):
        here = [task for name, task in wanted.items() if stages.depth[name] == depth]
        groups = {task.output: task.reader.group for task in here}
        sums = {
            t.output: Moments.empty(t.reader.group, len(t.reader.channels) // t.reader.group * t.reader.kernel_size, 0)
            for t in here
        }
        session, _ = runner.open(list(groups))
        for batch in range(len(feeds)):
            given = runner.tide.batches[batch]
            shown = runner.run(session, batch)
            for number, task in enumerate(here):
                rng = np.random.default_rng([setting.seed, depth, number, batch])
                shape = shown[task.output].shape
                positions = draw_positions(shape, task.axis, setting.positions, rng)
                spatial = shape[2:] if task.reader.kind != "matmul" else ()
                u = columns(task.reader, given[task.consumer.data], spatial, positions)
                u = u.reshape(len(u), groups[task.output], -1)
                sums[task.output].add(u, np.zeros((len(u), groups[task.output], 0)))
        for name, each in sums.items():
            found[name] = Gram(each.count, each.u, shelf.put(each.uu))
        runner.advance()
        if progress:
            progress(depth + 1, len(stages.stages))
    return found
