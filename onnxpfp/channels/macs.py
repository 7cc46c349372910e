"""Parameters and MACs of a file as it is.

One fused multiply-add of an op that declares its MAC terms (`channels.facts`) is one MAC; everything else is none. How
often the subgraphs of If, Loop and Scan run is not known, so nothing in them is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto

from onnxpfp.channels.facts import MacTerm
from onnxpfp.channels.ops import facts_of
from onnxpfp.model.constants import stored_tensors, weight_names
from onnxpfp.model.shapes import Shapes

__all__ = ["count_macs", "count_params", "mac_nodes", "mac_terms"]


def count_params(model: ModelProto) -> int:
    """Count the stored numbers of all weights (shape arithmetic is none)."""
    stored = stored_tensors(model.graph)
    return sum(math.prod(stored[name].dims) for name in weight_names(model.graph))


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
