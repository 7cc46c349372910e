"""The page of the benchmark of structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.structures.rows import Row
from benchmarks.structures.subjects import FAST, SUBJECTS, Subject

__all__ = ["page"]

HEAD = """# What each structure loses

Networks made smaller to one share of the multiply-adds by what may go: channels, ranks of layers beside them, whole
branches, or ranks alone (`onnxpfp factorize`). Made by `python -m benchmarks.structures` with the defaults of each
command, at most 256 calibration samples and one thread. *verified* is the largest difference of the file from what it
must equal, over the largest output; *drift* the relative error of the output on held-out samples, of networks with
random weights on noise; *latency* the median ratio of one run to one of the original on one thread, beside other work
on the machine; *became two* counts layers of low rank, *gone* groups of which nothing is left.
"""
FAST_HEAD = """# At equal latency

The same with a share of the latency as the target (`--keep-latency`, made with `--quantity latency`): up to 1,024
calibration samples, one image on one thread. *latency* is measured by the benchmark on the written file in turns with
the original, as time on the cores, for the machine did other work: the median of the pairs, and its quartiles. The
tables that a pruning measures differ from run to run on such a machine, and so does what it chooses.
"""
COLUMNS = (
    "structure",
    "MACs",
    "parameters",
    "verified",
    "drift",
    "right before",
    "after",
    "latency",
    "became two",
    "gone",
    "CPU s",
)
QUANTITIES = {"macs": "multiply-adds", "latency": "latency"}


def page(rows: Sequence[Row]) -> str:
    """Return the page, a table for every network and target."""
    by_latency = _sections(rows, "latency", FAST)
    parts = [HEAD, *_sections(rows, "macs", SUBJECTS), *([FAST_HEAD] if by_latency else []), *by_latency]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _sections(rows: Sequence[Row], quantity: str, subjects: Mapping[str, Subject]) -> list[str]:
    parts: list[str] = []
    for name, subject in subjects.items():
        ours = [row for row in rows if (row.network, row.quantity) == (name, quantity)]
        for target in sorted({row.target for row in ours}, reverse=True):
            here = [row for row in ours if row.target == target]
            parts += [f"## {subject.title}, {target:g} of the {QUANTITIES[quantity]}", _table(here)]
    return parts


def _table(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    title = f"`{row.structure}`"
    if row.refused:
        return [title, row.refused, *([""] * (len(COLUMNS) - 2))]
    return [
        title,
        *(_number(value, ".3f") for value in (row.macs, row.params)),
        _number(row.oracle, ".1e"),
        _number(row.drift, ".3f"),
        *(_number(value, ".1f", " %") for value in (row.before, row.after)),
        _latency(row),
        *(_number(value, "d") for value in (row.ranked, row.gone)),
        _number(row.seconds, ".0f"),
    ]


def _latency(row: Row) -> str:
    if row.quartiles is None:
        return _number(row.latency, ".2f")
    return f"{_number(row.latency, '.3f')} ({' to '.join(f'{value:.3f}' for value in row.quartiles)})"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
