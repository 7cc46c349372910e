"""Local functions: a model that defines its own ops is analysed, and written, with their bodies in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import ModelProto, NodeProto, TensorProto, checker, inliner

from onnxpfp.errors import ModelError, one_line
from onnxpfp.model.constants import all_graphs, subgraphs
from onnxpfp.model.edit import copy_graph_without, copy_model_around

__all__ = ["calls_namesake", "with_named_overloads", "without_functions"]


def without_functions(model: ModelProto) -> ModelProto:
    """Put the bodies of local functions in the place of their calls; a model without any is returned as it is.

    As onnxruntime does, bodies are taken word for word, whatever opset they name.

    Args:
        model: The model; it is not changed.

    Raises:
        ModelError: A function calls itself, or a call does not fit its function.
    """
    if not model.functions:
        return model
    flat, weights = _without_weights(with_named_overloads(model))
    versions = {entry.domain: entry.version for entry in flat.opset_import}
    for function in flat.functions:
        for entry in function.opset_import:
            entry.version = versions.get(entry.domain, entry.version)
    while True:
        called = {key for function in flat.functions for key in _calls(function.node)}
        outermost = [f for f in flat.functions if (f.domain, f.name) not in called]
        if not outermost:
            if flat.functions:
                function = flat.functions[0]
                raise ModelError(
                    f"the local function '{function.domain}:{function.name}' calls itself",
                    hint="ONNX allows no recursion: export the model again",
                )
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


def with_named_overloads(model: ModelProto) -> ModelProto:
    """Give the overloads of a function (IR 10) names of their own; a model without any is returned as it is.

    onnxruntime loads no overloads, and `onnx.inliner` tells functions by domain and name.

    Args:
        model: The model; it is not changed.
    """
    if not any(function.overload for function in model.functions):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    taken = {(function.domain, function.name) for function in copy.functions}
    names: dict[tuple[str, str, str], str] = {}
    for function in copy.functions:
        if function.overload:
            name = f"{function.name}__{function.overload}"
            while (function.domain, name) in taken:
                name += "_"
            taken.add((function.domain, name))
            names[function.domain, function.name, function.overload] = name
    for node in _nodes(copy.graph.node, *(function.node for function in copy.functions)):
        node.op_type = names.get((node.domain, node.op_type, node.overload), node.op_type)
        node.overload = ""
    for function in copy.functions:
        function.name = names.get((function.domain, function.name, function.overload), function.name)
        function.overload = ""
    return copy


def calls_namesake(model: ModelProto) -> bool:
    """Tell whether a function comes to call one of its own name, which can only be an overload of it."""
    calls: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for function in model.functions:
        calls.setdefault((function.domain, function.name), set()).update(_calls(function.node))
    for key in calls:
        reached, ahead = set[tuple[str, str]](), [key]
        while ahead:
            new = calls.get(ahead.pop(), set()) - reached
            reached |= new
            ahead += new
        if key in reached:
            return True
    return False


def _nodes(*bodies: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield all nodes, those of subgraphs included."""
    for nodes in bodies:
        for node in nodes:
            yield node
            yield from _nodes(*(graph.node for graph in subgraphs(node)))


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
    for node in _nodes(nodes):
        yield node.domain, node.op_type


def _give_defaults(model: ModelProto) -> None:
    """Write the attributes that a call leaves out where the function has defaults: the inliner forgets those."""
    functions = {(f.domain, f.name): f for f in model.functions}
    for graph in all_graphs(model):
        for node in graph.node:
            function = functions.get((node.domain, node.op_type))
            given = {attribute.name for attribute in node.attribute}
            if function is not None:
                node.attribute.extend(a for a in function.attribute_proto if a.name not in given)


def _without_weights(model: ModelProto) -> tuple[ModelProto, list[TensorProto]]:
    """Copy a model with empty initializers, and list the full ones: the inliner takes no 2 GB."""
    graph = copy_graph_without(model.graph, {"initializer"})
    weights = list(model.graph.initializer)
    graph.initializer.extend(TensorProto(name=t.name, data_type=t.data_type, dims=t.dims) for t in weights)
    return copy_model_around(model, graph), weights


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
