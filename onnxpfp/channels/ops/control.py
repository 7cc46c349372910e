"""Control flow, sequences and optionals: what goes through them keeps its size.

What a subgraph captures from outside stays too (`channels/walk.py`); tensors that it does not read are free. What lies
inside of If, Loop and Scan is a model of its own (`onnxpfp.bodies`).
"""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

RULES.stay("runs a subgraph on it", "If", "Loop", "Scan", "SequenceMap")
RULES.stay(
    "keeps tensors of any shape in a sequence",
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
    *("ConcatFromSequence", "SplitToSequence"),
)
RULES.stay("wraps a tensor that may be missing", "Optional", "OptionalGetElement", "OptionalHasElement")


@RULES.add("Shape", "Size")
def length(n: NodeContext) -> None:
    """Shape, Size: their numbers are lengths that follow the axes by themselves, wherever they are read."""
    n.keep_all("counts what is no dense tensor")


@RULES.add("Constant")
def constant(n: NodeContext) -> None:
    """Constant: numbers are a weight, as an initializer is; text stays."""
    n.keep_all("stores text")
