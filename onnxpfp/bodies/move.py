"""Weights that one body alone reads: they move into it, where they can be cut, and back to where the file has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from onnx import GraphProto, ModelProto

from onnxpfp.bodies.graphs import Body, bodies_of, captured_names
from onnxpfp.model.constants import stored_tensors, subgraphs
from onnxpfp.model.edit import drop_nodes, forget_shapes
from onnxpfp.runtime.external_data import is_reference

__all__ = ["with_weights_in_bodies", "with_weights_outside"]


def with_weights_in_bodies(model: ModelProto) -> ModelProto | None:
    """Move every stored tensor that one body alone reads into that body.

    Tensors that a user may feed, and those that stay in files, stay.

    Args:
        model: The model; it is not changed.

    Returns:
        A model that computes the same; None where there is no such tensor.
    """
    if not _moves(model):
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    moved: set[str] = set()
    for body, names in _moves(copy):
        stored = stored_tensors(copy.graph)
        for name in names:
            tensor = body.graph.initializer.add()
            tensor.CopyFrom(stored[name])
            tensor.name = name
        moved.update(names)
    _drop_stored(copy.graph, moved)
    forget_shapes(copy.graph, moved)
    return copy


def _moves(model: ModelProto) -> list[tuple[Body, list[str]]]:
    """List the bodies that alone read stored tensors, with those."""
    bodies = bodies_of(model)
    if not bodies:
        return []
    graph = model.graph
    held = {info.name for info in (*graph.input, *graph.output)}
    held.update(name for node in graph.node for name in node.input)
    readers = Counter(name for node in graph.node for inner in subgraphs(node) for name in captured_names(inner))
    alone = [
        name
        for name, tensor in stored_tensors(graph).items()
        if readers[name] == 1 and name not in held and not is_reference(tensor)
    ]
    reads = [(body, set(captured_names(body.graph))) for body in bodies]
    moves = [(body, [name for name in alone if name in read]) for body, read in reads]
    return [(body, names) for body, names in moves if names]


def _drop_stored(graph: GraphProto, names: Collection[str]) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    constants = [i for i, node in enumerate(graph.node) if node.op_type == "Constant" and node.output[0] in names]
    drop_nodes(graph, constants)


def with_weights_outside(model: ModelProto, given: ModelProto) -> None:
    """Move initializers of bodies back to the main graph, in place, where the given file has them there.

    Args:
        model: The model that is to be written.
        given: The model as it was given.
    """
    names = [tensor.name for tensor in given.graph.initializer]
    missing = set(names) - {tensor.name for tensor in model.graph.initializer}
    if missing:
        _take_out(model.graph, model.graph, missing)
        place = {name: position for position, name in enumerate(names)}
        ordered = sorted(model.graph.initializer, key=lambda tensor: place.get(tensor.name, len(names)))
        del model.graph.initializer[:]
        model.graph.initializer.extend(ordered)


def _take_out(main: GraphProto, graph: GraphProto, names: set[str]) -> None:
    for node in graph.node:
        for inner in subgraphs(node):
            for position in reversed(range(len(inner.initializer))):
                if inner.initializer[position].name in names:
                    main.initializer.add().CopyFrom(inner.initializer[position])
                    names.discard(inner.initializer[position].name)
                    del inner.initializer[position]
            _take_out(main, inner, names)
