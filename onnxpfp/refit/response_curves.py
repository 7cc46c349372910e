"""Measure response curves: the drift of the network's output when one group alone is pruned to some widths.

Its consumers are refitted at every width. The samples lie in front of a group's first consumer once (`stages.py`); from
there on the rest of the network is run for every width (`variants.py`). Groups need nothing of each other, so they are
tried side by side, each by one thread. `pipeline/group_trials.py` chooses the groups and widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxpfp.arrays import Arrays, Bools, Floats, owned
from onnxpfp.comparison.metrics import divergence, squared_sizes
from onnxpfp.comparison.picks import Picks
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.progress import Count
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Loan, Runner, Stages
from onnxpfp.refit.trial_fits import TrialWidths
from onnxpfp.refit.trial_samples import PILOTS, can_be_fewer, drift_spread, enough_pieces, piece_size
from onnxpfp.refit.variants import StageSessions, Variants
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime import open_session
from onnxpfp.runtime.heap import Ceiling
from onnxpfp.runtime.workers import SIDE_BY_SIDE, Workers, cores, workers

__all__ = ["Fits", "GroupDrifts", "RowChoice", "TrialWidths", "Trials", "WidthTrial"]

TRIAL_SAMPLES = 64
"""Most tuning samples that groups are tried on. All groups see the same ones, so what differs between samples does not
change their order: ResNet-20 at 0.7 and 0.5 of the MACs has the same accuracy as with 128."""

FEW = 1.5
"""So many times the samples of a batch, or fewer, are one batch."""


class Fits(Protocol):
    """New weights at some widths of a trial."""

    @property
    def losses(self) -> Floats | None:
        """Share of its outputs' variance that each op loses, added up over the ops, (W,); None where it is unknown."""
        ...

    def edits(self, row: int | None = None) -> Edits:
        """Return the new weights at a width; without one those that are there, of the same tensors and inputs."""
        ...


class WidthTrial(Protocol):
    """What is tried alone at some widths: a group of channels, or the rank of a layer."""

    @property
    def edited(self) -> tuple[str, ...]:
        """Ops that get new weights although they read no channel that goes, by output."""
        ...

    def __len__(self) -> int:
        """Return the number of widths."""
        ...

    def touches(self, count: int) -> Bools:
        """Return which channels of the network may go, (count + 1,)."""
        ...

    def keep(self, row: int, count: int) -> Bools:
        """Return which channels of the network stay at a width, (count + 1,)."""
        ...

    def fits(self, problem: RefitProblem, rows: Sequence[int], grams: Mapping[str, Gram], *, losses: bool) -> Fits:
        """Fit the ops that get new weights at some widths."""
        ...


RowChoice = Sequence[int] | Callable[[Floats | None], Sequence[int]]
"""The widths at which a group is tried, by position, or what chooses them from what its consumers lose at each."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupDrifts:
    """What was measured of one group.

    Attributes:
        drifts: How far the output drifted, by width; NaN where it was not measured, (W,).
        losses: Share of its outputs' variance that each consumer loses after its refit, added up over the consumers,
            (W,); None where nothing was refitted, or only at the widths that are tried.
    """

    drifts: Floats
    losses: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One group that is to be tried.

    Attributes:
        number: Which.
        choice: At which widths.
        loan: What lies in front of the first stage that reads it.
    """

    number: int
    choice: RowChoice
    loan: Loan


