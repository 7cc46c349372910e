"""What a choice does to a layer's output in the mean square, as the report bounds it; nothing here is onnxpfp's code.

With what every channel loses, d_c (1 where it goes, 1 - f_c where it stays with weights times f_c), the error of the
sum z_ip is e_ip = sum over c of d_c y_ip,c. What is bounded is the square root of the mean over inputs of

    sum over i of mean over p of min(s_i^2, e_ip^2)  /  sum over i of s_i^2      s_i^2: mean square of z_ip
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["choice_errors", "lost", "mean_squares"]

Array = NDArray[Any]


def lost(original: Array, after: Array, outputs: Array) -> Array:
    """Return what every channel loses, d (C,), from the weights that stay of it.

    Args:
        original: The original's weights, (C, k, O).
        after: Those after the choice, (C, k, o).
        outputs: Which outputs they are of, (o,).
    """
    whole = original[..., outputs]
    size = np.square(whole).sum((1, 2))
    factor = np.divide((whole * after).sum((1, 2)), size, out=np.ones(len(size)), where=size > 0)
    return 1.0 - factor


def mean_squares(original: Array, windows: Iterable[Array]) -> Array:
    """Return the mean square of every output over inputs and positions, (O,).

    Args:
        original: Weights, (C, k, O).
        windows: Inputs, (N, P, C, k) each.
    """
    sums = [(_flat(each) @ original.reshape(-1, original.shape[-1])) for each in windows]
    return sum(np.square(z).sum(0) for z in sums) / sum(map(len, sums))


def choice_errors(original: Array, losses: Sequence[Array], windows: Array, units: Array) -> list[Array]:
    """Return the error of every input, (N,), for each of some choices.

    Args:
        original: Weights, (C, k, O).
        losses: What every channel loses, (C,) each.
        windows: Inputs, (N, P, C, k).
        units: Mean square of every output, (O,).
    """
    flat, (n, p) = _flat(windows), windows.shape[:2]
    found: list[Array] = []
    for each in losses:
        error = flat @ (original * each[:, None, None]).reshape(-1, original.shape[-1])
        counted = np.minimum(np.square(error), units).reshape(n, -1).sum(1)
        found.append(counted / (p * units.sum()) if units.any() else np.ones(n))
    return found


def _flat(windows: Array) -> Array:
    n, p, c, k = windows.shape
    return windows.reshape(n * p, c * k)
