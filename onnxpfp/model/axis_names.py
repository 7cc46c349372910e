"""Names of free axes: what an exporter calls an axis says whether it counts samples, and which lengths are sums."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["length_of_sum", "may_mean_batch", "means_batch", "means_length", "means_side"]

_BATCH = re.compile(r"batch|^bsz?$", re.IGNORECASE)
_MAYBE_BATCH = re.compile(r"[nb]", re.IGNORECASE)
_LENGTH = re.compile(r"seq|time|len|frame|token|step|past|total|cache|dur|audio|^[tlsd]$", re.IGNORECASE)
_SIDE = re.compile(r"height|width|^[hw]$", re.IGNORECASE)
_SUM = re.compile(r"\s*\w+(\s*\+\s*\w+)+\s*")


def means_batch(name: str) -> bool:
    """Whether an axis of this name counts samples: batch_size, bs, ..."""
    return _BATCH.search(name) is not None


def may_mean_batch(name: str) -> bool:
    """Whether an axis of this name counts samples, unless something else does: N, B, and what `means_batch` knows."""
    return means_batch(name) or _MAYBE_BATCH.fullmatch(name) is not None


def means_length(name: str) -> bool:
    """Whether an axis of this name is a length within one sample: seq_len, time, height, past_sequence, ..."""
    return not means_batch(name) and (_LENGTH.search(name) is not None or means_side(name))


def means_side(name: str) -> bool:
    """Whether an axis of this name is a side of an image."""
    return _SIDE.search(name) is not None


def length_of_sum(name: str, lengths: Mapping[str, int]) -> int | None:
    """Return the length of an axis that is called by a sum, such as "past + seq" or "past + 1".

    Args:
        name: Its name.
        lengths: Lengths of other axes by name.

    Returns:
        None where the name is no sum, or one of its terms is not known.
    """
    if not _SUM.fullmatch(name):
        return None
    terms = [int(term) if term.isdecimal() else lengths.get(term) for term in map(str.strip, name.split("+"))]
    known = [term for term in terms if term is not None]
    return sum(known) if len(known) == len(terms) else None
