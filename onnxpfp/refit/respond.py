"""Response curves: what the network's output does when one group alone is narrowed and its consumers are refitted.

The samples lie in front of a group's first consumer once (`stages.py`); from there on the rest of the network is run
for every width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.channels import Group, Keep
from onnxpfp.quality import divergence
from onnxpfp.refit.solve import solve
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.survey import Gram
from onnxpfp.refit.sweep import Ledger, Setting
from onnxpfp.refit.tasks import Task
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime import open_session

__all__ = ["Question", "respond"]

Floats = NDArray[np.float64]
RIDGE = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One group at some widths.

    Attributes:
        group: The group.
        keeps: Whether each of its channels stays, one row per width, (W, C).
    """

    group: Group
    keeps: NDArray[np.bool_]

    def keep(self, row: int, count: int) -> Keep:
        """Return which channels of the network stay at a width, (count + 1,)."""
        keep = np.ones(count + 1, np.bool_)
        keep[self.group.channels] = self.keeps[row]
        return keep


def respond(
    setting: Setting,
    questions: Sequence[Question],
    grams: Mapping[str, Gram],
    *,
    refitted: bool,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[float]]:
    """Measure the drift of the output for every question and width.

    Args:
        setting: The network; its held-out samples are used.
        questions: Groups and widths.
        grams: Of the ops that read the groups, by output; ops that have none lose the channels without refit.
        refitted: Whether the consumers are refitted.
        progress: Told how many groups are done, of how many.
    """
    model, graph = setting.model, setting.graph
    stages = Stages.of(model, {task.output for task in setting.tasks}, setting.shapes.dtype)
    feeds = [dict(feed) for feed in setting.held.batches(setting.batch_size)]
    shown = [output.name for output in model.graph.output]
    session = open_session(model, setting.requests, threads=setting.threads)
    wanted = [session.run(feed) for feed in feeds]
    runner = Runner.start(stages, feeds, setting.workspace // 2, setting.requests, setting.threads)
    first = [_first_stage(question, setting, stages) for question in questions]
    found: list[list[float]] = [[] for _ in questions]
    done = 0
    for depth in range(len(stages.stages)):
        for number, question in enumerate(questions):
            if first[number] != depth:
                continue
            for row in range(len(question.keeps)):
                keep = question.keep(row, graph.count)
                edits = _edits(setting, question, keep, grams) if refitted else Edits()
                variant = masked(apply(model, graph, graph.keep_all(), edits), graph, keep, setting.shapes)
                cut = Stages.of(variant, {task.output for task in setting.tasks}, setting.shapes.dtype)
                tail = open_session(
                    cut.part(depth, len(cut.stages) - 1, shown), setting.requests, threads=setting.threads
                )
                outputs = [
                    tail.run({name: np.asarray(values[name]) for name in tail.inputs}) for values in runner.tide.batches
                ]
                found[number].append(divergence(wanted, outputs))
            done += 1
            if progress:
                progress(done, len(questions))
        opened, _ = runner.open()
        for batch in range(len(feeds)):
            runner.run(opened, batch)
        runner.advance()
    return found


def _first_stage(question: Question, setting: Setting, stages: Stages) -> int:
    """Return the first stage in which something reads the group."""
    own = np.zeros(setting.graph.count + 1, np.bool_)
    own[question.group.channels] = True
    return min(stages.depth[mask.output] for mask in setting.graph.masks if own[mask.channels].any())


def _edits(setting: Setting, question: Question, keep: Keep, grams: Mapping[str, Gram]) -> Edits:
    """Refit the consumers of a group to their own outputs on all channels."""
    ledger = Ledger(setting, setting.graph.keep_all(), Edits())
    tasks: list[Task] = []
    for task in setting.tasks:
        gram = grams.get(task.output)
        stays = keep[task.reader.channels]
        if gram is None or stays.all():
            continue
        start = ledger.start(task)
        if start is None:
            continue
        weights, bias = start[0].copy(), start[1].copy()
        per_in = len(stays) // task.reader.group
        for group in range(len(weights)):
            columns = np.repeat(stays[group * per_in : (group + 1) * per_in], task.reader.kernel_size)
            moments = gram.moments(group, weights[group], columns)
            fitted, shift = solve(moments, weights[group][None, :, columns], RIDGE)
            weights[group] = 0.0
            weights[group][:, columns] = fitted[0]
            bias[group] += shift[0]
        ledger.put(task, weights, bias)
        tasks.append(task)
    return ledger.all_edits(tasks)
