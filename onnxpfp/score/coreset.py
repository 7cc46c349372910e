"""Coreset scores: how much a channel can contribute at worst, from the weights alone.

Source: Mussay et al., "Data-Independent Neural Pruning via Coresets", ICLR 2020, called Coreset
below. A channel is a point p_j = [F_j; b_j] (its producer's weights and bias). For every input in
a ball of radius beta, its contribution to output o of a consumer is bounded by

    s_j = max_o norm(W[o, j]) * phi(beta * ||p_j||)

For a convolution, W[o, j] is a whole kernel slice; its l1 norm is what the bound needs, since at
one output pixel |<W[o, j], u>| <= ||W[o, j]||_1 max|u|. The l2 and max norms are common heuristics
without that guarantee.

Fold BatchNormalization into the producer first, otherwise ||p_j|| means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Activation", "Norm", "coreset_scores", "slice_norms"]

Floats = NDArray[np.float64]
Array = NDArray[np.floating[Any]]

Activation = Literal["relu", "identity", "tanh", "sigmoid", "silu", "gelu", "leaky_relu"]
"""Activations known by name."""

Norm = Literal["l1", "l2", "max"]
"""Norms of a kernel slice; only l1 is provable."""


def _linear(r: Floats) -> Floats:
    return r


def _sigmoid(r: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-r))


def _silu(r: Floats) -> Floats:
    return r * _sigmoid(r)


def _gelu(r: Floats) -> Floats:
    erf = np.array([math.erf(v / math.sqrt(2.0)) for v in r.ravel()], dtype=np.float64)
    return 0.5 * r * (1.0 + erf.reshape(r.shape))


# sup of |phi(u)| over |u| <= r, for r >= 0. All of these reach it at u = +r, as |phi(-r)| is never
# larger there; a leaky slope of at most 1 is implied.
ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "relu": _linear,
    "identity": _linear,
    "leaky_relu": _linear,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
}


def slice_norms(weights: Array, norm: Norm = "l1") -> Floats:
    """Return the norm of every kernel slice, (O, n) float64, of weights (O, n, k)."""
    w = np.abs(weights.astype(np.float64))
    if norm == "l1":
        return w.sum(axis=2)
    if norm == "l2":
        return np.sqrt(np.square(w).sum(axis=2))
    return w.max(axis=2, initial=0.0)


def coreset_scores(
    producer_rows: Array | Sequence[Array],
    producer_bias: Array | Sequence[Array | None] | None,
    consumer_slices: Iterable[Array],
    activation: Activation | Callable[[Floats], Floats],
    beta: float,
    norm: Norm = "l1",
    *,
    relative: bool = False,
) -> Floats:
    """Score the channels of one group without data (Coreset, sensitivity of a whole layer).

    Cases:
      1. One producer: s_j = max over consumers and outputs of norm(W[o, j]) * phi(beta ||p_j||).
      2. Several producers whose outputs are added (a residual stream): the norm of the sum is at
         most the sum of the norms. The activation may come before the sum (sum_i phi(beta r_i)) or
         after it (phi(beta sum_i r_i)); the larger of both is taken. For ReLU they are equal.
      3. `relative`: an additive error means nothing across layers, so each output is measured
         against its own worst case: share_oj = norm(W[o,j]) phi_j / sum_j' norm(W[o,j']) phi_j',
         and s_j is the largest share over outputs and consumers. This is PFP's sensitivity with
         the data replaced by the worst case; 0 <= s_j <= 1 and 1 <= S <= n, so the allocation of
         PFP applies. Dropping a set of channels changes output o by at most its sum of s_j times
         the worst case of o.

    Args:
        producer_rows: Flattened filters (n, D), or one such array per producer.
        producer_bias: (n,) or None, or one of them per producer.
        consumer_slices: Weights (O, n, k) of each consumer, or of some of its outputs; Gemm has k = 1.
        activation: Name, or phi itself.
        beta: Bound of the input norm; irrelevant to the ranking where phi is ReLU.
        norm: Norm of a kernel slice.
        relative: Whether to return shares (case 3).

    Returns:
        (n,) float64, not negative.

    Raises:
        ValueError: If a name is unknown or the producers and biases do not pair up.
    """
    rows = [producer_rows] if isinstance(producer_rows, np.ndarray) else list(producer_rows)
    if producer_bias is None or isinstance(producer_bias, np.ndarray):
        biases: list[Array | None] = [producer_bias]
    else:
        biases = list(producer_bias)
    if len(rows) != len(biases) or not rows:
        raise ValueError(f"{len(rows)} producers but {len(biases)} biases")
    reach = _reach(rows, biases, _phi(activation), beta)
    scores = np.zeros(reach.shape, dtype=np.float64)
    for weights in consumer_slices:
        worst = slice_norms(weights, norm) * reach
        if relative:
            totals = worst.sum(axis=1, keepdims=True)
            worst = np.divide(worst, totals, out=np.zeros_like(worst), where=totals > 0.0)
        scores = np.maximum(scores, worst.max(axis=0, initial=0.0))
    return scores


def _phi(activation: Activation | Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    if not isinstance(activation, str):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def _reach(
    rows: list[Array],
    biases: list[Array | None],
    phi: Callable[[Floats], Floats],
    beta: float,
) -> Floats:
    """Bound what the sum of all producers of each channel can put out, (n,): cases 1 and 2."""
    norms = np.stack([_extended_norm(f, b) for f, b in zip(rows, biases, strict=True)])
    before = np.abs(phi(beta * norms)).sum(axis=0)
    if len(rows) == 1:
        return before
    return np.maximum(before, np.abs(phi(beta * norms.sum(axis=0))))


def _extended_norm(rows: Array, bias: Array | None) -> Floats:
    """Return ||[F_j; b_j]|| of every filter, (n,)."""
    flat = rows.astype(np.float64)
    squares = np.einsum("nd,nd->n", flat, flat)
    if bias is not None:
        squares = squares + bias.astype(np.float64) ** 2
    return np.sqrt(squares)
