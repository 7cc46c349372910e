"""Shapes of inputs where nobody gives data: what is given, what the model fixes, else sizes that are made up.

Axes of one name have one length. A model may take only some lengths (a mask over past and new tokens is as long as both
together, and nothing in the file says so), so there are several trials, the most natural one first.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product

from onnx import ModelProto, ValueInfoProto

from onnxpfp.errors import ModelError, OptionError
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.axis_names import length_of_sum, means_batch, means_length, means_side
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = [
    "declared_dims",
    "default_input_shapes",
    "has_made_up_lengths",
    "input_shape_trials",
    "shape_hint",
    "true_inputs",
]

IMAGE_SIDE = 224
SEQUENCE = 16
LONG = 512
"""Where a sequence of 16 is too short: a window of sound."""
OTHER_SIDES = (640, 256, 512, 320, 64, 32)
"""Sides that images have where they must not be 224."""
TRIALS = 64
"""Most sets of shapes that are made up."""
TOGETHER = 3
"""Most lengths that differ from the most natural ones at once."""

Dims = tuple[int | None, ...]


def declared_dims(info: ValueInfoProto) -> Dims | None:
    """Return the dims that a model declares, None where one is free; None where it declares no number of axes.

    Some exporters write 0 for a free one.
    """
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in info.type.tensor_type.shape.dim
    )


def true_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """List the inputs that a user feeds: in old files the weights are listed among them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in stored]


