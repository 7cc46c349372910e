"""A network of which one group is pruned to some widths: what changes is fed, so that sessions serve all widths.

The stages that read the group take their new weights and the factors that mask it as inputs; all others are those of
the network itself (`StageSessions`), whichever group is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxpfp.arrays import AnyArray, Arrays, Bools, Keep
from onnxpfp.channels import Mask
from onnxpfp.model.edit import drop_initializers, replace_nodes
from onnxpfp.model.shapes import Shapes
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Stages, turn_of
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import factors, masking
from onnxpfp.runtime import open_session
from onnxpfp.runtime.session import Session

__all__ = ["StageSessions", "Variants"]

WIDE = "_onnxpfp_wide"
"""What the name of an input ends with that is fed as float32 and is of another type in the network."""


@dataclass(slots=True, eq=False)
class StageSessions:
    """The sessions of a network's stages, each opened when it is first run; threads may share them.

    Attributes:
        stages: The network.
        problem: How to run it.
        threads: Of one session.
        turn: Held while one runs, as in `Runner`.
        read_behind: What stages behind each read, and the outputs of the network that stages have made.
        sessions: Those that are open, by depth; None where a stage makes nothing that is read.
    """

    stages: Stages
    problem: RefitProblem
    threads: int
    turn: AbstractContextManager[object]
    read_behind: Sequence[frozenset[str]]
    sessions: dict[int, Session | None] = field(default_factory=dict[int, "Session | None"])
    _opening: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, stages: Stages, problem: RefitProblem, threads: int) -> StageSessions:
        """Open nothing yet."""
        read = frozenset(info.name for info in stages.model.graph.output)
        behind = [read]
        for stage in reversed(stages.stages[1:]):
            read |= frozenset(stage.reads)
            behind.append(read)
        return cls(stages, problem, threads, turn_of(problem.requests), behind[::-1])

    def outputs(self, depth: int) -> list[str]:
        """Return what a stage makes that later ones or whoever runs the network read."""
        made = self.stages.made(depth)
        shown = (info.name for info in self.stages.model.graph.output if info.name in made)
        return list(dict.fromkeys((*self.stages.stages[depth].gives, *shown)))

    def part(self, depth: int) -> ModelProto | None:
        """Return a stage as a model; None where it makes nothing that is read."""
        outputs = self.outputs(depth)
        return self.stages.part(depth, depth, outputs) if outputs else None

    def open(self, part: ModelProto | None) -> Session | None:
        """Load a stage."""
        if part is None:
            return None
        return open_session(part, self.problem.requests, threads=self.threads, shared=True)

    def at(self, depth: int) -> Session | None:
        """Return the session of a stage as it is."""
        with self._opening:
            if depth not in self.sessions:
                self.sessions[depth] = self.open(self.part(depth))
            return self.sessions[depth]


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """The variants of a network in which one group is narrower.

    Attributes:
        network: The sessions of the network itself.
        shapes: Shapes and types of its tensors.
        own: The sessions of the stages that read the group, by depth.
        masks: Where they read it, by depth.
    """

    network: StageSessions
    shapes: Shapes
    own: Mapping[int, Session | None]
    masks: Mapping[int, Sequence[Mask]]

    @classmethod
    def of(cls, network: StageSessions, touched: Bools, edits: Edits, edited: Sequence[str] = ()) -> Variants:
        """Load the stages that read a group, or have new weights.

        Args:
            network: The network.
            touched: Which channels are the group's, (channels + 1,).
            edits: Weights of its consumers, of the tensors and inputs that will be new.
            edited: Ops with new weights that read nothing of the group, by output.
        """
        analysis, depth = network.problem.analysis, network.stages.depth
        masks: dict[int, list[Mask]] = {depth[output]: [] for output in edited}
        for mask in analysis.graph.masks:
            if touched[mask.channels].any():
                masks.setdefault(depth[mask.output], []).append(mask)
        own: dict[int, Session | None] = {}
        for number, here in masks.items():
            part = network.part(number)
            if part is not None:
                part = masking(part, here, analysis.shapes)
                _read_inputs(part, analysis.model, edits)
                _feed(part, {**_new_arrays(edits), **factors(here, ~touched, analysis.shapes)})
            own[number] = network.open(part)
        return cls(network, analysis.shapes, own, masks)

    @property
    def first(self) -> int:
        """The first stage that reads the group."""
        return min(self.own)

    def run(self, keep: Keep, edits: Edits, before: Arrays) -> dict[str, AnyArray]:
        """Run a variant from the first stage that reads the group on.

        Args:
            keep: Whether each channel stays.
            edits: New weights of its consumers.
            before: What lies in front of that stage.

        Returns:
            The outputs of the network that are made from there on.
        """
        stages = self.network.stages
        new = _new_arrays(edits)
        values = dict(before)
        for depth in range(self.first, len(stages.stages)):
            session = self.own[depth] if depth in self.own else self.network.at(depth)
            if session is None:
                continue
            given: Arrays = values
            if depth in self.own:
                given = {**values, **new, **factors(self.masks[depth], keep, self.shapes)}
            with self.network.turn:
                values.update(session.run({name: _fed(name, given) for name in session.inputs}))
            values = {name: array for name, array in values.items() if name in self.network.read_behind[depth]}
        return values


def _name_of(use: tuple[int, int]) -> str:
    return f"onnxpfp_new_{use[0]}_{use[1]}"


def _new_arrays(edits: Edits) -> dict[str, AnyArray]:
    return {**edits.tensors, **{_name_of(use): new.array for use, new in edits.inputs.items()}}


def _fed(name: str, arrays: Arrays) -> AnyArray:
    """Return what is fed as an input: the array of its name, wider where numpy has no type for it."""
    return arrays[name.removesuffix(WIDE)].astype(np.float32) if name.endswith(WIDE) else arrays[name]


def _read_inputs(part: ModelProto, model: ModelProto, edits: Edits) -> None:
    """Let nodes of a part read their new constants."""
    nodes = {node.output[0]: node for node in part.graph.node}
    for index, position in edits.inputs:
        node = nodes.get(model.graph.node[index].output[0])
        if node is not None:
            node.input.extend([""] * (position + 1 - len(node.input)))
            node.input[position] = _name_of((index, position))


def _feed(part: ModelProto, arrays: Arrays) -> None:
    """Make inputs of what a part reads of some arrays, in the place of constants of their names."""
    graph = part.graph
    read = {name for node in graph.node for name in node.input}
    infos = [info for info in graph.input if info.name not in arrays]
    casts: list[NodeProto] = []
    for name in arrays.keys() & read:
        element, fed = helper.np_dtype_to_tensor_dtype(arrays[name].dtype), name
        if arrays[name].dtype.isbuiltin != 1:
            # onnxruntime takes no bfloat16 and the like from numpy; float32 holds all of their numbers.
            fed = name + WIDE
            casts.append(helper.make_node("Cast", [fed], [name], to=element))
            element = TensorProto.FLOAT
        infos.append(helper.make_tensor_value_info(fed, element, None))
    del graph.input[:]
    graph.input.extend(infos)
    drop_initializers(graph, arrays)
    replace_nodes(graph, [*casts, *(node for node in graph.node if arrays.keys().isdisjoint(node.output))])
