"""What the label analysis hands on: channels, groups, consumers and the reasons of what stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Consumer", "Fixed", "Group", "Ids", "IndexSpell", "Spell"]

Ids = NDArray[np.int64]
"""Channel ids of every index of one axis: 0 never goes, equal ids go together."""


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """A linear op that contracts an axis whose indices are channels.

    Removing a channel equals setting its weights to zero here, which is what makes pruning exact.

    Attributes:
        node: Position of the node in `graph.node`.
        name: The node's name, or its first output where it has none.
        output: Its first output.
        op: Op type: Conv, ConvTranspose, Gemm, MatMul.
        data: Tensor that is read (the operand that depends on the model's inputs).
        data_input: Its position among the node's inputs.
        data_axis: The contracted axis of `data`, counted from the front.
        channels: Ids of the contracted axis of `data`, (C,).
        weight: The other operand.
        weight_input: Its position among the node's inputs.
        weight_axis: The contracted axis of `weight`, counted from the front.
        constant: Whether `weight` depends on constants only.
    """

    node: int
    name: str
    output: str
    op: str
    data: str
    data_input: int
    data_axis: int
    channels: Ids
    weight: str
    weight_input: int
    weight_axis: int
    constant: bool


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that occur on exactly the same axes: they compete with each other.

    Attributes:
        name: The initializer (or tensor) that brings the channels forth, for people to read.
        channels: Channel ids in ascending order, (n,).
        consumers: Positions in `ChannelGraph.consumers` of all that read them.
    """

    name: str
    channels: Ids
    consumers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Indices that never go, and why.

    Attributes:
        tensor: Initializer whose axis stays.
        axis: The axis.
        count: How many indices of it stay.
        reason: One sentence with the node's name.
    """

    tensor: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Spell:
    """A number in the file that counts indices, and so changes when some of them go.

    Attributes:
        node: Position of the node in `graph.node`.
        where: Name of an attribute or position of an input.
        place: Index in a list or tensor; None for a single number.
        ids: The indices that it counts, as channel ids.
        sign: -1 where the number counts from the end.
    """

    node: int
    where: str | int
    place: int | None
    ids: Ids
    sign: int


@dataclass(frozen=True, slots=True, eq=False)
class IndexSpell:
    """An input that holds indices into an axis; they move up when others before them go.

    Attributes:
        node: Position of the node in `graph.node`.
        where: Position of the input.
        axis: Channel ids of the axis that is indexed.
        own: Channel ids of the axis of the indices themselves; empty for a single index.
    """

    node: int
    where: int
    axis: Ids
    own: Ids
