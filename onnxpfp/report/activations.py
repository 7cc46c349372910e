"""What reports say about the peak of activations: where it is, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from onnxpfp.model.activation_memory import ActivationPeak

__all__ = ["peak_fact", "peaks_fact"]

NAMED = 3
"""Most tensors and nodes that are named."""
LONGEST = 64
"""Letters of a name; some converters join those of ten nodes to one. The JSON form has all of it."""
RULE = "every tensor lasts from its node to its last reader, nothing in place; no weights, no workspaces"


def peaks_fact(before: ActivationPeak, after: ActivationPeak | None) -> str:
    """Say where two models take most; the second may not be known."""
    if after is None:
        where = f"{_place(before)} before"
    elif _place(before) == _place(after):
        where = f"{_place(before)} before and after"
    else:
        where = f"{_place(before)} before, {_place(after)} after"
    return f"the most at once, {where}; {RULE}{_left_out(after or before)}"


def peak_fact(peak: ActivationPeak) -> str:
    """Say how much a model takes at its peak, where that is, and which tensors are there."""
    held = [f"{_short(tensor.name)} {tensor.bytes:,}" for tensor in peak.tensors[:NAMED]]
    tensors = f" ({_listed(held, len(peak.tensors))})" if held else ""
    return f"{peak.bytes:,} bytes, the most at once, {_place(peak)}{tensors}; {RULE}{_left_out(peak)}"


def _place(peak: ActivationPeak) -> str:
    if not peak.op:
        return "of the inputs"
    return f"at {peak.op}" if peak.node == peak.op else f"at {peak.op} '{_short(peak.node)}'"


def _short(name: str) -> str:
    """Leave out the middle of a long name."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}...{name[-half:]}"


def _left_out(peak: ActivationPeak) -> str:
    """Name what the number has nothing of."""
    parts: list[str] = []
    if peak.unsized:
        parts.append(f"tensors without a known size: {_named(peak.unsized)}")
    if peak.bodies:
        parts.append(f"what the bodies of {_named(peak.bodies)} hold")
    return f"; not counted are {', and '.join(parts)}" if parts else ""


def _named(names: Sequence[str]) -> str:
    """Name the first ones."""
    return _listed([_short(name) for name in names[:NAMED]], len(names))


def _listed(named: Sequence[str], count: int) -> str:
    """Name some of so many."""
    left = count - len(named)
    return ", ".join(named) + (f" and {left} more" if left else "")
