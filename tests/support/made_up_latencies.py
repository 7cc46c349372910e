"""A made-up device whose latencies are known exactly: those of a network follow from the shapes of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

Array = NDArray[Any]

CALL = 2e-3
"""Milliseconds of every op."""
ELEMENT = {"Conv": 3e-6, "Relu": 5e-6, "Gemm": 1e-6}
"""Milliseconds of a number that an op reads or writes, stored ones aside; others take none."""
MAC = {"Conv": 4e-6, "Gemm": 2e-5}
"""Milliseconds of a multiply-add."""


def op_latencies(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, float]:
    """Return the milliseconds of every node of a network, whose nodes have names."""
    stored = nets.weights(model)
    shapes = {name: array.shape for name, array in {**stored, **feed, **nets.values(model, feed)}.items()}
    times: dict[str, float] = {}
    for node in model.graph.node:
        tensors = [name for name in (*node.input, *node.output) if name not in stored]
        elements = sum(math.prod(shapes[name]) for name in tensors)
        macs = nets.count_macs_of(node, shapes)
        times[node.name] = CALL + ELEMENT.get(node.op_type, 0.0) * elements + MAC.get(node.op_type, 0.0) * macs
    return times


def latency(model: ModelProto, feed: Mapping[str, Array]) -> float:
    """Return the milliseconds of a network."""
    return math.fsum(op_latencies(model, feed).values())


def plain_latency(model: ModelProto, feed: Mapping[str, Array]) -> float:
    """Return those of a device on which all ops are alike: for what they write, and for multiply-adds."""
    written = sum(np.size(value) for value in nets.values(model, feed).values())
    return 0.05 + 1e-5 * written + 2e-6 * nets.count_macs(model, feed)


def fill_in(table: Path, models: Path, feed: Mapping[str, Array], *, ops: bool) -> None:
    """Write what the device takes for the models of a form into it, as their user would.

    Args:
        table: The form.
        models: The folder of its models.
        feed: Inputs of a run.
        ops: Whether the device tells the times of ops, too.
    """
    document = json.loads(table.read_text())
    document["device"] = "made up"
    for point in document["parts"][""]["points"]:
        model = onnx.load(models / point["model"])
        if ops:
            point["ops"] = op_latencies(model, feed)
            point["ms"] = latency(model, feed)
        else:
            point["ms"] = plain_latency(model, feed)
    table.write_text(json.dumps(document))
