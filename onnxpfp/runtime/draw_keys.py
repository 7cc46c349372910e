"""Keys of random draws: whole numbers that the samples of a run decide, so that all networks draw the same for them.

A network that draws random numbers is run with draws that follow from such keys (`onnxpfp.model.draws`), one per
sample. So draws are those of the sample, whatever was run before, whichever network it is, and in whatever batch.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ints

__all__ = ["DECIDING", "FED_BY_US", "KEYS", "OWN", "draw_keys"]

OWN = secrets.token_hex(8)
"""Part of names that no file can have."""
KEYS = f"onnxpfp_draw_keys_{OWN}"
"""The input through which a network gets the keys of its samples, (N,) int64."""
FED_BY_US = "onnxpfp_"
"""Prefix of inputs that copies of a network have for our own purposes: they decide nothing."""
DECIDING = f"onnxpfp.draws_decided_by.{OWN}"
"""Key of the metadata of such a network: its inputs that decide the keys, a list in JSON."""


def draw_keys(feeds: Mapping[str, NDArray[Any]], deciding: str) -> Ints:
    """Return a key for every sample of a run, (N,): a checksum of the numbers that are fed for it.

    Samples are counted along the first axis of most inputs. What has another length there belongs to all of them.

    Args:
        feeds: What is fed.
        deciding: Metadata under `DECIDING`: a part of a network may be fed more.
    """
    feeds = {name: feeds[name] for name in json.loads(deciding)}
    lengths = Counter(len(array) for array in feeds.values() if array.ndim and len(array))
    samples = lengths.most_common(1)[0][0] if lengths else 1
    keys = [0] * samples
    for array in feeds.values():
        apart = array.ndim > 0 and len(array) == samples
        pieces = map(_bytes, array) if apart else repeat(_bytes(array), samples)
        keys = [zlib.crc32(piece, key) for piece, key in zip(pieces, keys, strict=True)]
    return np.array(keys, np.int64)


def _bytes(array: Any) -> bytes:
    """Return what an array, or a single object, is made of."""
    plain = np.asarray(array)
    return repr(plain.tolist()).encode() if plain.dtype.kind in "OUS" else plain.tobytes()
