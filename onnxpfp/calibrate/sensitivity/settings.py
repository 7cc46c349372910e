"""Settings and outputs that all subgraphs share which reduce a linear op to its sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.graph_builder import GraphBuilder, Tensor
from onnxpfp.options import DEFAULT_WORKSPACE

__all__ = [
    "EPSILON",
    "FULL",
    "SLACK",
    "GraphOutputs",
    "Kernel",
    "Positions",
    "SensitivitySettings",
    "inverse",
    "of_products",
]

Kernel = Literal["sum", "max"]
Positions = Literal["max", "mean"]
"""What of the shares of one weight at the positions of a sample counts."""

EPSILON = float(np.finfo(np.float32).eps)
SLACK = 1e-5
"""What rounding may take from a bound on a share."""
FULL = 1 - 1e-6
"""A share is at most one: from here on a channel cannot gain anything that counts."""


@dataclass(frozen=True, slots=True)
class SensitivitySettings:
    """Settings of the computation.

    Attributes:
        kernel: "sum" adds a channel's products over the kernel, which the bound needs; "max" is the authors' code.
        batch: Samples in one run.
        chunk_bytes: Aimed-at size of one intermediate.
        max_chunks: Most chunks of one linear op; it keeps the graph small, `workspace_bytes` goes before it.
        workspace_bytes: Limit of one intermediate, as far as one channel at a time can keep it.
    """

    kernel: Kernel = "sum"
    batch: int = 1
    chunk_bytes: int = 1 << 20
    max_chunks: int = 64
    workspace_bytes: int = DEFAULT_WORKSPACE


@dataclass(frozen=True, slots=True, eq=False)
class GraphOutputs:
    """The graph outputs with the results of one linear op.

    Attributes:
        shares: Output with the largest share of every slot, (slots,) float32; None where nothing is scored.
        channels: Channel id of every slot, (slots,).
        shape: Output with the shape of z, int64.
        patch_sum: Output with the summed unfolded input, (C, k) float32; None for a product.
        negative: Output with the largest magnitude of a negative entry; None if there can be none.
    """

    shares: str | None
    channels: NDArray[np.int64]
    shape: str
    patch_sum: str | None
    negative: str | None


def inverse(builder: GraphBuilder, z: Tensor, axes: Sequence[int]) -> Tensor:
    """Return 1 / z, and 0 where z counts as zero: where it is not above float32's epsilon times the largest.

    Args:
        builder: Where to append.
        z: Non-negative sums.
        axes: What the largest z of one sample and quadrant is taken over. Per sample, so that the result does not
            depend on how the samples are batched.
    """
    epsilon = builder.constant(np.array(EPSILON, dtype=np.float32))
    limit = builder.op("Mul", [builder.reduce_max(z, axes, keep=True), epsilon])
    fires = builder.op("Greater", [z, limit], dtype=np.bool_)
    mask = builder.op("Cast", [fires], {"to": 1})
    one = builder.constant(np.array(1, dtype=np.float32))
    # mask / (z + 1 - mask) is exact where the mask is 1 and never divides by zero; Where needs opset 9.
    return builder.op("Div", [mask, builder.op("Add", [z, builder.op("Sub", [one, mask])])])


def of_products(
    builder: GraphBuilder, shares: Sequence[Tensor], slots: Sequence[int], z: Tensor, negative: Tensor | None
) -> GraphOutputs:
    """Make the outputs of a linear op whose operands are both activations.

    Args:
        builder: Where to append.
        shares: The largest shares of runs of blocks.
        slots: Channel id of every share.
        z: Sums of one quadrant, for their shape.
        negative: The largest magnitude of a negative entry of the data; None if there can be none.
    """
    return GraphOutputs(
        builder.output(builder.join(shares)) if shares else None,
        np.array(slots, dtype=np.int64),
        builder.output(builder.op("Shape", [z], dtype=np.int64)),
        None,
        None if negative is None else builder.output(negative),
    )
