"""Local functions: a model that defines its own ops is analysed, and written, with their bodies in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, inliner

from onnxpfp.errors import ModelError, one_line
from onnxpfp.model.constants import all_graphs, subgraphs

__all__ = ["without_functions"]


def without_functions(model: ModelProto) -> ModelProto:
    """Put the bodies of local functions in the place of their calls; a model without any is returned as it is.

    As onnxruntime does, bodies are taken word for word, whatever opset they name.

    Args:
        model: The model; it is not changed.

    Raises:
        ModelError: A call does not fit its function.
    """
    if not model.functions:
        return model
    flat, weights = _without_weights(model)
    versions = {entry.domain: entry.version for entry in flat.opset_import}
    for function in flat.functions:
        for entry in function.opset_import:
            entry.version = versions.get(entry.domain, entry.version)
    while True:
        called = {key for function in flat.functions for key in _calls(function.node)}
        outermost = [f for f in flat.functions if (f.domain, f.name) not in called]
        if not outermost:
            break
        _give_defaults(flat)
        before = len(flat.functions)
        flat = _inlined(flat, [(f.domain, f.name) for f in outermost])
        if len(flat.functions) == before:
            # The inliner leaves what it does not understand, such as a function in a domain of the standard.
            break
    for tensor, weight in zip(flat.graph.initializer, weights, strict=True):
        tensor.CopyFrom(weight)
    _correct_imports(model, flat)
    return flat


def _inlined(model: ModelProto, functions: list[tuple[str, str]]) -> ModelProto:
    """Inline some functions.

    Raises:
        ModelError: A call does not fit its function.
    """
    try:
        return inliner.inline_selected_functions(model, functions)
    except (RuntimeError, ValueError, checker.ValidationError) as error:
        names = ", ".join(name for _, name in functions)
        raise ModelError(f"calls of the local functions {names} do not fit them: {one_line(error)}") from error


def _calls(nodes: Iterable[NodeProto]) -> Iterator[tuple[str, str]]:
    """Yield domain and op of all nodes, those of subgraphs included."""
    for node in nodes:
        yield node.domain, node.op_type
        for graph in subgraphs(node):
            yield from _calls(graph.node)


def _give_defaults(model: ModelProto) -> None:
    """Write the attributes that a call leaves out where the function has defaults: the inliner forgets those."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    for graph in all_graphs(model):
        for node in graph.node:
            function = functions.get((node.domain, node.op_type, node.overload))
            given = {attribute.name for attribute in node.attribute}
            if function is not None:
                node.attribute.extend(a for a in function.attribute_proto if a.name not in given)


def _without_weights(model: ModelProto) -> tuple[ModelProto, list[TensorProto]]:
    """Copy a model with empty initializers, and list the full ones: the inliner takes no 2 GB."""
    graph = GraphProto(**{f.name: value for f, value in model.graph.ListFields() if f.name != "initializer"})
    weights = list(model.graph.initializer)
    graph.initializer.extend(TensorProto(name=t.name, data_type=t.data_type, dims=t.dims) for t in weights)
    return ModelProto(**{f.name: value for f, value in model.ListFields() if f.name != "graph"}, graph=graph), weights


def _correct_imports(model: ModelProto, flat: ModelProto) -> None:
    """Import what the bodies import, and no longer what only the functions themselves stood for."""
    used = {node.domain for graph in all_graphs(flat) for node in graph.node}
    used |= {node.domain for function in flat.functions for node in function.node}
    domains = {function.domain for function in model.functions}
    kept = [o for o in flat.opset_import if o.domain not in domains or o.domain in used]
    known = {o.domain for o in kept}
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain in used - known:
                known.add(entry.domain)
                kept.append(entry)
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
