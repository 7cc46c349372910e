"""Random linear ops and data for them: every kind of window, zeros, signs and scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxpfp.calibrate.collect import SensitivityMethod, calibrate
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import Block, Kind, LinearOp, Window
from support.brute_shares import model_of, unfold_conv, unfold_transposed

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = settings(max_examples=60, suppress_health_check=CALM)

Array = NDArray[Any]
SCALES = [(1.0, 1.0), (1e-20, 1.0), (1e20, 1.0), (1.0, 1e-20), (1.0, 1e20), (1e-20, 1e20), (1e20, 1e-20)]
"""Of data and of weights: such that their products are no zeros and no infinities."""


@dataclass(frozen=True)
class Drawn:
    """Linear ops of one tensor and what is fed.

    Attributes:
        ops: They read "y".
        data: What they read, one sample along axis 0.
        first: Whether "y" has the samples in its last axis and the channels in its first.
    """

    ops: tuple[LinearOp, ...]
    data: Array
    first: bool = False

    @property
    def model(self) -> ModelProto:
        """Hands the input on, and only that."""
        shape = ("N", *self.data.shape[1:])
        node = helper.make_node("Transpose", ["x"], ["y"]) if self.first else helper.make_node("Identity", ["x"], ["y"])
        return model_of([node], {"x": shape}, ["y"])

    @property
    def samples(self) -> Samples:
        return load_samples(self.data, input_specs(self.model))

    def measured(self, method: SensitivityMethod, kernel: Kernel, **options: Any) -> Statistics:
        # Squares of numbers near 1e20 are infinite.
        with np.errstate(over="ignore"):
            return calibrate(self.model, self.ops, self.samples, kernel=kernel, method=method, threads=1, **options)

    def unfolded(self) -> Array:
        """What the taps read, (S, C, k, P) float64; not for windows of which only onnxruntime knows the pads."""
        lead = self.ops[0]
        if lead.kind == "matmul":
            axis = 1 if self.first else lead.axis
            rows = np.moveaxis(self.data.astype(np.float64), axis, 1)
            return rows.reshape(*rows.shape[:2], 1, -1)
        unfold = unfold_transposed if lead.kind == "conv_transpose" else unfold_conv
        return np.stack([unfold(sample, lead.kernel, lead.attributes) for sample in self.data])


@dataclass(frozen=True)
class Shapes:
    """What must be known before numbers are drawn; `weights` as ONNX lays them out."""

    kind: Kind
    data: tuple[int, ...]
    axis: int
    weights: tuple[tuple[int, ...], ...]
    group: int = 1
    window: Window = field(default_factory=Window)
    first: bool = False


@st.composite
def convolutions(draw: st.DrawFn) -> Shapes:
    rank, group, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    auto_pad = draw(st.sampled_from([None, None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank)) if auto_pad in {None, "NOTSET"} else None
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        dilation = 1
    reach = [(size - 1) * dilation + 1 for size in kernel]
    padded = [sum(pads[number::rank]) if pads else 0 for number in range(rank)]
    rest = [draw(st.integers(0, 3)) for _ in range(rank)]
    sizes = [max(1, r - p) + more for r, p, more in zip(reach, padded, rest, strict=True)]
    window = Window(
        strides=draw(st.sampled_from([None, strides])),
        pads=pads,
        dilations=(dilation,) * rank if dilation > 1 else None,
        auto_pad=auto_pad,
    )
    inputs = draw(st.integers(1, 4))
    count = 1 if group > 1 else draw(st.integers(1, 3))
    weights = tuple((group * draw(st.integers(1, 4)), inputs, *kernel) for _ in range(count))
    return Shapes("conv", (group * inputs, *sizes), 1, weights, group, window)


@st.composite
def pointwise(draw: st.DrawFn) -> Shapes:
    """Windows of one tap, of which there are more than of all others."""
    rank, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
    strides = draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * rank)))
    pads = draw(st.sampled_from([None, (0,) * 2 * rank, (1,) * 2 * rank]))
    auto_pad = draw(st.sampled_from(["VALID", "SAME_UPPER"])) if pads is None else None
    sizes = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    inputs, count = draw(st.integers(1, 4)), 1 if group > 1 else draw(st.integers(1, 3))
    weights = tuple((group * draw(st.integers(1, 4)), inputs, *[1] * rank) for _ in range(count))
    return Shapes("conv", (group * inputs, *sizes), 1, weights, group, Window(strides, pads, auto_pad=auto_pad))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> Shapes:
    rank, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = (draw(st.integers(1, 2)),) * rank
    sizes = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    extra = tuple(draw(st.integers(0, stride - 1)) for stride in strides)
    out = [
        (n - 1) * s + e + (k - 1) * d + 1
        for n, s, e, k, d in zip(sizes, strides, extra, kernel, dilations, strict=True)
    ]
    begin = [draw(st.integers(0, min(2, total - 1))) for total in out]
    end = [draw(st.integers(0, min(2, total - 1 - b))) for total, b in zip(out, begin, strict=True)]
    window = Window(strides=strides, pads=(*begin, *end), dilations=dilations, output_padding=extra)
    inputs = group * draw(st.integers(1, 3))
    count = 1 if group > 1 else draw(st.integers(1, 2))
    weights = tuple((inputs, draw(st.integers(1, 3)), *kernel) for _ in range(count))
    return Shapes("conv_transpose", (inputs, *sizes), 1, weights, group, window)


@st.composite
def products(draw: st.DrawFn) -> Shapes:
    channels, rest = draw(st.integers(1, 6)), draw(st.lists(st.integers(1, 3), max_size=2))
    axis = draw(st.integers(1, 1 + len(rest)))
    data = (*rest[: axis - 1], channels, *rest[axis - 1 :])
    weights = tuple((channels, draw(st.integers(1, 5))) for _ in range(draw(st.integers(1, 3))))
    first = not rest and draw(st.booleans())
    return Shapes("matmul", data, 0 if first else axis, weights, first=first)


SHAPES = st.one_of(convolutions(), pointwise(), transposed_convolutions(), products())


@st.composite
def drawn(draw: st.DrawFn, shapes: st.SearchStrategy[Shapes] = SHAPES, *, most_samples: int = 4) -> Drawn:
    """Fill shapes with numbers."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    of_data, of_weights = draw(st.sampled_from(SCALES))
    sparse = st.sampled_from([0.0, 0.0, 0.4, 0.9])
    data = _numbers(rng, (draw(st.integers(1, most_samples)), *shape.data), draw(sparse))
    if draw(st.booleans()):
        data = np.abs(data)
    channels = shape.data[0] if shape.kind != "matmul" else shape.weights[0][0]
    data = _spread(rng, data, 1 if shape.kind != "matmul" or shape.first else shape.axis, draw(st.booleans()))
    largest = max(channels, 2)
    ids = draw(st.sampled_from(["each", "fixed", "shared"]))
    labels = np.arange(1, channels + 1) if ids == "each" else rng.integers(int(ids == "shared"), largest, channels)
    weights = [_spread(rng, _numbers(rng, size, draw(sparse)), 0, draw(st.booleans())) for size in shape.weights]
    ops = tuple(_reader(shape, number, labels, each, of_weights) for number, each in enumerate(weights))
    return Drawn(ops, data * np.float32(of_data), shape.first)


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> Array:
    found = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < zeros, np.float32(0), found)