@dataclass(frozen=True, slots=True, eq=False)
class _Base:
    """The network that the variants are made from: it picks boxes and the like as it does with nothing cut.

    Attributes:
        model: The network.
        feeds: Its inputs on the tuning samples, and what it picks by, batch by batch.
        wanted: What is compared.
        sizes: Sums of its squares, batch by batch.
        dtype: Element types of its dense tensors.
        picks: Which outputs have rows that are picked.
    """

    model: ModelProto
    feeds: list[dict[str, NDArray[Any]]]
    wanted: list[dict[str, NDArray[Any]]]
    sizes: list[dict[str, float]]
    dtype: dict[str, int]
    picks: Picks

    @classmethod
    def of(cls, problem: RefitProblem) -> Self:
        """Run the network as it is."""
        picks, model = Picks.of(problem.analysis), problem.analysis.model

        def showing() -> ModelProto:
            return with_fixed_draws(picks.showing(model))

        session = open_session(showing, problem.requests, threads=problem.threads, shared=True)
        samples = problem.tuning.take(TRIAL_SAMPLES)
        # Few more than one batch are one: every run takes some time of its own.
        size = len(samples) if problem.batch_size < len(samples) <= FEW * problem.batch_size else problem.batch_size
        size = piece_size(problem, len(samples), size)
        feeds = [dict(feed) for feed in samples.batches(size)]
        shown = [{name: owned(array) for name, array in session.run(feed).items()} for feed in feeds]
        given = [picks.given(values) for values in shown]
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given[0].items()}
        wanted = [picks.compared(values) for values in shown]
        return cls(
            picks.picking(model, given[0]),
            [{**feed, **picked} for feed, picked in zip(feeds, given, strict=True)],
            wanted,
            squared_sizes(wanted),
            {**problem.dtype, **kinds},
            picks,
        )


