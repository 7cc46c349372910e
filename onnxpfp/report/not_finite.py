"""What reports say about numbers of the outputs that have no size to compare by."""

from __future__ import annotations

from onnxpfp.comparison.drift import Drift

__all__ = ["not_finite_fact"]


def not_finite_fact(drift: Drift) -> str:
    """Count infinities and NaNs; empty where neither model has any."""
    same = drift.not_finite - drift.gained
    parts = [f"{same:,} infinities or NaNs in both at the same places, which counts as equal"] if same else []
    if drift.lost:
        parts.append(f"{drift.lost:,} in the pruned model alone")
    if drift.gained:
        parts.append(f"{drift.gained:,} in the original, with something else in their place")
    if drift.lost + drift.gained:
        parts[-1] += "; each that is unlike counts in the drift like a number that is missing"
    return ", ".join(parts)
