"""Tables of the speed benchmark, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TypeVar

from benchmarks.speed.layers import LAYERS
from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.plan import KERNELS, MAIN, SIZES
from benchmarks.speed.rows import Command, Difference, Memory, Row, Timed

__all__ = ["GOALS", "page", "steady", "table", "timed_of"]

NOTHING = "–"
GB, MB = 1e9, 1e6
GOALS = {"resnet50": (7.0, 4.0), "resnet20": (10.0, 6.0), "mobilenet_v2": (10.0, 10.0)}
"""The ratio that is asked for on one thread, and the one that is aimed at."""
MEMORY_GOAL = {"resnet50": 1.5 * GB}
LINEAR_GOAL = 0.15
START_GOALS = {"onnxpfp --help": 0.3, "onnxpfp inspect": 2.0}

INTRODUCTION = """Made by `python -m benchmarks.speed` from [speed.jsonl](speed.jsonl). A ratio is (forward pass +
sensitivities) / forward pass: the numerator is the whole call of `calibrate`, which builds its sessions and runs the
network itself, the denominator a plain session of onnxruntime that was ready, over the same batches. Both take turns in
one process; ratios are medians over the turns, with the smallest and the largest behind them. One thread: processor
seconds. More: seconds by the clock."""
MEMORY = """Peaks of the resident memory of two processes, one that runs the forward pass and one that runs
`calibrate`, from the moment on when the network and its images are there. Both include their sessions."""
PLAIN = """The plain path computes every product in an onnxruntime graph; the screened one must find the same
maxima. One run of each. Beyond: (forward + sensitivities) / forward of the second half of the images, for which no
sessions are built. The difference is the largest relative one of all channels of all linear ops."""
GROWTH = """The seconds of all images in proportion to those of the fewest; 1 would be exactly proportional. The ratio
beyond is that of the images which the fewest have not: no sessions are built for them. The images themselves, which are
in memory, are in both processes."""
LAYERS_TEXT = """One linear op behind a ReLU that reads noise; the forward pass is that of the layer alone. The first
batch bears the building of the sessions and the search for the first maxima. Then: what the batches behind it take,
over their forward pass."""
PRUNE = """Seconds of one run with all threads, by the clock, and by phase as the report has them."""

R = TypeVar("R", bound=Row)


def timed_of(rows: Iterable[Row], part: str) -> list[Timed]:
    """Return the timed rows of a part."""
    return [row for row in rows if isinstance(row, Timed) and row.part == part]


def table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    """Write a table whose first columns are text and whose others are numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def steady(first: Timed, whole: Timed) -> float:
    """Return the ratio of what the images of `whole` take that `first` has not."""
    seconds, forward = (
        statistics.median(b - a for a, b in zip(getattr(first, name), getattr(whole, name), strict=True))
        for name in ("seconds", "forward")
    )
    return seconds / forward


def _spread(values: Sequence[float], digits: int = 1) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _short(rows: list[Row]) -> str:
    """The ratios and the memory, as the README shows them."""
    found, peaks = timed_of(rows, "ratio"), [row for row in rows if isinstance(row, Memory) and row.part == "memory"]
    most = max((row.threads for row in found), default=1)
    head = ["network", "images", "one thread", "one thread, `--kernel max`", f"{most} threads", "memory"]
    body: list[list[str]] = []
    for subject in MAIN:
        its = [row for row in found if row.subject == subject]
        if not its:
            continue
        cells = [_ratio(its, kernel, threads) for kernel, threads in (("sum", 1), ("max", 1), ("sum", most))]
        memory = [row.above for row in peaks if row.subject == subject and (row.kernel, row.threads) == ("sum", 1)]
        megabytes = f"{memory[0] / MB:.0f} MB" if memory else NOTHING
        body.append([NETWORKS[subject], str(its[0].images), *cells, megabytes])
    return table(head, body)


def _ratio(rows: list[Timed], kernel: str, threads: int) -> str:
    return next((f"{row.ratio:.1f}" for row in rows if (row.kernel, row.threads) == (kernel, threads)), NOTHING)


