"""Spectra: the signal axis is transformed and stays, the others pass."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

_AXIS_IS_AN_INPUT = 20
"""Opset from which DFT has its axis as an input."""


@RULES.add("DFT")
def dft(n: NodeContext) -> None:
    """DFT: the signal axis and the pairs of real and imaginary part stay, the others pass."""
    x = n.axes(0)
    axis = n.integer("axis", 1)
    if n.opset >= _AXIS_IS_AN_INPUT:
        axis = (n.option("axis", 2) or [-2])[0]
    shape = n.out_shape()
    out = list(x)
    for place in (axis % len(x), len(x) - 1):
        n.fix(x[place], "transforms it")
        out[place] = n.zeros(shape[place])
    n.set(out)


@RULES.add("STFT")
def stft(n: NodeContext) -> None:
    """STFT: the samples become frames and frequencies and stay, the batch passes."""
    signal = n.axes(0)
    window = n.axes(2) if n.has(2) else ()
    for labels in (*signal[1:], *window):
        n.fix(labels, "transforms it")
    n.set((signal[0], *(n.zeros(size) for size in n.out_shape()[1:])))


RULES.stay("makes a window of that length", "BlackmanWindow", "HammingWindow", "HannWindow")
RULES.stay("makes filters out of single numbers", "MelWeightMatrix")
