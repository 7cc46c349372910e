"""Whether a pruned file is what a plan says, as far as files can show it.

The plan is replayed on the original without compensation; that model is held against the masked original when it is
made. A file that was pruned by the same plan stores weights of the same names and shapes. Where they hold the same
numbers too, it must compute the same; where a refit, folded means or training changed them, nothing of the kind can be
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.model.constants import all_graphs, stored_tensors
from onnxpfp.runtime.external_data import numbers

__all__ = ["PlanFit", "WeightFit", "compare_weights"]


@dataclass(frozen=True, slots=True)
class WeightFit:
    """The stored tensors of two files, by name.

    Attributes:
        alike: Tensors of the same name, type and shape.
        changed: Those of them that hold other numbers.
        misfits: What is missing or has another type or shape, in sentences.
    """

    alike: int
    changed: int
    misfits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanFit:
    """What was found out about a file and a plan.

    Attributes:
        weights: The stored tensors of the file beside those of the replayed plan.
        equivalence: The file against the replayed plan, which is the masked original; None where numbers are changed or
            something does not fit.
        compared: What was compared, in a sentence.
    """

    weights: WeightFit
    equivalence: Equivalence | None
    compared: str


def compare_weights(replayed: ModelProto, pruned: ModelProto, planned: set[str]) -> WeightFit:
    """Hold the stored tensors of a file against those of a replayed plan, graph by graph.

    Args:
        replayed: The original, pruned by the plan.
        pruned: The file.
        planned: Names in the plan: these must be there. Others may have gone, for what is compensated can be stored
            otherwise.
    """
    alike = changed = 0
    misfits: list[str] = []
    for wanted, given in _tensors(replayed, pruned):
        for name, tensor in wanted.items():
            other = given.get(name)
            if other is None:
                misfits += [f"the weight '{name}' of the plan is missing"] if name in planned else []
            elif tuple(other.dims) != tuple(tensor.dims):
                misfits.append(f"the weight '{name}' has shape {list(other.dims)}, by the plan {list(tensor.dims)}")
            elif other.data_type != tensor.data_type:
                types = (TensorProto.DataType.Name(each.data_type).lower() for each in (other, tensor))
                misfits.append(f"the weight '{name}' is {' where the original has '.join(types)}")
            else:
                alike += 1
                changed += not _same(tensor, other)
    return WeightFit(alike, changed, tuple(misfits))


def _tensors(
    replayed: ModelProto, pruned: ModelProto
) -> Iterator[tuple[dict[str, TensorProto], dict[str, TensorProto]]]:
    """Yield what graphs store, side by side: of bodies too, if both models have as many."""
    graphs: Sequence[list[dict[str, TensorProto]]] = [
        [stored_tensors(graph) for graph in all_graphs(model)] for model in (replayed, pruned)
    ]
    count = len(graphs[0]) if len(graphs[0]) == len(graphs[1]) else 1
    return zip(graphs[0][:count], graphs[1][:count], strict=True)


def _same(one: TensorProto, two: TensorProto) -> bool:
    a, b = numbers(one), numbers(two)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