def _goals(rows: list[Row]) -> str:
    """What was asked for, and what was measured."""
    body: list[list[str]] = []
    for row in timed_of(rows, "ratio"):
        if row.threads == 1:
            most, aim = GOALS[row.subject]
            word = "aim reached" if row.ratio <= aim else "reached" if row.ratio <= most else "not reached"
            what = f"{NETWORKS[row.subject]}, {row.images} images, `--kernel {row.kernel}`, one thread: ratio"
            body.append([what, f"{most:g}", f"{aim:g}", f"{row.ratio:.2f}", word])
    for row in rows:
        if isinstance(row, Memory) and row.part == "memory" and row.subject in MEMORY_GOAL:
            most = MEMORY_GOAL[row.subject]
            what = f"{NETWORKS[row.subject]}, `--kernel {row.kernel}`, {_threads(row.threads)}: memory"
            body.append([what, f"{most / GB:.1f} GB", NOTHING, f"{row.above / GB:.2f} GB", _met(row.above <= most)])
    for subject, worst in _departures(rows).items():
        what = f"{NETWORKS[subject]}: departure from proportional growth with the images"
        body.append([what, f"{LINEAR_GOAL:.0%}", NOTHING, f"{worst:.0%}", _met(worst <= LINEAR_GOAL)])
    for row in rows:
        if isinstance(row, Command) and row.subject in START_GOALS:
            middle, most = statistics.median(row.wall), START_GOALS[row.subject]
            what = f"`{row.subject}`" + (" on the ResNet-50 shape" if row.subject.endswith("inspect") else "")
            body.append([what, f"{most:g} s", NOTHING, f"{middle:.2f} s", _met(middle <= most)])
    return table(["what", "at most", "aim", "measured", ""], body)


def _met(reached: bool) -> str:
    return "reached" if reached else "not reached"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _departures(rows: list[Row]) -> dict[str, float]:
    """Return how far from proportional the seconds of more images are, at worst, by network."""
    found: dict[str, float] = {}
    for subject, its in _by_subject(timed_of(rows, "growth")).items():
        if len(its) > 1:
            found[subject] = max(abs(_proportion(its[0], row) - 1) for row in its[1:])
    return found


def _proportion(least: Timed, row: Timed) -> float:
    """Return the seconds of an image of `row` over those of an image of `least`, which took turns with it."""
    ratio = statistics.median(b / a for a, b in zip(least.seconds, row.seconds, strict=True))
    return ratio * least.images / row.images


def _by_subject(rows: Iterable[Timed]) -> dict[str, list[Timed]]:
    """Group rows by network, those with the fewest images first."""
    found: dict[str, list[Timed]] = {}
    for row in sorted(rows, key=lambda row: row.images):
        found.setdefault(row.subject, []).append(row)
    return found


def _timings(rows: Iterable[Timed]) -> str:
    head = ["network", "images", "kernel", "threads", "forward, s", "`calibrate`, s", "ratio"]
    body = [
        [
            NETWORKS[row.subject],
            str(row.images),
            row.kernel,
            str(row.threads),
            f"{statistics.median(row.forward):.2f}",
            f"{statistics.median(row.seconds):.2f}",
            _spread(row.ratios),
        ]
        for row in rows
    ]
    return table(head, body)


def _memories(rows: Iterable[Memory]) -> str:
    head = ["network", "images", "kernel", "threads", "forward, MB", "`calibrate`, MB", "above, MB"]
    return table(
        head,
        [
            [
                NETWORKS[row.subject],
                str(row.images),
                row.kernel,
                str(row.threads),
                *(f"{size / MB:.0f}" for size in (row.forward_bytes, row.bytes, row.above)),
            ]
            for row in rows
        ],
    )


def _beside(rows: list[Row]) -> str:
    """Both paths on the same images, and the rate of each behind its start."""
    head = ["network", "images", "kernel", "forward, s", "plain, s", "screened, s", "plain beyond", "screened beyond"]
    body: list[list[str]] = []
    for difference in rows:
        if not isinstance(difference, Difference):
            continue
        its = [row for row in _of(rows, difference.subject) if row.kernel == difference.kernel]
        pairs = [[row for row in its if row.method == method] for method in ("plain", "screened")]
        rates = [f"{steady(*pair):.1f}" for pair in pairs]
        seconds = [f"{statistics.median(pair[1].seconds):.2f}" for pair in pairs]
        forward = f"{statistics.median(pairs[1][1].forward):.2f}"
        cells = [str(difference.images), difference.kernel, forward, *seconds, *rates]
        body.append([NETWORKS[difference.subject], *cells, str(difference.channels), f"{difference.largest:.1e}"])
    return table([*head, "channels", "difference"], body)


