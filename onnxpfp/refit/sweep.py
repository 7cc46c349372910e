"""One sweep of refits from front to back: each linear op learns to give the original's output from what it reads now.

Targets come from the original network, inputs from the network as it is pruned and refitted up to there (He et al.,
ICCV 2017, asymmetric reconstruction). A refit is taken only where it is better on samples that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.calibrate.samples import Samples
from onnxpfp.channels import ChannelGraph, Keep
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes
from onnxpfp.refit.columns import columns, draw_positions, outputs_at
from onnxpfp.refit.draws import Draw, Draws
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.shelf import Shelf
from onnxpfp.refit.solve import Fit, best_fit
from onnxpfp.refit.stages import Arrays, Runner, Stages
from onnxpfp.refit.tasks import Task, kept_weights, with_weights
from onnxpfp.rewrite.apply import apply, renew
from onnxpfp.rewrite.compensate import BiasEditor, Record
from onnxpfp.rewrite.edits import Edits, NewInput
from onnxpfp.runtime.providers import ProviderRequest

__all__ = ["Ledger", "Refitted", "Setting", "refit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a sweep works on and with.

    Attributes:
        model: The original.
        graph: Its channels.
        constants: Its constants.
        shapes: Shapes and types of its tensors.
        tasks: Its linear ops.
        fit: Samples to fit.
        held: Samples that decide whether a fit is better.
        batch_size: Samples in one run.
        positions: Output positions per sample.
        workspace: Bytes of activations that may be held.
        requests: Where to run.
        threads: Of onnxruntime.
        seed: Of the positions.
    """

    model: ModelProto
    graph: ChannelGraph
    constants: Constants
    shapes: Shapes
    tasks: tuple[Task, ...]
    fit: Samples
    held: Samples
    batch_size: int
    positions: int
    workspace: int
    requests: Sequence[ProviderRequest]
    threads: int | None
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """The outcome of a sweep.

    Attributes:
        edits: New weights and biases at full size, on top of the edits before.
        records: One per linear op, front to back.
    """

    edits: Edits
    records: tuple[Record, ...]


@dataclass(slots=True, eq=False)
class Ledger:
    """The weights as they are by now.

    Attributes:
        setting: The network.
        keep: Whether each channel stays.
        edits: Edits made before.
        taps: Weights of ops in canonical form, at full size, by output.
        shifts: What is added to the outputs of refitted ops, (O,), by output.
    """

    setting: Setting
    keep: Keep
    edits: Edits
    taps: dict[str, Floats] = field(default_factory=dict[str, Floats])
    shifts: dict[str, Floats] = field(default_factory=dict[str, Floats])

    def start(self, task: Task) -> tuple[Floats, Floats] | None:
        """Return what of an op's weights and bias stays, (g, o, n) and (g, o)."""
        taps = task.gain * task.reader.taps().astype(np.float64)
        self.taps[task.output] = taps
        weights = kept_weights(task, taps, self.keep)
        if weights is None or not weights.size:
            return None
        return weights, task.bias[self.keep[task.rows]].reshape(weights.shape[:2])

    def put(self, task: Task, weights: Floats, bias: Floats) -> None:
        """Write down new weights (g, o, n) and bias (g, o)."""
        self.taps[task.output] = with_weights(task, self.taps[task.output], self.keep, weights)
        shift = np.zeros(task.rows.size)
        stays = self.keep[task.rows]
        shift[stays] = bias.ravel() - task.bias[stays]
        self.shifts[task.output] = shift

    def all_edits(self, tasks: Sequence[Task], *, placeholders: bool = False) -> Edits:
        """Return the edits of the refitted ops; with placeholders also unchanged ones of all others."""
        model, graph, constants = self.setting.model, self.setting.graph, self.setting.constants
        editor = BiasEditor.of(model, graph, constants, self.edits)
        for task in tasks:
            shift = self.shifts.get(task.output)
            if shift is None and not placeholders:
                continue
            taps = self.taps[task.output] if shift is not None else task.gain * task.reader.taps()
            editor.fold(task.consumer, np.zeros(task.rows.size) if shift is None else shift / task.gain)
            self._write(editor, task, taps / task.gain)
        return editor.edits

    def _write(self, editor: BiasEditor, task: Task, taps: NDArray[np.floating]) -> None:
        name = task.consumer.weight
        old = self.setting.constants.value(name)
        new = operand(task, taps).astype(old.dtype).reshape(old.shape)
        if name in self.setting.constants.stored:
            editor.tensors[name] = new
        else:
            editor.inputs[task.consumer.node, 1] = NewInput(new, self.setting.graph.axes[name], name)


