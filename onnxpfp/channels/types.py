"""Types of the channel graph: channels, groups, consumers, masks, size references, and the reasons of what stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxpfp.arrays import Ids

__all__ = ["Consumer", "Fixed", "Form", "Group", "IndexRef", "Mask", "PinnedSize", "SizeRef"]


Form = Literal["conv", "conv_transpose", "matrix", "packed", "product", "einsum"]
"""How a consumer multiplies.

conv, conv_transpose: as the ONNX ops, channels on axis 1 of the data.
matrix: a constant weight; every index of the contracted axis has its own row, whatever the weight's other axes.
packed: a constant matrix that only the op itself can unpack (blocks of a few bits).
product: as MatMul, of two activations or with a stack of matrices.
einsum: as the equation says.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """A linear op that contracts an axis whose indices are channels.

    Removing a channel equals setting its weights to zero here, which is what makes pruning exact.

    Attributes:
        node: Position of the node in `graph.node`.
        name: The node's name, or its first output where it has none.
        output: Its first output.
        op: Op type: Conv, ConvTranspose, Gemm, MatMul, LSTM, ...
        data: Tensor that is read (the operand that depends on the model's inputs; of a recurrence over its
            own states, these).
        data_input: Its position among the node's inputs.
        data_axis: The contracted axis of `data`, counted from the front.
        channels: Ids of the contracted axis of `data`, (C,).
        weight: The other operand.
        weight_axis: The contracted axis of `weight`, counted from the front.
        constant: Whether `weight` depends on constants only.
        form: How it multiplies.
        equation: Of the form einsum: the data's term first, the weight's second.
        zeros: Tensors that hold the zero points of data and weight; empty where there is none.
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
    weight_axis: int
    constant: bool
    form: Form
    equation: str = ""
    zeros: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """An input at which setting the channels that go to zero equals removing them: the oracle's place.

    Attributes:
        output: The node's first output (it finds the node again after an edit).
        tensor: The tensor that is read there.
        where: Its position among the node's inputs.
        axis: The axis of the channels, counted from the front.
        channels: Their ids, (C,).
        zero: Tensor with the number that stands for zero in an integer tensor; empty where that is 0.
    """

    output: str
    tensor: str
    where: int
    axis: int
    channels: Ids
    zero: str


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
class SizeRef:
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


@dataclass(frozen=True, slots=True)
class PinnedSize:
    """A number that is computed from lengths and must stay what it is, whatever becomes of those.

    Attributes:
        node: Position of the node in `graph.node` that reads it.
        where: Position of the input.
        place: Index in the flattened input.
    """

    node: int
    where: int
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class IndexRef:
    """An input that holds indices into an axis, or choices for its own: they go where their own axes go.

    Indices move up when others before them go.

    Attributes:
        node: Position of the node in `graph.node`.
        where: Position of the input.
        axis: Channel ids of the axis that is indexed; empty for numbers that are no indices.
        own: Channel ids of the first axes of the input itself; none where its numbers all stay.
        truth: Whether the numbers are truth values.
    """

    node: int
    where: int
    axis: Ids
    own: tuple[Ids, ...]
    truth: bool = False
