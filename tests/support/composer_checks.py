"""What must hold of a network that has grown, whatever it is made of."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Patterns, build_channel_graph
from onnxpfp.channels.attention_axes import Unit
from onnxpfp.channels.decouple import decouple_shuffles
from onnxpfp.comparison.equivalence import FLOAT32, HALF
from onnxpfp.model.constants import Constants
from onnxpfp.model.folding import fold_weights
from onnxpfp.model.plain import with_plain_constants
from onnxpfp.model.shapes import concrete_shapes, example_feeds
from onnxpfp.rewrite import Edits, apply
from support.oracle import Case, Pruned, batches, check_keep, difference, run

TRIES = 4

JUMPS = frozenset(
    {"ArgMax", "ArgMin", "BitShift", "Ceil", "Compress", "Equal", "Floor", "Greater", "GreaterOrEqual", "GridSample"}
    | {"Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "MaxPool", "Mod", "Round", "Shrink", "Sign", "TopK"}
    | {"ThresholdedRelu", "Cast", "QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MaxRoiPool"}
)
"""Ops that can turn a rounding into a step."""


def examine(model: ModelProto, unit: Unit = "heads") -> Case:
    """Analyse a model by a unit of attention."""
    shapes = concrete_shapes(model, {})
    return Case(model, shapes, build_channel_graph(model, shapes, Constants.of(model), Patterns(), unit))


def hold(case: Case, keep: Keep, seed: int) -> Pruned:
    """Prune and compare with the masked original.

    Where an op jumps, another order of sums can decide: then one of several inputs must be free of that.
    """
    allowed = HALF if TensorProto.FLOAT16 in case.shapes.dtype.values() else FLOAT32
    tries = TRIES if any(node.op_type in JUMPS for node in case.model.graph.node) else 1
    for left in reversed(range(tries)):
        try:
            return check_keep(case, keep, tolerance=allowed, moves=False, seed=seed + left)
        except AssertionError:
            if not left:
                raise
    raise AssertionError


def twice(case: Case, keep: Keep) -> None:
    """The same choice gives the same bytes."""
    one, two = (apply(case.model, case.graph, keep, Edits()) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def equal(one: ModelProto, two: ModelProto, seed: int) -> None:
    """Two models compute the same at every batch."""
    for shapes in batches(one):
        feeds = example_feeds(one, shapes, np.random.default_rng(seed))
        assert difference(run(one, feeds), run(two, feeds)) <= FLOAT32


def loosened(case: Case) -> ModelProto:
    """Return the model with what ties channels by its form alone rewritten, or as it is."""
    return decouple_shuffles(case.model, case.graph, case.shapes) or case.model


def folded(model: ModelProto) -> ModelProto:
    """Return the model as it is loaded: plain constants, weights that are computed by mixing stored."""
    return fold_weights(with_plain_constants(model))
