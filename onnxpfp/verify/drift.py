"""The checker, and the drift: how far the pruned model is from the original."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.data.samples import Samples
from onnxpfp.errors import VerificationError
from onnxpfp.model.check import checker_message
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import open_session
from onnxpfp.verify.metrics import looks_like_classes

__all__ = ["Drift", "check", "measure_drift"]

Feed = Mapping[str, NDArray[np.generic]]

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the pruned model is from the original.

    Attributes:
        relative_error: ||original - pruned|| / ||original|| over all samples, worst float output; None
            where no output is a float.
        differing: Share of the numbers of integer outputs that differ, worst output; None where there are none.
        top1_agreement: Share of samples with the same largest class, where an output looks like
            class scores; None elsewhere.
        samples: Samples that were compared.
        held_out: Whether the samples were kept away from the calibration.
    """

    relative_error: float | None
    differing: float | None
    top1_agreement: float | None
    samples: int
    held_out: bool


def check(original: ModelProto, pruned: ModelProto) -> None:
    """Run onnx.checker with full shape inference.

    Where the original itself does not pass (ops that the checker does not know, outputs without a
    shape), the pruned model is checked as far as the original passes.

    Raises:
        VerificationError: The pruned model is broken where the original is not.
    """
    for full in (True, False):
        found = checker_message(pruned, full=full)
        if found is None:
            return
        if checker_message(original, full=full) is None:
            raise VerificationError(f"the pruned model is broken: {found}")


def measure_drift(
    original: ModelProto,
    pruned: ModelProto,
    samples: Samples,
    *,
    batch_size: int,
    held_out: bool,
    providers: Sequence[ProviderRequest],
    threads: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Drift:
    """Measure how far the pruned model's outputs are from the original's.

    Args:
        original: The original.
        pruned: The pruned model.
        samples: What to run.
        batch_size: Samples in one run.
        held_out: Whether the calibration has not seen them.
        providers: Where to run.
        threads: Of onnxruntime.
        progress: Told how many samples are done, of how many.
    """
    one = open_session(original, providers, threads=threads)
    two = open_session(pruned, providers, threads=threads)
    gap: dict[str, float] = {}
    size: dict[str, float] = {}
    flips: dict[str, float] = {}
    agree, votes, runs = 0, 0, 0
    done = 0
    for feed, count in samples.runs(batch_size):
        wanted, found = one.run(feed), two.run(feed)
        runs += 1
        for name, value in wanted.items():
            if value.shape != found[name].shape or value.dtype.kind != "f":
                differs = value.shape != found[name].shape or np.not_equal(value, found[name])
                flips[name] = flips.get(name, 0.0) + float(np.mean(differs))
                continue
            a, b = value.astype(np.float64), found[name].astype(np.float64)
            gap[name] = gap.get(name, 0.0) + float(np.square(a - b).sum())
            size[name] = size.get(name, 0.0) + float(np.square(a).sum())
        scores = next((name for name in wanted if _looks_like_classes(wanted[name], feed)), None)
        if scores is not None:
            agree += int((wanted[scores].argmax(1) == found[scores].argmax(1)).sum())
            votes += len(wanted[scores])
        done += count
        if progress:
            progress(done, len(samples))
    return Drift(
        relative_error=max((math.sqrt(gap[n] / max(size[n], TINY)) for n in gap), default=None),
        differing=max((share / runs for share in flips.values()), default=None),
        top1_agreement=agree / votes if votes else None,
        samples=len(samples),
        held_out=held_out,
    )


def _looks_like_classes(value: NDArray[np.generic], feed: Feed) -> bool:
    """A float matrix with one row per sample and at least two columns."""
    rows = {len(array) for array in feed.values() if array.ndim}
    return looks_like_classes(value) and rows == {len(value)}
