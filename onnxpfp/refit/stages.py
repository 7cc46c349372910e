"""A network cut into stages at its linear ops, run one stage at a time over all samples.

The depth of a node is the number of linear ops on the longest path to it, itself included. Stage k holds the nodes of
depth k: its linear ops read only what earlier stages gave. So after stage k - 1 all of the data lie in front of the
linear ops of stage k, and these can be refitted before stage k is run. Going through all stages is one forward pass,
whatever the number of linear ops.

What later stages still read is kept between stages: in memory, or in files where it is too large for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxpfp.arrays import Arrays
from onnxpfp.model.constants import outer_names
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.refit.cache import SpillCache, rest
from onnxpfp.runtime import open_session
from onnxpfp.runtime.draw_keys import DECIDING, KEYS, draw_keys
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import Session
from onnxpfp.runtime.workers import Workers

__all__ = ["ActivationCache", "Arrays", "Loan", "Runner", "Stage", "Stages", "turn_of"]


CONSTANT = -1
"""Depth of what follows from constants alone."""
WEIGHTS_BESIDE_INPUTS = 4
"""First IR version whose weights need not be listed among the inputs."""


def _reads(node: NodeProto) -> set[str]:
    return {name for name in node.input if name} | outer_names(node)


@dataclass(frozen=True, slots=True)
class Stage:
    """The nodes of one depth.

    Attributes:
        nodes: Positions in `graph.node`.
        reads: Activations of earlier stages (or inputs of the model) that they read.
        gives: What they make that later stages read.
    """

    nodes: tuple[int, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """A model and its stages.

    Attributes:
        model: The model, with draws that the samples decide.
        stages: The stages, by depth.
        depth: Depth of every activation, by tensor name; 0 for the model's inputs.
        dtype: Element type of tensors, by name.
        makers: Position of the node that makes each tensor.
    """

    model: ModelProto
    stages: tuple[Stage, ...]
    depth: Mapping[str, int]
    dtype: Mapping[str, int]
    makers: Mapping[str, int]

    @classmethod
    def of(cls, model: ModelProto, cuts: Collection[str], dtype: Mapping[str, int]) -> Stages:
        """Cut a model; what it draws at random is decided by the samples, so the stages agree on it.

        Args:
            model: The model.
            cuts: Outputs of the linear ops and recurrences, one of each.
            dtype: Element types of its dense tensors; what has none is not carried, but made again where it is read.
        """
        model = with_fixed_draws(model)
        graph, cuts = model.graph, frozenset(cuts)
        dtype = {KEYS: TensorProto.INT64, **dtype}
        depth = {info.name: 0 for info in graph.input} | {tensor.name: CONSTANT for tensor in graph.initializer}
        makers: dict[str, int] = {}
        members: dict[int, list[int]] = {}
        for index, node in enumerate(graph.node):
            level = max((depth[name] for name in _reads(node) if name in depth), default=CONSTANT)
            if level != CONSTANT and not cuts.isdisjoint(node.output):
                level += 1
            depth.update({name: level for name in node.output if name})
            makers.update({name: index for name in node.output if name})
            if level != CONSTANT:
                members.setdefault(level, []).append(index)
        uncut = cls(model, (), depth, dtype, makers)
        nodes = [members.get(number, []) for number in range(max(members, default=0) + 1)]
        return replace(uncut, stages=uncut.cut(nodes))

    def cut(self, members: Sequence[Sequence[int]]) -> tuple[Stage, ...]:
        """Find what every stage of given nodes reads, and gives to later ones."""
        stages: list[Stage] = []
        later: set[str] = set()
        for nodes in reversed(members):
            reads = self._closure(nodes)[1]
            made = (name for index in nodes for name in self.model.graph.node[index].output)
            stages.append(Stage(tuple(nodes), tuple(sorted(reads)), tuple(name for name in made if name in later)))
            later |= reads
        return tuple(reversed(stages))

    def _closure(self, nodes: Collection[int]) -> tuple[set[int], set[str]]:
        """Return nodes with those that come along, and the activations that they read together.

        Constants that are computed come along with what computes them, and so does what the cache cannot keep: what
        has no element type, as it is no dense tensor or was put in by an edit.
        """
        chosen = set(nodes)
        reads: set[str] = set()
        waiting = [name for index in chosen for name in _reads(self.model.graph.node[index])]
        visited: set[str] = set()
        while waiting:
            name = waiting.pop()
            index = self.makers.get(name)
            if name in visited or index in chosen:
                continue
            visited.add(name)
            if index is None or (self.depth[name] != CONSTANT and name in self.dtype):
                if self.depth.get(name, CONSTANT) != CONSTANT:
                    reads.add(name)
                continue
            chosen.add(index)
            waiting.extend(_reads(self.model.graph.node[index]))
        made = {name for index in chosen for name in self.model.graph.node[index].output}
        return chosen, reads - made

    def made(self, depth: int) -> set[str]:
        """Return what a stage makes."""
        nodes = self.model.graph.node
        return {name for index in self.stages[depth].nodes for name in nodes[index].output if name}

    def part(self, first: int, last: int, outputs: Iterable[str]) -> ModelProto:
        """Return the stages `first` to `last` as a model that reads what earlier ones gave."""
        nodes = {index for stage in self.stages[first : last + 1] for index in stage.nodes}
        return self._model(nodes, outputs, f"stages {first} to {last}")

    def making(self, names: Sequence[str]) -> ModelProto:
        """Return what makes activations again that are not carried, as a model of what is."""
        return self._model({self.makers[name] for name in names}, names, "made again")

    def between(self, nodes: Collection[int], first: str, outputs: Sequence[str]) -> ModelProto | None:
        """Return nodes as a model that reads one tensor; None where they read others that are not constant."""
        return self._model(nodes, outputs, f"from {first}") if self._closure(nodes)[1] == {first} else None

    def _model(self, nodes: Collection[int], outputs: Iterable[str], name: str) -> ModelProto:
        graph = self.model.graph
        chosen, fed = self._closure(nodes)
        needed = set[str]().union(*(_reads(graph.node[index]) for index in chosen))
        part = ModelProto(ir_version=self.model.ir_version)
        part.opset_import.extend(self.model.opset_import)
        part.functions.extend(self.model.functions)
        part.graph.name = name
        part.graph.node.extend(graph.node[index] for index in sorted(chosen))
        part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
        part.graph.input.extend(helper.make_tensor_value_info(name, self.dtype[name], None) for name in sorted(fed))
        if self.model.ir_version < WEIGHTS_BESIDE_INPUTS:
            part.graph.input.extend(info for info in graph.input if info.name in needed and info.name not in fed)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        return part


@dataclass(slots=True, eq=False)
class Loan:
    """What lay in front of a stage, for as long as somebody works on it.

    Attributes:
        batches: Activations of every batch, by name.
        over: Whether nobody does any more.
        forgotten: Arrays that the cache has forgotten since, before it lent anything else.
    """

    batches: Sequence[Arrays]
    over: bool = False
    forgotten: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])


@dataclass(slots=True, eq=False)
class ActivationCache:
    """The activations between the stages that have run and those that have not, batch by batch.

    Attributes:
        batches: Activations of every batch, by name.
        fed: Those that were fed, and are not the cache's.
        spill: What keeps the others.
        loans: What was lent and may still be worked on, in that order.
    """

    batches: list[dict[str, NDArray[Any]]]
    fed: frozenset[str]
    spill: SpillCache
    loans: deque[Loan] = field(default_factory=deque[Loan])
    _lock: Lock = field(default_factory=Lock)

    def lend(self) -> Loan:
        """Hand out what there is now; until the loan is over it stays, whatever is forgotten."""
        with self._lock:
            self._settle()
            self.loans.append(Loan([dict(batch) for batch in self.batches]))
            return self.loans[-1]

    def _settle(self) -> None:
        """Make room of what was only kept for loans that are over."""
        while self.loans and self.loans[0].over:
            for array in self.loans.popleft().forgotten:
                self.spill.forget(array)

    def put(self, batch: int, values: Arrays) -> None:
        """Add activations of a batch."""
        for name, array in values.items():
            # An output of onnxruntime lies among the intermediates of its session, and keeps all of their memory.
            self.batches[batch][name] = self.spill.copy(array)

    def rest(self, batch: int) -> None:
        """Let activations of a batch that lie in files take no memory until they are read again."""
        for array in self.batches[batch].values():
            rest(array)

    def drop(self, batch: int, names: Iterable[str]) -> None:
        """Forget activations of a batch."""
        with self._lock:
            self._settle()
            for name in names:
                array = self.batches[batch].pop(name)
                if name in self.fed:
                    continue
                if self.loans:
                    self.loans[-1].forgotten.append(array)
                else:
                    self.spill.forget(array)

    def keep_first(self, count: int) -> None:
        """Forget all but the first batches."""
        for batch in range(count, len(self.batches)):
            self.drop(batch, list(self.batches[batch]))
        del self.batches[count:]


def turn_of(requests: Sequence[ProviderRequest]) -> AbstractContextManager[object]:
    """Return what is held while a session runs: a lock where intermediates of several runs may not fit the device."""
    return nullcontext() if all(request.name == CPU for request in requests) else Lock()


@dataclass(slots=True, eq=False)
class Runner:
    """Runs the stages of one model over all batches.

    Attributes:
        stages: The model.
        cache: What lies in front of the next stage.
        requests: Where to run.
        threads: Of onnxruntime.
        last_reads: The last stage that reads each activation.
        next: The stage that runs next.
        turn: Held while a session runs where that is not the CPU: intermediates of several runs may not fit there.
    """

    stages: Stages
    cache: ActivationCache
    requests: Sequence[ProviderRequest]
    threads: int | None
    last_reads: Mapping[str, int]
    next: int = 0
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)

    @classmethod
    def start(
        cls,
        stages: Stages,
        feeds: Sequence[Arrays],
        limit: int,
        requests: Sequence[ProviderRequest],
        threads: int | None,
    ) -> Runner:
        """Stand before the first stage."""
        batches = [dict(feed) for feed in feeds]
        for entry in stages.model.metadata_props:
            if entry.key == DECIDING:
                batches = [{**feed, KEYS: draw_keys(feed, entry.value)} for feed in batches]
        fed = frozenset(name for batch in batches for name in batch)
        cache = ActivationCache(batches, fed, SpillCache(limit))
        last_reads = {name: depth for depth, stage in enumerate(stages.stages) for name in stage.reads}
        return cls(stages, cache, requests, threads, last_reads, turn=turn_of(requests))

    def hold(self, name: str, stage: int) -> None:
        """Keep an activation for a stage, also where none reads it there."""
        self.last_reads = {**self.last_reads, name: max(stage, self.last_reads.get(name, stage))}

    def made(self) -> set[str]:
        """Return what the next stage makes."""
        return self.stages.made(self.next)

    def open(self, more: Collection[str] = ()) -> tuple[Session | None, tuple[str, ...]]:
        """Load the next stage.

        Args:
            more: What it shall show besides what later stages read.

        Returns:
            A session, None where the stage makes nothing, and what it computes.
        """
        stage, made = self.stages.stages[self.next], self.made()
        outputs = tuple(dict.fromkeys([*stage.gives, *(name for name in more if name in made)]))
        if not outputs:
            return None, ()
        part = self.stages.part(self.next, self.next, outputs)
        return open_session(part, self.requests, threads=self.threads, shared=True), outputs

    def remaking(self, names: Collection[str]) -> Session | None:
        """Load what makes those of some activations again that are not carried; None where all are."""
        lacking = sorted(set(names) - self.cache.batches[0].keys())
        if not lacking:
            return None
        return open_session(self.stages.making(lacking), self.requests, threads=self.threads, shared=True)

    def run(self, session: Session | None, batch: int) -> Arrays:
        """Run the next stage on one batch and keep what later stages read."""
        outputs = self.compute(session, batch)
        self.keep(batch, outputs)
        return outputs

    def compute(self, session: Session | None, batch: int) -> Arrays:
        """Run the next stage on one batch."""
        if session is None:
            return {}
        values = self.cache.batches[batch]
        feeds = {name: np.asarray(values[name]) for name in session.inputs}
        with self.turn:
            outputs = session.run(feeds)
        self.cache.rest(batch)
        return outputs

    def keep(self, batch: int, outputs: Arrays) -> None:
        """Keep what later stages read of what the next stage gave on one batch, and forget what only it has read."""
        self.cache.put(batch, {name: outputs[name] for name in self.stages.stages[self.next].gives if name in outputs})
        self._forget(batch)

    def _forget(self, batch: int) -> None:
        """Forget what no stage behind the next one reads."""
        read = [name for name in self.cache.batches[batch] if self.last_reads.get(name, -1) <= self.next]
        self.cache.drop(batch, read)

    def run_all(self, session: Session | None, helpers: Workers, most: int) -> None:
        """Run the next stage on all batches, so many side by side at most, and keep what later stages read."""
        helpers.do(partial(self._run_kept, session), range(len(self.cache.batches)), most)

    def _run_kept(self, session: Session | None, batch: int) -> None:
        # Under no name: the next batch needs the memory of this one.
        self.keep(batch, self.compute(session, batch))

    def advance(self) -> None:
        """Go on to the stage after, and forget what is not needed there."""
        for batch in range(len(self.cache.batches)):
            self._forget(batch)
        self.next += 1
        self.cache.spill.trim()
