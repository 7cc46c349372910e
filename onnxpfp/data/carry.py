"""States that a network gives out and takes in again, recorded: inputs that need not be among the data.

The original runs once over the samples in their order, one by one: the first gets zeros, or what the data have, every
later one what came out at the one before it. What each of them was fed is recorded, and from then on is an input like
the others. So pruned networks are fed the original's states, too: what they do to a state does not add up over a
sequence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.data.samples import Feed, all_finite
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.model.axis_names import means_length

__all__ = ["Carry", "carry_of"]

Run = Callable[[Feed], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """The states of a network.

    Attributes:
        outputs: The output that each state comes from, by input; empty where none is carried.
        run: Runs the original.
        shapes: Shapes of inputs that the user says.
    """

    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    run: Run | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def left(self, specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
        """Return the inputs that the data must have."""
        return tuple(spec for spec in specs if spec.name not in self.outputs)

    def notes(self, samples: int) -> Iterator[str]:
        """Say what was recorded."""
        pairs = ", ".join(f"'{name}' from '{output}'" for name, output in self.outputs.items())
        if pairs:
            yield (
                f"states were recorded while the original ran over {counted(samples, 'sample')} in their order: "
                f"{pairs}; samples of one sequence depend on each other, so nothing is promised of others"
            )

    def record(self, specs: Sequence[InputSpec], feeds: Iterable[Feed], axes: SampleAxes | None = None) -> list[Feed]:
        """Run the original on feeds in their order.

        Args:
            specs: All inputs.
            feeds: What is fed beside the states; where one has a state, a new sequence begins with it.
            axes: Sample axes that the user says.

        Returns:
            The states that each was fed.

        Raises:
            CalibrationError: A state is no input, or is not finite.
            ModelError: The network does not run.
        """
        run = self.run
        assert run is not None
        known = sample_axes(specs, axes)
        states = [spec for spec in specs if spec.name in self.outputs]
        kept: list[Feed] = []
        last: Mapping[str, NDArray[Any]] | None = None
        for number, feed in enumerate(feeds):
            others = {name: array for name, array in feed.items() if name not in self.outputs}
            given = {
                spec.name: feed[spec.name]
                if spec.name in feed
                else self._begin(spec, known, _length(specs, others, known))
                if last is None
                else _fed(spec, last[self.outputs[spec.name]], self.outputs[spec.name])
                for spec in states
            }
            for name, array in given.items():
                if not all_finite(array):
                    raise CalibrationError(
                        f"the state '{name}' has NaN or infinite values at sample {number}",
                        hint="check the order of the samples, and that --carry names the output that belongs to it",
                    )
            kept.append(given)
            last = run({**others, **given})
        return kept

    def _begin(self, spec: InputSpec, axes: SampleAxes, samples: int) -> NDArray[Any]:
        """Return the state before the first sample: zeros."""
        given = self.shapes.get(spec.name)
        axis = axes.get(spec.name)
        shape: list[int] = []
        for number, dim in enumerate(spec.shape):
            size = given[number] if dim is None and given is not None and len(given) == len(spec.shape) else dim
            if size is None and number == axis:
                size = samples
            elif size is None and means_length(spec.symbol(number)):
                size = 0
            if size is None:
                raise OptionError(
                    f"the state '{spec.name}' is {spec.describe()}: its size before the first sample is not known",
                    hint=f"--input-shape {spec.name}:{','.join(str(dim or 1) for dim in spec.shape)} says it",
                )
            shape.append(size)
        if spec.is_text:
            raise OptionError(f"--carry: the state '{spec.name}' is text, which has no zeros")
        return np.zeros(shape, spec.dtype)


def _length(specs: Sequence[InputSpec], feed: Feed, axes: SampleAxes) -> int:
    """Return how many samples a feed has."""
    lengths = {
        feed[spec.name].shape[axis]
        for spec in specs
        if spec.name in feed and (axis := axes.get(spec.name)) is not None and spec.shape[axis] is None
    }
    return min(lengths - {0}, default=1)


def _fed(spec: InputSpec, array: NDArray[Any], output: str) -> NDArray[Any]:
    """Return what came out as what goes in.

    Raises:
        CalibrationError: It does not fit.
    """
    fits = len(array.shape) == len(spec.shape) and all(
        dim in (None, size) for dim, size in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype != spec.dtype or not fits:
        raise CalibrationError(
            f"--carry {output}:{spec.name}: the output is {array.dtype} {size_ref(array.shape)}, and the input "
            f"{spec.describe()}",
            hint="name the output that has the next state",
        )
    # What the runtime owns may be overwritten by the next run.
    return np.array(array)


def carry_of(texts: Sequence[str], specs: Sequence[InputSpec], outputs: Sequence[str]) -> dict[str, str]:
    """Read which output becomes which input, OUT:IN each; names may have colons themselves.

    Returns:
        The output by the input.

    Raises:
        OptionError: There is no such output or input, or it is carried twice.
    """
    inputs = [spec.name for spec in specs]
    carried: dict[str, str] = {}
    for text in texts:
        cuts = [at for at, letter in enumerate(text) if letter == ":"]
        pairs = [(text[:at], text[at + 1 :]) for at in cuts]
        fitting = [(out, into) for out, into in pairs if out in outputs and into in inputs]
        if not fitting:
            raise _unknown(text, pairs, inputs, outputs)
        output, name = fitting[0]
        if name in carried:
            raise OptionError(f"--carry feeds '{name}' from '{carried[name]}' and from '{output}'", hint="give it one")
        carried[name] = output
    if len(carried) == len(inputs) and carried:
        raise OptionError("--carry feeds every input, so there is nothing to give data for", hint="leave one out")
    return carried


def _unknown(text: str, pairs: Sequence[tuple[str, str]], inputs: Sequence[str], outputs: Sequence[str]) -> OptionError:
    output, name = next((pair for pair in pairs if pair[0] in outputs or pair[1] in inputs), pairs[0])
    if output in inputs and name in outputs:
        return OptionError(f"--carry {text} has the input first", hint=f"--carry {name}:{output}")
    wrong, kind, known = (output, "output", outputs) if output not in outputs else (name, "input", inputs)
    close = difflib.get_close_matches(wrong, known, n=1)
    listed = f"the {kind}s are: {', '.join(known)}"
    return OptionError(
        f"--carry {text}: '{wrong}' is no {kind} of the model",
        hint=f"did you mean '{close[0]}'? {listed}" if close else listed,
    )
