"""Large arrays a piece at a time, so that what is computed on them never takes their memory again."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["BLOCK_BYTES", "blocks"]

BLOCK_BYTES = 4 << 20
"""Aimed-at size of one piece."""


def blocks(length: int, bytes_each: int) -> Iterator[slice]:
    """Cut an axis into runs of about `BLOCK_BYTES`, at least one index each.

    Args:
        length: Length of the axis.
        bytes_each: What the work on one index takes.
    """
    step = max(1, BLOCK_BYTES // max(1, bytes_each))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
