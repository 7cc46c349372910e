"""Prune a network in the ways of the audit, and count which of the printed promises inform and which are broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

import onnxpfp
from benchmarks.promises.audit_rows import Counts
from benchmarks.promises.choice_errors import choice_errors, lost, mean_squares
from benchmarks.promises.networks_run import Nodes, output_errors, tensors
from benchmarks.promises.sign_parts import Layer, part_errors
from onnxpfp.pipeline.plan import PlanEntry

__all__ = ["Pruned", "Way", "counts_of", "prune", "ways"]

LEAST = 1 - 1e-6
"""Share of the multiply-adds for which the channels that cost nothing are enough, where there are any."""
TOGETHER = 32
"""Inputs whose windows are in memory at once."""
SELECTIONS = ("deterministic", "sampled", "mixed")
ROUNDING = 1e-5, 1e-6
"""Relative and absolute; a promise is broken by more."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of pruning.

    Attributes:
        score: The criterion.
        options: Further keywords of `onnxpfp.prune`.
    """

    score: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        """The flags."""
        flags = [f"--{option.replace('_', '-')} {value}" for option, value in self.options.items()]
        return " ".join([f"--score {self.score}", *flags])


def ways(scores: Sequence[str]) -> list[Way]:
    """List the ways of criteria: to the letter, where PFP has three selections, and as they are by default."""
    letter = {"allocate": "bound", "compensate": "none"}
    found: list[Way] = []
    for score in scores:
        selections = [{"select": select} for select in SELECTIONS] if score == "pfp" else [{}]
        found += [Way(score, selection | letter) for selection in selections]
        found.append(Way(score))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A written network.

    Attributes:
        model: The network.
        kept: Entries of the plan by weight, in indices of the original.
        document: The report, as in JSON.
    """

    model: ModelProto
    kept: Mapping[str, PlanEntry]
    document: Mapping[str, Any]

    def keep(self, weight: str, axis: int, length: int) -> NDArray[np.int64]:
        """Return the kept indices of an axis of a weight, of `length` in the original."""
        entry = self.kept.get(weight)
        kept = entry.keep.get(axis) if entry else None
        return np.arange(length) if kept is None else np.array(kept, np.int64)


def prune(file: Path, calibration: Array, target: float, way: Way) -> Pruned:
    """Prune with the product."""
    options: dict[str, Any] = {"score": way.score, "effort": "low", **way.options}
    result = onnxpfp.prune(file, calibration=calibration, keep_macs=target, threads=1, **options)
    return Pruned(result.model, result.plan.initializers, result.report.to_dict())


def without_what_costs_nothing(file: Path, calibration: Array) -> Pruned:
    """Return the network from which channels are chosen: what costs nothing went before.

    Raises:
        ValueError: Channels were chosen, too.
    """
    found = prune(file, calibration, LEAST, ways(["pfp"])[0])
    if not found.document["removed"]:
        return Pruned(onnx.load(file), {}, found.document)
    if any(group["ranked_by"] for group in found.document["groups"]):
        raise ValueError(f"{file}: channels that cost nothing are not enough for a share of {LEAST}")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One consumer of one cut group in one run, and what was promised of it: PFP's bound, and that of the error."""

    run: int
    consumer: str
    epsilon: float | None
    error: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Realised:
    """What the choice alone does to one consumer: the worst error of a sign part, and the one in the mean square."""

    worst: float
    error: float


