"""Axes of outputs that count classes, and the channels that go with a class.

What the user reads stays, so no channel of an ordinary analysis reaches an output. Here the outputs are released: an
index of an output may go where nothing keeps it and nothing contracts it, for then no number but its own hangs on it.
So what is left of the outputs is what it was. One kind of op is let through on purpose: a Softmax over the classes
gives other numbers once some are gone, those of a softmax of the scores that are left (`renormalising`).

Which of the indices are classes the graph alone does not tell. They are a *run*: neighbouring indices of an output's
axis that the same weights bring forth, each a channel of its own.

    Case 1  The output has two axes and one run, or all runs of the file are of one length: those of a classifier.
    Case 2  The run stands behind at least four other indices of its axis, as in (batch, 4 + classes, boxes): a box.
    Case 3  The number of classes is known: the run that has so many, or the end of an axis of 4 or 5 more, which are a
            box and its objectness (the layouts of YOLOv8 and YOLOv5).
    Case 4  The user says the axis, the first index and the number.

Anchors may lie behind one another on one axis, as in 255 = 3 x (4 + 1 + 80): then the classes stand once in every
*block* of it. The graph shows that where it divides the axis by a Reshape, for what goes of one block goes of all then:
the channels repeat. Where nothing divides it, the user says how long a block is; 255 numbers may be anything else.

Else nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto

from onnxpfp.arrays import Bools, Ids, Keep
from onnxpfp.channels.analysis import Analysis, best_walk, settled_graph
from onnxpfp.channels.attention_axes import Unit
from onnxpfp.channels.graph import UNREAD, ChannelGraph
from onnxpfp.channels.labels import Components
from onnxpfp.channels.walk import Walk
from onnxpfp.channels.walk_input import WalkInput
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.opset import standard_opset

__all__ = ["BOX", "ClassAxis", "ReleasedOutputs", "normalised_axes", "release_outputs"]

BOX = 4
"""Numbers of a box, which stand before the classes of a detector."""
WITH_OBJECTNESS = BOX + 1
SOFTMAXES = frozenset({"Softmax", "LogSoftmax"})
AXIS_ALONE_SINCE = 13
"""First opset in which a Softmax normalises over one axis; before that over all from it on."""


@dataclass(frozen=True, slots=True)
class ClassAxis:
    """The indices of an output that are classes.

    Attributes:
        output: Name of the output.
        axis: The axis.
        first: The index of class 0.
        count: How many classes there are.
        length: All indices of the axis.
        blocks: In how many blocks of one length they stand, at the same place of each; 1 where they stand once.
    """

    output: str
    axis: int
    first: int
    count: int
    length: int
    blocks: int = 1

    @property
    def every(self) -> int:
        """The indices of one block."""
        return self.length // self.blocks

    @property
    def title(self) -> str:
        """What the user reads of it."""
        every = "" if self.blocks == 1 else f"every {self.every} of "
        indices = f"indices {self.first} to {self.first + self.count - 1} of {every}{self.length}"
        what = f"{self.length} indices" if self.count == self.length else indices
        return f"output '{self.output}', axis {self.axis}: {what}"

    @property
    def typed(self) -> str:
        """What says it on the command line."""
        every = "" if self.blocks == 1 else f":{self.every}"
        return f"{self.output}:{self.axis}:{self.first}:{self.count}{every}"

    def of(self, classes: Sequence[int]) -> Ids:
        """Return the indices of classes in all blocks, ascending, (blocks * classes,)."""
        blocks = self.every * np.arange(self.blocks, dtype=np.int64)
        return np.sort((blocks[:, None] + self.first + np.array(classes, np.int64)).ravel())


@dataclass(frozen=True)
class ReleasedOutputs:
    """What may go of the outputs of a model.

    Attributes:
        model: The model.
        graph: Its channels, of which each is what goes with one or several indices of outputs.
        labelled: The walk that they come from.
    """

    model: ModelProto
    graph: ChannelGraph
    labelled: Walk

    @cached_property
    def parts(self) -> Components:
        """What must go together, and why it stays."""
        return self.labelled.labels.components()

    def axes(self, output: str) -> tuple[Ids, ...]:
        """Return the channels of the axes of an output; none of one that is no dense tensor."""
        return self.graph.axes.get(output, ())

    def blocks(self, output: str, axis: int) -> int:
        """Return in how many blocks of the same channels an axis of an output lies; 1 where they do not repeat."""
        ids = self.axes(output)[axis]
        for every in range(2, ids.size // 2 + 1) if ids.any() else ():
            if ids.size % every == 0 and (ids.reshape(-1, every) == ids[:every]).all():
                return ids.size // every
        return 1

    def free(self, output: str, axis: int) -> Bools:
        """Tell which indices of the first block of an axis may go, each with those of the others alone, (every,)."""
        ids, blocks = self.axes(output)[axis], self.blocks(output, axis)
        found = (ids != 0) & (np.bincount(ids, minlength=self.graph.count + 1)[ids] == blocks)
        return found[: ids.size // blocks]

    def runs(self) -> list[ClassAxis]:
        """List the runs of all outputs; one index alone is none."""
        return [run for info in self.model.graph.output for run in self._runs_of(info.name)]

    def _runs_of(self, output: str) -> Iterator[ClassAxis]:
        owner = np.zeros(self.graph.count + 1, np.int64)
        for number, group in enumerate(self.graph.groups, 1):
            owner[group.channels] = number
        for axis, ids in enumerate(self.axes(output)):
            free = self.free(output, axis)
            kinds = np.where(free, owner[ids[: free.size]], 0)
            borders = np.flatnonzero(np.diff(kinds, prepend=-1, append=-1))
            for first, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
                if kinds[first] and end - first > 1:
                    yield ClassAxis(output, axis, first, end - first, ids.size, ids.size // free.size)

    def of_number(self, count: int) -> list[ClassAxis]:
        """List the axes that may have so many classes (case 3): per output the runs, or else what is behind boxes."""
        found: list[ClassAxis] = []
        runs = self.runs()
        for info in self.model.graph.output:
            exact = [run for run in runs if run.output == info.name and run.count == count]
            found += exact or self._behind_boxes(info.name, count)
        return found

    def _behind_boxes(self, output: str, count: int) -> Iterator[ClassAxis]:
        for axis, ids in enumerate(self.axes(output)):
            free = self.free(output, axis)
            first = free.size - count
            if first in {BOX, WITH_OBJECTNESS} and free[first:].all():
                yield ClassAxis(output, axis, first, count, ids.size, ids.size // free.size)

    def anchors(self, count: int) -> list[ClassAxis]:
        """List the axes that could be boxes, their objectness and so many classes for several anchors.

        No more than the numbers fit, which proves nothing.
        """
        every = count + WITH_OBJECTNESS
        whole = [run for run in self.runs() if run.count == run.length > every and run.length % every == 0]
        return [replace(run, first=WITH_OBJECTNESS, count=count, blocks=run.length // every) for run in whole]

    def sure(self) -> list[ClassAxis]:
        """List the axes of classes as far as the graph tells (cases 1 and 2); empty where it does not."""
        runs = self.runs()
        outputs = [run.output for run in runs]
        alone = len({run.count for run in runs}) == 1 and len(set(outputs)) == len(outputs)
        told = all((len(self.axes(run.output)) == 2 and run.blocks == 1) or run.first >= BOX for run in runs)
        return runs if alone and told else []

    def goes(self, axes: Sequence[ClassAxis], dropped: Sequence[int]) -> Keep:
        """Return the choice that lets classes go, (channels + 1,): whether each channel stays.

        Args:
            axes: The axes of classes.
            dropped: The classes that go, of all these axes.
        """
        keep = self.graph.keep_all()
        for each in axes:
            keep[self.axes(each.output)[each.axis][each.of(dropped)]] = False
        keep[0] = True
        return keep

    def why_not(self, output: str, axis: int, index: int, together: Sequence[int]) -> str:
        """Say why an index of an output cannot go with some others alone; empty where it can."""
        ids = self.axes(output)[axis]
        if ids[index]:
            others = np.setdiff1d(np.flatnonzero(ids == ids[index]), together)
            return f"it goes only with index {int(others[0])}" if others.size else ""
        part = self.parts.of_label[self.labelled.axes[output][axis][index]]
        cause = int(self.parts.reason[part])
        if cause >= 0:
            return self.parts.reasons[cause]
        reader = next((c for c in self.labelled.consumers if (self.parts.of_label[c.channels] == part).any()), None)
        return f"{reader.op} '{reader.name}' reads it" if reader and part else self.why_nothing()

    def why_nothing(self) -> str:
        """Say what keeps the last layers whole; the most frequent reasons come first."""
        reasons = Counter(fixed.reason for fixed in self.graph.fixed if fixed.reason != UNREAD)
        return "; ".join(reason for reason, _ in reasons.most_common(3)) or "no weights bring it forth"

    def renormalising(self, keep: Keep) -> list[int]:
        """List the Softmax nodes whose sums lose classes, by position."""
        found: list[int] = []
        for position, node in enumerate(self.model.graph.node):
            if _is_softmax(node):
                ids = [self.graph.axes[node.input[0]][axis] for axis in normalised_axes(self.model, node, self.graph)]
                if not all(keep[each].all() for each in ids):
                    found.append(position)
        return found


def normalised_axes(model: ModelProto, node: NodeProto, graph: ChannelGraph) -> range:
    """Return the axes over which a Softmax normalises."""
    rank = len(graph.axes.get(node.input[0], ()))
    alone = standard_opset(model) >= AXIS_ALONE_SINCE
    first = Attributes(node).integer("axis", -1 if alone else 1) % max(rank, 1)
    return range(first, min(first + 1, rank)) if alone else range(first, rank)


def release_outputs(analysis: Analysis, unit: Unit) -> ReleasedOutputs:
    """Find what may go of the outputs of a model.

    Args:
        analysis: The model.
        unit: What goes from an attention.
    """
    model = _without_softmaxes(analysis.model)
    tail = analysis.source.tail
    walk_input = WalkInput.of(model, analysis.shapes, analysis.constants, tail.reasons if tail else {}, released=True)
    outputs = [info.name for info in model.graph.output]

    def free(labelled: Walk, parts: Components) -> Bools:
        return _of_outputs(labelled, parts, outputs, analysis.constants.weights)

    labelled = best_walk(walk_input, unit, free)
    graph = settled_graph(model, labelled, analysis.constants.weights, free)
    return ReleasedOutputs(analysis.model, graph, labelled)


def _of_outputs(labelled: Walk, parts: Components, outputs: Sequence[str], weights: Sequence[str]) -> Bools:
    """Tell which components lie on outputs and on weights, and are neither kept nor read by anything that adds up."""

    def lying_on(names: Sequence[str]) -> Bools:
        found = np.zeros(parts.fixed.size, np.bool_)
        uses = (axes for name in names for axes in labelled.uses.get(name, {}).values())
        for axes in (*(labelled.axes.get(name, ()) for name in names), *uses):
            for labels in axes:
                found[parts.of_label[labels]] = True
        return found

    read = np.zeros(parts.fixed.size, np.bool_)
    for each in (*labelled.consumers, *labelled.masks):
        read[parts.of_label[each.channels]] = True
    return lying_on(outputs) & lying_on(weights) & ~read & ~parts.fixed


def _is_softmax(node: NodeProto) -> bool:
    return node.op_type in SOFTMAXES and node.domain in {"", "ai.onnx"}


def _without_softmaxes(model: ModelProto) -> ModelProto:
    """Put an op that passes every index in the place of every Softmax, in a copy that is walked and never run."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if _is_softmax(node):
            node.op_type = "Sigmoid"
            node.ClearField("attribute")
    return copy
