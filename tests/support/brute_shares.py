"""The definitions of PFP (ICLR 2020) in plain loops and float64, and small models to measure."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.statistics import OpStatistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import LinearOp, Window

EPSILON = 1.1920928955078125e-07
Array = NDArray[Any]


def unfold_conv(x: Array, kernel: tuple[int, ...], window: Window) -> Array:
    """(C, *spatial) -> u (C, k, P), float64."""
    rank = len(kernel)
    strides, dilations = window.strides or (1,) * rank, window.dilations or (1,) * rank
    pads = explicit_pads(x.shape[1:], kernel, window)
    padded = np.pad(x.astype(np.float64), [(0, 0), *((pads[i], pads[i + rank]) for i in range(rank))])
    out = [(padded.shape[i + 1] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(rank)]
    taps = list(itertools.product(*map(range, kernel)))
    u = np.zeros((x.shape[0], len(taps), int(np.prod(out))))
    for p, position in enumerate(itertools.product(*map(range, out))):
        for q, tap in enumerate(taps):
            where = tuple(position[i] * strides[i] + tap[i] * dilations[i] for i in range(rank))
            u[:, q, p] = padded[(slice(None), *where)]
    return u


def explicit_pads(spatial: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple[int, ...]:
    rank = len(kernel)
    if window.auto_pad in (None, "NOTSET"):
        return window.pads or (0,) * (2 * rank)
    if window.auto_pad == "VALID":
        return (0,) * (2 * rank)
    strides = window.strides or (1,) * rank
    total = [max(0, (-(-n // s) - 1) * s + k - n) for n, s, k in zip(spatial, strides, kernel, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*small, *large) if window.auto_pad == "SAME_UPPER" else (*large, *small)


def unfold_transposed(x: Array, kernel: tuple[int, ...], window: Window) -> Array:
    """(C, *spatial) -> u (C, k, P): what each tap of each output position reads."""
    rank = len(kernel)
    strides, dilations = window.strides or (1,) * rank, window.dilations or (1,) * rank
    pads, extra = window.pads or (0,) * (2 * rank), window.output_padding or (0,) * rank
    out = [
        strides[i] * (x.shape[i + 1] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + rank]
        for i in range(rank)
    ]
    taps = list(itertools.product(*map(range, kernel)))
    grid = np.zeros((x.shape[0], len(taps), *out))
    for source in itertools.product(*map(range, x.shape[1:])):
        for q, tap in enumerate(taps):
            where = tuple(source[i] * strides[i] + tap[i] * dilations[i] - pads[i] for i in range(rank))
            if all(0 <= where[i] < out[i] for i in range(rank)):
                grid[(slice(None), q, *where)] = x[(slice(None), *source)]
    return grid.reshape(x.shape[0], len(taps), -1)


def scores(u: Array, taps: Array, op: LinearOp, kernel: str = "sum", guard: str = "relative") -> dict[int, float]:
    """Sensitivity of every channel.

    Args:
        u: Unfolded samples, (S, C, k, P).
        taps: V (C, O/g, k).
        op: For its channels and groups.
        kernel: "sum" or "max".
        guard: "relative", or the authors' "absolute".
    """
    taps = taps.astype(np.float64)
    per_group = u.shape[1] // op.group
    best = {int(channel): 0.0 for channel in op.channel_ids}
    for sample, part, sign in itertools.product(range(len(u)), (1, -1), (1, -1)):
        a, w = np.maximum(part * u[sample], 0), np.maximum(sign * taps, 0)
        blocks = [slice(g * per_group, (g + 1) * per_group) for g in range(op.group)]
        z = [np.einsum("ciq,cqp->ip", w[b], a[b]) for b in blocks]
        limit = EPSILON * (max(m.max() for m in z) if guard == "relative" else 1.0)
        for g, block in enumerate(blocks):
            for i, p in zip(*np.nonzero(z[g] > limit), strict=True):
                products = w[block, i] * a[block, :, p] / z[g][i, p]
                add(best, op.channels[block], products, kernel)
    return best


def add(best: dict[int, float], channels: Array, products: Array, kernel: str) -> None:
    for channel in best:
        mine = products[channels == channel]
        if mine.size:
            best[channel] = max(best[channel], mine.sum() if kernel == "sum" else mine.max())


def product_scores(left: Array, right: Array, channels: Array) -> dict[int, float]:
    """Sensitivity of an activation x activation product, operands (..., M, C) and (..., C, N)."""
    best = {int(channel): 0.0 for channel in np.unique(channels) if channel}
    for s, t in itertools.product((1, -1), repeat=2):
        a, b = np.maximum(s * left, 0).astype(float), np.maximum(t * right, 0).astype(float)
        z = a @ b
        for channel in best:
            mine = channels == channel
            share = (a[..., mine] @ b[..., mine, :]) / np.where(z > 1e-12, z, np.inf)
            best[channel] = max(best[channel], share.max())
    return best


def model_of(
    nodes: list[Any],
    inputs: dict[str, tuple[Any, ...]],
    outputs: list[str],
    weights: dict[str, Array] | None = None,
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def identity_model(shape: tuple[Any, ...], *, op: str = "Identity", opset: int = 17) -> ModelProto:
    return model_of([helper.make_node(op, ["x"], ["y"])], {"x": shape}, ["y"], opset=opset)


def measure(model: ModelProto, op: LinearOp, data: Any, **options: Any) -> OpStatistics:
    samples = load_samples(data, input_specs(model))
    return calibrate(model, [op], samples, threads=1, **options)[op.name]


def as_dict(statistics: OpStatistics) -> dict[int, float]:
    return dict(zip(statistics.channels.tolist(), statistics.sensitivity.tolist(), strict=True))
