"""Measure response curves: the drift of the network's output when one group alone is pruned to some widths.

Its consumers are refitted at every width. The samples lie in front of a group's first consumer once (`stages.py`); from
there on the rest of the network is run for every width. `pipeline/group_trials.py` chooses the groups and widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxpfp.arrays import Keep
from onnxpfp.channels import Group
from onnxpfp.comparison.metrics import divergence
from onnxpfp.comparison.picks import Picks
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.refit.cholesky import LinAlgError
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime import open_session

__all__ = ["TrialWidths", "drift_at_widths", "streams"]

TRIAL_RIDGE = 1e-2
"""Share of the mean of diag G that is added in every trial's refit.

One for all widths, for a search as for `REFIT_RIDGES` would take several fits at each. It is the value of OSSCAR.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TrialWidths:
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


@dataclass(frozen=True, slots=True, eq=False)
class _Base:
    """The network that the variants are made from: it picks boxes and the like as it does with nothing cut.

    Attributes:
        model: The network.
        feeds: Its inputs on the tuning samples, and what it picks by, batch by batch.
        wanted: What is compared.
        dtype: Element types of its dense tensors.
        picks: Which outputs have rows that are picked.
    """

    model: ModelProto
    feeds: list[dict[str, NDArray[Any]]]
    wanted: list[dict[str, NDArray[Any]]]
    dtype: dict[str, int]
    picks: Picks

    @classmethod
    def of(cls, problem: RefitProblem) -> Self:
        """Run the network as it is."""
        picks, model = Picks.of(problem.analysis), problem.analysis.model
        session = open_session(with_fixed_draws(picks.showing(model)), problem.requests, threads=problem.threads)
        feeds = [dict(feed) for feed in problem.tuning.batches(problem.batch_size)]
        shown = [session.run(feed) for feed in feeds]
        given = [picks.given(values) for values in shown]
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given[0].items()}
        return cls(
            picks.picking(model, given[0]),
            [{**feed, **picked} for feed, picked in zip(feeds, given, strict=True)],
            [picks.compared(values) for values in shown],
            {**problem.dtype, **kinds},
            picks,
        )


def drift_at_widths(
    problem: RefitProblem,
    trial_widths: Sequence[TrialWidths],
    grams: Mapping[str, Gram],
    *,
    refitted: bool,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[float]]:
    """Measure the drift of the output for every group and width.

    Args:
        problem: The network; its tuning samples are used.
        trial_widths: Groups and widths.
        grams: Of the ops that read the groups, by output; ops that have none lose the channels without refit.
        refitted: Whether the consumers are refitted.
        temperature: As in `onnxpfp.comparison.metrics.divergence`.
        progress: Told how many groups are done, of how many.

    Returns:
        The drifts of every group, in the order of its widths.
    """
    graph = problem.analysis.graph
    base = _Base.of(problem)
    stages = Stages.of(base.model, {layer.output for layer in problem.layers}, base.dtype)
    runner = Runner.start(stages, base.feeds, problem.workspace // 2, problem.requests, problem.threads)
    first = [min(_read_at(trial, problem, stages)) for trial in trial_widths]
    drifts: list[list[float]] = [[] for _ in trial_widths]
    done = 0
    for depth in range(len(stages.stages)):
        for number in (number for number, start in enumerate(first) if start == depth):
            trial = trial_widths[number]
            for row in range(len(trial.keeps)):
                keep = trial.keep(row, graph.count)
                edits = _edits(problem, keep, grams) if refitted else Edits()
                variant = masked(
                    apply(base.model, graph, graph.keep_all(), edits), graph, keep, problem.analysis.shapes
                )
                outputs = _outputs(problem, base, variant, runner)
                drifts[number].append(divergence(base.wanted, outputs, temperature, base.picks.rows))
            done += 1
            if progress:
                progress(done, len(trial_widths))
        opened, _ = runner.open()
        for batch in range(len(base.feeds)):
            runner.run(opened, batch)
        runner.advance()
    return drifts


def streams(problem: RefitProblem, trial_widths: Sequence[TrialWidths]) -> list[bool]:
    """Tell which groups are read at several depths, as the stream of a residual network is."""
    stages = Stages.of(problem.analysis.model, {layer.output for layer in problem.layers}, problem.dtype)
    return [len(set(_read_at(trial, problem, stages))) > 1 for trial in trial_widths]


def _read_at(trial: TrialWidths, problem: RefitProblem, stages: Stages) -> list[int]:
    """Return the stages in which something reads the group."""
    group = np.zeros(problem.analysis.graph.count + 1, np.bool_)
    group[trial.group.channels] = True
    return [stages.depth[mask.output] for mask in problem.analysis.graph.masks if group[mask.channels].any()]


def _outputs(problem: RefitProblem, base: _Base, variant: ModelProto, runner: Runner) -> list[dict[str, NDArray[Any]]]:
    """Run a variant from the next stage on; outputs that lie before stay what they are."""
    stages = Stages.of(variant, {layer.output for layer in problem.layers}, base.dtype)
    shown = [output.name for output in variant.graph.output if stages.depth[output.name] >= runner.next]
    shown = [name for name in shown if name in stages.makers]
    part = stages.part(runner.next, len(stages.stages) - 1, shown)
    tail = open_session(part, problem.requests, threads=problem.threads)
    return [
        {**before, **tail.run({name: np.asarray(values[name]) for name in tail.inputs})}
        for before, values in zip(base.wanted, runner.cache.batches, strict=True)
    ]


def _edits(problem: RefitProblem, keep: Keep, grams: Mapping[str, Gram]) -> Edits:
    """Refit the consumers of a group to their own outputs on all channels."""
    refit_state = RefitState(problem, problem.analysis.graph.keep_all(), Edits())
    layers = [layer for layer in problem.layers if layer.output in grams and not keep[layer.op.channels].all()]
    return refit_state.all_edits([layer for layer in layers if _refit(refit_state, layer, keep, grams[layer.output])])


def _refit(refit_state: RefitState, layer: RefitLayer, keep: Keep, gram: Gram) -> bool:
    """Refit one consumer; tells whether that was possible."""
    start = refit_state.start(layer)
    if start is None:
        return False
    weights, bias = start.weights.copy(), start.bias.copy()
    stays = np.repeat(keep[layer.op.channels], layer.op.kernel_size).reshape(len(weights), -1)
    for group, block in enumerate(start.weights):
        try:
            block_weights, shift = gram.refit(group, block, stays[group], TRIAL_RIDGE, biased=layer.biased)
        except LinAlgError:
            return False
        weights[group] = 0.0
        weights[group][:, stays[group]] = block_weights
        bias[group] += shift
    weights = start.stored(weights)
    if not np.isfinite(weights).all() or not start.holds(bias):
        return False
    refit_state.put(layer, weights, bias)
    return True
