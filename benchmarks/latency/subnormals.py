"""Rows of subnormal weights: a network before and after they became zero, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.latency.rows import Subnormals
from benchmarks.latency.subjects import Places, Subject
from benchmarks.latency.turns import beside, feed_of
from benchmarks.speed.machine import commit, machine
from onnxpfp.model.draws import without_record
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.parts import open_parts
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.runtime.session import open_session

__all__ = ["DECAYED", "cleaned", "decayed_network"]

DECAYED = "decayed"
"""Name of the small network."""
CHANNELS, SIDE, DEAD, DECAY = 64, 32, 1, 1e-39
"""Of the small network; how many filters have decayed, and by how much."""
SAMPLES, BATCH, THREADS = 16, 1, 1

Floats = NDArray[np.float32]


def decayed_network() -> ModelProto:
    """Build two convolutions, of whose first a filter has decayed to subnormal numbers."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    for place, x in enumerate(("x", "r0")):
        weight = rng.normal(0, (9 * CHANNELS) ** -0.5, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        if place == 0:
            weight[:DEAD] *= np.float32(DECAY)
        bias = rng.normal(0, 0.1, CHANNELS).astype(np.float32)
        names = [f"w{place}", f"b{place}"]
        tensors += [numpy_helper.from_array(array, name) for array, name in zip((weight, bias), names, strict=True)]
        nodes.append(helper.make_node("Conv", [x, *names], [f"c{place}"], name=f"conv{place}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"], name=f"relu{place}"))
    shape = ["N", CHANNELS, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "r1")]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cleaned(subject: Subject | None, places: Places) -> list[Subnormals]:
    """Let subnormal weights of a network become zero as `prune` does first, and measure it; None is the small one."""
    with tempfile.TemporaryDirectory() as scratch:
        original, out = Path(scratch) / "original.onnx", Path(scratch) / "cleaned.onnx"
        if subject is None:
            onnx.save(decayed_network(), original)
            samples = np.random.default_rng(1).standard_normal((SAMPLES, CHANNELS, SIDE, SIDE), dtype=np.float32)
        else:
            original, samples = subject.file(places), subject.calibration(places)[:SAMPLES]
        context = open_run(original, samples, Options(threads=THREADS), [])
        changed = zero_subnormal_weights(open_parts(context)).parts[0].context
        onnx.save(without_record(changed.whole.source.completed(changed.whole.model)), out)
        feed = feed_of(original, samples[:BATCH])
        seen = beside(original, out, feed, THREADS)
        outputs, equal, largest = _difference(original, out, samples)
    found = changed.subnormal
    row = Subnormals(
        network=DECAYED if subject is None else subject.name,
        batch=BATCH,
        threads=THREADS,
        machine=machine(),
        commit=commit(),
        weights=found.weights,
        zeroed=found.zeroed,
        ratios=seen.ratios,
        before_ms=seen.before_ms,
        after_ms=seen.after_ms,
        outputs=outputs,
        equal=equal,
        largest=largest,
    )
    return [row]


def _difference(original: Path, cleaned: Path, samples: Floats) -> tuple[int, int, float]:
    """Count the outputs that are normal or zero in the original, and those with equal bits; and the largest change."""
    outputs = equal = 0
    largest = scale = 0.0
    sessions = [open_session(str(file), threads=THREADS) for file in (original, cleaned)]
    for sample in samples:
        before, after = (
            np.concatenate([y.ravel() for y in session.run({session.inputs[0]: sample[None]}).values()])
            for session in sessions
        )
        told = (before == 0) | (np.abs(before) >= np.finfo(before.dtype).smallest_normal)
        outputs += int(told.sum())
        equal += int((before.view(np.uint32) == after.view(np.uint32))[told].sum())
        largest = max(largest, float(np.abs(before - after).max()))
        scale = max(scale, float(np.abs(before).max()))
    return outputs, equal, largest / scale
