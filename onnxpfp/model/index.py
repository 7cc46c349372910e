"""Index of the producers and readers of every tensor of a model's main graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from onnxpfp.model.constants import read_elsewhere

__all__ = ["ModelIndex", "Use"]

Use = tuple[int, int]
"""Position of a node in `graph.node`, and position of one of its inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelIndex:
    """Producers and readers of the tensors of the main graph.

    Attributes:
        model: The model.
        producers: Position of the node that makes each tensor.
        uses: Where nodes read each tensor.
        read_elsewhere: Tensors that also something else reads: graph outputs, and what subgraphs capture.
    """

    model: ModelProto
    producers: Mapping[str, int]
    uses: Mapping[str, tuple[Use, ...]]
    read_elsewhere: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> ModelIndex:
        """Index a model."""
        producers: dict[str, int] = {}
        uses: dict[str, list[Use]] = {}
        for index, node in enumerate(model.graph.node):
            producers.update(dict.fromkeys((name for name in node.output if name), index))
            for position, name in enumerate(node.input):
                if name:
                    uses.setdefault(name, []).append((index, position))
        return cls(
            model, producers, {name: tuple(positions) for name, positions in uses.items()}, read_elsewhere(model.graph)
        )

    def producer(self, tensor: str) -> NodeProto | None:
        """Return the node that makes a tensor; None for inputs and initializers."""
        index = self.producers.get(tensor)
        return None if index is None else self.model.graph.node[index]

    def only_use(self, tensor: str) -> Use | None:
        """Return where a tensor is read, if that is one input of one node and nothing else reads it; else None."""
        uses = self.uses.get(tensor, ())
        return uses[0] if len(uses) == 1 and tensor not in self.read_elsewhere else None

    def only_reader(self, tensor: str) -> NodeProto | None:
        """Return the node that alone reads a tensor, once; None where there is another reader, or none."""
        use = self.only_use(tensor)
        return None if use is None else self.model.graph.node[use[0]]
