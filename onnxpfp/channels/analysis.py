"""Channel analysis: walk over the model, fix the labels whose counts cannot be rewritten, and walk again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxpfp.channels.attention_axes import Unit, head_axes
from onnxpfp.channels.context import Carrier, CarrierChoice
from onnxpfp.channels.graph import ChannelGraph, Free, finish, free_components
from onnxpfp.channels.labels import Components
from onnxpfp.channels.name_patterns import Patterns, apply_patterns
from onnxpfp.channels.size_edits import SizeEdits
from onnxpfp.channels.symbolic import Dim, leaves
from onnxpfp.channels.types import IndexRef, SizeRef
from onnxpfp.channels.walk import OVERRIDES_SINCE, Walk, walk
from onnxpfp.channels.walk_input import WalkInput
from onnxpfp.model.constants import Constants, read_elsewhere, reader_counts, stored_tensors
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.opset import standard_opset
from onnxpfp.model.shapes import Shapes

__all__ = ["Analysis", "best_walk", "build_channel_graph", "settled_graph", "size_edits_of"]

ROUNDS = 4
"""Most times that a Reshape whose labels all stay may try another axis."""
TRIALS = 3
"""Number of random choices of channels on which the rewritten numbers are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A model with everything that is known about it before the first decision.

    Attributes:
        source: The model as it was given.
        shapes: Shapes of its tensors for one sample.
        constants: Its constants.
        graph: Its channels.
        index: Who makes and who reads its tensors.
    """

    source: LoadedModel
    shapes: Shapes
    constants: Constants
    graph: ChannelGraph
    index: ModelIndex

    @property
    def model(self) -> ModelProto:
        """The model itself."""
        return self.source.model


def build_channel_graph(
    model: ModelProto,
    shapes: Shapes,
    constants: Constants,
    patterns: Patterns,
    unit: Unit = "heads",
    ends: Mapping[str, str] | None = None,
) -> ChannelGraph:
    """Find the channels, groups and consumers of a model.

    Args:
        model: The model.
        shapes: Concrete shapes of all its tensors.
        constants: Its constants.
        patterns: Which nodes and initializers may be pruned.
        unit: What goes from an attention: whole heads, or the same part of every head.
        ends: Why outputs stay that are none of the file's, by name.

    Raises:
        OptionError: A pattern matches nothing.
    """
    labelled = best_walk(WalkInput.of(model, shapes, constants, ends or {}), unit)
    apply_patterns(model, labelled, patterns)
    return settled_graph(model, labelled, constants.weights)


def settled_graph(
    model: ModelProto, labelled: Walk, weights: tuple[str, ...], free: Free = free_components
) -> ChannelGraph:
    """Turn labels into channels whose counts can all be rewritten; what cannot be is fixed.

    Args:
        model: The model.
        labelled: The walk over it.
        weights: Names of stored tensors that are weights.
        free: Tells which components are channels, (components,).
    """
    while True:
        graph = finish(labelled, weights, free)
        size_edits = size_edits_of(model, graph)
        unmet = _try_numbers(size_edits, graph)
        if not unmet:
            return graph
        for size_ref, why in unmet:
            labelled.labels.fix(size_ref.ids, why)
        for leaf, why in _moving_leaves(model, graph, unmet):
            labelled.labels.fix(labelled.axes[leaf.tensor][leaf.axis], why)


def _moving_leaves(
    model: ModelProto, graph: ChannelGraph, unmet: list[tuple[SizeRef, str]]
) -> Iterator[tuple[Dim, str]]:
    """Yield the lengths behind a number that comes out wrong although all it counts stays already."""
    fixed = {id(old) for new, old in zip(graph.size_refs, graph.sources, strict=True) if not _moves(new)}
    for size_ref, why in unmet:
        if id(size_ref) in fixed and isinstance(size_ref.where, int):
            value = graph.values.get(model.graph.node[size_ref.node].input[size_ref.where])
            for leaf in leaves(value.ravel()[size_ref.place or 0]) if value is not None else ():
                if isinstance(leaf, Dim):
                    yield leaf, why


def _moves(size_ref: SizeRef | IndexRef) -> bool:
    return isinstance(size_ref, SizeRef) and bool((size_ref.ids != 0).any())


def size_edits_of(model: ModelProto, graph: ChannelGraph) -> SizeEdits:
    """Prepare the edits of the numbers that count channels."""
    readers = reader_counts(model.graph) + Counter(output.name for output in model.graph.output)
    stored = stored_tensors(model.graph)
    shown = any(name in graph.values and name not in stored for name in read_elsewhere(model.graph))
    return SizeEdits(
        model,
        graph.size_refs,
        graph.frozen,
        graph.values,
        graph.axes,
        readers,
        can_override=standard_opset(model) >= OVERRIDES_SINCE,
        shown=shown,
    )


def _try_numbers(size_edits: SizeEdits, graph: ChannelGraph) -> list[tuple[SizeRef, str]]:
    """Try random choices of channels; return the size references that came out wrong, in labels."""
    rng = np.random.default_rng(0)
    wrong: dict[int, tuple[SizeRef, str]] = {}
    for _ in range(TRIALS):
        keep = rng.random(graph.count + 1) < 0.6
        keep[0] = True
        _, unmet = size_edits.size_values(keep)
        for size in unmet:
            node = size_edits.model.graph.node[size.size_ref.node]
            name = node.name or node.output[0]
            reason = f"{node.op_type} '{name}' spells its length, and {size.why}"
            wrong.setdefault(id(size.size_ref), (size.size_ref, reason))
    pairs = zip(graph.size_refs, graph.sources, strict=True)
    labelled = {id(new): old for new, old in pairs if isinstance(old, SizeRef)}
    return [(labelled[key], why) for key, (_, why) in wrong.items()]


def best_walk(walk_input: WalkInput, unit: Unit, free: Free = free_components) -> Walk:
    """Walk, and let a Reshape that leaves no choice try the other axes of what it splits or merges.

    Args:
        walk_input: The model.
        unit: What goes from an attention.
        free: Tells which components may go, (components,): the walk with most of them is taken.
    """
    heads = head_axes(walk_input.proto, walk_input.shapes, walk_input.constants, unit)
    carriers: dict[int, frozenset[Carrier]] = dict(heads)
    tried: dict[tuple[int, tuple[Carrier, ...]], set[Carrier]] = {}
    best = labelled = walk(walk_input, carriers)
    parts = labelled.labels.components()
    most = free(labelled, parts).sum()
    for _ in range(ROUNDS):
        changed = False
        for choice in _stuck(labelled, parts, heads):
            past = tried.setdefault((choice.node, choice.candidates), set())
            past.add(choice.carrier)
            rest = [axis for axis in choice.candidates if axis not in past]
            if rest:
                others = carriers.get(choice.node, frozenset()) - set(choice.candidates)
                carriers[choice.node] = others | {rest[0]}
                changed = True
        if not changed:
            break
        labelled = walk(walk_input, carriers)
        parts = labelled.labels.components()
        count = free(labelled, parts).sum()
        if count > most:
            best, most = labelled, count
    return best


def _stuck(labelled: Walk, parts: Components, heads: Mapping[int, frozenset[Carrier]]) -> Iterator[CarrierChoice]:
    """Yield the choices whose labels all stay, or can only go together although they are no heads."""
    for choice in labelled.choices:
        components = parts.of_label[choice.labels]
        together = (components[0] == components).all() and choice.carrier not in heads.get(choice.node, ())
        if together or parts.fixed[components].all():
            yield choice
