"""The page of the latency benchmark, made from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import TypeVar

from benchmarks.latency.equal_accuracy import OURS, paired
from benchmarks.latency.peer_files import RATIOS
from benchmarks.latency.rows import ByHand, Point, Ratios, Row, Subnormals, Targeted
from benchmarks.latency.subjects import SUBJECTS
from benchmarks.latency.summary import HEAD, SUMMARY, summary
from benchmarks.latency.text_lines import CALIBRATION, TEST

__all__ = ["page"]

T = TypeVar("T", Targeted, ByHand, Point)

NOTHING = "–"
ALLOWED = 0.05
"""Relative distance from a target within which it is met."""

INTRODUCTION = f"""Made by `python -m benchmarks.latency` from [latency.jsonl](latency.jsonl). A latency is a share of
that of the original beside which a file ran: pairs of runs in one process, in alternating order, median and, in
brackets, quartiles of the pairs. With one thread the time on the cores counts, with more the clock, or the time on the
cores where runs wait for them. It is measured by the benchmark, on the written files, apart from onnxpfp's own report.
Nothing is trained, before or after pruning, by any tool. Rows with two threads were measured on an idle machine, the
others while other programs ran on it. Rows are of several commits of onnxpfp, whose steps of widths and response curves
differ; those without one are older.