def default_input_shapes(model: ModelProto, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Choose a concrete shape for every input: what is given, what is static, else a sensible size.

    A free first axis becomes one sample, unless it is called a length and another one batch, which then does; free
    channels what the first Conv takes, other free axes of images 224, any other free axis 16; axes of one name get one
    size.

    Raises:
        OptionError: `given` names no input, or contradicts a static axis.
        ModelError: An input has no rank and no shape was given, or more numbers than any memory holds.
    """
    return next(input_shape_trials(model, given))


def input_shape_trials(model: ModelProto, given: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield sets of input shapes to try, that of `default_input_shapes` first.

    Raises:
        OptionError: As in `default_input_shapes`.
        ModelError: As in `default_input_shapes`.
    """
    free = _FreeAxes.of(model, given)
    for lengths in islice(free.trials(), TRIALS):
        shapes = {name: given.get(name) or free.shape(name, lengths) for name in free.dims}
        for name, shape in shapes.items():
            _require_memory(name, shape)
        yield shapes


def _require_memory(name: str, shape: tuple[int, ...]) -> None:
    """Refuse an input that no memory holds, in whatever type; nothing is made up then.

    Raises:
        ModelError: It is one.
    """
    size, limit = math.prod(shape), memory_limit()
    if size > limit:
        raise ModelError(
            f"the input '{name}' of shape {list(shape)} takes {amount_text(size)} or more, "
            f"and the memory is {amount_text(limit)}",
            hint=f"give a smaller shape, if its axes are free: --input-shape {name}:1,3,224,224",
        )


def has_made_up_lengths(model: ModelProto, given: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether lengths are made up at which the model may not run.

    Images are taken to have any side, and the free axis 0 of a single input to count samples.

    Raises:
        OptionError: As in `default_input_shapes`.
        ModelError: As in `default_input_shapes`.
    """
    free = _FreeAxes.of(model, given)
    alone = len(free.dims) == 1
    return any(
        sizes is not OTHER_SIDES and not (alone and free.lengths[key] == 1) for key, sizes in free.others.items()
    )


def shape_hint(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Write the options that give the inputs with free axes these shapes."""
    declared = {info.name: declared_dims(info) for info in true_inputs(model) if info.name in shapes}
    free = [name for name, dims in declared.items() if dims is None or None in dims]
    return " ".join(f"--input-shape {name}:{','.join(map(str, shapes[name]))}" for name in free)


_Key = tuple[str, Dims, int]
"""What has one length: all axes of one name; without names, the same axis of inputs that are declared alike."""


@dataclass(frozen=True, slots=True, eq=False)
class _FreeAxes:
    """The free axes of all inputs.

    Attributes:
        dims: Declared dims by input; those of inputs without any are what is given.
        symbols: Names of the dims by input, where there are any.
        lengths: The most natural length of each.
        others: Other lengths worth trying, of the axes that are not known to be anything.
    """

    dims: dict[str, Dims] = field(default_factory=dict[str, Dims])
    symbols: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    lengths: dict[_Key, int] = field(default_factory=dict[_Key, int])
    others: dict[_Key, Sequence[int]] = field(default_factory=dict[_Key, Sequence[int]])

    @classmethod
    def of(cls, model: ModelProto, given: Mapping[str, tuple[int, ...]]) -> _FreeAxes:
        inputs = {info.name: declared_dims(info) for info in true_inputs(model)}
        _check_given(inputs, given)
        free = cls()
        for info in true_inputs(model):
            dims = inputs[info.name]
            if dims is None and info.name not in given:
                raise ModelError(
                    f"the input '{info.name}' has no shape", hint=f"give it: --input-shape {info.name}:1,3,224,224"
                )
            free.dims[info.name] = given[info.name] if dims is None else dims
            free.symbols[info.name] = tuple(dim.dim_param for dim in info.type.tensor_type.shape.dim)
        for name, shape in given.items():
            if shape and shape[0] == 0 and not means_length(free.symbol(name, 0)):
                raise OptionError(f"--input-shape {name}:{','.join(map(str, shape))} has no sample: its axis 0 is 0")
            free.lengths.update((free.key(name, axis), shape[axis]) for axis in free.free(name))
        bound = set(free.lengths)
        sizes: dict[_Key, list[int]] = {}
        channels = _channels_read(model)
        for name in free.dims:
            for axis in free.free(name):
                sizes.setdefault(free.key(name, axis), []).append(free.natural(name, axis, channels))
        for key, natural in sizes.items():
            if key not in bound:
                free.choose(key, natural, {channels[name] for name in channels.keys() & free.dims.keys()})
        return free

    @property
    def names(self) -> set[str]:
        """Names of all free axes."""
        return {self.symbol(name, axis) for name in self.dims for axis in self.free(name)}

    def free(self, name: str) -> list[int]:
        """List the free axes of an input."""
        return [axis for axis, dim in enumerate(self.dims[name]) if dim is None]

    def symbol(self, name: str, axis: int) -> str:
        """Return what the model calls an axis."""
        return self.symbols[name][axis] if axis < len(self.symbols[name]) else ""

    def key(self, name: str, axis: int) -> _Key:
        """Return what has one length with an axis."""
        symbol = self.symbol(name, axis)
        return (symbol, (), 0) if symbol else ("", self.dims[name], axis)

    def natural(self, name: str, axis: int, channels: Mapping[str, int]) -> int:
        """Return the length that an axis has where its name says nothing: 1 for samples."""
        symbol = self.symbol(name, axis)
        # In time-first networks the samples lie in another axis, which says so.
        is_time_first = means_length(symbol) and any(means_batch(other) for other in self.symbols[name])
        if axis == 0 and not is_time_first:
            return 1
        if axis == 1 and name in channels:
            return channels[name]
        is_side = len(self.dims[name]) == 4 and (means_side(symbol) or not means_length(symbol))
        return IMAGE_SIDE if is_side else SEQUENCE

    def choose(self, key: _Key, natural: Sequence[int], channels: set[int]) -> None:
        """Settle the length of some axes: as many samples as one, what a Conv reads, else the shortest."""
        symbol = key[0]
        inner = [size for size in natural if size != 1]
        # A mask over positions has them in its first axis; a state has its samples in the second.
        is_length = means_length(symbol) or any(map(means_batch, self.names))
        if means_batch(symbol) or not inner or (1 in natural and not is_length):
            self.lengths[key] = 1
            if symbol and not means_batch(symbol):
                # Nodes of a graph, tokens: not every number of rows is one of samples.
                self.others[key] = (2, SEQUENCE)
            return
        size = next((size for size in inner if size in channels), min(inner))
        self.lengths[key] = size
        if size not in channels:
            self.others[key] = OTHER_SIDES if size == IMAGE_SIDE else (2 * size, size + 1, LONG, 1, 0)

    def trials(self) -> Iterator[dict[_Key, int]]:
        """Yield lengths, those that differ in few places from the most natural ones first; images stay square."""
        sides = [key for key, sizes in self.others.items() if sizes is OTHER_SIDES]
        others = self.others | {key: self._with_sums(key) for key in self.others if key not in sides}
        varied = [[key] for key in self.others if key not in sides] + ([sides] if sides else [])
        for count in range(min(TOGETHER, len(varied)) + 1):
            tried = [
                {key: size for keys, size in zip(chosen, sizes, strict=True) for key in keys}
                for chosen in combinations(varied, count)
                for sizes in product(*(others[keys[0]] for keys in chosen))
            ]
            # Nothing shows little of a network.
            yield from (self.lengths | changed for changed in sorted(tried, key=lambda one: 0 in one.values()))

    def _with_sums(self, key: _Key) -> tuple[int, ...]:
        """Return lengths worth trying of an axis: the sums of two other lengths, and those that are worth it anyway.

        Sides of images add up to nothing: as many samples as two sides are pixels would take very long.
        """
        lengths = [
            size
            for other, size in self.lengths.items()
            if other != key and not means_batch(other[0]) and self.others.get(other) is not OTHER_SIDES
        ]
        sums = {one + two for one, two in combinations(lengths, 2)}
        return (*sorted(sums - {*self.others[key], self.lengths[key]}), *self.others[key])

    def shape(self, name: str, lengths: Mapping[_Key, int]) -> tuple[int, ...]:
        """Return the shape of an input; an axis that is called by a sum is as long as that."""
        named = {key[0]: length for key, length in lengths.items() if key[0]}
        sizes: list[int] = []
        for axis, dim in enumerate(self.dims[name]):
            total = length_of_sum(self.symbol(name, axis), named) if dim is None else dim
            sizes.append(lengths[self.key(name, axis)] if total is None else total)
        return tuple(sizes)


def _check_given(inputs: Mapping[str, Dims | None], given: Mapping[str, tuple[int, ...]]) -> None:
    """Make sure that shapes which the user gives fit.

    Raises:
        OptionError: One names no input, contradicts a static axis, or has no sample.
    """
    for name, shape in given.items():
        if name not in inputs:
            close = difflib.get_close_matches(name, inputs, 1)
            known = ", ".join(inputs)
            raise OptionError(
                f"--input-shape names '{name}', which is not an input of the model",
                hint=f"did you mean '{close[0]}'?" if close else f"the inputs are: {known}",
            )
        dims, typed = inputs[name], ",".join(map(str, shape))
        if dims is not None and not (
            len(dims) == len(shape) and all(d is None or d == s for d, s in zip(dims, shape, strict=True))
        ):
            declared = ",".join("?" if d is None else str(d) for d in dims) or "shape of a scalar"
            raise OptionError(f"--input-shape {name}:{typed} contradicts the model's {declared}")


def _channels_read(model: ModelProto) -> dict[str, int]:
    """Return how many channels a Conv reads, by the name of what it reads."""
    filters = {t.name: t.dims for t in model.graph.initializer}
    return {
        node.input[0]: filters[node.input[1]][1] * Attributes(node).integer("group", 1)
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in filters
    }
