"""Edits of weights that were found on an analysed model, made in the file that it was read from."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxpfp.arrays import AnyArray
from onnxpfp.model.constants import all_graphs, all_names, stored_tensors
from onnxpfp.model.edit import add_constants, drop_unread
from onnxpfp.model.names import free_name
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.stored_numbers import store_numbers

__all__ = ["with_edits"]


def with_edits(file: ModelProto, analyzed: ModelProto, edits: Edits) -> ModelProto:
    """Return a copy of a file with new weights; no channel goes, and whatever is not edited is as it was.

    Args:
        file: The file. Nodes that read edited tensors have the outputs that they have in the analysed model.
        analyzed: The model that the edits are of; where it stores what the file computes, that is stored.
        edits: The edits.
    """
    copy = ModelProto()
    copy.CopyFrom(file)
    graph, stored = copy.graph, stored_tensors(copy.graph)
    names = set[str]().union(*map(all_names, all_graphs(copy)))
    added: list[TensorProto] = []
    unread: list[str] = []

    def constant(array: AnyArray, stem: str) -> str:
        name = free_name(stem, names)
        added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    folded = stored_tensors(analyzed.graph).keys()
    for name, array in edits.tensors.items():
        # What is computed from it in the file, and stored in the analysed model, stays what it was.
        others = [node for node in graph.node if name in node.input and node.output[0] in folded]
        if name in stored and not others:
            store_numbers(stored[name], array)
            continue
        new = constant(array, f"{name}_stored")
        unread.append(name)
        for node in graph.node:
            if node not in others:
                node.input[:] = [new if each == name else each for each in node.input]
    nodes = {node.output[0]: node for node in graph.node if node.output}
    for (index, position), given in edits.inputs.items():
        node = nodes[analyzed.graph.node[index].output[0]]
        node.input.extend([""] * (position + 1 - len(node.input)))
        unread.append(node.input[position])
        node.input[position] = constant(given.array, given.name)
    drop_unread(graph, unread)
    add_constants(copy, added)
    return copy
