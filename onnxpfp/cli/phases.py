"""How far a phase is, in words."""

from __future__ import annotations

__all__ = ["UNITS", "counts", "described"]

UNITS = {
    "bodies": "samples",
    "lossless": "samples",
    "calibration": "samples",
    "ranking": "samples",
    "curves": "trials",
    "groups": "groups",
    "network": "shares",
    "compensation": "stages",
    "search": "samples",
    "verification": "samples",
    "factors": "layers",
    "drift": "samples",
    "latency table": "points",
    "models": "models",
}
"""What a phase counts (`onnxpfp.report.pruning.Report.seconds`); a stage is what lies between two linear ops, a trial
tries a group alone, a point are widths at which the latency is measured."""


def counts(done: int, total: int) -> bool:
    """Tell whether it is known how far a phase goes."""
    return (done, total) != (0, 1)


def described(phase: str, done: int, total: int) -> str:
    """Write a phase, behind the name of what it is a phase of if it has one, and how far it is where it counts."""
    unit = UNITS.get(phase.rpartition(": ")[2], "")
    return f"{phase}, {done} of {total} {unit}".rstrip() if counts(done, total) else phase
