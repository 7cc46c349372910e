"""Random draws that the samples decide, so that networks can be compared: what runs in the place of one that draws.

onnxruntime gives every random node a generator that goes on from run to run. Two networks would draw the same only if
they ran on the same inputs from their first run on, in tensors of the same shapes, and whole. So a network is measured
with other nodes in the place of those that draw (`onnxpfp.model.draw_nodes`); what is written keeps its own.

Where channels of a draw go, the others shall stay what they were in the whole network. So the indices that are left are
recorded in the pruned model while it is measured, and the whole draw is made and cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import Ids, Keep
from onnxpfp.model.constants import graphs_in, named_subgraphs, stored_tensors
from onnxpfp.model.draw_nodes import DRAW_PREFIX, DrawWriter, KeptAxes, KeptAxis, body_place
from onnxpfp.model.functions import without_functions
from onnxpfp.model.random_ops import TRAINING_INPUT, may_draw
from onnxpfp.runtime.draw_keys import OWN
from onnxpfp.runtime.external_data import numbers

__all__ = ["drawing_ops", "drawn_output", "record_kept_draws", "record_of_body", "with_fixed_draws", "without_record"]

RECORD = f"onnxpfp.kept_draws.{OWN}"
"""Key of the model's metadata under which kept indices are recorded."""


def with_fixed_draws(model: ModelProto) -> ModelProto:
    """Return a model whose draws the keys of the samples decide; the same one where nothing draws.

    Args:
        model: The model; it is not changed.
    """
    if any(may_draw(node) for function in model.functions for node in function.node):
        model = without_functions(model)
    drawing = {place for place, _ in _drawing_nodes(model.graph)}
    if not drawing:
        return model
    fixed = ModelProto()
    fixed.CopyFrom(model)
    DrawWriter(fixed, drawing, _record_of(model)).write()
    return fixed


def drawing_ops(model: ModelProto) -> tuple[str, ...]:
    """Return which ops of a model without local functions draw random numbers, in alphabetical order."""
    return tuple(sorted({node.op_type for _, node in _drawing_nodes(model.graph)}))


def drawn_output(name: str) -> str:
    """Return the output of the node that draws in whose place a tensor is computed; any other tensor's own name."""
    inner = name.removeprefix(f"{DRAW_PREFIX}_")
    return name if inner == name else inner.rpartition("_")[0]


def _drawing_nodes(
    graph: GraphProto, outer: Mapping[str, TensorProto] | None = None, within: str = ""
) -> Iterator[tuple[str, NodeProto]]:
    """Yield the places and nodes of what draws, those of subgraphs too, but no Dropout that is known to be off."""
    if not any(may_draw(node) for each in graphs_in(graph) for node in each.node):
        return
    stored = {**(outer or {}), **stored_tensors(graph)}
    for node in graph.node:
        if may_draw(node):
            switch = stored.get(node.input[TRAINING_INPUT]) if node.op_type == "Dropout" else None
            if switch is None or numbers(switch).any():
                yield within + node.output[0], node
        for attribute, inner in named_subgraphs(node):
            yield from _drawing_nodes(inner, stored, within + body_place(node, attribute))


def record_kept_draws(model: ModelProto, axes: Mapping[str, Sequence[Ids]], keep: Keep) -> None:
    """Record which indices of its draws a model still has, in terms of the network that it was made from first.

    Args:
        model: The pruned model, which is changed.
        axes: Labels of the tensors of the model that it was made from.
        keep: Whether each label stays.
    """
    record = _record_of(model)
    for node in filter(may_draw, model.graph.node):
        output = node.output[0]
        stays = [keep[ids] for ids in axes.get(output, ())]
        if not all(map(np.all, stays)):
            before = record.get(output, (None,) * len(stays))
            record[output] = tuple(map(_cut, before, stays))
    _write(model, record)


def record_of_body(outer: ModelProto, body: ModelProto, node: NodeProto, attribute: str) -> None:
    """Take over what is recorded of a body, in place.

    Args:
        outer: The model that the body is put into.
        body: What became of the body.
        node: The node that carries it.
        attribute: The attribute that it is.
    """
    place = body_place(node, attribute)
    _write(outer, _record_of(outer) | {place + output: kept for output, kept in _record_of(body).items()})


def _write(model: ModelProto, record: Mapping[str, KeptAxes]) -> None:
    if record:
        _forget(model)
        rows = {output: [part and astuple(part) for part in kept] for output, kept in record.items()}
        model.metadata_props.add(key=RECORD, value=json.dumps(rows))


def _cut(before: KeptAxis | None, stays: Keep) -> KeptAxis | None:
    """Return what is left of an axis where some of its indices stay."""
    if stays.all():
        return before
    whole = before or KeptAxis(stays.size, tuple(range(stays.size)))
    return KeptAxis(whole.length, tuple(np.array(whole.indices)[stays].tolist()))


def without_record(model: ModelProto) -> ModelProto:
    """Return a model as it is to be written; the same one where nothing was recorded."""
    if all(entry.key != RECORD for entry in model.metadata_props):
        return model
    plain = ModelProto()
    plain.CopyFrom(model)
    _forget(plain)
    return plain


def _record_of(model: ModelProto) -> dict[str, KeptAxes]:
    """Return the kept axes of draws, by place."""
    texts = [entry.value for entry in model.metadata_props if entry.key == RECORD]
    rows: dict[str, list[tuple[int, list[int]] | None]] = json.loads(texts[0]) if texts else {}
    return {output: tuple(part and KeptAxis(part[0], tuple(part[1])) for part in kept) for output, kept in rows.items()}


def _forget(model: ModelProto) -> None:
    for position, entry in enumerate(model.metadata_props):
        if entry.key == RECORD:
            del model.metadata_props[position]
            return
