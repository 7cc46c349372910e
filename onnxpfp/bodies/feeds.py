"""What bodies are fed while the model around them runs: one feed for every time that a body runs.

The model around them is run with what they read among its outputs. A branch of If is fed what it captures wherever the
condition takes it; the steps of Loop and Scan are run here, one by one, as the standard says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxpfp.bodies.extract import body_model, inputs_of
from onnxpfp.bodies.graphs import Body
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.errors import ModelError
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.edit import drop_unread, forget_records
from onnxpfp.progress import Count
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session, open_session

__all__ = ["BodyFeeds", "feeds_of_bodies"]

MOST_FEEDS = 512
"""Of one body; more steps than that are thinned out evenly."""
MOST_STEPS = 20_000
"""Steps of one Loop or Scan that are run, over all samples; samples behind that are not looked at."""


@dataclass(slots=True, eq=False)
class BodyFeeds:
    """What one body is fed.

    Attributes:
        feeds: Some of its feeds, spread evenly over the steps of every sample.
        runs: How often the body ran.
        samples: Runs of the model around it.
        unseen: Where the condition never takes it: what it would have been fed.
        failure: Why it cannot be fed; empty if it can.
        size_bytes: Size of its feeds; what several share counts once.
    """

    feeds: list[Feed] = field(default_factory=list[Feed])
    runs: int = 0
    samples: int = 0
    unseen: list[Feed] = field(default_factory=list[Feed])
    failure: str = ""
    size_bytes: int = 0
    _counted: set[int] = field(default_factory=set[int])

    def keep(self, feed: Feed) -> None:
        """Add a feed."""
        self.feeds.append(feed)
        for array in feed.values():
            if id(array) not in self._counted:
                self._counted.add(id(array))
                self.size_bytes += array.nbytes


def feeds_of_bodies(
    model: ModelProto,
    bodies: Sequence[Body],
    constants: Constants,
    sources: Sequence[Samples],
    providers: Sequence[ProviderRequest],
    threads: int | None,
    workspace: int,
    progress: Count,
) -> list[list[BodyFeeds]]:
    """Run a model and note what its bodies are fed.

    Args:
        model: The model around them.
        bodies: Bodies of its main graph's nodes.
        constants: Its constants.
        sources: What it is fed.
        providers: Where to run.
        threads: Of onnxruntime.
        workspace: Bytes that the feeds may take, as far as each body can have one.
        progress: Told how many samples have run, of how many.

    Returns:
        What every body is fed from every source.

    Raises:
        ModelError: It does not run with what the bodies read among its outputs.
    """
    steppers = [_Stepper(model, body, constants, providers, threads) for body in bodies]
    made = {name for node in model.graph.node for name in node.output if name} - constants.names
    wanted = sorted({name for stepper in steppers for name in stepper.reads} & made)
    exposed = with_fixed_draws(_exposing(model, wanted))
    session = open_session(exposed, providers, threads=threads, optimize=False) if wanted else None
    done, total = 0, sum(map(len, sources))
    share = max(1, MOST_FEEDS // max(1, total))
    room = workspace // len(bodies) // len(sources)
    fed = [[BodyFeeds() for _ in sources] for _ in bodies]
    for number, samples in enumerate(sources):
        for feed, count in samples.runs(1):
            values = {**feed, **(session.run(feed, wanted) if session else {})}
            for stepper, results in zip(steppers, fed, strict=True):
                _note(stepper, values, results[number], share if results[number].size_bytes < room else 0)
            done += count
            progress(done, total)
    return fed


def _exposing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Copy a model with other outputs, and without what only served its own."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    before = [output.name for output in exposed.graph.output]
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in names)
    drop_unread(exposed.graph, before)
    return forget_records(exposed)


def _note(stepper: _Stepper, values: Mapping[str, NDArray[Any]], result: BodyFeeds, share: int) -> None:
    """Let a body run as often as it does in one run of the model around it, and keep `share` of its feeds."""
    if result.failure or result.runs >= MOST_STEPS:
        return
    try:
        steps = list(itertools.islice(stepper.steps(values), MOST_STEPS))
        unseen = [] if steps or result.unseen else [stepper.captures(values)]
    except ModelError as error:
        result.failure = str(error)
        return
    result.samples += 1
    result.runs += len(steps)
    if stepper.body.node.op_type == "If":
        result.unseen += unseen
    if steps and share and len(result.feeds) < MOST_FEEDS:
        chosen: list[int] = np.unique(np.linspace(0, len(steps) - 1, min(share, len(steps))).astype(int)).tolist()
        for step in chosen:
            result.keep(steps[step])


class _Stepper:
    """Runs the steps of one body.

    Attributes:
        body: The body.
        reads: Names outside that it and its node read.
    """

    def __init__(
        self,
        outer: ModelProto,
        body: Body,
        constants: Constants,
        providers: Sequence[ProviderRequest],
        threads: int | None,
    ) -> None:
        self.body = body
        self._outer, self._constants = outer, constants
        self._run_on = providers, threads
        self._session: Session | None = None
        formal = len(body.graph.input)
        self._formal = [info.name for info in body.graph.input]
        self._captured = inputs_of(body, constants)[formal:]
        self.reads = [*(name for name in body.node.input if name), *self._captured]

    def steps(self, values: Mapping[str, NDArray[Any]]) -> Iterator[Feed]:
        """Yield what the body is fed, run by run.

        Raises:
            ModelError: It reads what is no tensor, or onnxruntime cannot run it.
        """
        captured = self.captures(values)
        inputs = [self._value(name, values) if name else None for name in self.body.node.input]
        if self.body.node.op_type == "If":
            condition = inputs[0]
            if condition is not None and bool(condition.ravel()[0]) == (self.body.attribute == "then_branch"):
                yield captured
        elif self.body.node.op_type == "Loop":
            yield from self._loop(inputs, captured)
        else:
            yield from self._scan(inputs, captured)

    def captures(self, values: Mapping[str, NDArray[Any]]) -> Feed:
        """Return what the body reads from outside."""
        return {name: self._value(name, values) for name in self._captured}

    def _value(self, name: str, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        value = values[name] if name in values else self._constants.value(name)
        if value.dtype.kind == "O" and not all(isinstance(item, str) for item in value.ravel()[:1]):
            raise ModelError(f"it reads '{name}', which is no tensor")
        return value

    def _loop(self, inputs: Sequence[NDArray[Any] | None], captured: Feed) -> Iterator[Feed]:
        """Loop: as often as the first input says, while the condition holds."""
        most, condition, *states = inputs
        times = math.inf if most is None else int(most.ravel()[0])
        going = True if condition is None else bool(condition.ravel()[0])
        shapes = [(1,) if len(info.type.tensor_type.shape.dim) == 1 else () for info in self.body.graph.input[:2]]
        outputs = [output.name for output in self.body.graph.output]
        step = 0
        while step < times and going:
            numbers = (np.full(shapes[0], step, np.int64), np.full(shapes[1], going, np.bool_))
            feed = dict(zip(self._formal, (*numbers, *_present(states)), strict=True)) | captured
            yield feed
            values = self._run(feed)
            going = bool(values[outputs[0]].ravel()[0])
            states = [values[name] for name in outputs[1 : 1 + len(states)]]
            step += 1

    def _scan(self, inputs: Sequence[NDArray[Any] | None], captured: Feed) -> Iterator[Feed]:
        """Scan: once for every index of the scanned axes."""
        attributes = Attributes(self.body.node)
        given = _present(inputs)
        count = attributes.integer("num_scan_inputs", 1)
        states, scanned = given[: len(given) - count], given[len(given) - count :]
        axes = attributes.integers("scan_input_axes") or [0] * count
        backwards = attributes.integers("scan_input_directions") or [0] * count
        outputs = [output.name for output in self.body.graph.output]
        length = scanned[0].shape[axes[0]]
        for step in range(length):
            slices = [
                np.take(array, length - 1 - step if back else step, axis)
                for array, axis, back in zip(scanned, axes, backwards, strict=True)
            ]
            feed = dict(zip(self._formal, (*states, *map(np.asarray, slices)), strict=True)) | captured
            yield feed
            values = self._run(feed)
            states = [values[name] for name in outputs[: len(states)]]

    def _run(self, feed: Feed) -> Mapping[str, NDArray[Any]]:
        if self._session is None:
            model = body_model(self._outer, self.body, self._constants, [feed], {})
            # A state may have other lengths, and another number of axes, after a step.
            for info in model.graph.input:
                info.type.tensor_type.ClearField("shape")
            providers, threads = self._run_on
            self._session = open_session(with_fixed_draws(model), providers, threads=threads, optimize=False)
        return self._session.run(feed)


def _present(arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
    """Make sure that every state is there.

    Raises:
        ModelError: One is not.
    """
    present = [array for array in arrays if array is not None]
    if len(present) < len(arrays):
        raise ModelError("it carries a state that may be missing")
    return present
