"""Fit the layers that lose channels one by one, each to its own outputs in the original network, by its Gram matrix.

With u the columns that a layer reads in the original network, G their covariance (the mean of u u^T where no bias can
change) with a ridge on its diagonal, and S those that stay, W' = W G[:, S] G[S, S]^-1 makes the least error of W u in
the mean square, pulled towards W by the ridge: the reconstruction of He et al. (ICCV 2017) and of OSSCAR (Meng et al.,
ICML 2024). Nothing is run, so nothing makes up for what the layers before lose, and no samples tell whether a fit is
better; `onnxpfp.refit.sweep` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Keep
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.state import RefitState
from onnxpfp.refit.trial_fits import LayerFits
from onnxpfp.rewrite.edits import Edits

__all__ = ["LayerwiseFits", "fit_layerwise"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerwiseFits:
    """Layers with new weights.

    Attributes:
        edits: The weights and biases, with the edits that were there before.
        fitted: Outputs of the layers.
    """

    edits: Edits
    fitted: frozenset[str]


def fit_layerwise(problem: RefitProblem, keep: Keep, grams: Mapping[str, Gram], edits: Edits) -> LayerwiseFits:
    """Fit every layer that loses channels and has a Gram matrix.

    Args:
        problem: The network; its samples are not run.
        keep: Whether each channel stays.
        grams: Of the layers in the original network, by output.
        edits: Edits made before, which are kept.
    """
    state = RefitState(problem, problem.analysis.graph.keep_all(), edits)
    fitted: list[RefitLayer] = []
    for layer in problem.layers:
        stays = keep[layer.op.channels]
        start = None if stays.all() or layer.output not in grams else state.start(layer)
        if start is None:
            continue
        columns = np.repeat(stays, layer.op.kernel_size).reshape(1, len(start.weights), -1)
        new = LayerFits.of(layer, start, columns, grams[layer.output], losses=False).at(0)
        if new is not None:
            state.put(layer, *new)
            fitted.append(layer)
    return LayerwiseFits(state.all_edits(fitted), frozenset(layer.output for layer in fitted))
