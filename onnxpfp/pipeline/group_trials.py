"""Trials of groups: each is pruned alone to some widths, and the drift of the output is its response curve.

A curve is known from few trials: what the consumers lose gives its shape (`onnxpfp.refit.trial_fits`), and where it
matters is known once widths were allocated by the shape. So every group is tried at one width, then at the one that it
would get, twice at most, unless it stays whole or was tried near to that. Where nothing is refitted, or many targets
are tried as for a quality, all groups are tried at about eight widths. One that may go entirely is tried without any
channel, too, at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxpfp.allocation.by_drift import Cost, ResponseCurve, allocate_by_drift
from onnxpfp.allocation.widths import grid
from onnxpfp.arrays import Floats, Ints
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.options import UNKNOWN
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.selector import selector_of
from onnxpfp.pipeline.target_cost import target_cost
from onnxpfp.progress import Count
from onnxpfp.refit.response_curves import GroupDrifts, RowChoice, Trials, TrialWidths

__all__ = [
    "BegunCurves",
    "GroupTrial",
    "begin_curves",
    "measure_group_trials",
    "tries_all_widths",
]

ROUNDS = 3
"""Times that groups are tried: first all, then those that need it at the widths that they would get. With two a small
MobileNet lost 2 points at 0.3 of the multiply-adds."""
FIRST = 0.5
"""Share of a group at which it is tried first."""
NEAR = 1 / 16
"""Share of a group within which a width is near to one at which it was tried: the shape is enough between them."""
SEEN = 1e-3
"""What the consumers must lose there at least, or the drift would be noise; else the group is tried narrower."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupTrial:
    """One group, pruned alone; or one layer at lower ranks, which are its widths.

    Attributes:
        allowed: Channels of the group, the step of its widths and the fewest that stay. Of a layer as
            `RankedTrial.allowed`.
        widths: Widths at which it may be tried, ascending; the full one is left out.
        drifts: How far the output drifted at each, as it was measured, NaN where it was not, (W,).
        losses: What its consumers lose there, (W,); None where that is not known.
        stream: Whether the group is read at several depths.
        held: Its width, where the user sets its share: then it is not tried. Else None.
    """

    allowed: tuple[int, int, int]
    widths: Ints
    drifts: Floats
    losses: Floats | None
    stream: bool
    held: int | None = None

    @property
    def curve(self) -> ResponseCurve:
        """The response curve: the same at all widths, monotone, as an allocation needs it."""
        if self.held is not None:
            return ResponseCurve(np.array([self.held], np.int64), np.zeros(1), self.stream)
        losses = None if self.losses is None else self.losses.tolist()
        return ResponseCurve.of(*self.allowed, self.widths, self.drifts.tolist(), losses, stream=self.stream)

    def with_drifts(self, found: GroupDrifts) -> GroupTrial:
        """Return it with what else was measured."""
        drifts = np.where(np.isnan(found.drifts), self.drifts, found.drifts)
        return replace(self, drifts=drifts, losses=self.losses if found.losses is None else found.losses)

    def nearest(self, width: int) -> int:
        """Return the position of the width that is nearest to another."""
        return int(np.abs(self.widths - width).argmin())

    def needs(self, row: int) -> bool:
        """Tell whether a width should be tried: none that is near to it was.

        Args:
            row: Its position.
        """
        tried = self.widths[~np.isnan(self.drifts)]
        tried = tried[(tried == 0) == (self.widths[row] == 0)]
        return bool((np.abs(tried - self.widths[row]) > NEAR * self.allowed[0]).all())

    def first_row(self, losses: Floats | None) -> list[int]:
        """Choose where to try the group first: where the drift will tell something, everywhere without losses."""
        if losses is None:
            return list(range(self.widths.size))
        row = self.nearest(round(FIRST * self.allowed[0]))
        seen = np.flatnonzero(losses[: row + 1] >= SEEN)
        first = int(seen[-1]) if seen.size else 0
        # A group that goes is no narrow one: what is left of it does not tell.
        return [0, first] if self.widths[0] == 0 and first else [first]


def measure_group_trials(
    context: RunContext, measured: Measured, calibration: RefitCalibration, progress: Count, temperature: float = 1.0
) -> tuple[GroupTrial, ...]:
    """Prune every group alone to all widths of its grid; its consumers are refitted where they will be in the end.

    Args:
        context: How to prune.
        measured: The model.
        calibration: Its scores, and what its consumers are refitted with.
        progress: Told how many groups are done, of how many.
        temperature: As in `onnxpfp.comparison.metrics.divergence`.
    """
    trials, groups = _prepare(context, measured, calibration, temperature)
    choices = {number: range(group.widths.size) for number, group in enumerate(groups) if group.widths.size}
    found = trials.measure(choices, progress)
    return tuple(group.with_drifts(found[number]) if number in found else group for number, group in enumerate(groups))


