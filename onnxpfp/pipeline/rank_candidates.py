"""Layers that may get a low rank: what every rank loses of their outputs, by what they read in the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.linalg import LinAlgError

from onnxpfp.arrays import Floats
from onnxpfp.channels import Analysis
from onnxpfp.low_rank.factor import decompose
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.low_rank.moments import InputMoments
from onnxpfp.low_rank.ranks import LayerCurves, RankCurve
from onnxpfp.refit.gram import Gram
from onnxpfp.runtime.blocks import Alignment

__all__ = ["RankCandidate", "rank_candidate"]

TINY = 1e-6
"""Share of an energy that sums of float32 products make of a variance that is none."""


@dataclass(frozen=True, slots=True, eq=False)
class RankCandidate:
    """A layer, and what can become of it.

    Attributes:
        layer: The layer.
        moments: What it reads; None without data.
        means: The means of its columns, (g, c k), where its bias can change; else None.
        scale: Energy of its outputs over their variance, where the bias cannot change: errors are shares of the
            variance, for what is the same in all outputs says nothing.
        curves: Its choices.
    """

    layer: LowRankLayer
    moments: InputMoments | None
    means: Floats | None
    scale: float
    curves: LayerCurves


def rank_candidate(
    analysis: Analysis, layer: LowRankLayer, grams: Sequence[Gram] | None, alignment: Alignment
) -> RankCandidate | str:
    """Return a layer with its choices, or why it stays.

    Args:
        analysis: The network.
        layer: The layer.
        grams: What its ops read, as far as that is finite; None decides by the weights alone.
        alignment: The multiples in which ranks are taken.
    """
    weights = layer.weights(analysis)
    if not np.isfinite(weights).all() or not weights.any():
        return "its weights are zero, or not all of them are numbers"
    moments: InputMoments | None = None
    means: Floats | None = None
    scale = 1.0
    if grams is not None:
        if len(grams) < len(layer.uses):
            return "what it reads is not finite on the samples"
        moments, spread = _moments(layer, grams)
        means = None if layer.uses[0].bias is None else grams[0].mean
        energy, variance = (float(each.energy(weights).sum()) for each in (moments, spread))
        if not variance > TINY * energy:
            return "its outputs do not vary over the samples"
        scale = energy / variance
    try:
        curves = tuple(_curves(layer, weights, moments, scale, alignment))
    except LinAlgError:
        return "what one of its groups reads does not vary over the samples"
    return RankCandidate(layer, moments, means, scale, LayerCurves(layer.macs, curves))


def _moments(layer: LowRankLayer, grams: Sequence[Gram]) -> tuple[InputMoments, InputMoments]:
    """Put together what the ops of a layer read: the moments by which errors count, and those by which outputs vary.

    The first are the second where a bias can change, so that a constant is no error.
    """
    groups, count = range(len(grams[0].uu)), sum(gram.count for gram in grams)
    varying = sum(np.stack([gram.covariance(group) for group in groups]) * (gram.count / count) for gram in grams)
    spread = InputMoments(np.asarray(varying), grams[0].taps)
    if layer.uses[0].bias is not None:
        return spread, spread
    return InputMoments(np.asarray(sum(gram.uu for gram in grams) / count), grams[0].taps), spread


def _curves(
    layer: LowRankLayer, weights: Floats, moments: InputMoments | None, scale: float, alignment: Alignment
) -> Iterator[RankCurve]:
    for cut in layer.cuts:
        macs = layer.macs_of_rank(cut)
        most = (layer.macs - 1) // macs
        if most > 0:
            errors = scale * decompose(weights, cut, moments, most).errors
            yield RankCurve(cut, macs, errors, alignment.of_group(len(errors) - 1))
