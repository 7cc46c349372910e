"""Ops that draw random numbers: every number is drawn by itself, so what is left of a draw is what the op promises.

The other channels keep their draws only in the networks that are measured (`onnxpfp.model.draws`): a generator gives
other numbers for another shape. So a draw whose seed the file fixes stays, for its numbers may be meant.
"""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


def _stays(n: NodeContext) -> bool:
    """Keep everything where the file fixes the seed."""
    seeded = "seed" in n.attributes
    if seeded:
        n.keep_all("draws from a seed, other numbers for another shape")
    return seeded


@RULES.add("Bernoulli", "RandomNormalLike", "RandomUniformLike")
def like_another(n: NodeContext) -> None:
    """All axes pass, for each number is drawn by itself; with a seed they stay."""
    if not _stays(n):
        n.set(n.axes(0))


@RULES.add("RandomNormal", "RandomUniform")
def of_a_shape(n: NodeContext) -> None:
    """All axes pass, and the shape in the file counts what is left; with a seed they stay."""
    if _stays(n):
        return
    axes = [n.open_axis("shape", axis, size) for axis, size in enumerate(n.out_shape())]
    for axis, labels in enumerate(axes):
        n.size_ref("shape", axis, labels)
    n.set(axes)


@RULES.add("Dropout")
def dropout(n: NodeContext) -> None:
    """Dropout: all axes pass, the mask's too; in training mode they stay with a seed."""
    training = n.array(2)
    if n.has(2) and (training is None or training.any()) and _stays(n):
        return
    n.set(n.axes(0))
    if len(n.outputs) > 1 and n.out_shapes[1] is not None:
        n.set(n.axes(0), 1)


RULES.stay("draws indices of it", "Multinomial")
RULES.declare("Dropout", sign="of the first input", magnitude="of the first input")
