"""Parameters and MACs of a file as it is.

One fused multiply-add of an op that declares its MAC terms (`channels.facts`) is one MAC; everything else is none. MACs
are counted in the main graph: a body of If, Loop or Scan is a model of its own (`onnxpfp.bodies`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto

from onnxpfp.channels.facts import MacTerm
from onnxpfp.channels.ops import facts_of
from onnxpfp.model.constants import all_graphs, stored_tensors, subgraphs, weight_names
from onnxpfp.model.shapes import Shapes

__all__ = ["count_macs", "count_params", "count_stored", "mac_nodes", "mac_terms", "multiplies"]


def count_params(model: ModelProto) -> int:
    """Count the stored numbers of all weights (shape arithmetic is none)."""
    stored = stored_tensors(model.graph)
    return sum(math.prod(stored[name].dims) for name in weight_names(model.graph))


def count_stored(model: ModelProto) -> int:
    """Count the stored numbers of all weights, those in bodies of If, Loop and Scan included."""
    return sum(
        math.prod(stored_tensors(graph)[name].dims) for graph in all_graphs(model) for name in weight_names(graph)
    )


def multiplies(node: NodeProto) -> bool:
    """Tell whether a node has multiply-adds, in itself or in its subgraphs."""
    inner = (each for graph in subgraphs(node) for each in graph.node)
    return facts_of(node).mac_terms is not None or any(map(multiplies, inner))


def mac_nodes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[NodeProto, MacTerm]]:
    """Yield every MAC term with its node; a node can have several."""
    rank = {name: len(shape) for name, shape in shapes.items()}
    for node in model.graph.node:
        terms = facts_of(node).mac_terms
        for term in terms(node, rank) if terms is not None else ():
            yield node, term


def mac_terms(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[MacTerm]:
    """Yield all MAC terms of a model."""
    return (term for _, term in mac_nodes(model, shapes))


def count_macs(model: ModelProto, shapes: Shapes, samples: int = 1) -> int:
    """Count the multiply-adds for one sample.

    Args:
        model: The model.
        shapes: Shapes of its tensors at one run.
        samples: How many samples a run takes: 1, but for a model with a fixed batch.
    """
    terms = (math.prod(shapes.shape[name][axis] for name, axis in term) for term in mac_terms(model, shapes.shape))
    return sum(terms) // samples