The text recogniser is PP-OCRv4 as the package rapidocr-onnxruntime 1.4.4 ships it, at 3 x 48 x 320. It is pruned with
{CALIBRATION} printed lines and tested on {TEST} others, with other words and numbers; a line counts if all of it is
read right, but for spaces at its ends. Accuracy is top-1 for the others, in percent. Networks with random weights have
none, and are pruned with noise."""

TARGETS = """`--keep-latency` with channels alone and each layer refitted by itself (`--structure channels --effort
low`, as are all files of onnxpfp here). "promised" is what the latency model says of
the widths before the file is measured, "report" what onnxpfp says it measured. "model" are the seconds that the latency
model takes, and in forward passes over the calibration samples on the same threads; "all" those of the whole call."""

HAND = """`--keep-macs`, with widths by default or in multiples of 8, and the share tuned by bisection until the file is
as fast as the one above that was pruned to a latency."""

EQUAL = f"""Files of every tool, measured in one run beside the original, one sample and one thread. The latency of a
peer at the accuracy of a file of onnxpfp is read off the lines between the peer's best files, the original among them.
Peers are asked to remove {RATIOS[0]:g} to {RATIOS[-1]:g}. Torch-Pruning prunes a torch twin of the file, and there is
none of the recogniser. Where a peer has no file that is so inaccurate there is none (–)."""

TABLE = """A table is measured with one thread by `onnxpfp latency`, and given to `--latency-table`, so that the pruning
measures nothing itself. "promised" is for the device of the table; the file is measured on it, and with other
threads, which stand for another device."""

SUBNORMAL = """Weights that are subnormal numbers become zero, where no result can tell, and nothing else changes.
"equal bits" counts the outputs that are zero or normal numbers in the original, over 16 samples."""


def page(rows: Sequence[Row]) -> str:
    """Return the page as Markdown."""
    parts = ["# Latency", INTRODUCTION]
    lines = summary(rows, {name: _title(name) for name in SUBJECTS})
    if lines:
        parts += ["## In short", SUMMARY, _table(HEAD, lines)]
    own = [row for row in rows if isinstance(row, Targeted) and not row.table_threads]
    given = [row for row in rows if isinstance(row, Targeted) and row.table_threads]
    hand = [row for row in rows if isinstance(row, ByHand)]
    points = [row for row in rows if isinstance(row, Point)]
    cleaned = [row for row in rows if isinstance(row, Subnormals)]
    if own:
        parts += ["## A share of the latency as target", TARGETS, _met(own), _targets(own)]
    if hand:
        parts += ["## Beside multiply-adds, tuned by hand", HAND, _by_hand(hand, own)]
    if points:
        parts += ["## Peers at equal accuracy", EQUAL, *_equal(points)]
    if given:
        parts += ["## A table that was measured before", TABLE, _tables(given)]
    if cleaned:
        parts += ["## Subnormal weights", SUBNORMAL, _subnormal(cleaned)]
    machines = dict.fromkeys(row.machine for row in rows)
    return "\n\n".join([*parts, "## Measured on", *(f"- {each}" for each in machines)]) + "\n"


def _met(rows: Sequence[Targeted]) -> str:
    measured = [row for row in rows if row.ratios is not None]
    near = sum(abs(row.ratios[1] / row.target - 1) <= ALLOWED for row in measured if row.ratios is not None)
    refused = len(rows) - len(measured)
    left = f"; {refused} were refused" if refused else ""
    return f"{near} of {len(measured)} files are within {100 * ALLOWED:g} % of their target{left}."


def _targets(rows: Sequence[Targeted]) -> str:
    head = ["network", "batch", "threads", "target", "measured", "promised", "report", "ms", "MACs", "accuracy"]
    head += ["model, s", "in passes", "all, s", "commit"]
    return _table(head, map(_target, _sorted(rows)))


def _target(row: Targeted) -> list[str]:
    start = [_title(row.network), str(row.batch), str(row.threads), f"{row.target:g}"]
    if row.refused:
        return [*start, row.refused, *[NOTHING] * 8, _commit(row)]
    passes = None
    if row.model_seconds is not None and row.pass_seconds:
        passes = row.model_seconds / row.pass_seconds
    return [
        *start,
        _ratios(row.ratios),
        _number(row.promised, 3),
        _number(row.reported, 3),
        f"{_number(row.before_ms, 2)} → {_number(row.after_ms, 2)}",
        _number(row.macs, 3),
        f"{row.before:.1f} → {row.after:.1f}" if row.before is not None and row.after is not None else NOTHING,
        _number(row.model_seconds, 1),
        _number(passes, 1),
        _number(row.seconds, 0),
        _commit(row),
    ]


def _by_hand(rows: Sequence[ByHand], ours: Sequence[Targeted]) -> str:
    """Show one line a target: ours, and each of the ways to tune."""
    after = {(*row.case, row.target): row.after for row in ours}
    head = ["network", "target", "onnxpfp: latency", "accuracy", "by hand: widths", "MACs given", "latency", "accuracy"]
    body = [
        [
            _title(row.network),
            f"{row.target:g}",
            f"{row.goal:.3f}",
            _number(after.get((*row.case, row.target)), 1),
            f"multiples of {row.rounding}" if row.rounding else "by default",
            _number(row.keep_macs, 3),
            row.refused or _ratios(row.ratios),
            _number(row.after, 1),
            str(row.tried),
            f"{row.seconds:.0f}",
            _commit(row),
        ]
        for row in _sorted(rows)
    ]
    return _table([*head, "prunings", "seconds", "commit"], body)


def _equal(points: Sequence[Point]) -> Iterator[str]:
    """Show, by network, the latencies at the accuracies of our files, and then every file."""
    for name in dict.fromkeys(point.network for point in _sorted(points)):
        mine = [point for point in points if point.network == name]
        yield f"### {_title(name)}: the original has {mine[0].before:.1f} %"
        methods = list(dict.fromkeys(point.method for point in mine if point.method != OURS))
        found: dict[Point, list[float | None]] = {}
        for ours, _, latency in paired(mine):
            found.setdefault(ours, []).append(latency)
        yield _table(["accuracy", OURS, "best peer", *methods], starmap(_at_equal, found.items()))
        yield "Every file:"
        body = [
            [
                point.tool,
                point.method,
                f"{point.setting:g}",
                point.refused or _ratios(point.ratios),
                _number(point.after, 1),
                _commit(point),
            ]
            for point in mine
        ]
        yield _table(["tool", "method", "asked for", "latency", "accuracy", "commit"], body, left=2)


def _at_equal(ours: Point, peers: Sequence[float | None]) -> list[str]:
    """Show the latencies at the accuracy of a file of onnxpfp."""
    assert ours.ratios is not None
    best = min((latency for latency in peers if latency is not None), default=None)
    return [_number(ours.after, 1), *(_number(latency, 3) for latency in (ours.ratios[1], best, *peers))]


def _tables(rows: Sequence[Targeted]) -> str:
    head = ["network", "target", "promised", "table with", "measured with", "measured", "table, s", "commit"]
    body = [
        [
            _title(row.network),
            f"{row.target:g}",
            _number(row.promised, 3),
            _threads(row.table_threads),
            _threads(row.threads),
            row.refused or _ratios(row.ratios),
            _number(row.model_seconds, 1),
            _commit(row),
        ]
        for row in _sorted(rows)
    ]
    return _table(head, body)


def _subnormal(rows: Sequence[Subnormals]) -> str:
    head = ["network", "weights", "now zero", "ms", "latency", "equal bits", "largest difference"]
    body = [
        [
            "convolutions with a filter that decayed" if row.network not in SUBJECTS else _title(row.network),
            f"{row.weights:,}",
            f"{row.zeroed:,}",
            f"{row.before_ms:.2f} → {row.after_ms:.2f}",
            _ratios(row.ratios),
            f"{row.equal:,} of {row.outputs:,}",
            f"{row.largest:.1e}",
        ]
        for row in rows
    ]
    return _table(head, body)


def _commit(row: Row) -> str:
    return row.commit or NOTHING


def _threads(number: int) -> str:
    return f"{number} thread" if number == 1 else f"{number} threads"


def _title(name: str) -> str:
    return SUBJECTS[name].title.split(",")[0]


def _sorted(rows: Iterable[T]) -> list[T]:
    """Bring rows into the order of the networks."""
    order = list(SUBJECTS)
    return sorted(rows, key=lambda row: order.index(row.network))


def _ratios(ratios: Ratios | None) -> str:
    return NOTHING if ratios is None else f"{ratios[1]:.3f} ({ratios[0]:.3f}..{ratios[2]:.3f})"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
