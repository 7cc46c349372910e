"""Errors of layers: how far the output of each is in the written network, sample by sample, and what that promises.

    e_l(x) = ||z_l(x) - z'_l(x)|| / ||z_l(x)||

z_l is what layer l gives in the original, z'_l what it gives in the written network, over the channels that both have.
So what the layers before it did to its inputs, and what a refit gave back, are in it. With a share q and a level alpha,
"at every one of L layers at least q of the inputs have an error of at most X_l" holds with confidence 1 - alpha, where
every X_l is a tolerance limit at alpha / L (Wilks 1941, `onnxpfp.comparison.certificate`; union bound).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import FLOAT_BYTES, AnyArray, Arrays, Floats, runs_within
from onnxpfp.comparison.certificate import samples_needed, tolerance_limit
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.outcomes import errors_of
from onnxpfp.comparison.sample_axes import sample_axis, samples_apart, twin_feeds
from onnxpfp.counted import counted
from onnxpfp.data.samples import Feed
from onnxpfp.progress import Count

__all__ = ["SHARES", "LayerError", "LayerErrors", "joint_limits", "layer_errors", "too_few"]

SHARES = (0.95, 0.9, 0.75, 0.5)
"""Shares of the inputs that a limit may be promised for; the largest that the samples are enough for is taken."""
GONE = "the written network does not compute it as a tensor of its own"
WHOLE_NUMBERS = "its output is whole numbers, whose scale may be another in the written network"
_TIMES = 4
"""Memory of several samples that are run together, for what they show: onnxruntime's grows by doubling, and what the
smaller network has of the original's is copied."""
MIXED = "samples that are run together cannot be told apart in its output"


@dataclass(frozen=True, slots=True)
class LayerError:
    """The error of one layer in the written network.

    Attributes:
        name: The node.
        mean: Mean relative error over the samples; None where it was not measured. Infinite where the original's output
            is zero for a sample, and the written network's is not.
        bound: What the error of a share of the inputs is at most; None where there is no such promise.
        share: This share.
        refit_before: Squared error of its output before its refit, as a share of the output's variance, on samples
            kept out of the fit; None where it was not refitted.
        refit_after: The same after it.
        reason: Why there is no error, or no bound; empty where there are both.
    """

    name: str
    mean: float | None
    bound: float | None
    share: float | None
    refit_before: float | None
    refit_after: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """The errors of the layers.

    Attributes:
        layers: The layers, in the order of the nodes.
        samples: Held-out samples that the errors were measured on.
        confidence: Of all bounds together.
    """

    layers: tuple[LayerError, ...]
    samples: int
    confidence: float


def joint_limits(errors: Floats, alpha: float, candidates: int = 1) -> tuple[float, Floats] | None:
    """Bound the errors of all layers together.

    Args:
        errors: One per layer and sample, (L, n); infinite where there is no size.
        alpha: Probability that any of the bounds fails.
        candidates: The network is one of so many, chosen with the same samples.

    Returns:
        The share of the inputs, and what their error is at most at each layer, (L,); None where the samples are too few
        for the smallest of `SHARES`.
    """
    level = alpha / (max(len(errors), 1) * candidates)
    for share in SHARES:
        limits = [tolerance_limit(each, share, level) for each in errors]
        known = [limit for limit in limits if limit is not None]
        if known and len(known) == len(limits):
            return share, np.array(known)
    return None


def too_few(layers: int, samples: int, alpha: float) -> str:
    """Say that there are no bounds, for the samples are too few, and how many it takes."""
    least, most = (samples_needed(share, alpha / layers) for share in (SHARES[-1], SHARES[0]))
    return (
        f"{counted(samples, 'sample is', 'samples are')} too few: bounds that hold at {counted(layers, 'layer')} "
        f"together take {least} for {100 * SHARES[-1]:g} % of the inputs, {most} for {100 * SHARES[0]:g} %"
    )


