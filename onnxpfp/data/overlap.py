"""Samples that two sources have in common: what chose a network does not measure it.

Two samples are the same if all their inputs are, byte for byte, as they are fed. Each is read once, alone, and 16 bytes
of it are kept, so that mapped files need not fit into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.samples import ArraySamples, Feed, Samples
from onnxpfp.errors import CalibrationError

__all__ = ["require_apart", "sample_digests"]

_DIGEST = 16
"""Bytes: two of a million million samples have the same digest by chance with a probability below 1e-14."""


def require_apart(held_out: Samples, samples: Samples) -> None:
    """Make sure that no sample measures what it has chosen; of feeds that the user made, this is not known.

    Args:
        held_out: Samples that only measure the result.
        samples: Samples that decide.

    Raises:
        CalibrationError: Some are both.
    """
    if not (isinstance(held_out, ArraySamples) and isinstance(samples, ArraySamples)):
        return
    numbers = {digest: number for number, digest in reversed([*_digests(samples)])}
    common = [(here, numbers[digest]) for here, digest in _digests(held_out) if digest in numbers]
    if not common:
        return
    here, there = common[0]
    raise CalibrationError(
        f"{len(common)} of its {counted(len(held_out.order), 'sample')} {'is' if len(common) == 1 else 'are'} in "
        f"--calib-data too: the first is sample {here}, and sample {there} there",
        hint="leave them out there or here; without --certify-data some calibration samples are held out",
    )


def sample_digests(samples: Samples) -> NDArray[np.uint8]:
    """Return the digests of samples, in their order, (n, 16); those of feeds that the user made, feed by feed."""
    if isinstance(samples, ArraySamples):
        digests = [digest for _, digest in _digests(samples)]
    else:
        digests = [_digest(feed) for feed in samples.batches()]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)


def _digests(samples: ArraySamples) -> Iterator[tuple[int, bytes]]:
    """Yield the number of every sample and the digest of what is fed for it alone."""
    for number in samples.order.tolist():
        feed = {name: reading.feed(np.array([number]), None) for name, reading in samples.readings.items()}
        yield number, _digest(feed)


def _digest(feed: Feed) -> bytes:
    """Return the digest of what is fed."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(_bytes(array))
    return digest.digest()


def _bytes(array: NDArray[np.generic]) -> bytes:
    """Return the bytes of an array; of text, which numpy keeps elsewhere, its words and their lengths."""
    if array.dtype != object:
        return array.tobytes()
    words = [str(word).encode() for word in array.ravel().tolist()]
    return b"".join(len(word).to_bytes(8, "big") + word for word in words)
