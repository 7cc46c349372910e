"""One sweep of refits from front to back: each linear op learns to give the original's output from what it reads now.

Targets come from the original network, inputs from the network as it is pruned and refitted up to there (He et al.,
ICCV 2017, asymmetric reconstruction). A refit is taken only where it is better on the tuning samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from onnxpfp.arrays import Keep
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.refit.best_fit import Fit
from onnxpfp.refit.counting import Counting, Waiting
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint import JointRefit, found_chains
from onnxpfp.refit.joint_problem import JointEffort
from onnxpfp.refit.layer_rows import Draw, LayerRows, TargetDraw, layer_families
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.means import Record
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.recurrent_fit import fit_recurrence
from onnxpfp.refit.recurrent_layers import RecurrentLayer
from onnxpfp.refit.stage_draw import StageDraw
from onnxpfp.refit.stage_pair import StagePair, most_batches
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.heap import Ceiling
from onnxpfp.runtime.session import Session
from onnxpfp.runtime.workers import workers

__all__ = ["RefitProblem", "RefitState", "Refitted", "refit"]


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """The outcome of a sweep.

    Attributes:
        edits: New weights and biases at full size, on top of the edits before.
        records: One per linear op, front to back.
    """

    edits: Edits
    records: tuple[Record, ...]


def refit(
    problem: RefitProblem,
    keep: Keep,
    edits: Edits,
    progress: Callable[[int, int], None] | None = None,
    limits: Mapping[str, RankLimit] | None = None,
    effort: JointEffort | None = None,
) -> Refitted:
    """Refit all linear ops from front to back.

    Args:
        problem: What to work on and with.
        keep: Whether each channel stays.
        edits: Edits made before, which the refits start from. They must not touch weights of the tasks.
        progress: Told how many stages are done, of how many.
        limits: The ranks that weights may have, by the op's output.
        effort: How much is done to refit producers with their consumers (`joint.py`); None is nothing.
    """
    refit_state = RefitState(problem, keep, edits, limits or {})
    layers = [layer for layer in problem.layers if refit_state.is_left(layer)]
    if not layers and not refit_state.recurrences:
        return Refitted(edits, ())
    joint = None
    if effort is not None:
        left = frozenset(layer.output for layer in layers if refit_state.is_constant(layer))
        chains = found_chains(refit_state, layers, effort, left)
        # Later sweeps start from where the first one left each op.
        known = layers if effort.sweeps > 1 else {each.output: each for one in chains for each in one.layers}.values()
        starts = _starts(refit_state, tuple(known))
        joint = JointRefit(refit_state, chains, starts, dict(starts), effort)
    sweeps = 1 if effort is None else effort.sweeps
    carried = frozenset[str]() if joint is None else joint.tensors
    with workers(problem.threads) as helpers:

        def sweep(number: int) -> dict[str, Record]:
            pair = StagePair.of(refit_state, layers, helpers, carried)
            told = None if progress is None else _Told(progress, number * pair.depth, sweeps * pair.depth)
            return _sweep(pair, refit_state, layers, joint, told)

        records = sweep(0) if joint is None else joint.repeated(sweep)
    return Refitted(refit_state.all_edits(layers, refit_state.recurrences), tuple(records.values()))


@dataclass(frozen=True, slots=True)
class _Told:
    """Tells how far a sweep among several is.

    Attributes:
        progress: Is told how many stages are done, of how many.
        before: Stages of the sweeps before.
        total: Stages of all sweeps.
    """

    progress: Callable[[int, int], None]
    before: int
    total: int

    def __call__(self, done: int) -> None:
        self.progress(self.before + done, self.total)


def _sweep(
    pair: StagePair,
    refit_state: RefitState,
    layers: Sequence[RefitLayer],
    joint: JointRefit | None,
    told: _Told | None,
) -> dict[str, Record]:
    """Refit all linear ops once, front to back; returns what it brought, by output."""
    records: dict[str, Record] = {}
    room = refit_state.problem.workspace // 2
    # What a stage gives back the next one takes again.
    ceiling = Ceiling.above(room, step=room // 2)
    if joint is not None:
        joint.begin(pair)
    for depth in range(pair.depth):
        here = [layer for layer in layers if pair.teacher.stages.depth[layer.output] == depth]
        fitted = here if joint is None else [layer for layer in here if joint.alone(layer)]
        ahead = None
        if joint is not None and joint.due(depth):
            ahead = _draws_ahead(pair, refit_state, fitted, joint)
            joint.before(depth, pair, ahead)
        recurrent = _recurrences(pair, refit_state, records)
        records |= _fit_alone(pair, refit_state, fitted, joint, ahead.drawn if ahead is not None else [], ceiling)
        ceiling.keep()
        pair.advance(refit_state, here, recurrent)
        ceiling.keep()
        if told:
            told(depth + 1)
    return records


def _draws_ahead(
    pair: StagePair, refit_state: RefitState, layers: Sequence[RefitLayer], joint: JointRefit
) -> StageDraw | None:
    """Return what draws the targets of ops of the next stage in the run that its chains draw from.

    None where something else runs the stage, too, or the ops read what has to be made again.
    """
    recurrent = any(pair.teacher.stages.depth[each.output] == pair.teacher.next for each in refit_state.recurrences)
    given = pair.student.cache.batches[0]
    if recurrent or not all(layer.consumer.data in given for layer in layers):
        return None
    starts = _all_starts(refit_state, layers, joint)
    families = layer_families(refit_state, layers, starts, pair.teacher.made(), given, pair.helpers)
    return StageDraw(families, pair.teacher, refit_state.problem.seed, pair.fitted)


def _all_starts(
    refit_state: RefitState, layers: Sequence[RefitLayer], joint: JointRefit | None
) -> dict[str, InitialWeights]:
    """Return the weights of ops before their refit, by output, and those of the chains.

    In double precision the weights of all ops would take twice the size of the network.
    """
    known = {} if joint is None else joint.starts
    return {**_starts(refit_state, [layer for layer in layers if layer.output not in known]), **known}


def _fit_alone(
    pair: StagePair,
    refit_state: RefitState,
    layers: Sequence[RefitLayer],
    joint: JointRefit | None,
    ahead: Sequence[list[TargetDraw | None]],
    ceiling: Ceiling,
) -> dict[str, Record]:
    """Refit the ops of the next stage each by itself; returns what it brought, by output.

    The rows and matrices of the last one go before the stage is run.
    """
    records: dict[str, Record] = {}
    starts = _all_starts(refit_state, layers, joint)
    for each, fit in _stage(pair, refit_state, layers, starts, ahead, ceiling):
        before = fit.plain if joint is None else joint.plain(each, fit)
        if fit.changed or each.limit is not None:
            refit_state.put(each.layer, fit.weights, fit.bias)
            if joint is not None:
                joint.note(each.layer, fit)
        if np.isfinite(fit.plain):
            share = each.spread()
            ridge = np.inf if refit_state.is_constant(each.layer) else fit.ridge
            name = each.layer.consumer.name
            records[each.layer.output] = Record(name, before / share, fit.error / share, ridge)
        each.free()
    return records


def _recurrences(pair: StagePair, refit_state: RefitState, records: dict[str, Record]) -> list[RecurrentLayer]:
    """Refit the recurrences of the next stage, and return them."""
    depth = pair.teacher.stages.depth
    here = [layer for layer in refit_state.recurrences if depth[layer.output] == pair.teacher.next]
    for layer in here:
        before = refit_state.recurrent.get(layer.output) or layer.weights()
        fit = fit_recurrence(layer, refit_state, pair, before)
        if fit is not None:
            records[layer.output] = fit.record
            if fit.changed:
                refit_state.recurrent[layer.output] = fit.weights
    return here


def _starts(refit_state: RefitState, layers: Sequence[RefitLayer]) -> dict[str, InitialWeights]:
    """Return the weights of ops before the refit, by output."""
    starts = ((layer.output, refit_state.start(layer)) for layer in layers)
    return {output: start for output, start in starts if start is not None}


def _stage(
    pair: StagePair,
    refit_state: RefitState,
    layers: Sequence[RefitLayer],
    starts: Mapping[str, InitialWeights],
    ahead: Sequence[list[TargetDraw | None]],
    ceiling: Ceiling,
) -> Iterator[tuple[LayerRows, Fit]]:
    """Run a stage of the original and fit its linear ops; where their targets were drawn ahead, it has run."""
    teacher, helpers = pair.teacher, pair.helpers
    families = layer_families(refit_state, layers, starts, teacher.made(), pair.student.cache.batches[0], helpers)
    members = [member for family in families for member in family.members]
    stage = StageDraw(families, teacher, refit_state.problem.seed, pair.fitted, [*ahead])
    session, shown = (None, ()) if ahead else teacher.open(sorted(stage.shows()))
    again = pair.student.remaking([member.layer.consumer.data for member in members])
    draw = partial(_draw, pair, stage, (session, again))
    most = most_batches(refit_state.problem, shown, sum(family.columns for family in families))
    batches = range(len(teacher.cache.batches))
    waiting, results = [Waiting(family) for family in families], helpers.in_order(draw, batches, most)
    counting = Counting(helpers)
    for _ in batches:
        pairs = zip(waiting, next(results), strict=True)
        counting.begin(chain.from_iterable(each.add(one) for each, one in pairs if one is not None))
        # The next batch needs the memory of this one.
        del pairs
    counting.begin(chain.from_iterable(each.take() for each in waiting))
    counting.end()
    # Fits take as much as the runs of the stage did.
    del session, again, draw, results
    ceiling.keep()
    fits = map(LayerRows.fit, members) if len(members) == 1 else helpers.in_order(LayerRows.fit, members)
    yield from zip(members, fits, strict=True)


def _draw(
    pair: StagePair, stage: StageDraw, sessions: tuple[Session | None, Session | None], batch: int
) -> list[Draw | None]:
    """Run the original's stage on one batch, keep what later stages read, and draw columns and targets.

    Args:
        pair: The two networks.
        stage: Draws; what was drawn ahead is taken as it is.
        sessions: The original's stage, and what makes again what the ops read in the pruned network.
        batch: Which.

    Returns:
        What each family drew, at random positions.
    """
    shown = pair.teacher.compute(sessions[0], batch)
    given = {**pair.student.cache.batches[batch], **pair.student.compute(sessions[1], batch)}
    drawn = stage.columns(stage.drawn[batch] if stage.drawn else stage.targets(batch, shown, given), given)
    for runner in (pair.student, pair.teacher):
        runner.cache.rest(batch)
    if not stage.drawn:
        pair.teacher.keep(batch, shown)
    return drawn
