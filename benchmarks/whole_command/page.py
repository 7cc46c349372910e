"""The page of the benchmark of whole commands, made from its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TypeVar

from benchmarks.whole_command.codes import AFTER, BEFORE
from benchmarks.whole_command.forward import BATCH
from benchmarks.whole_command.plan import FIRST, THREADED
from benchmarks.whole_command.rows import BesideForward, Measured, Peer, Row, Waited, Whole
from benchmarks.whole_command.subjects import NETWORKS

__all__ = ["page"]

R = TypeVar("R", bound=Measured)

NOTHING = "–"
MB = 1e6
GOAL, AIM = 30, 20
"""Forward passes that the whole command may take, and that are aimed at."""

INTRODUCTION = f"""Made by `python -m benchmarks.whole_command` from [whole_command.jsonl](whole_command.jsonl). Every
command is a process of its own. Where it stands beside forward passes, it has one thread, and processor seconds of it
and its children count: the median of its runs over the median of the passes that took turns with it. A forward pass is
one over all samples, {BATCH} at a time, in a session of onnxruntime that was ready, on one thread. The memory is the
largest that was resident in the process that works, libraries and samples included. The OCR networks are those of the
package rapidocr-onnxruntime 1.4.4, fed printed lines and pages; those with random weights are fed noise."""
SHORT = f"""`onnxpfp prune IN OUT --calib-data SAMPLES --threads 1`, everything else by default, in forward passes of
the same samples; {GOAL} is what it may take, {AIM} what is aimed at. The memory is that of the forward pass and what
comes on top; it is less where the samples run in smaller batches."""
PHASES = """Forward passes by phase, whose seconds are counted on the processor; "outside" is what lies outside of all
phases, such as imports and writing the file."""
FREE = """BLAS was not held to one thread from outside; `--threads 1` alone says how many there are."""
PEERS = """One pass of gradients over the same samples, then the dependency graph, a ranking of all channels and one
cut; no share of the multiply-adds is searched for, nothing is refitted, and no file is written. "twin" makes the torch
network from the ONNX file. One torch thread."""
THREADS = """Seconds by the clock. Busy processes keep one core each. Threads are those of `--threads`."""


def page(rows: Sequence[Row]) -> str:
    """Return the page as Markdown."""
    held = [row for row in rows if isinstance(row, Whole) and row.held]
    free = [row for row in rows if isinstance(row, Whole) and not row.held]
    peers = [row for row in rows if isinstance(row, Peer)]
    waited = [row for row in rows if isinstance(row, Waited)]
    first = [row for row in waited if row.network == FIRST]
    threads = [row for row in waited if row.network in THREADED]
    sections = [
        ("In short", SHORT, _short(held)),
        ("By phase", PHASES, _phases(held)),
        ("BLAS as it likes", FREE, _phases(free)),
        ("Beside Torch-Pruning", PEERS, _peers(peers, held)),
        ("The README's first command", THREADS, _first(first)),
        ("Threads", THREADS, _threads(threads)),
    ]
    parts = ["# The whole command in forward passes", INTRODUCTION]
    for title, text, lines in sections:
        if lines.count("\n") > 1:
            parts += [f"## {title}", text, lines]
    return "\n\n".join([*parts, "## Measured on", *_machines(rows)]) + "\n"


def _short(rows: Sequence[Whole]) -> str:
    head = ["network", "samples", "forward pass, s", BEFORE, AFTER, "memory"]
    body: list[list[str]] = []
    for name, (before, after) in _paired(rows).items():
        latest = after or before
        assert latest is not None
        memory = f"{latest.forward_bytes / MB:.0f} {'-' if latest.above < 0 else '+'} {abs(latest.above) / MB:.0f} MB"
        cells = [f"{latest.forward:.2f}", *(_passes(row) for row in (before, after)), memory]
        body.append([_title(name), f"{latest.images:,}", *cells])
    return _table(head, body)


def _phases(rows: Sequence[Whole]) -> str:
    found = _sorted(rows)
    names = _names(found)
    head = ["network", "code", "s", "passes", *names, "outside", "memory above, MB"]
    body = [
        [
            _title(row.network),
            f"{row.code} ({row.commit})",
            f"{statistics.median(row.cpu):.1f}",
            f"{row.passes:.1f}",
            *_by_phase(row, names),
            f"{row.passes_outside:.1f}",
            f"{row.above / MB:.0f}",
        ]
        for row in found
    ]
    return _table(head, body, left=2)


def _peers(peers: Sequence[Peer], ours: Sequence[Whole]) -> str:
    found = _sorted(peers)
    names = _names(found)
    head = ["network", "tool", "s", "passes", *names, "outside", "memory above, MB", "onnxpfp, passes"]
    own = _paired(ours)
    body: list[list[str]] = []
    for row in found:
        _, after = own.get(row.network, (None, None))
        phases = [*_by_phase(row, names), f"{row.passes_outside:.1f}", f"{row.above / MB:.0f}"]
        start = [_title(row.network), f"{row.tool}: {row.method}", f"{statistics.median(row.cpu):.1f}"]
        body.append([*start, f"{row.passes:.1f}", *phases, _passes(after)])
    return _table(head, body, left=2)


def _first(rows: Sequence[Waited]) -> str:
    """Show the first command alone and beside others, and how much longer it takes there."""
    body: list[list[str]] = []
    for code in (BEFORE, AFTER):
        mine = {row.busy: row for row in rows if row.code == code}
        for busy, row in sorted(mine.items()):
            alone = mine.get(0)
            longer = f"{row.seconds / alone.seconds:.2f}" if alone and busy else NOTHING
            body.append([f"{code} ({row.commit})", str(busy), _spread(row.wall), longer])
    return _table(["code", "busy processes", "seconds", "times as long"], body)


def _threads(rows: Sequence[Waited]) -> str:
    """Show what more threads bring, alone and beside another process."""
    by_case = {(row.network, row.code, row.threads, row.busy): row for row in rows}
    body: list[list[str]] = []
    for row in _sorted(rows):
        single = by_case.get((row.network, row.code, 1, 0))
        faster = f"{single.seconds / row.seconds:.2f}" if single and row is not single else NOTHING
        cells = [str(row.threads), str(row.busy), _spread(row.wall), f"{statistics.median(row.cpu):.1f}", faster]
        body.append([_title(row.network), f"{row.code} ({row.commit})", *cells])
    head = ["network", "code", "threads", "busy processes", "seconds", "processor, s", "times as fast as one"]
    return _table(head, body, left=2)


def _paired(rows: Iterable[Whole]) -> dict[str, tuple[Whole | None, Whole | None]]:
    """Put the rows before and after of every network side by side."""
    found = {(row.network, row.code): row for row in rows}
    names = dict.fromkeys(row.network for row in _sorted(found.values()))
    return {name: (found.get((name, BEFORE)), found.get((name, AFTER))) for name in names}


def _sorted(rows: Iterable[R]) -> list[R]:
    """Bring rows into the order of the networks, those before in front."""
    order = list(NETWORKS)
    return sorted(rows, key=lambda row: (order.index(row.network), getattr(row, "code", AFTER) == AFTER))


def _names(rows: Iterable[BesideForward]) -> list[str]:
    """List all phases in the order in which they begin."""
    return list(dict.fromkeys(name for row in rows for name in row.phases))


def _by_phase(row: BesideForward, names: Iterable[str]) -> list[str]:
    found = row.passes_by_phase
    return [f"{found[name]:.1f}" if name in found else NOTHING for name in names]


def _passes(row: Whole | None) -> str:
    return NOTHING if row is None else f"{row.passes:.1f}"


def _spread(seconds: Sequence[float]) -> str:
    middle = f"{statistics.median(seconds):.1f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.1f}..{max(seconds):.1f})"


def _title(name: str) -> str:
    return NETWORKS[name].title.removesuffix(", random weights")


def _machines(rows: Iterable[Row]) -> list[str]:
    return [f"- {machine}" for machine in dict.fromkeys(row.machine for row in rows)]


def _table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
