"""Reasons why something stays or is left out, put together where they differ in names only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxpfp.channels.types import Fixed

__all__ = ["by_kind", "example", "kind"]

_QUOTED = re.compile(r" '[^']*'")


def kind(reason: str) -> str:
    """Return a reason without the names in it."""
    return _QUOTED.sub("", reason)


def by_kind(axes: Iterable[Fixed]) -> dict[str, list[Fixed]]:
    """Put axes together that stay for reasons of one kind."""
    together: dict[str, list[Fixed]] = {}
    for fixed in axes:
        together.setdefault(kind(fixed.reason), []).append(fixed)
    return together


def example(fixed: Fixed) -> str:
    """Name an axis, and what its reason names."""
    names = ", ".join(_QUOTED.findall(fixed.reason))
    return f"axis {fixed.axis} of {fixed.tensor}" + (f", for{names}" if names else "")
