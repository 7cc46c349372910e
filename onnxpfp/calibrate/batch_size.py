"""How many samples one run of a network has, and which observers look on at once: by the bytes of what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.calibrate.observer import Observer, Shape
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.workers import even_batch

__all__ = [
    "AIMED_BYTES",
    "BATCH",
    "choose_batch",
    "largest_activation",
    "observers_by_pass",
    "samples_at_once",
    "tensor_bytes",
]

BATCH = 16
"""Samples in one run where nobody asks for another number, and the size of tensors says nothing."""
_FEWEST, _MOST = 4, 64
AIMED_BYTES = 64 << 20
"""What the tensors of a run take then: fresh memory is handed out page by page, and many small runs take time, too."""
_CACHED_BYTES = 6 << 20
"""Bytes of the largest activation in a run up to which what one op makes is in the cache for the next."""
_RUN_BYTES = 32 << 20
"""Most bytes of it in a run of several samples: glibc takes larger blocks from the system every time."""
_TWICE = 2
"""onnxruntime holds what it hands out in its own layout, too."""


def choose_batch(
    needs: Mapping[str, Shape], samples: Samples, asked: int | None, workspace: int, limit: int | None = None
) -> int:
    """Return the batch size: what the model fixes, or what was asked as far as the workspace allows.

    Where nothing was asked it is 4 where the tensors are large, up to 64 where they are small, and 16 without any; or a
    little less, so that there is an even number of batches.

    Args:
        needs: The tensors of one run, with their shapes for one sample.
        samples: What is fed.
        asked: The most that the user wants; None is no wish.
        workspace: Bytes that the tensors may take.
        limit: What else bounds it; None is nothing.

    Raises:
        CalibrationError: Fewer than one sample is asked for.
    """
    if samples.fixed_batch is not None:
        return samples.fixed_batch
    if asked is not None and asked < 1:
        raise CalibrationError(f"a batch of {asked} samples is not possible", hint="give 1 or more")
    size = tensor_bytes(needs)
    usual = max(_FEWEST, min(_MOST, AIMED_BYTES // size)) if size else BATCH
    fitting = workspace // _TWICE // max(1, size)
    most = max(1, min(asked or usual, fitting, *(() if limit is None else (limit,))))
    if len(samples) <= most:
        return len(samples)
    return most if asked else even_batch(len(samples), most)


def samples_at_once(analysis: Analysis) -> int:
    """Return how many samples should run together: as many as have their activations in the cache, and at least a few.

    Text recognition took 1.25 times as long with 16 samples a run as with 4 on one thread, and 1.3 times on two, which
    share a cache.
    """
    largest = largest_activation(analysis)
    return max(1, min(max(_FEWEST, _CACHED_BYTES // largest), _RUN_BYTES // largest))


def largest_activation(analysis: Analysis) -> int:
    """Return the bytes of the largest activation of one sample."""
    constants = analysis.constants.names
    sizes = (math.prod(shape) for name, shape in analysis.shapes.shape.items() if name not in constants)
    return max(FLOAT_BYTES * max(sizes, default=1), 1)


def tensor_bytes(needs: Mapping[str, Shape]) -> int:
    """Return the bytes of tensors; double precision is rare, and the workspace is no hard limit."""
    return FLOAT_BYTES * sum(map(math.prod, needs.values()))


def observers_by_pass(
    observers: Sequence[Observer], batch: int, samples: Samples, workspace: int
) -> Iterator[tuple[Observer, ...]]:
    """Cut observers into passes over the samples, by what they need at once, in the given order; at least one each.

    Args:
        observers: Who looks on.
        batch: Samples in one run.
        samples: What is fed.
        workspace: Bytes that the tensors of one run may take.
    """
    # A fixed batch counts in the shapes already.
    limit = workspace // _TWICE // (1 if samples.fixed_batch else batch)
    run: list[Observer] = []
    held = dict[str, Shape]()
    size = 0
    for observer in observers:
        added = tensor_bytes({name: shape for name, shape in observer.needs.items() if name not in held})
        if run and size + added > limit:
            yield tuple(run)
            run, held, size, added = [], {}, 0, tensor_bytes(observer.needs)
        run.append(observer)
        held.update(observer.needs)
        size += added
    if run:
        yield tuple(run)
