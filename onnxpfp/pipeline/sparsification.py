"""Set weights of a network to zero: sensitivities of single weights, the choice, the file, and what it must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import AnyArray, Floats, Floats32
from onnxpfp.channels.name_patterns import Patterns, nodes_left_out
from onnxpfp.errors import PlanError, TargetUnreachableError
from onnxpfp.linear.weight_layers import WeightLayer, WholeLayer, weight_layers
from onnxpfp.linear.weights import stored_form
from onnxpfp.model.functions import without_functions
from onnxpfp.model.order import with_sorted_nodes
from onnxpfp.model.plain import with_own_constants, with_plain_constants
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.parts import Network
from onnxpfp.pipeline.sparse_plan import SparsePlan
from onnxpfp.pipeline.weight_sensitivities import weight_sensitivities
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.transfer import with_edits
from onnxpfp.rewrite.weight_factors import with_weight_factors
from onnxpfp.sipp.deterministic import select_deterministic
from onnxpfp.sipp.hybrid import select_hybrid
from onnxpfp.sipp.layer import LayerChoice, LayerWeights, log_term
from onnxpfp.sipp.sampled import select_sampled

__all__ = ["SparseLayer", "Sparsification", "sparsify_network"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseLayer:
    """What became of one layer.

    Attributes:
        layer: The layer.
        choice: What was chosen, of the weights one after the other; None where a plan was replayed.
        before: Its weights before, in its shape.
        after: Its weights as they are written.
    """

    layer: WeightLayer
    choice: LayerChoice | None
    before: AnyArray
    after: AnyArray


@dataclass(frozen=True, slots=True, eq=False)
class Sparsification:
    """What became of a network.

    Attributes:
        layers: The layers in question, in the order of the nodes.
        whole: All other ops that multiply.
        budget: How many weights were to stay; None where a plan says which.
        plan: The factors of all weights.
        model: The file; the given one where nothing changed.
        masked: The original, whose graph multiplies the weights by the factors: the file must compute the same.
        changed: Whether anything did.
    """

    layers: tuple[SparseLayer, ...]
    whole: tuple[WholeLayer, ...]
    budget: int | None
    plan: SparsePlan
    model: ModelProto
    masked: ModelProto
    changed: bool


def sparsify_network(network: Network, asked: SparsifyOptions, plan: SparsePlan | None) -> Sparsification:
    """Set the weights to zero that matter least, or those that a plan says.

    Args:
        network: The network and its bodies; only its main graph is changed.
        asked: How many weights stay, and how they are chosen.
        plan: The plan; None chooses.

    Raises:
        TargetUnreachableError: There is no layer whose weights may go.
        PlanError: The plan is of another network.
        OptionError: A pattern matches nothing.
        CalibrationError: The network computes NaN on the samples.
    """
    context = network.parts[0].context
    analysis = context.whole
    base = without_functions(with_sorted_nodes(with_plain_constants(analysis.source.given)))
    layers, whole = weight_layers(analysis, _left_out(context, base, asked))
    if not layers:
        reasons = "; ".join(list(dict.fromkeys(each.reason for each in whole))[:3]) or "none lies in the main graph"
        raise TargetUnreachableError(f"{analysis.source.title}: no layer has weights that may go: {reasons}")
    values = [np.asarray(analysis.constants.value(layer.weight)) for layer in layers]
    choices: list[LayerChoice] | None = None
    budget = None
    if plan is None:
        choices, budget = _chosen(context, layers, values, asked)
        factors = [choice.factors.reshape(layer.shape) for layer, choice in zip(layers, choices, strict=True)]
    else:
        _check_names(plan, layers)
        factors = [plan.of(layer.weight, layer.shape) for layer in layers]
    with context.clock.phase("rewrite"):
        written = _written(context, base, layers, values, factors)
    found = [
        SparseLayer(layer, None if choices is None else choices[number], values[number], written.after[number])
        for number, layer in enumerate(layers)
    ]
    order = {node.output[0]: index for index, node in enumerate(analysis.model.graph.node) if node.output}
    found.sort(key=lambda each: order[each.layer.nodes[0].output[0]])
    by_name = {layer.weight: each for layer, each in zip(layers, factors, strict=True)}
    made = SparsePlan(analysis.source.sha256, by_name)
    return Sparsification(tuple(found), whole, budget, made, written.model, written.masked, written.changed)


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """The file with its new weights, and what it must equal."""

    after: list[AnyArray]
    model: ModelProto
    masked: ModelProto
    changed: bool


def _written(
    context: RunContext,
    base: ModelProto,
    layers: Sequence[WeightLayer],
    values: Sequence[AnyArray],
    factors: Sequence[Floats],
) -> _Written:
    """Multiply the weights by their factors: in the file as numbers, in the other model in the graph."""
    analysis = context.whole
    after = [
        stored_form(analysis, layer.weight, _times(value, each))
        for layer, value, each in zip(layers, values, factors, strict=True)
    ]
    changed = any((each != 1)[value != 0].any() for each, value in zip(factors, values, strict=True))
    model = analysis.source.given
    if changed:
        edits = Edits(tensors={layer.stored: array for layer, array in zip(layers, after, strict=True)})
        model = with_own_constants(with_edits(base, analysis.model, edits), analysis.source.given)
    by_name = {layer.weight: each for layer, each in zip(layers, factors, strict=True)}
    readers = {node.output[0]: layer.weight for layer in layers for node in layer.nodes}
    return _Written(after, model, with_weight_factors(base, by_name, readers, analysis.shapes.dtype), changed)


def _left_out(context: RunContext, base: ModelProto, asked: SparsifyOptions) -> dict[str, str]:
    """Return why nodes are not to be touched, by name: by the patterns, or as the file has them elsewhere."""
    source = context.whole.source
    given = {node.output[0]: node.op_type for node in base.graph.node if node.output}
    elsewhere = {
        node.name or node.output[0]: "the file has it inside of a branch that is always taken"
        for node in source.model.graph.node
        if node.output and given.get(node.output[0]) != node.op_type
    }
    return elsewhere | nodes_left_out(source.model.graph, Patterns(asked.include, asked.exclude, source.names))


def _check_names(plan: SparsePlan, layers: Sequence[WeightLayer]) -> None:
    unknown = plan.factors.keys() - {layer.weight for layer in layers}
    if unknown:
        raise PlanError(
            f"the plan names the weight '{min(unknown)}', which is none whose entries may go in this model",
            hint="replay a plan on the network it was made for, with the same weight names and patterns",
        )


def _chosen(
    context: RunContext, layers: Sequence[WeightLayer], values: Sequence[AnyArray], asked: SparsifyOptions
) -> tuple[list[LayerChoice], int]:
    """Measure the weights and choose; returns the choices, and how many weights may stay."""
    with context.clock.phase("calibration") as progress:
        shares = weight_sensitivities(context, layers, asked.positions, progress)
    with context.clock.phase("selection"):
        candidates = [
            _weights(layer, value, shares[layer.weight], asked) for layer, value in zip(layers, values, strict=True)
        ]
        # Rounded down, but for what a product of floats is off by.
        budget = math.floor(asked.keep_weights * sum(each.nonzero for each in candidates) + 1e-6)
        rng = np.random.default_rng(asked.seed)
        match asked.select:
            case "deterministic":
                return select_deterministic(candidates, budget), budget
            case "sampled":
                return select_sampled(candidates, budget, rng), budget
            case "hybrid":
                return select_hybrid(candidates, budget, rng), budget


def _weights(layer: WeightLayer, value: AnyArray, shares: Floats32, asked: SparsifyOptions) -> LayerWeights:
    taps = math.prod(layer.ops[0].kernel)
    return LayerWeights(
        value.astype(np.float32).ravel(),
        shares.ravel(),
        layer.outputs.ravel(),
        layer.count,
        log_term(layer.positions, taps, asked.delta),
    )


def _times(value: AnyArray, factors: Floats) -> Floats:
    return np.where(factors == 0, 0.0, value.astype(np.float64) * factors)