def _of(rows: list[Row], subject: str) -> list[Timed]:
    """Return what was timed of a network beside the plain path, fewest images first."""
    return _by_subject(timed_of(rows, "plain"))[subject]


def _grown(rows: list[Row]) -> str:
    head = ["network", "images", "`calibrate`, s", "in proportion", "ratio", "ratio beyond", "memory above, MB"]
    peaks = {(row.subject, row.images): row.above for row in rows if isinstance(row, Memory) and row.part == "growth"}
    body: list[list[str]] = []
    for subject, its in _by_subject(timed_of(rows, "growth")).items():
        for row in its:
            above = peaks.get((subject, row.images))
            cells = [str(row.images), _spread(row.seconds, 2), f"{_proportion(its[0], row):.2f}", _spread(row.ratios)]
            beyond = NOTHING if row is its[0] else f"{steady(its[0], row):.1f}"
            body.append([NETWORKS[subject], *cells, beyond, NOTHING if above is None else f"{above / MB:.0f}"])
    return table(head, body)


def _layers(rows: list[Timed]) -> str:
    names = [f"{when}, `{kernel}`" for kernel in KERNELS for when in ("first batch", "then")]
    body: list[list[str]] = []
    for title in LAYERS:
        cells: list[str] = []
        forward = NOTHING
        for kernel in KERNELS:
            its = sorted((row for row in rows if (row.subject, row.kernel) == (title, kernel)), key=lambda r: r.images)
            if len(its) < 2:
                cells += [NOTHING, NOTHING]
                continue
            first, whole = its
            forward = f"{1000 * statistics.median(whole.forward) / whole.images:.3f}"
            cells += [f"{first.ratio:.1f}", f"{steady(first, whole):.1f}"]
        if forward != NOTHING:
            body.append([title, forward, *cells])
    return table(["layer", "forward, ms/image", *names], body)


def _commands(rows: list[Command]) -> str:
    phases = list(dict.fromkeys(phase for row in rows for phase in row.phases))
    head = ["command", "images", "all", *phases, "peak, GB"]
    body = [
        [
            f"`{row.subject}`",
            str(row.images),
            f"{statistics.median(row.wall):.1f}",
            *(f"{row.phases[phase]:.1f}" if phase in row.phases else NOTHING for phase in phases),
            f"{row.bytes / GB:.2f}",
        ]
        for row in rows
    ]
    return table(head, body)


def _starts(rows: list[Command]) -> str:
    return table(["command", "seconds"], [[f"`{row.subject}`", _spread(row.wall, 2)] for row in rows])


def _machines(rows: list[Row]) -> str:
    parts: dict[str, dict[str, None]] = {}
    for row in rows:
        parts.setdefault(row.machine, {})[row.part] = None
    return "\n".join(f"- {', '.join(sorted(measured))}: {machine}" for machine, measured in parts.items())


def page(rows: list[Row]) -> str:
    """Write all tables."""

    def of(kind: type[R], part: str) -> list[R]:
        return [row for row in rows if isinstance(row, kind) and row.part == part]

    size = [row for subject in SIZES for row in timed_of(rows, "size") if row.subject == subject]
    sections = [
        ("In short", "The memory is that of the forward pass on one thread and what comes on top.", _short(rows)),
        ("Goals", "", _goals(rows)),
        ("Ratio", "", _timings(timed_of(rows, "ratio"))),
        ("Memory", MEMORY, _memories(of(Memory, "memory"))),
        ("Single layers", LAYERS_TEXT, _layers(timed_of(rows, "layers"))),
        ("Beside the plain path", PLAIN, _beside(rows)),
        ("Growth with the images", GROWTH, _grown(rows)),
        ("Growth with the network", "", _timings(size)),
        ("The whole of `onnxpfp prune --keep-macs 0.7` on the ResNet-50 shape", PRUNE, _commands(of(Command, "prune"))),
        ("Start", "By the clock.", _starts(of(Command, "startup"))),
    ]
    parts = ["# Speed of the sensitivities", INTRODUCTION, "![Ratios, growth and phases](speed.svg)"]
    for title, text, lines in sections:
        if lines.count("\n") > 1:
            parts += [part for part in (f"## {title}", text, lines) if part]
    return "\n\n".join([*parts, "## Measured on", _machines(rows)]) + "\n"
