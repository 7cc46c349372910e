"""A network that grows: its live tensors, its nodes, and the table of pieces that can be added to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

T = TypeVar("T")

SIDE = 4
WIDTHS = (4, 6, 8)
WIDEST = 16
BATCH = 0
"""In a shape: the length of the batch axis, which a model may leave free."""


class Image(NamedTuple):
    """A live tensor (N, width, side, side)."""

    name: str
    width: int
    side: int


@dataclass
class Composer:
    """Live tensors, and the nodes that made them.

    Attributes:
        draw: Of hypothesis.
        rng: Draws weights.
        opset: Of the standard domain.
        batch: Length of the batch axis; None where it is free.
        merged: Ranks of stored tensors of which equal ones are one, as some exporters leave them.
        fresh: Whether the next op shall act on channels of its own.
        turned: Whether it does so on channels that lie where columns were.
    """

    draw: Callable
    rng: np.random.Generator
    opset: int
    batch: int | None
    merged: frozenset[int] = frozenset()
    stored: dict[tuple[int, tuple[int, ...], bytes], str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    live: dict[str, Image] = field(default_factory=dict)
    fresh: bool = False
    turned: bool = False

    def choose(self, *options: T) -> T:
        return self.draw(st.sampled_from(options))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def whole(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def emits(self, op: str, inputs: Sequence[str], outputs: int, **attributes) -> list[str]:
        """Add a node of several outputs; return their names."""
        domain, _, kind = op.rpartition(":")
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names

    def emit(self, op: str, *inputs: str, **attributes) -> str:
        """Add a node of one output; return its name."""
        return self.emits(op, inputs, 1, **attributes)[0]

    def weight(self, *shape: int, positive: bool = False) -> str:
        """Store random numbers; now and then a node makes the weight out of what is stored."""
        # Networks whose weights are merged draw the same numbers for the same shape.
        rng = np.random.default_rng(1) if len(shape) in self.merged else self.rng
        array = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
        array = (array / np.sqrt(max(np.prod(shape[1:]), 1)) if len(shape) > 1 else array).astype(np.float32)
        kind = self.choose(*["stored"] * 7, "transposed", "reshaped", "joined") if len(shape) > 1 else "stored"
        if kind == "transposed":
            return self.emit("Transpose", self.store(array.T))
        if kind == "reshaped":
            return self.emit("Reshape", self.store(array.reshape(shape[0], -1)), self.ints(*shape))
        if kind == "joined":
            half = array.shape[0] // 2
            return self.emit("Concat", self.store(array[:half]), self.store(array[half:]), axis=0)
        return self.store(array)

    def store(self, array: NDArray[np.generic] | np.generic) -> str:
        """Store a tensor; a network whose weights are merged stores it once."""
        tensor = numpy_helper.from_array(np.asarray(array))
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if len(tensor.dims) in self.merged and key in self.stored:
            return self.stored[key]
        tensor.name = self.stored[key] = f"w{len(self.weights)}"
        self.weights.append(tensor)
        return tensor.name

    def ints(self, *numbers: int | list[int]) -> str:
        return self.store(np.array(numbers, np.int64))

    def number(self, value: float, kind: type[np.generic] = np.float32) -> str:
        return self.store(np.asarray(value, kind))

    def reals(self, *numbers: float) -> str:
        return self.store(np.array(numbers, np.float32))

    def pick(self, minimum: int = 1, most: int = WIDEST) -> Image:
        """Choose a live tensor; one of another width is made where there is none."""
        fits = [image for image in self.live.values() if minimum <= image.width <= most]
        if fits and self.fresh:
            self.fresh = False
            image = self.draw(st.sampled_from(fits))
            turns = image.side == SIDE and minimum <= SIDE <= most and self.whole(0, 2) == 0
            return self.turn(image) if turns else self.mixed(image, minimum, most)
        if fits:
            return self.draw(st.sampled_from(sorted(fits)))
        return self.mixed(next(reversed(self.live.values())), minimum, most)

    def mixed(self, image: Image, minimum: int, most: int) -> Image:
        """Mix the channels of a tensor, which gives new ones that no other op has tied yet."""
        width = self.draw(st.sampled_from([width for width in (3, *WIDTHS) if minimum <= width <= most]))
        name = self.emit("Conv", image.name, self.weight(width, image.width, 1, 1))
        return self.add(name, width, image.side)

    def turn(self, image: Image) -> Image:
        """Make as many channels as there are columns and let them change places, until the next tensor is added."""
        mixed = self.mixed(image, SIDE, SIDE)
        name = self.transpose(mixed.name, 0, 3, 2, 1)
        self.live[name] = turned = Image(name, SIDE, SIDE)
        self.turned = True
        return turned

    def even(self) -> Image:
        """Choose a live tensor of an even width of at least 4."""
        self.fresh = False
        fits = [image for image in self.live.values() if image.width % 2 == 0 and image.width >= 4]
        if fits:
            return self.draw(st.sampled_from(sorted(fits)))
        image = self.pick()
        return self.add(self.emit("Conv", image.name, self.weight(6, image.width, 1, 1)), 6, image.side)

    def partner(self, image: Image, *, same: bool = True) -> str | None:
        """Choose another live tensor of the same side, and of the same width if that is asked for."""
        fits = [
            other.name
            for other in self.live.values()
            if other.side == image.side and other.name != image.name and (other.width == image.width or not same)
        ]
        return self.draw(st.sampled_from(sorted(fits))) if fits else None

    def add(self, name: str, width: int, side: int) -> Image:
        """Make a tensor live; what was computed of turned channels is turned back where it can be."""
        if self.turned and width == side:
            name = self.transpose(name, 0, 3, 2, 1)
        self.turned = False
        self.live[name] = image = Image(name, width, side)
        return image

    def listed(self, op: str, inputs: list[str], option: str, numbers: list[int], since: int, **attributes) -> str:
        """Add a node with a list that is an input since an opset, and an attribute before."""
        if self.opset < since:
            return self.emit(op, *inputs, **{option: numbers}, **attributes)
        return self.emit(op, *inputs, self.ints(*numbers), **attributes)

    def sliced(self, name: str, axis: int, start: int, stop: int) -> str:
        if self.opset < 10:
            return self.emit("Slice", name, starts=[start], ends=[stop], axes=[axis])
        return self.emit("Slice", name, self.ints(start), self.ints(stop), self.ints(axis))

    def unsqueeze(self, name: str, *axes: int) -> str:
        return self.listed("Unsqueeze", [name], "axes", list(axes), 13)

    def squeeze(self, name: str, *axes: int) -> str:
        return self.listed("Squeeze", [name], "axes", list(axes), 13)

    def mean(self, name: str, *axes: int, keepdims: int = 1) -> str:
        return self.listed("ReduceMean", [name], "axes", list(axes), 18, keepdims=keepdims)

    def transpose(self, name: str, *perm: int) -> str:
        return self.emit("Transpose", name, perm=list(perm))

    def cast(self, name: str, kind: int) -> str:
        return self.emit("Cast", name, to=kind)

    def reshape(self, name: str, *shape: int) -> str:
        """Reshape; BATCH leads and is copied, left open, spelt, or taken from Shape."""
        head, *rest = shape
        styles = ["zero", "open", "shape"] + ([] if self.batch is None else ["spelt"])
        style = self.draw(st.sampled_from(styles)) if head == BATCH else "spelt"
        if style == "shape":
            first = self.sliced(self.emit("Shape", name), 0, 0, 1)
            return self.emit("Reshape", name, self.emit("Concat", first, self.ints(*rest), axis=0))
        if head == BATCH:
            head = {"zero": 0, "open": -1, "spelt": self.batch or 1}[style]
        return self.emit("Reshape", name, self.ints(head, *rest))

    def tokens(self, image: Image) -> str:
        """Turn an image into tokens (N, side * side, width)."""
        flat = self.reshape(image.name, BATCH, image.width, image.side**2)
        return self.transpose(flat, 0, 2, 1)

    def untoken(self, name: str, width: int, side: int) -> Image:
        """Turn tokens into a live image again."""
        flat = self.transpose(name, 0, 2, 1)
        return self.add(self.reshape(flat, BATCH, width, side, side), width, side)

    def rows(self, image: Image) -> str:
        """Turn an image into rows (N, width), of its mean pixels."""
        return self.emit("Flatten", self.emit("GlobalAveragePool", image.name))

    def gate(self, name: str, width: int, image: Image) -> Image:
        """Turn rows (N, width) into a live image: by a product with `image`, or with its mean channel."""
        tall = self.unsqueeze(name, 2, 3)
        by = image.name if width == image.width else self.mean(image.name, 1)
        return self.add(self.emit("Mul", by, tall), width, image.side)

    def bounded(self, name: str, low: float, high: float) -> str:
        """Squash numbers into an interval."""
        scaled = self.emit("Mul", self.emit("Sigmoid", name), self.number(high - low))
        return self.emit("Add", scaled, self.number(low))


Grow = Callable[[Composer, str], None]


class Piece(NamedTuple):
    """How a network grows by an op.

    Attributes:
        grow: Adds the op to the network.
        since: First opset in which it can.
        until: Last one.
    """

    grow: Grow
    since: int
    until: int


@dataclass
class Pieces:
    """The pieces of a family of ops, by op (domain and colon before those not of ONNX)."""

    table: dict[str, Piece] = field(default_factory=dict)

    def add(self, *ops: str, since: int = 13, until: int = 99) -> Callable[[Grow], Grow]:
        """Register a function that grows networks by each of `ops`."""

        def register(grow: Grow) -> Grow:
            for op in ops:
                assert op not in self.table, op
                self.table[op] = Piece(grow, since, until)
            return grow

        return register