def operand(task: Task, taps: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bring canonical weights V (C, O/g, *kernel) to the layout of the op's second input."""
    reader = task.reader
    if reader.kind == "matmul":
        return taps if task.consumer.weight_axis == 0 else taps.T
    if reader.kind == "conv_transpose":
        return taps
    per_in, per_out, *kernel = len(taps) // reader.group, *taps.shape[1:]
    blocks = taps.reshape(reader.group, per_in, per_out, *kernel)
    return blocks.swapaxes(1, 2).reshape(reader.group * per_out, per_in, *kernel)


def refit(setting: Setting, keep: Keep, edits: Edits, progress: Callable[[int, int], None] | None = None) -> Refitted:
    """Refit all linear ops from front to back.

    Args:
        setting: What to work on and with.
        keep: Whether each channel stays.
        edits: Edits made before, which the refits start from. They must not touch weights of the tasks.
        progress: Told how many stages are done, of how many.
    """
    ledger = Ledger(setting, keep, edits)
    starts = {task.output: start for task in setting.tasks if (start := ledger.start(task)) is not None}
    tasks = [task for task in setting.tasks if task.output in starts]
    placeholders = ledger.all_edits(tasks, placeholders=True)
    student = apply(setting.model, setting.graph, keep, placeholders)
    cuts = {task.output for task in tasks}
    feeds = [dict(feed) for feed in setting.fit.batches(setting.batch_size)]
    fitted = len(feeds)
    feeds += [dict(feed) for feed in setting.held.batches(setting.batch_size)]
    dtype = setting.shapes.dtype
    teacher_stages, student_stages = Stages.of(setting.model, cuts, dtype), Stages.of(student, cuts, dtype)
    half = setting.workspace // 2
    teacher = Runner.start(teacher_stages, feeds, half, setting.requests, setting.threads)
    pupil = Runner.start(student_stages, feeds, half, setting.requests, setting.threads)
    nodes = {index: node.output[0] for index, node in enumerate(setting.model.graph.node)}
    records: list[Record] = []
    total = len(teacher_stages.stages)
    for depth in range(total):
        here = [task for task in tasks if teacher_stages.depth[task.output] == depth]
        fits = _stage(setting, keep, teacher, pupil, here, starts, fitted)
        for task, fit, spread in fits:
            records.append(
                Record(task.consumer.name, fit.plain / max(spread, 1e-30), fit.error / max(spread, 1e-30), fit.ridge)
            )
            if np.isfinite(fit.ridge):
                ledger.put(task, fit.weights, fit.bias)
        if here:
            renew(student, setting.graph, keep, ledger.all_edits(here), nodes)
        session, _ = pupil.open()
        for batch in range(len(feeds)):
            pupil.run(session, batch)
        teacher.advance()
        pupil.advance()
        if progress:
            progress(depth + 1, total)
    return Refitted(ledger.all_edits(tasks), tuple(records))


@dataclass(frozen=True, slots=True, eq=False)
class _Collection:
    """What is drawn of one op: from the samples to fit, and from the held-out ones."""

    task: Task
    start: tuple[Floats, Floats]
    sign: Floats
    draws: tuple[Draws, Draws]

    @classmethod
    def of(cls, task: Task, start: tuple[Floats, Floats], stays: NDArray[np.bool_], shelf: Shelf) -> _Collection:
        groups, outputs, inputs = start[0].shape
        sign = np.sign(task.outlook.scale[stays]).reshape(groups, outputs)
        empty = (Draws(Moments.empty(groups, inputs, outputs), shelf) for _ in range(2))
        return cls(task, start, sign, (next(empty), next(empty)))


def _stage(
    setting: Setting,
    keep: Keep,
    teacher: Runner,
    pupil: Runner,
    tasks: Sequence[Task],
    starts: Mapping[str, tuple[Floats, Floats]],
    fitted: int,
) -> Iterator[tuple[Task, Fit, float]]:
    """Run a stage of the original and fit its linear ops."""
    shelf = Shelf(setting.workspace)
    collections = [_Collection.of(task, starts[task.output], keep[task.rows], shelf) for task in tasks]
    session, _ = teacher.open([task.outlook.tensor for task in tasks] + [task.output for task in tasks])
    for batch in range(len(teacher.tide.batches)):
        shown = teacher.run(session, batch)
        for number, each in enumerate(collections):
            rng = np.random.default_rng([setting.seed, teacher.next, number, batch])
            draw = _draw(setting, keep, each, shown, pupil.tide.batches[batch], rng)
            each.draws[int(batch >= fitted)].add(draw)
    for each in collections:
        fit = best_fit(*each.draws, each.start, each.sign)
        held = each.draws[1].moments
        spread = float((held.tt / held.count - np.square(held.t / held.count)).sum())
        for draws in each.draws:
            draws.free()
        yield each.task, fit, spread


def _draw(
    setting: Setting, keep: Keep, each: _Collection, shown: Arrays, given: Arrays, rng: np.random.Generator
) -> Draw:
    """Draw columns and targets of one batch at random positions."""
    task, (groups, outputs, _) = each.task, each.start[0].shape
    outlook, stays = task.outlook, keep[task.rows]
    reached = outlook.tensor in shown and (not outlook.shortcut or outlook.shortcut in given)
    whole = shown[outlook.tensor if reached else task.output]
    positions = draw_positions(whole.shape, task.axis, setting.positions, rng)
    target, bend = outputs_at(whole, task.axis, positions)[:, stays], None
    if reached:
        other = outlook.offset[stays]
        if outlook.shortcut:
            other = other + outputs_at(given[outlook.shortcut], task.axis, positions)
        target = (target - other) / outlook.scale[stays]
        if outlook.rectified:
            bend = np.broadcast_to(-other / outlook.scale[stays], target.shape).astype(np.float32)
    spatial = whole.shape[2:] if task.reader.kind != "matmul" else ()
    u = columns(task.reader, given[task.consumer.data], spatial, positions)
    shape = (len(u), groups, outputs)
    return Draw(
        u.reshape(len(u), groups, -1),
        target.astype(np.float32).reshape(shape),
        None if bend is None else bend.reshape(shape),
    )
