"""The context of an op's rule: what it sees of its node, and the few things that it may declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxpfp.arrays import Ids
from onnxpfp.channels.labels import Labels
from onnxpfp.channels.symbolic import Const, Value, as_plain, is_known, is_real, leaves
from onnxpfp.channels.types import Consumer, Form, IndexRef, Mask, SizeRef
from onnxpfp.model.attributes import Attributes

__all__ = ["Axes", "Carrier", "CarrierChoice", "NodeContext", "UnlabelledError", "unlabelled"]

Axes = tuple[Ids, ...]
"""Labels of every axis of a tensor."""


Carrier = tuple[Literal["in", "out"], int]
"""An axis of a Reshape's input or output that carries the labels of an axis that is split or merged."""


@dataclass(frozen=True, slots=True, eq=False)
class CarrierChoice:
    """A Reshape split or merged axes of channels, and one of several axes carries the labels.

    Attributes:
        node: Position of the Reshape in the graph.
        carrier: The axis that carries them.
        candidates: The axes that could.
        labels: The labels of the carrier.
    """

    node: int
    carrier: Carrier
    candidates: tuple[Carrier, ...]
    labels: Ids


@dataclass(slots=True, eq=False)
class NodeContext:
    """One node during the walk: its inputs' labels, and the declarations of its rule.

    Attributes:
        node: The node.
        index: Its position in the graph.
        attributes: Its attributes.
        opset: Version of its domain.
        labels: Where labels and ties are collected.
        inputs: Labels of the inputs; None for a missing one or one that is no dense tensor.
        values: Entries of the inputs that are shape arithmetic.
        constant: Whether an input depends on constants only.
        value_of: Computes a constant tensor.
        out_shapes: Shapes of the outputs; None for one that is no dense tensor.
        read: Whether an output is read by a node or is an output of the graph.
        carriers: For a Reshape that splits or merges axes: those that shall carry the labels.
        outputs: Labels of the outputs, set by the rule.
        consumers: Contractions, declared by the rule.
        masks: Places where zeros equal removal, declared by the rule.
        size_refs: Numbers that count indices, declared by the rule.
        choices: Splits and merges for which more than one axis could carry the labels.
    """

    node: NodeProto
    index: int
    attributes: Attributes
    opset: int
    labels: Labels
    inputs: list[Axes | None]
    values: list[Value | None]
    constant: list[bool]
    value_of: Callable[[str], NDArray[Any]]
    out_shapes: list[tuple[int, ...] | None]
    read: list[bool]
    carriers: frozenset[Carrier]
    outputs: list[Axes | None]
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    masks: list[Mask] = field(default_factory=list[Mask])
    size_refs: list[SizeRef | IndexRef] = field(default_factory=list[SizeRef | IndexRef])
    choices: list[CarrierChoice] = field(default_factory=list[CarrierChoice])

    @property
    def name(self) -> str:
        """The node's name, or its first output where it has none."""
        return self.node.name or next((o for o in self.node.output if o), "?")

    @property
    def title(self) -> str:
        """Op and name, as reasons quote them."""
        return f"{self.node.op_type} '{self.name}'"

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.node.input) and bool(self.node.input[position])

    def axes(self, position: int) -> Axes:
        """Labels of an input's axes."""
        axes = self.inputs[position]
        if axes is None:
            raise UnlabelledError(self.node.input[position])
        return axes

    def shape(self, position: int) -> tuple[int, ...]:
        """Shape of an input."""
        return tuple(axis.size for axis in self.axes(position))

    def out_shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of an output."""
        shape = self.out_shapes[position]
        if shape is None:
            raise UnlabelledError(self.node.output[position])
        return shape

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return self.attributes.integer(name, default)

    def integers(self, name: str) -> list[int] | None:
        """A list attribute of integers, or None where it is not given."""
        return self.attributes.integers(name)

    def numbers(self, position: int) -> NDArray[np.int64] | None:
        """The whole numbers of an input that is shape arithmetic, at the analysed shapes."""
        value = self.values[position] if self.has(position) else None
        return None if value is None or is_real(value) else as_plain(value)

    def same_in_every_run(self, where: str | int, index: int) -> bool:
        """Whether a number is the same in every run: an attribute's always, an input's unless a free axis gives it."""
        value = None if isinstance(where, str) else self.values[where]
        return value is None or is_known(value.ravel()[index])

    def open_axis(self, where: str | int, index: int, size: int) -> Ids:
        """Labels of a new axis whose length is a number: fresh, or none where it differs from run to run."""
        return self.labels.fresh(size) if size > 1 and self.same_in_every_run(where, index) else self.zeros(size)

    def array(self, position: int) -> NDArray[Any] | None:
        """An input of any type, or None where it is missing or depends on the model's inputs."""
        return self.value_of(self.node.input[position]) if self.has(position) and self.constant[position] else None

    def option(self, name: str, position: int) -> list[int] | None:
        """A list that older opsets keep as an attribute and newer ones as an input."""
        given = self.integers(name)
        if given is not None:
            return given
        numbers = self.numbers(position)
        if numbers is None and self.has(position):
            raise UnlabelledError(self.node.input[position])
        return None if numbers is None else numbers.ravel().tolist()

    def source(self, name: str, position: int) -> str | int:
        """The place that `option` was read from: the attribute's name or the input's position."""
        return name if name in self.attributes else position

    def tie(self, left: Ids, right: Ids) -> None:
        """Make labels live or die together."""
        self.labels.tie(left, right, f"{self.title} joins it with an axis that stays")

    def fix(self, labels: Ids, why: str) -> None:
        """Keep labels for good; `why` is a verb phrase with the node as its subject."""
        self.labels.fix(labels, f"{self.title} {why}")

    def keep_all(self, why: str) -> None:
        """Keep every index of every input and output, and forget what was declared before."""
        self.consumers.clear()
        self.masks.clear()
        self.size_refs.clear()
        self.choices.clear()
        for axes in self.inputs:
            for axis in axes or ():
                self.fix(axis, why)
        self.outputs = unlabelled(self.out_shapes)

    def zeros(self, size: int) -> Ids:
        """Labels of an axis whose indices never go."""
        return np.zeros(size, np.int64)

    def set(self, axes: Sequence[Ids], position: int = 0) -> None:
        """Set the labels of an output."""
        shape = tuple(axis.size for axis in axes)
        if shape != self.out_shape(position):
            raise UnlabelledError(self.node.output[position])
        self.outputs[position] = tuple(axes)

    def tensor(self, position: int | None) -> str:
        """Name of an input; empty where it is missing."""
        return self.node.input[position] if position is not None and self.has(position) else ""

    def consume(
        self,
        data: int,
        data_axis: int,
        weight: int,
        weight_axis: int,
        form: Form = "matrix",
        *,
        equation: str = "",
        zeros: tuple[int, int] | None = None,
    ) -> None:
        """Declare that the node contracts an axis of two operands.

        Args:
            data: Position of the operand that is read; the operands change places where only it is constant.
            data_axis: Its contracted axis.
            weight: Position of the other operand.
            weight_axis: Its contracted axis.
            form: How the node multiplies.
            equation: Of the form einsum, data first.
            zeros: Positions of the zero points of data and weight.
        """
        if self.constant[data] and not self.constant[weight]:
            data, data_axis, weight, weight_axis = weight, weight_axis, data, data_axis
            left, _, rest = equation.partition(",")
            right, arrow, out = rest.partition("->")
            equation = f"{right},{left}{arrow}{out}" if equation else ""
            zeros = (zeros[1], zeros[0]) if zeros else None
        channels = self.axes(data)[data_axis]
        zero_names = (self.tensor(zeros[0]), self.tensor(zeros[1])) if zeros else ("", "")
        self.consumers.append(
            Consumer(
                node=self.index,
                name=self.name,
                output=next(name for name in self.node.output if name),
                op=self.node.op_type,
                data=self.node.input[data],
                data_input=data,
                data_axis=data_axis,
                channels=channels,
                weight=self.node.input[weight],
                weight_axis=weight_axis,
                constant=self.constant[weight],
                form=form,
                equation=equation,
                zeros=zero_names,
            )
        )
        self.mask(data, data_axis, channels, zero_names[0])

    def mask(self, where: int, axis: int, channels: Ids, zero: str = "") -> None:
        """Declare that zeros at an axis of an input equal its removal."""
        if (channels != 0).any():
            output = next(name for name in self.node.output if name)
            self.masks.append(Mask(output, self.node.input[where], where, axis, channels, zero))

    def size_ref(self, where: str | int, position: int | None, labels: Ids, sign: int = 1) -> None:
        """Declare that a number of this node is the count of kept `labels`.

        Args:
            where: Name of an attribute or position of an input.
            position: Index in a list; None for a single number.
            labels: The labels that are counted.
            sign: -1 where the number counts from the end.
        """
        if (labels != 0).any():
            self.size_refs.append(SizeRef(self.index, where, position, labels, sign))

    def index_ref(self, where: int, axis: Ids, *own: Ids) -> None:
        """Declare that an input holds indices into an axis.

        Args:
            where: Position of the input.
            axis: Labels of the axis that is indexed.
            own: Labels of the first axes of the indices themselves; none where no index goes.
        """
        if (axis != 0).any():
            self.size_refs.append(IndexRef(self.index, where, axis, own))

    def cut(self, where: int, own: Axes, *, truth: bool = False) -> bool:
        """Let a small constant tensor of integers or truth values follow `own`, the labels of its axes.

        Those are no weights, so they have no labels that could be tied.

        Returns:
            Whether the input is such a tensor.
        """
        value = self.values[where]
        if value is None or not all(isinstance(leaf, Const) for entry in value.ravel() for leaf in leaves(entry)):
            return False
        if any((labels != 0).any() for labels in own):
            self.size_refs.append(IndexRef(self.index, where, self.zeros(0), own, truth))
        return True


def unlabelled(shapes: Sequence[tuple[int, ...] | None]) -> list[Axes | None]:
    """Labels of tensors whose indices never go."""
    return [None if shape is None else tuple(np.zeros(size, np.int64) for size in shape) for shape in shapes]


class UnlabelledError(Exception):
    """A rule met a tensor whose labels or numbers are not known; the node fixes what it touches."""