def _spread(rng: np.random.Generator, array: Array, axis: int, wanted: bool) -> Array:
    """Give the indices of an axis scales of their own; not so far apart that sums come near to what counts as zero."""
    shape = [1] * array.ndim
    shape[axis] = array.shape[axis]
    return array * np.float32(10) ** rng.uniform(-1.5, 1.5, shape).astype(np.float32) if wanted else array


def _reader(shape: Shapes, number: int, labels: Array, weight: Array, scale: float) -> LinearOp:
    outputs = weight.shape[0 if shape.kind == "conv" else 1] * (shape.group if shape.kind == "conv_transpose" else 1)
    whole = (shape.data[0], 1) if shape.first else (1, *shape.data)
    return LinearOp(
        name=f"r{number}",
        kind=shape.kind,
        data="y",
        data_shape=whole,
        axis=shape.axis,
        channels=labels.astype(np.int64),
        weight=weight * np.float32(scale),
        output_shape=(1, outputs, math.prod(shape.data) // len(labels)),
        group=shape.group,
        attributes=shape.window,
    )


def taps_of(op: LinearOp) -> Array:
    """Return V (C, O/g, k)."""
    taps = op.taps()
    return taps.reshape(*taps.shape[:2], -1)


def blocks_of(op: LinearOp, kernel: str) -> list[Block]:
    """List what gets a share, in the order of groups and indices."""
    return sorted(op.blocks(single=kernel == "max"), key=lambda block: (block.group, block.indices))


def every_share(u: Array, op: LinearOp, kernel: str) -> Array:
    """Compute the share of every block at every sample and position, in float64, (S, P, b).

    Args:
        u: What the taps read, no entry below zero, (S, C, k, P).
        op: For its blocks and groups.
        kernel: "sum" or "max".
    """
    blocks = blocks_of(op, kernel)
    found = np.zeros((u.shape[0], u.shape[3], len(blocks)))
    count = u.shape[1] // op.group
    members = [slice(first, first + count) for first in range(0, u.shape[1], count)]
    taps = taps_of(op)
    for weights in (np.maximum(taps, 0).astype(np.float64), np.maximum(-taps, 0).astype(np.float64)):
        z = np.stack([np.einsum("ciq,scqp->sip", weights[m], u[:, m]) for m in members], axis=1)
        limit = np.finfo(np.float32).eps * z.max((1, 2, 3), keepdims=True)
        inverse = np.where(z > limit, 1 / np.where(z > limit, z, 1), 0)
        for number, block in enumerate(blocks):
            chosen = list(block.indices)
            products = np.einsum("ciq,scqp->scqip", weights[chosen], u[:, chosen])
            made = products.sum((1, 2)) if kernel == "sum" else products.max((1, 2))
            found[:, :, number] = np.maximum(found[:, :, number], (made * inverse[:, block.group]).max(1))
    return found