def counts_of(file: Path, before: Pruned, runs: Sequence[Pruned], calibration: Array, inputs: Array) -> list[Counts]:
    """Hold what is printed against what is.

    Args:
        file: The original.
        before: `without_what_costs_nothing` of it.
        runs: The pruned networks.
        calibration: Inputs that the runs have seen, (N, ...): the mean squares of sums are of them.
        inputs: Inputs that no run has seen, (N, ...).

    Raises:
        ValueError: A run removed other channels for nothing than `before`.
    """
    original = onnx.load(file)
    nodes = Nodes.of(original)
    rows = [row for number, run in enumerate(runs) for row in _rows(number, run)]
    if any(run.document["removed"] != before.document["removed"] for run in runs):
        raise ValueError(f"{file}: not the same channels cost nothing in all runs")
    by_choice = _by_choice(nodes, before, runs, rows, calibration, inputs)
    counts: list[Counts] = []
    for number, run in enumerate(runs):
        errors = output_errors(original, run.model, inputs, nodes, lambda *axis, run=run: run.keep(*axis))
        mine = [(row, row.epsilon) for row in rows if row.run == number and row.epsilon is not None]
        found = Counts.of_rows(
            [epsilon for _, epsilon in mine],
            [_broken(epsilon, by_choice[row].worst) for row, epsilon in mine],
            [_broken(epsilon, float(errors[row.consumer].max())) for row, epsilon in mine],
        )
        bounded = [(row, row.error) for row in rows if row.run == number and row.error is not None]
        found = found.with_errors([bound for _, bound in bounded], [by_choice[row].error for row, _ in bounded])
        layers = run.document.get("layers")
        counts.append(found if layers is None else found.with_layers(layers["layers"], errors))
    return counts


def _broken(epsilon: float, realised: float) -> bool:
    relative, absolute = ROUNDING
    return realised > epsilon * (1 + relative) + absolute


def _rows(number: int, run: Pruned) -> Iterator[_Row]:
    for group in run.document["groups"]:
        if group["epsilon"] is not None or group["choice_error"] is not None:
            for consumer in group["consumers"]:
                yield _Row(number, consumer, group["epsilon"], group["choice_error"])


def _by_choice(
    nodes: Nodes,
    before: Pruned,
    runs: Sequence[Pruned],
    rows: Sequence[_Row],
    calibration: Array,
    inputs: Array,
) -> dict[_Row, _Realised]:
    """Return what the choice alone does to a consumer, with the inputs that it has before it, by row."""
    stored = {tensor.name: tensor for tensor in before.model.graph.initializer}
    weights = [{tensor.name: tensor for tensor in run.model.graph.initializer} for run in runs]
    found: dict[_Row, _Realised] = {}
    for consumer in dict.fromkeys(row.consumer for row in rows):
        layer = nodes.layers[consumer]
        mine = [row for row in rows if row.consumer == consumer]
        stored_weight = numpy_helper.to_array(stored[layer.weight])
        changed = [_after(layer, stored_weight, before, runs[row.run], weights[row.run][layer.weight]) for row in mine]
        original = layer.canonical(stored_weight)
        losses = [lost(original, *each) for each in changed]
        units = mean_squares(original, map(layer.windows, tensors(before.model, calibration, layer.data, TOGETHER)))
        worst, errors = np.zeros(len(mine)), [list[Array]() for _ in mine]
        for windows in map(layer.windows, tensors(before.model, inputs, layer.data, TOGETHER)):
            parts = part_errors(original, changed, windows)
            worst = np.maximum(worst, [each.max() for each in parts])
            for some, each in zip(errors, choice_errors(original, losses, windows, units), strict=True):
                some.append(each)
        means = [float(np.sqrt(np.concatenate(some).mean())) for some in errors]
        found |= {row: _Realised(float(w), mean) for row, w, mean in zip(mine, worst, means, strict=True)}
    return found


def _after(
    layer: Layer, whole: Array, before: Pruned, run: Pruned, stored: onnx.TensorProto
) -> tuple[Array, NDArray[np.int64]]:
    """Return a layer's weight after the choice, (C, k, o) with zeros where channels went, and its outputs, (o,).

    Where the file's was refitted, the promise is of the choice before: weights as they were.
    """
    contracted, out = layer.axes
    positions: dict[int, NDArray[np.int64]] = {}
    for axis in layer.axes:
        length = before.kept[layer.weight].shape[axis] if layer.weight in before.kept else whole.shape[axis]
        there = before.keep(layer.weight, axis, length)
        kept = run.keep(layer.weight, axis, length)
        assert np.isin(kept, there).all()
        positions[axis] = np.searchsorted(there, kept)
    weight = numpy_helper.to_array(stored)
    if run.document["compensation"] == "lstsq":
        weight = whole.take(positions[contracted], contracted).take(positions[out], out)
    part = layer.canonical(weight)
    after = np.zeros((whole.shape[contracted], *part.shape[1:]))
    after[positions[contracted]] = part
    return after, positions[out]
