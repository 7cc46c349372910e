"""What made up for the channels that go."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from onnxpfp.counted import counted
from onnxpfp.refit.means import Record
from onnxpfp.report.page import Column, Element, Line, Table, number
from onnxpfp.report.reasons import kind

__all__ = ["about_compensation", "fitted_line", "merged_line"]


def merged_line(merged: Sequence[str]) -> str:
    """Say how many layers took over channels that go."""
    count = counted(len(merged), "consumer")
    return f"channels that go merged into similar ones that stay, in the weights of {count}"


def fitted_line(fitted: Sequence[str]) -> str:
    """Say how many layers were fitted to their own outputs in the original."""
    count = counted(len(fitted), "consumer")
    return (
        f"{count} fitted by least squares, each to its own output in the original with the inputs that it has there, "
        "by the sums in the file of scores; what layers before lose is not made up for"
    )


def about_compensation(
    refits: Sequence[Record], compensated: Sequence[str], uncompensated: Sequence[tuple[str, str]], *, full: bool
) -> Iterator[Element]:
    """Sum up the refits and the folded means, and say why some consumers have neither; list them all where wanted."""
    if refits:
        recurrent = [record for record in refits if record.recurrent]
        linear = [record for record in refits if not record.recurrent]
        alone, jointly = ([record for record in linear if record.joint == joint] for joint in (False, True))
        if alone:
            yield Line(_refitted(alone))
        if recurrent:
            yield Line(_refitted_recurrences(recurrent))
        if jointly:
            yield Line(_refitted_jointly(jointly))
        if full:
            yield _refits_table(refits)
    count, left = len(compensated), len(uncompensated)
    if count or left:
        folded = f"mean of dropped channels folded into the biases of {count} of {count + left} consumers"
        yield Line(f"{folded} that were not refitted" if refits else folded)
    together: dict[str, list[str]] = {}
    for name, reason in uncompensated:
        together.setdefault(kind(reason), []).append(name)
    for reason, names in together.items():
        listed = names if full else names[:1]
        rest = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
        yield Line(f"not of {', '.join(listed)}{rest}: {reason}")


def _refitted(refits: Sequence[Record]) -> str:
    taken = [record for record in refits if record.after < record.before]
    before, after = (statistics.median(getattr(r, side) for r in refits) for side in ("before", "after"))
    worse = sum(record.after > record.before for record in refits)
    verdict = "no op got worse" if not worse else f"{worse} got worse"
    shares = f"{100 * before:.3g} % before, {100 * after:.3g} % after"
    return (
        f"{len(taken)} of {counted(len(refits), 'linear op')} refitted by least squares: median error of an output on "
        f"samples kept out of the fit, as a share of its variance: {shares}; {verdict}"
    )


def _refitted_recurrences(refits: Sequence[Record]) -> str:
    taken = [record for record in refits if record.after < record.before]
    before, after = (statistics.median(getattr(r, side) for r in refits) for side in ("before", "after"))
    count = counted(len(refits), "recurrence")
    shares = f"{100 * before:.3g} % before, {100 * after:.3g} % after"
    return (
        f"{len(taken)} of {count} refitted by least squares: median share of the variance of the original's states "
        f"that a linear map cannot tell from those left, on samples kept out of the fit: {shares}"
    )


def _refitted_jointly(refits: Sequence[Record]) -> str:
    before, after = (statistics.median(getattr(r, side) for r in refits) for side in ("before", "after"))
    shares = f"{100 * before:.3g} % with these refitted alone, {100 * after:.3g} % after"
    return (
        f"{counted(len(refits), 'linear op')} refitted together with those that read them: median error of the "
        f"outputs of these on samples kept out of the fit, as a share of their variance: {shares}"
    )


def _refits_table(refits: Sequence[Record]) -> Table:
    rows: list[tuple[str, ...]] = []
    for record in refits:
        only = "bias only" if record.after < record.before else "as it was"
        ridge = f"{record.ridge:g}" if math.isfinite(record.ridge) else only
        if record.joint:
            ridge += ", with its readers"
        if record.recurrent:
            ridge += ", of its states"
        rows.append((record.name, f"{100 * record.before:.3g} %", f"{100 * record.after:.3g} %", ridge))
    return Table((Column("op"), *map(number, ("error before", "after", "ridge"))), rows)