@dataclass(slots=True, eq=False)
class _Pilots:
    """The first groups that were tried: on all samples, which tells how many of the pieces are enough for the others.

    Attributes:
        spreads: How much their drifts differ between pieces.
        outputs: What they gave: groups, widths, and the outputs of every piece.
        pieces: How many of the pieces are enough; None until that is known.
    """

    spreads: list[float] = field(default_factory=list[float])
    outputs: list[tuple[int, int, list[Arrays]]] = field(default_factory=list[tuple[int, int, list[Arrays]]])
    pieces: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Groups of a network that are tried at some widths, each alone.

    Attributes:
        problem: The network; the first of its tuning samples are used.
        widths: Groups and widths, or layers and ranks.
        grams: Of the ops that read the groups, by output; ops that have none lose the channels without refit.
        temperature: As in `onnxpfp.comparison.metrics.divergence`.
    """

    problem: RefitProblem
    widths: Sequence[WidthTrial]
    grams: Mapping[str, Gram]
    temperature: float
    _base: _Base
    _network: StageSessions
    _read_at: Sequence[Sequence[int]]
    _variants: dict[int, Variants] = field(default_factory=dict[int, Variants])
    _pilots: _Pilots = field(default_factory=lambda: _Pilots())

    @classmethod
    def of(
        cls, problem: RefitProblem, widths: Sequence[WidthTrial], grams: Mapping[str, Gram] | None, temperature: float
    ) -> Trials:
        """Run the network as it is.

        Args:
            problem: As above.
            widths: As above.
            grams: As above; None refits nothing.
            temperature: As above.
        """
        base, graph = _Base.of(problem), problem.analysis.graph
        stages = Stages.of(base.model, {layer.output for layer in problem.layers}, base.dtype)
        reading = [
            sorted(
                {stages.depth[mask.output] for mask in graph.masks if touched[mask.channels].any()}
                | {stages.depth[output] for output in trial.edited}
            )
            for trial in widths
            for touched in [trial.touches(graph.count)]
        ]
        # Groups are tried side by side; only what is left of the threads works inside of an op.
        threads = max(1, (problem.threads or cores()) // max(1, len(widths)))
        network = StageSessions.of(stages, problem, threads)
        return cls(problem, widths, grams or {}, temperature, base, network, reading)

    @property
    def streams(self) -> list[bool]:
        """Tell which groups are read at several depths, as the stream of a residual network is."""
        return [len(depths) > 1 for depths in self._read_at]

    def measure(self, choices: Mapping[int, RowChoice], progress: Count) -> dict[int, GroupDrifts]:
        """Measure the drift of the output.

        Args:
            choices: At which widths groups are tried, by group.
            progress: Told how many groups are done, of how many.
        """
        found: dict[int, GroupDrifts] = {}
        if not choices:
            return found
        feeds = self._base.feeds
        runner = Runner.start(
            self._network.stages,
            feeds[: self._pilots.pieces],
            self.problem.workspace // 2,
            self.problem.requests,
            self.problem.threads,
        )
        ceiling = Ceiling.above(self.problem.workspace // 2)
        with workers(self.problem.threads) as helpers:
            tasks = self._tasks(choices, runner, helpers)
            if self._pilots.pieces is None:
                found.update(self._try_first(tasks, helpers))
                runner.cache.keep_first(self._pilots.pieces or len(feeds))
                progress(len(found), len(choices))
            for number, drifts in helpers.in_order(self._try, tasks):
                found[number] = drifts
                ceiling.keep()
                progress(len(found), len(choices))
        return found

    def _try_first(self, tasks: Iterator[_Task], helpers: Workers) -> dict[int, GroupDrifts]:
        """Try some groups on all pieces of the samples, and find out how many pieces are enough."""
        pilots, base = self._pilots, self._base
        found = dict(helpers.in_order(self._try, islice(tasks, PILOTS if can_be_fewer(base.feeds) else 0)))
        # Whichever thread was first: sums depend on the order.
        pilots.pieces = enough_pieces(sorted(pilots.spreads), len(base.feeds))
        for number, row, outputs in pilots.outputs:
            # On the same samples as all others, or what is peculiar to the samples would set them apart.
            found[number].drifts[row] = self._drift(outputs[: pilots.pieces])
        pilots.outputs.clear()
        return found

    def _tasks(self, choices: Mapping[int, RowChoice], runner: Runner, helpers: Workers) -> Iterator[_Task]:
        """Run the network stage by stage, and yield the groups when the samples lie in front of their first reader."""
        for depth in range(max(self._read_at[number][0] for number in choices) + 1):
            for number in (number for number in choices if self._read_at[number][0] == depth):
                yield _Task(number, choices[number], runner.cache.lend())
            runner.run_all(self._network.at(depth), helpers, SIDE_BY_SIDE)
            runner.advance()

    def _try(self, task: _Task) -> tuple[int, GroupDrifts]:
        """Measure one group at some widths."""
        try:
            return task.number, self._drifts(task.number, task.choice, task.loan.batches)
        finally:
            task.loan.over = True

    def _drifts(self, number: int, choice: RowChoice, batches: Sequence[Arrays]) -> GroupDrifts:
        """Measure one group at some widths, given what lies in front of the first stage that reads it."""
        trial, count, base = self.widths[number], self.problem.analysis.graph.count, self._base
        fitted = list(range(len(trial))) if callable(choice) else list(choice)
        fits = trial.fits(self.problem, fitted, self.grams, losses=callable(choice))
        if number not in self._variants:
            touched, edits = trial.touches(count), fits.edits()
            self._variants[number] = Variants.of(self._network, touched, edits, trial.edited)
        variants = self._variants[number]
        losses = fits.losses if callable(choice) else None
        drifts = np.full(len(trial), np.nan)
        for row in choice(losses) if callable(choice) else fitted:
            keep, edits = trial.keep(row, count), fits.edits(fitted.index(row))
            outputs = [
                {**wanted, **variants.run(keep, edits, before)}
                for wanted, before in zip(base.wanted, batches, strict=False)
            ]
            if self._pilots.pieces is None:
                picked, temperature = base.picks.rows, self.temperature
                self._pilots.spreads.append(drift_spread(base.wanted, outputs, temperature, picked, base.sizes))
                self._pilots.outputs.append((number, row, [dict(each) for each in outputs]))
            else:
                drifts[row] = self._drift(outputs)
        return GroupDrifts(drifts, losses)

    def _drift(self, outputs: Sequence[Arrays]) -> float:
        """Return how far the outputs are off on the first pieces of the samples, as many as there are."""
        base, count = self._base, len(outputs)
        return divergence(base.wanted[:count], outputs, self.temperature, base.picks.rows, base.sizes[:count])
