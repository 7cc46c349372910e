"""Whose rounding a difference is: a channel's largest share in float64, from the tensor that its linear op reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from onnxpfp.calibrate.collect import SensitivityMethod, calibrate
from onnxpfp.calibrate.probe import build_probe
from onnxpfp.calibrate.sensitivity.settings import EPSILON, Kernel, SensitivitySettings
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.families import op_families
from onnxpfp.linear.im2col import output_sizes, tap_sources
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime.session import open_session

__all__ = ["Judged", "judge"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Judged:
    """The sensitivity of one channel by both methods from the very same tensor, and in float64."""

    screened: float
    plain: float
    exact: float

    def error(self, found: float) -> float:
        """Return a relative error."""
        return abs(found - self.exact) / self.exact


def judge(model: ModelProto, op: LinearOp, channel: int, samples: Samples, kernel: Kernel) -> Judged:
    """Compute the sensitivity of a channel three times from what its linear op reads."""
    read = _read(model, op, samples)
    shares = [_largest_share(op, tensor, channel, kernel) for tensor in read]
    screened, plain = (_measured(op, read, channel, kernel, method) for method in ("screened", "plain"))
    return Judged(screened, plain, max(shares))


def _read(model: ModelProto, op: LinearOp, samples: Samples) -> list[Floats]:
    """Return what a linear op reads, sample by sample."""
    probe = build_probe(model, (), SensitivitySettings(), op_families([op]))
    session = open_session(probe.model, threads=1)
    return [session.run(feed)[probe.taps[0]] for feed, _ in samples.runs(1)]


def _measured(op: LinearOp, read: Sequence[Floats], channel: int, kernel: Kernel, method: SensitivityMethod) -> float:
    """Let a method measure a model that hands on what was read."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, read[0].shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "read", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = load_samples([{"x": tensor} for tensor in read], input_specs(model))
    alone = replace(op, data="y", zero="")
    found = calibrate(model, [alone], samples, kernel=kernel, method=method, threads=1)[op.name]
    return float(found.sensitivity[np.searchsorted(found.channels, channel)])


def _largest_share(op: LinearOp, read: Floats, channel: int, kernel: Kernel) -> float:
    """Return the largest share of a channel (PFP, ICLR 2020), guard relative to each sample."""
    taps = op.taps()
    taps = taps.reshape(op.group, -1, taps.shape[1], op.kernel_size).astype(np.float64)
    mine = op.channels.reshape(op.group, -1) == channel
    best = 0.0
    for inputs, of_data, of_weights in itertools.product(_unfolded(op, read), (1, -1), (1, -1)):
        u, weights = np.maximum(of_data * inputs, 0), np.maximum(of_weights * taps, 0)
        sums = [np.tensordot(w, x, ([0, 2], [0, 1])) for w, x in zip(weights, u, strict=True)]
        limit = EPSILON * max(float(z.max()) for z in sums)
        for group, z in enumerate(sums):
            best = max(best, _share(weights[group][mine[group]], u[group][mine[group]], z, limit, kernel))
    return best


def _share(weights: Floats, u: Floats, z: Floats, limit: float, kernel: Kernel) -> float:
    """Return the largest share that indices with weights (n, O, k) and inputs (n, k, P) have in sums (O, P)."""
    inverse = np.where(z > limit, 1 / np.where(z > limit, z, 1), 0)
    if kernel == "sum":
        return float((np.tensordot(weights, u, ([0, 2], [0, 1])) * inverse).max(initial=0))
    entries = itertools.product(range(weights.shape[0]), range(weights.shape[2]))
    return max((float((np.outer(weights[n, :, q], u[n, q]) * inverse).max()) for n, q in entries), default=0.0)


def _unfolded(op: LinearOp, read: Floats) -> Iterator[Floats]:
    """Yield what the taps read, (g, C/g, k, P) for every sample."""
    samples = 1 if op.kind == "matmul" and op.axis == 0 else 0
    for x in np.moveaxis(read.astype(np.float64), samples, 0):
        axis = op.axis - 1 if op.axis > samples else op.axis
        by_channel = np.moveaxis(x, axis, 0)
        flat = by_channel.reshape(len(by_channel), -1)
        u = flat[:, None]
        if op.kind != "matmul":
            sizes = by_channel.shape[1:]
            spatial = output_sizes(op, sizes)
            source, inside = tap_sources(op, sizes, spatial, np.arange(math.prod(spatial)))
            u = flat[:, source.T] if inside is None else np.where(inside.T, flat[:, source.T], 0)
        yield u.reshape(op.group, -1, *u.shape[1:])