@dataclass(frozen=True, slots=True, eq=False)
class BegunCurves:
    """Response curves as far as they are the same for every target, and what was measured for some.

    Attributes:
        groups: The groups with the first widths that were tried; with all, where no target says which matter.
        trials: Tries them at others; None where nothing is left to try.
        later: What was measured at other widths, by group and position of the width.
    """

    groups: tuple[GroupTrial, ...]
    trials: Trials | None
    later: dict[tuple[int, int], GroupDrifts] = field(default_factory=dict[tuple[int, int], GroupDrifts])

    def towards(self, context: RunContext, measured: Measured, progress: Count) -> tuple[ResponseCurve, ...]:
        """Measure the curves as well as a target needs them; what was tried for another one is not tried again.

        Args:
            context: How to prune, the target of the same quantity as that of all others.
            measured: The model.
            progress: Told how many groups are done, of how many.
        """
        groups = list(self.groups)
        if self.trials is None:
            return tuple(group.curve for group in groups)
        cost, share = target_cost(context, measured), context.options.target[1]
        for done in range(1, ROUNDS):
            choices = _next_choices(groups, cost, share, context.full)
            new = {number: [row] for number, row in choices.items() if (number, row) not in self.later}
            counted = _Round(progress, done, _tried(groups), len(new))
            counted(0, len(new))
            found = self.trials.measure(new, counted)
            self.later.update({(number, choices[number]): drifts for number, drifts in found.items()})
            for number, row in choices.items():
                groups[number] = groups[number].with_drifts(self.later[number, row])
        return tuple(group.curve for group in groups)


def begin_curves(
    context: RunContext, measured: Measured, calibration: RefitCalibration, progress: Count, temperature: float
) -> BegunCurves:
    """Measure the response curves of all groups as far as no share that is asked for has a say.

    Args:
        context: How to prune.
        measured: The model.
        calibration: Its scores, and what its consumers are refitted with.
        progress: Told how many groups are done, of how many.
        temperature: As in `onnxpfp.comparison.metrics.divergence`.
    """
    if tries_all_widths(context):
        return BegunCurves(measure_group_trials(context, measured, calibration, progress, temperature), None)
    trials, groups = _prepare(context, measured, calibration, temperature)
    choices: dict[int, RowChoice] = {
        number: group.first_row for number, group in enumerate(groups) if group.widths.size
    }
    for number, found in trials.measure(choices, _Round(progress, 0, _tried(groups), len(choices))).items():
        groups[number] = groups[number].with_drifts(found)
    return BegunCurves(tuple(groups), trials)


def tries_all_widths(context: RunContext) -> bool:
    """Tell whether groups are tried at all widths: many targets are, as for a quality, or none is known yet."""
    return bool(context.options.limit_flag) or context.options.target[1] == UNKNOWN


def _next_choices(groups: Sequence[GroupTrial], cost: Cost, target: float, full: int) -> dict[int, int]:
    """Choose the groups that are tried where they would be by what is known; arguments as for `allocate_by_drift`."""
    curves = [group.curve for group in groups]
    try:
        kept = allocate_by_drift(curves, cost, target, full).tolist()
    except TargetUnreachableError:
        # Other parts of the network may make up for it.
        kept = [int(curve.widths[0]) for curve in curves]
    narrower = [number for number, group in enumerate(groups) if group.widths.size and kept[number] < group.allowed[0]]
    rows = {number: groups[number].nearest(kept[number]) for number in narrower}
    return {number: row for number, row in rows.items() if groups[number].needs(row)}


def _prepare(
    context: RunContext, measured: Measured, calibration: RefitCalibration, temperature: float
) -> tuple[Trials, list[GroupTrial]]:
    """Choose the channels that stay at every width, and run the network as it is."""
    selector = selector_of(context, measured)
    allowed = [selector.allowed(number) for number in range(len(selector.groups))]
    held = selector.held
    widths = [np.zeros(0, np.int64) if number in held else grid(*each) for number, each in enumerate(allowed)]
    ranked = measured.ranked
    rng = np.random.default_rng(selector.options.seed)
    trial_widths = [
        TrialWidths(
            group, np.array([selector.select(number, width, rng).keep for width in widths[number].tolist()], np.bool_)
        )
        for number, group in enumerate(selector.groups)
    ]
    refitted = context.compensation == "lstsq"
    tried = [*trial_widths, *(each.trial for each in ranked)]
    trials = Trials.of(calibration.setup.problem, tried, calibration.grams if refitted else None, temperature)
    allowed += [each.allowed(selector.alignment) for each in ranked]
    widths += [np.array(each.trial.ranks, np.int64) for each in ranked]
    unknown = [np.full(each.size, np.nan) for each in widths]
    rows = zip(allowed, widths, unknown, trials.streams, strict=True)
    return trials, [GroupTrial(*each[:3], None, each[3], held.get(number)) for number, each in enumerate(rows)]


def _tried(groups: Sequence[GroupTrial]) -> int:
    """Count the groups that have widths to be tried at."""
    return sum(group.widths.size > 0 for group in groups)


@dataclass(frozen=True, slots=True)
class _Round:
    """Tells how far a round is as a part of all: a trial of each group in each, done where a round leaves it out.

    Attributes:
        progress: Is told how many trials are done, of how many.
        before: Rounds before.
        groups: Groups that may be tried.
        tried: Those that this round tries.
    """

    progress: Count
    before: int
    groups: int
    tried: int

    def __call__(self, done: int, _: int) -> None:
        if self.groups:
            self.progress((self.before + 1) * self.groups - self.tried + done, ROUNDS * self.groups)
