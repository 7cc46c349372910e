"""One linear read of a tensor: what the probe measures, described without onnx.

A linear op contracts one axis of its data: a convolution its channels, a matrix product its columns. All kinds with a
constant weight are brought to one canonical form, `taps` V (C, O/g, *kernel): the weights from index c of the
contracted axis to the outputs of its convolution group. A matrix product (C, O) is a convolution with one tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.linear.layout import L, canonical

__all__ = ["Block", "BlockTable", "FileWeight", "HeldWeight", "Kind", "LinearOp", "Window", "output_counts"]

Kind = Literal["conv", "conv_transpose", "matmul", "product", "einsum"]


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a convolution: its ONNX attributes, None where the node has none.

    Attributes:
        strides: One per spatial axis.
        pads: All begins, then all ends.
        dilations: One per spatial axis.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        output_padding: ConvTranspose only.
        output_shape: ConvTranspose only.
    """

    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    auto_pad: str | None = None
    output_padding: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, object]) -> Window:
        """Take what concerns the window from a node's attributes and leave the rest."""
        values: dict[str, object] = {}
        for name in (item.name for item in fields(cls)):
            value = attributes.get(name)
            if isinstance(value, bytes):
                values[name] = value.decode()
            elif isinstance(value, str):
                values[name] = value
            elif value is not None:
                values[name] = tuple(int(number) for number in cast("Sequence[int]", value))
        return cls(**values)  # pyright: ignore[reportArgumentType]

    def as_attributes(self) -> dict[str, object]:
        """Return the attributes that are set, as ONNX writes them."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(cast("tuple[int, ...]", value)) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @property
    def is_identity(self) -> bool:
        """Whether a window of one tap leaves the map as it is."""
        return (
            all(stride == 1 for stride in self.strides or ())
            and not any(self.pads or ())
            and not any(self.output_padding or ())
            and self.output_shape is None
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Indices of one channel that feed the same outputs: they are summed before the maximum.

    Attributes:
        channel: Channel id, never 0.
        group: Convolution group whose outputs are fed.
        indices: Positions on the contracted axis.
    """

    channel: int
    group: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """Blocks as arrays.

    Attributes:
        channels: Channel id of every block, (b,) int64.
        groups: Its convolution group, (b,) int64.
        indices: Indices of all blocks, one after the other.
        starts: Where each block begins there, and the end, (b + 1,).
    """

    channels: NDArray[np.int64]
    groups: NDArray[np.int64]
    indices: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FileWeight:
    """A weight that stays in its file, for it is too large for memory.

    Attributes:
        shape: The shape that the weight of its linear op has.
        read: Returns it in that shape: mapped, or computed anew; of any float type.
        tensor: Tensor of the model that has it; empty where none has it in plain numbers.
        stored: The shape of that tensor.
        order: How its axes are permuted before it is brought to `shape`.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.floating]]
    tensor: str = ""
    stored: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HeldWeight:
    """A large weight that the model holds: a second copy lasts only as long as somebody works with it.

    Attributes:
        shape: The shape that the weight of its linear op has.
        read: Returns it in that shape, float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class LinearOp:
    """One linear op that contracts an axis of an activation.

    Attributes:
        name: Unique key of its statistics.
        kind: What contracts.
        data: Tensor that is read.
        data_shape: Its shape at batch one; axis 0 may differ at run time.
        axis: Contracted axis of `data`, counted from the front (conv: 1, or the last).
        channels: Channel id of every index of that axis, (C,); 0 is fixed and gets no score.
        weight: conv (O, C/g, *kernel), conv_transpose (C, O/g, *kernel), matmul (C, O): float32, or one that
            stays in the model or in its file; None for others.
        output_shape: Shape of the op's output at batch one.
        group: Number of convolution groups.
        attributes: How the window slides.
        other: product and einsum only, the second operand.
        other_shape: Its shape at batch one.
        data_on_right: product only: whether `data` is the right operand of the MatMul.
        equation: einsum only: the term of `data`, the term of `other`, and what comes out.
        zero: Tensor with the zero point of quantized data; empty where they are not.
        other_zero: The same of `other`.
    """

    name: str
    kind: Kind
    data: str
    data_shape: tuple[int, ...]
    axis: int
    channels: NDArray[np.int64]
    weight: NDArray[np.float32] | HeldWeight | FileWeight | None
    output_shape: tuple[int, ...]
    group: int = 1
    attributes: Window = field(default_factory=Window)
    other: str | None = None
    other_shape: tuple[int, ...] | None = None
    data_on_right: bool = False
    equation: str = ""
    zero: str = ""
    other_zero: str = ""

    def __post_init__(self) -> None:
        assert self.channels.shape == (self.data_shape[self.axis],), self.name
        assert (self.weight is None) == bool(self.other), self.name
        assert (self.weight is None) == (self.kind in {"product", "einsum"}), self.name

    @property
    def channel_ids(self) -> NDArray[np.int64]:
        """Ids that get a score, ascending, (n,)."""
        ids = np.unique(self.channels)
        return ids[ids != 0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial shape of the kernel; (1,) where there is none."""
        if self.weight is None or self.kind == "matmul":
            return (1,)
        return tuple(self.weight.shape[2:]) or (1,)

    @property
    def kernel_size(self) -> int:
        """Number of taps k."""
        return math.prod(self.kernel)

    @property
    def reads(self) -> dict[str, tuple[int, ...]]:
        """The tensors that its input is computed from: shapes at batch one, by name."""
        return {self.data: self.data_shape} | ({self.zero: ()} if self.zero else {})

    def numbers(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return its input, quantized data minus their zero point.

        Args:
            tensors: Those of `reads`, by name.
        """
        data = tensors[self.data]
        return data.astype(np.float32) - tensors[self.zero].astype(np.float32) if self.zero else data

    def taps(self) -> NDArray[np.floating]:
        """Bring the weight to its canonical form V (C, O/g, *kernel): a view of it wherever that is possible."""
        assert self.weight is not None
        return self.canonical(self.weight if isinstance(self.weight, np.ndarray) else self.weight.read())

    def canonical(self, weight: L) -> L:
        """Bring numbers in the shape of the weight to the canonical form V (C, O/g, *kernel)."""
        return canonical(weight, conv=self.kind == "conv", group=self.group)

    def blocks(self, *, single: bool) -> tuple[Block, ...]:
        """List what gets a share, smallest blocks first.

        Args:
            single: One block per index (kernel="max"), else one per channel and convolution group: its shares of one
                output are added before the maximum, which is exact where a bound per index would be loose.
        """
        table = self.block_table(single=single)
        runs = [table.indices[first:last] for first, last in pairwise(table.starts.tolist())]
        blocks = [
            Block(channel, group, tuple(run.tolist()))
            for channel, group, run in zip(table.channels.tolist(), table.groups.tolist(), runs, strict=True)
        ]
        return tuple(sorted(blocks, key=lambda block: (len(block.indices), block.indices)))

    def block_table(self, *, single: bool) -> BlockTable:
        """Return the same as arrays, in the order of their first indices."""
        index = np.flatnonzero(self.channels)
        group = index // (len(self.channels) // self.group)
        key = index if single else group * (int(self.channels.max()) + 1) + self.channels[index]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        block = rank[inverse]
        starts = np.concatenate([[0], np.cumsum(np.bincount(block, minlength=len(order)))])
        first = first[order]
        return BlockTable(self.channels[index][first], group[first], index[np.argsort(block, kind="stable")], starts)


def output_counts(op: LinearOp) -> tuple[int, int]:
    """Count the outputs of a linear op for one sample.

    Returns:
        Output channels, and output positions of each; their product is eta of the sample-size formula
        (docs/design.md, "Size of S"). For a product the channels are the free axis of the right operand.
    """
    if op.weight is None:
        channels = op.output_shape[-1] if op.output_shape else 1
    elif op.kind == "matmul":
        channels = op.weight.shape[1]
    elif op.kind == "conv_transpose":
        channels = op.weight.shape[1] * op.group
    else:
        channels = op.weight.shape[0]
    return int(channels), max(1, math.prod(op.output_shape) // max(1, int(channels)))
