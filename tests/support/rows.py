"""One op between a linear layer that brings forth 8 channels and one that reads what comes out.

    x -> linear w_in -> c (8 channels) -> the row's nodes -> d -> linear w_out -> y

A second branch of 8 channels, `e`, is there where the row's nodes read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from onnxpfp.model.shapes import concrete_shapes
from support.graphs import build
from support.oracle import check_oracle, problem

WIDTH = 8
IMAGE = "float[1,3,6,6] x"
ROWS = "float[4,3] x"
TOKENS = "float[2,4,3] x"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table of ops.

    Attributes:
        name: Of the case.
        body: Nodes that compute `d` from `c` (and `e`).
        channels: Expected number of channels.
        groups: Expected number of groups.
        weights: Declarations of the body's weights.
        fixed: Expected reasons by weight, as parts of the text; w_out always stays on the output side.
        x: Declaration of the input.
        head: "conv" or "matmul"; by the rank of x where empty.
        tail: Whether a last layer reads d; else d is the output.
        opset: Of the model.
        tolerance: Of the oracle.
    """

    name: str
    body: str
    channels: int
    groups: int = 1
    weights: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])
    x: str = IMAGE
    head: str = ""
    tail: bool = True
    opset: int = 17
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return self.name


def _text(row: Row, nodes: list[str], weights: list[str], output: str) -> str:
    declared = ", ".join(w for w in (*weights, row.weights) if w)
    return f"g ({row.x}) => ({output}) <{declared}> {{\n" + "\n".join(nodes) + "\n}"


def model_of(row: Row) -> ModelProto:
    """Put the first and the last layer around a row."""
    sizes = re.findall(r"\w+", row.x[row.x.index("[") : row.x.index("]")])
    conv = row.head == "conv" or (not row.head and len(sizes) > 2)
    branches = [b for b in "ce" if b == "c" or re.search(r"\be\b", row.body)]
    nodes, weights = [], []
    for branch in branches:
        name = "w_in" if branch == "c" else "w_e"
        ones = ",1" * (len(sizes) - 2)
        weights.append(f"float[{WIDTH},{sizes[1]}{ones}] {name}" if conv else f"float[{sizes[-1]},{WIDTH}] {name}")
        nodes.append(f"{branch} = {'Conv' if conv else 'MatMul'}(x, {name})")
    nodes.append(row.body)
    if not row.tail:
        return build(_text(row, nodes, weights, "d"), opset=row.opset)
    shape = concrete_shapes(build(_text(row, nodes, weights, "d"), opset=row.opset), {}).shape["d"]
    if conv and len(shape) > 2:
        weights.append(f"float[5,{shape[1]}{',1' * (len(shape) - 2)}] w_out")
        nodes.append("y = Conv(d, w_out)")
    else:
        weights.append(f"float[{shape[-1]},5] w_out")
        nodes.append("y = MatMul(d, w_out)")
    return build(_text(row, nodes, weights, "y"), opset=row.opset)


def check_row(row: Row) -> None:
    """Compare what was found with what the row expects, and run the oracle where something can go."""
    case = problem(model_of(row))
    found = {tensor: reason for tensor, reason in case.reasons.items() if tensor != "w_out"}
    assert (case.graph.count, len(case.graph.groups)) == (row.channels, row.groups if row.channels else 0), found
    assert found.keys() == row.fixed.keys(), found
    for tensor, part in row.fixed.items():
        assert part in found[tensor]
    assert sorted(np.concatenate([g.channels for g in case.graph.groups] or [[]])) == list(range(1, row.channels + 1))
    if row.channels:
        check_oracle(case.model, tolerance=row.tolerance, seeds=3)
