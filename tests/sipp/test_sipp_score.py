"""`--score sipp` is PFP with `--kernel max`, and the largest sensitivity of the weights that read a channel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.weight_layers import weight_layers
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.weight_sensitivities import weight_sensitivities


def opened(model: ModelProto | Path, data: np.ndarray) -> RunContext:
    return open_run(model, data, Options(threads=1), ())


CASES = {
    "a chain of random layers": (nets.chain, lambda: nets.noise(40, 3, 8, 8)),
    "a trained network": (lambda: nets.network("resnet"), lambda: nets.fmnist("calibration", 48)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_channels_of_sipp_are_the_largest_of_their_weights(case: str) -> None:
    make, data = CASES[case]
    context = opened(make(), data())
    analysis = context.whole
    layers, _ = weight_layers(analysis, {})
    shares = weight_sensitivities(context, layers, "max", lambda done, total: None)
    of_node = {node.output[0]: layer for layer in layers for node in layer.nodes}
    ops = linear_ops(analysis)
    statistics = calibrate(analysis.model, ops, context.data.fit, kernel="max", threads=1)
    compared = 0
    for op, consumer in zip(ops, analysis.graph.consumers, strict=True):
        layer = of_node[consumer.output]
        columns = op.canonical(np.asarray(shares[layer.weight]))
        if consumer.form == "matrix":
            columns = np.moveaxis(np.asarray(shares[layer.weight]), consumer.weight_axis, 0)
        largest = columns.reshape(len(op.channels), -1).max(1)
        found = statistics[op.name]
        for channel, score in zip(found.channels, found.sensitivity, strict=True):
            assert largest[op.channels == channel].max() == pytest.approx(score, rel=3e-6, abs=1e-12)
            compared += 1
    assert compared >= 18


@pytest.mark.parametrize("select", ["deterministic", "sampled"])
def test_sipp_prunes_what_pfp_prunes_over_single_entries(select: str) -> None:
    plain = {"round_to": 1, "threads": 1, "no_metadata": True}
    common = {"calibration": nets.noise(64, 3, 8, 8), "keep_macs": 0.5, "select": select, **plain}
    one = onnxpfp.prune(nets.chain(), score="sipp", allocate="bound", **common)
    two = onnxpfp.prune(nets.chain(), score="pfp", kernel="max", allocate="bound", **common)
    assert one.stored == two.stored
    values = [[(group.name, group.kept, group.epsilon) for group in each.report.groups] for each in (one, two)]
    assert values[0] == values[1]


def test_sipp_measures_single_entries_whatever_the_kernel_says() -> None:
    assert [Options(score="sipp", kernel=kernel).entries for kernel in ("sum", "max")] == ["max", "max"]
    assert [Options(kernel=kernel).entries for kernel in ("sum", "max")] == ["sum", "max"]
    assert replace(Options(), score="energy").entries == "sum"
