"""Widths that a criterion sets itself, as DFS and SFS do: no target, no trade between groups."""

from __future__ import annotations

from collections.abc import Sequence

from onnxpfp.arrays import Ints

__all__ = ["widths_by_criterion"]


def widths_by_criterion(allowed: Sequence[Ints], stay: Sequence[int]) -> list[int]:
    """Return the smallest allowed width of every group at which all stay that the criterion lets stay.

    Args:
        allowed: Widths that each group may have, ascending, the full one last.
        stay: How many channels of each the criterion lets stay.
    """
    return [int(widths[widths >= count][0]) for widths, count in zip(allowed, stay, strict=True)]
