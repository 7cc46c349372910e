"""The decisions of a pruning by group: the values, the table, and what its bounds are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxpfp.counted import counted
from onnxpfp.report.group_details import WidthCurve
from onnxpfp.report.page import Column, Line, Table, at_most, number

__all__ = ["ROWS", "GroupReport", "about_bounds", "groups_table"]

ROWS = 20
"""Most groups, and most bodies, that are shown unless all are asked for."""
MOST = 3
"""Most reasons why there is no bound."""


@dataclass(frozen=True, slots=True)
class GroupReport:
    """The decision for one group, and what it rests on.

    Attributes:
        name: The weight that brings its channels forth.
        channels: How many it had.
        kept: How many stay.
        sensitivity_sum: S, the sum of its channels' sensitivities; None where none were measured.
        epsilon: PFP's bound of the choice that was made; `assumption` says of what. None where there is none.
        no_epsilon: Why there is none; empty where there is one.
        choice_error: Bound of the error of that choice by held-out samples, in [0, 1], whatever ranked the channels;
            `error_assumption` says of what. None where there is none.
        no_choice_error: Why there is none; empty where there is one.
        ranked_by: What ranked its channels: pfp, coreset-share, energy where no bound of pfp was below 1, another
            criterion, or plan; empty where none were chosen to go, or all went.
        widths_by: What set its width: measured, bound, uniform, criterion or share; empty likewise, and for a plan.
        selection: The variant that was taken, or what else decided: "lossless" where what cost nothing went and the
            rest stays, "block" where it went entirely and its branch with it, "plan" in a replay, "all" where nothing
            was to go.
        refitted: Consumers with new weights from a refit.
        merged: Consumers whose weights took over channels that go, of this group or others that they read.
        folded: Consumers whose bias took up means.
        assumption: What epsilon is of, and what it rests on.
        error_assumption: The same of the error of the choice.
        consumers: Names of the nodes that read it.
        additive_bound: Bound of the choice by --score coreset, on the error of any output of a layer that reads the
            group, in plain numbers; `assumption` says of what. None where there is none.
        sensitivities: Of every channel, the largest over the layers that read it; None for one that cost nothing and
            went before. None where none were measured.
        scores: What ranked its channels, whatever it is, in their order; None likewise. Empty where nothing of the
            group was up for a choice.
        gone: The channels that went, by their number in the group.
        curve: Its response curve; None where none set the widths.
        share: The share of its channels that was asked for with --share; None where the allocation chose.
    """

    name: str
    channels: int
    kept: int
    sensitivity_sum: float | None
    epsilon: float | None
    no_epsilon: str
    choice_error: float | None
    no_choice_error: str
    ranked_by: str
    widths_by: str
    selection: str
    refitted: tuple[str, ...]
    merged: tuple[str, ...]
    folded: tuple[str, ...]
    assumption: str
    error_assumption: str
    consumers: tuple[str, ...]
    additive_bound: float | None = None
    sensitivities: tuple[float | None, ...] | None = None
    scores: tuple[float | None, ...] = ()
    gone: tuple[int, ...] = ()
    curve: WidthCurve | None = None
    share: float | None = None


def about_bounds(groups: Sequence[GroupReport]) -> Iterator[Line]:
    """Say what the bounds are of, and why some groups have none; those that went entirely have none to have."""
    yield from map(Line, dict.fromkeys(group.assumption for group in groups if group.assumption))
    yield from map(Line, dict.fromkeys(group.error_assumption for group in groups if group.error_assumption))
    cut = [group for group in groups if group.ranked_by not in {"", "plan"}]
    bound = "bound" if any(group.additive_bound is not None for group in cut) else "eps"
    yield from _missing(bound, Counter(group.no_epsilon for group in cut if group.no_epsilon))
    yield from _missing("choice error", Counter(group.no_choice_error for group in cut if group.no_choice_error))


def _missing(bound: str, reasons: Counter[str]) -> Iterator[Line]:
    """Count the groups without a bound, by the reason."""
    for reason, count in reasons.most_common(MOST):
        yield Line(f"no {bound} for {counted(count, 'cut group')}: {reason}")


def groups_table(groups: Sequence[GroupReport]) -> Table:
    """Show what stays of every group, its bound, what ranked its channels, and what made up for those that go."""
    rows: list[tuple[str, ...]] = []
    additive = any(group.additive_bound is not None for group in groups)
    for group in groups:
        total = "-" if group.sensitivity_sum is None else f"{group.sensitivity_sum:.4g}"
        of_choice = group.additive_bound if additive else group.epsilon
        bounds = (total, *("-" if each is None else at_most(each, 3) for each in (of_choice, group.choice_error)))
        by = f", by {group.ranked_by}" if group.ranked_by != group.selection else ""
        left = group.selection if not group.kept else "all" if group.kept == group.channels else "lossless"
        selection = f"{group.selection}{by}" if group.ranked_by else left
        selection += "" if group.share is None else f", --share {group.share:g}"
        rows.append((group.name, f"{group.kept}/{group.channels}", *bounds, selection, _made_up(group)))
    columns = (
        *(Column("group"), *map(number, ("kept", "sum s", "bound" if additive else "eps", "choice\nerror"))),
        *(Column("selection", wraps=False), Column("compensated", wraps=False)),
    )
    # Where not all are shown, those that lost something say more than those that did not.
    cut = [number for number, group in enumerate(groups) if group.kept < group.channels]
    return Table(columns, rows, of="groups", most=ROWS, flag="-v", first=cut)


def _made_up(group: GroupReport) -> str:
    """Say how many of the consumers were compensated for what goes."""
    parts = {"refitted": group.refitted, "merged": group.merged, "means": group.folded}
    return ", ".join(f"{len(names)} of {len(group.consumers)} {what}" for what, names in parts.items() if names) or "-"