def layer_errors(
    evaluator: Evaluator,
    model: ModelProto,
    shapes: Mapping[str, Sequence[int]],
    kept: Callable[[str, AnyArray], AnyArray],
    progress: Count | None = None,
) -> dict[str, Floats | str]:
    """Measure the relative error of tensors in a pruned network.

    Args:
        evaluator: The original, and the samples.
        model: The pruned network, in which tensors have the names that they have in the original.
        shapes: Shapes of the tensors in a run of one sample, by name; of a fixed batch where the original takes that.
        kept: Returns what the pruned network has of a tensor of the original.
        progress: Told how many samples are done, of how many.

    Returns:
        By tensor: the error of each sample, (n,), or why there is none.
    """
    made = {name for node in model.graph.node for name in node.output}
    errors: dict[str, Floats | str] = {name: GONE for name in shapes if name not in made}
    batch, passes = _passes(evaluator, {name: shape for name, shape in shapes.items() if name in made})
    for number, names in enumerate(passes):
        showing = replace(evaluator, inner=names, batch_size=batch, workspace=0)
        measured = _Measured(showing)
        for feed, count, wanted, given in showing.pairs(model):
            measured.add(feed, count, {name: kept(name, wanted[name]) for name in names}, given)
            if progress:
                done = number * len(evaluator.samples) + measured.samples
                progress(done, len(passes) * len(evaluator.samples))
        errors |= measured.errors()
    return {name: errors[name] for name in shapes}


def _passes(evaluator: Evaluator, shapes: Mapping[str, Sequence[int]]) -> tuple[int, list[tuple[str, ...]]]:
    """Return how many samples are run together, and the tensors that are shown in each pass over them.

    What would not fit the workspace is run on fewer samples together, and in several passes only where one sample is
    too much.
    """
    # Both models show them.
    sizes = {name: 2 * FLOAT_BYTES * math.prod(shape) for name, shape in shapes.items()}
    together = evaluator.workspace // _TIMES // max(sum(sizes.values()), 1)
    batch = max(1, min(evaluator.batch_size, together))
    times = 1 if evaluator.samples.fixed_batch else batch
    return batch, [*runs_within(((name, size * times) for name, size in sizes.items()), evaluator.workspace)]


@dataclass(slots=True, eq=False)
class _Measured:
    """The errors of some tensors, batch by batch.

    Attributes:
        evaluator: The original, which shows them.
        samples: How many samples were measured so far.
    """

    evaluator: Evaluator
    samples: int = 0
    _axes: dict[str, int | None] | None = None
    _rows: dict[str, list[Floats]] = field(default_factory=dict[str, list[Floats]])
    _reasons: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, feed: Feed, count: int, wanted: Arrays, given: Arrays) -> None:
        """Add a batch.

        Args:
            feed: What was fed.
            count: Samples in it.
            wanted: The tensors in the original, as far as the written network has them.
            given: All that the written network shows.
        """
        self.samples += count
        for name, value in wanted.items():
            if name in self._reasons:
                continue
            if value.dtype.kind not in "fV":
                self._reasons[name] = WHOLE_NUMBERS
                continue
            errors = (
                errors_of(value, given[name], 1) if count == 1 else self._each(name, feed, value, given[name], count)
            )
            if errors is None:
                self._reasons[name] = MIXED
            else:
                self._rows.setdefault(name, []).append(errors)

    def _each(self, name: str, feed: Feed, value: AnyArray, other: AnyArray, count: int) -> Floats | None:
        """Return the errors of samples that were run together; None where they cannot be told apart."""
        if self._axes is None:
            self._axes = self._find_axes(feed, count)
        parts = samples_apart(value, self._axes[name], count)
        others = samples_apart(other, self._axes[name], count) if other.shape == value.shape else other
        return None if parts is None or others is None else errors_of(parts, others, count)

    def _find_axes(self, feed: Feed, count: int) -> dict[str, int | None]:
        """Find the axis of every inner tensor along which it has one sample after the other."""
        inner, session = self.evaluator.inner, self.evaluator.open_original()
        some, again, number = twin_feeds(self.evaluator.samples, feed, count)
        one, other = session.run(some, inner), session.run(again, inner)
        return {name: sample_axis(one[name], other[name], number) for name in inner}

    def errors(self) -> dict[str, Floats | str]:
        """Return the errors of all samples so far by tensor, or why there are none."""
        return {name: np.concatenate(rows) for name, rows in self._rows.items()} | self._reasons
