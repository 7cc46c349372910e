"""The report for people, as tables on a console."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxpfp.channels.types import Fixed
from onnxpfp.lossless import Removal
from onnxpfp.refit.means import Record
from onnxpfp.report.pruning import GroupReport, Report
from onnxpfp.report.reasons import by_kind, example, kind
from onnxpfp.report.tables import ATTENTION, facts, heading, indented, more, print_clean, spent
from onnxpfp.score.registry import CRITERIA
from onnxpfp.verify.drift import Drift

__all__ = ["print_notes", "print_report"]

ROWS = 20
"""Most groups that are shown unless all are asked for."""
REASONS = 8
"""Most reasons that are shown, likewise."""

_METHODS = {
    **{name: criterion.title for name, criterion in CRITERIA.items()},
    "coreset": "data-independent coreset scores, by weights alone",
    "plan": "replay of a plan",
    "none": "nothing was scored",
}
_WIDTHS = {
    "measured": "measured drift of the output",
    "bound": "one bound for all groups",
    "uniform": "one share for all groups",
}
FAR = 0.5
"""Relative output error from which a result has little in common with the original."""
_TARGETS = {"macs": "MACs", "params": "parameters"}
_UNSCORED = frozenset({"plan", "all"})


def print_report(report: Report, console: Console, *, full: bool) -> None:
    """Print what was done.

    Args:
        report: What is known about the pruning.
        console: Where to.
        full: Whether to show every row.
    """
    print_clean(console, lambda: _print_sections(report, console, full=full))


def _print_sections(report: Report, console: Console, *, full: bool) -> None:
    console.print(_sizes(report))
    console.print(_facts(report))
    if report.groups:
        shown = report.groups if full else report.groups[:ROWS]
        console.print(heading("Groups of channels"))
        console.print(_groups(shown))
        more(console, len(report.groups) - len(shown), "groups", "-v")
        if any(group.selection not in _UNSCORED for group in report.groups):
            console.print(indented(f"eps: bound on each consumer's relative error. {report.groups[0].assumption}"))
    if report.skipped:
        _print_untouched(report.skipped, console, full=full)
    if report.compensated or report.uncompensated or report.refits:
        _print_compensation(report, console, full=full)


def print_notes(notes: Sequence[str], console: Console) -> None:
    """Print what the user should know, each on one line where the console is no terminal."""
    for note in notes:
        style = "bold red" if note.startswith("RANDOM") else "yellow"
        console.print(Text(f"Note: {note}", style=style), soft_wrap=not console.is_terminal)


def _sizes(report: Report) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for title in ("before", "after", "kept"):
        table.add_column(title, justify="right")
    before, after = report.before, report.after
    rows = (
        ("parameters", before.params, after.params),
        ("MACs, one sample", before.macs, after.macs),
        ("file, bytes", before.bytes, after.bytes),
    )
    for title, old, new in rows:
        share = f"{100 * new / old:.1f} %" if old else "-"
        table.add_row(title, f"{old:,}", f"{new:,}", share)
    return table


def _facts(report: Report) -> Table:
    """Method, place, evidence and time, one per line."""
    rows = {"channels by": _METHODS.get(report.method, report.method)}
    if report.target:
        again = f", anew in {report.steps} steps" if report.steps > 1 else ""
        rows["widths by"] = _WIDTHS[report.allocation] + again
    if report.target:
        rows["target"] = ", ".join(_target(name, value) for name, value in report.target.items())
    if report.trials:
        rows["reached"] = _reached(report)
    rows |= ATTENTION[report.attention]
    rows["counted at"] = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in report.inputs.items())
    rows["reachable"] = f"{100 * report.reachable:.1f} % of the parameters lie in channels that may go"
    rows["ran on"] = ", ".join(report.providers)
    if report.samples:
        rows["samples (S)"] = f"{report.samples} used, the size formula asks for {report.samples_wanted}"
    if report.removed:
        rows["cost nothing"] = _removed(report.removed)
    oracle = report.oracle
    runs = "1 run" if oracle.runs == 1 else f"{oracle.runs} runs"
    rows["verified"] = (
        f"masked original == pruned: largest difference {_number(oracle.error)} of the largest output, "
        f"{oracle.tolerance:.0e} allowed, {runs}"
    )
    rows["drift"] = _drift(report.drift) + _advice(report)
    rows["seconds"] = spent(report.seconds)
    return facts(rows)


def _removed(removed: Sequence[Removal]) -> str:
    """Count the channels that went for free, by kind and by how that is known."""
    counts: Counter[tuple[str, str, int]] = Counter()
    for removal in removed:
        counts[removal.kind, removal.source, removal.samples] += len(removal.channels)
    parts: list[str] = []
    for (what, source, samples), count in counts.items():
        where = "by the weights" if source == "weights" else f"on all {samples} samples"
        parts.append(f"{count} {what} {where}")
    return f"channels that went first: {', '.join(parts)}"


def _target(name: str, value: float) -> str:
    """Say what was asked for."""
    if name == "max_drift":
        return f"as few MACs as a relative output error of {value:g} allows"
    if name == "min_agreement":
        return f"as few MACs as a top-1 agreement of {100 * value:.4g} % allows"
    return f"keep {100 * value:.4g} % of the {_TARGETS.get(name, name)}"


def _reached(report: Report) -> str:
    """Say what a target of quality led to; its samples decided it, so the drift on them is a little flattering."""
    share = 100 * report.after.macs / max(report.before.macs, 1)
    count = "1 trial" if len(report.trials) == 1 else f"{len(report.trials)} trials"
    tried = ", ".join(f"{100 * t.share:.0f} % {'good' if t.good else 'not'}" for t in report.trials)
    return f"{share:.1f} % of the MACs, by the samples of the drift, in {count}: {tried}"


def _advice(report: Report) -> str:
    """Say what to do about a result that is far from the original."""
    if report.drift is None or (report.drift.relative_error or 0.0) < FAR:
        return ""
    better = "" if report.compensation == "lstsq" else ", or give more data for --compensate lstsq"
    return f". THAT IS FAR: keep more{better}"


def _drift(drift: Drift | None) -> str:
    if drift is None:
        return "not measured, for there are no data"
    parts: list[str] = []
    if drift.relative_error is not None:
        parts.append(f"relative output error {drift.relative_error:.3g}")
    if drift.differing is not None:
        parts.append(f"{100 * drift.differing:.1f} % of the integer outputs differ")
    if drift.top1_agreement is not None:
        parts.append(f"top-1 agreement {100 * drift.top1_agreement:.1f} %")
    where = "held-out samples" if drift.held_out else "samples, which the calibration has seen too"
    return f"{', '.join(parts)}, against the original on {drift.samples} {where}"


def _groups(groups: Sequence[GroupReport]) -> Table:
    table = Table(box=box.SIMPLE, collapse_padding=True)
    table.add_column("group", overflow="fold")
    for title in ("kept", "sum s", "eps\ndet.", "eps\nsampled", "eps\nmixed"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("selection", no_wrap=True)
    for group in groups:
        scored = group.selection not in _UNSCORED
        bounds = (group.epsilon_deterministic, group.epsilon_sampled, group.epsilon_mixed)
        table.add_row(
            group.name,
            f"{group.kept}/{group.channels}",
            f"{group.sensitivity_sum:.4g}" if scored else "-",
            *(_number(bound) if scored else "-" for bound in bounds),
            "all" if group.kept == group.channels else group.selection,
        )
    return table


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _print_untouched(skipped: Sequence[Fixed], console: Console, *, full: bool) -> None:
    reasons = sorted(by_kind(skipped).items(), key=lambda reason: -len(reason[1]))
    shown = reasons if full else reasons[:REASONS]
    table = Table(box=box.SIMPLE)
    table.add_column("axes", justify="right", no_wrap=True)
    table.add_column("indices", justify="right", no_wrap=True)
    table.add_column("why they stay", overflow="fold", ratio=1)
    table.add_column("for example", overflow="fold", ratio=1)
    for reason, axes in shown:
        table.add_row(f"{len(axes):,}", f"{sum(fixed.count for fixed in axes):,}", reason, example(axes[0]))
    console.print(heading("Untouched axes of weights"))
    console.print(table)
    more(console, len(reasons) - len(shown), "reasons", "-v")


def _print_compensation(report: Report, console: Console, *, full: bool) -> None:
    console.print(heading("Compensation"))
    if report.refits:
        console.print(indented(_refitted(report.refits)))
        if full:
            console.print(_refits(report.refits))
    count, left = len(report.compensated), len(report.uncompensated)
    if count or left:
        folded = f"mean of dropped channels folded into the biases of {count} of {count + left} consumers"
        console.print(indented(f"{folded} that were not refitted" if report.refits else folded))
    together: dict[str, list[str]] = {}
    for name, reason in report.uncompensated:
        together.setdefault(kind(reason), []).append(name)
    for reason, names in together.items():
        listed = names if full else names[:1]
        rest = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
        console.print(indented(f"not of {', '.join(listed)}{rest}: {reason}"))


def _refitted(refits: Sequence[Record]) -> str:
    taken = [record for record in refits if record.after < record.before]
    before, after = (statistics.median(getattr(r, side) for r in refits) for side in ("before", "after"))
    worse = sum(record.after > record.before for record in refits)
    verdict = "worse nowhere" if not worse else f"worse at {worse}"
    return (
        f"{len(taken)} of {len(refits)} linear ops refitted by least squares: error of their outputs on held-out data "
        f"{100 * before:.3g} % -> {100 * after:.3g} % of the variance (median), {verdict}"
    )


def _refits(refits: Sequence[Record]) -> Table:
    table = Table(box=box.SIMPLE, collapse_padding=True)
    table.add_column("linear op", overflow="fold")
    for title in ("error before", "after", "ridge"):
        table.add_column(title, justify="right", no_wrap=True)
    for record in refits:
        only = "bias only" if record.after < record.before else "as it was"
        ridge = f"{record.ridge:g}" if math.isfinite(record.ridge) else only
        table.add_row(record.name, f"{100 * record.before:.3g} %", f"{100 * record.after:.3g} %", ridge)
    return table
