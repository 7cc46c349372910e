"""What a target can count: MACs, parameters, size and latency, as functions of how many channels each group keeps.

MACs and parameters are exact, and so is the size of weights; a file has more (`onnxpfp.pipeline.size_target`). The
latency is that of a fit to what was measured (`onnxpfp.pipeline.latency.op_latencies`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.arrays import Ids, Ints
from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.channels.macs import count_params, mac_nodes
from onnxpfp.model.index import Use
from onnxpfp.pipeline.latency.op_latencies import OpLatencies
from onnxpfp.pipeline.products import Product, assemble
from onnxpfp.rewrite.edits import NewInput
from onnxpfp.rewrite.stored_numbers import entry_bits

__all__ = ["QUANTITIES", "Biases", "Quantity", "full_widths", "mac_model", "param_model"]

Biases = Mapping[Use, NewInput]
"""Weights that pruning adds."""


def mac_model(analysis: Analysis, branches: Branches = NO_BRANCHES) -> CostModel:
    """MACs of one run as a function of the channels kept per group; what goes with a branch costs nothing then."""
    axes = analysis.graph.axes
    products = (
        Product([axes[name][axis] for name, axis in term], leaders=branches.leaders_of(node.output[0]))
        for node, term in mac_nodes(analysis.model, analysis.shapes.shape)
    )
    return assemble(analysis.graph, products)


def param_model(
    graph: ChannelGraph, added: Iterable[tuple[Ids, ...]] = (), branches: Branches = NO_BRANCHES
) -> CostModel:
    """Stored numbers as a function of the channels kept per group; `added` weights come on top."""
    stored = [Product(axes, leaders=branches.leaders_of(name)) for name, axes in graph.stored_axes()]
    return assemble(graph, [*stored, *map(Product, added)])


def _size_model(analysis: Analysis, biases: Biases, branches: Branches = NO_BRANCHES) -> CostModel:
    """Bits of the weights as a function of the channels kept per group, in the types in which they are stored."""
    stored = analysis.constants.stored
    own = [
        Product(axes, entry_bits(stored[name]), leaders=branches.leaders_of(name))
        for name, axes in analysis.graph.stored_axes()
    ]
    added = [Product(new.axes, 8 * new.array.itemsize) for new in biases.values()]
    return assemble(analysis.graph, [*own, *added])


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a target counts.

    Attributes:
        title: What the report calls it.
        whole: Counts it in a model as it is; asks for the latencies of its ops, where these count.
        model: Makes it a function of the channels kept; asks for the biases that are added, too, and for what goes with
            groups that keep nothing.
        per_run: Whether a body of If, Loop or Scan costs it every time that it runs.
        of_model: What the model counts, where that is something else.
    """

    title: str
    whole: Callable[[Analysis, OpLatencies], int]
    model: Callable[[Analysis, OpLatencies, Callable[[], Biases], Branches], CostModel]
    per_run: bool = False
    of_model: str = ""

    @property
    def counts(self) -> str:
        """What the model counts, as messages call it."""
        return self.of_model or self.title


def _unrun(analysis: Analysis) -> Iterator[tuple[Ids, ...]]:
    """Yield the axes of the weights behind ops that onnxruntime lacks: all of them stay."""
    tail = analysis.source.tail
    for shape in tail.weights.values() if tail else ():
        yield tuple(np.zeros(size, np.int64) for size in shape)


def full_widths(analysis: Analysis) -> Ints:
    """Return the channels of every group, (groups,)."""
    return np.array([group.channels.size for group in analysis.graph.groups], np.int64)


QUANTITIES: Mapping[str, Quantity] = {
    "macs": Quantity(
        "MACs",
        lambda analysis, _: mac_model(analysis).total(full_widths(analysis)),
        lambda analysis, _, __, branches: mac_model(analysis, branches),
        per_run=True,
    ),
    "params": Quantity(
        "parameters",
        lambda analysis, _: count_params(analysis.source.whole),
        lambda analysis, _, biases, branches: param_model(
            analysis.graph, (*(new.axes for new in biases().values()), *_unrun(analysis)), branches
        ),
    ),
    "size": Quantity(
        "size of the file",
        lambda analysis, _: _size_model(analysis, {}).total(full_widths(analysis)),
        lambda analysis, _, biases, branches: _size_model(analysis, biases(), branches),
        of_model="bits of the weights",
    ),
    "latency": Quantity(
        "latency",
        lambda analysis, latencies: latencies.cost(analysis).total(full_widths(analysis)),
        lambda analysis, latencies, _, branches: latencies.cost(analysis, branches),
        per_run=True,
        of_model="fitted latency",
    ),
}
"""By the X of the option keep_X."""
