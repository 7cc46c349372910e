"""Hold screened sensitivities against the plain path on every graph of a folder.

    python -m benchmarks.coverage.screened_zoo --graphs DIR [--samples 4] [--results benchmarks/results]

DIR holds `.onnx` files, or is a `.zip` as `shared/zoo/zoo.zip` packs them. Every network is prepared as the command
line does it, fed with noise, and measured by both methods with both kernel forms, on one thread, in one process. The
channel whose sensitivities differ most is computed a third time in float64. Writes `results/screened.md`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from benchmarks.coverage.screened_float64 import Judged, judge
from benchmarks.coverage.zoo import unpack
from benchmarks.speed.machine import machine
from benchmarks.speed.measure import spent
from benchmarks.speed.tables import table
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.calibrate.statistics import OpStatistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import random_samples
from onnxpfp.errors import OnnxPfpError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.families import is_screened
from onnxpfp.linear.ops import LinearOp
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at

KERNELS: tuple[Kernel, ...] = ("sum", "max")
ALLOWED = 1e-6
SUMS = ("patch_sum", "square_sum")
COUNTS = ("patches", "negative", "samples")
SUMS_ALLOWED = 1e-5
"""Sums of float32, added in different orders."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A network and what is fed."""

    model: ModelProto
    ops: tuple[LinearOp, ...]
    samples: Samples


@dataclass(frozen=True, slots=True)
class Compared:
    """Both methods with one kernel form.

    Attributes:
        difference: The largest relative difference of two sensitivities.
        op: Where that is.
        channel: Of which channel.
        others: Other fields that differ, and of which linear op.
        screened_seconds: What the screened path took on one thread.
        plain_seconds: What the plain path took.
    """

    difference: float
    op: LinearOp | None
    channel: int
    others: tuple[str, ...]
    screened_seconds: float
    plain_seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One graph.

    Attributes:
        file: Its name.
        ops: How many linear ops are screened.
        channels: How many sensitivities they have.
        found: What came out, by kernel form.
        worst: The channel that differs most in either form, judged in float64; None where nothing differs.
        refused: Why it was not measured; empty where it was.
    """

    file: str
    ops: int = 0
    channels: int = 0
    found: tuple[Compared, ...] = ()
    worst: Judged | None = None
    refused: str = ""

    @property
    def difference(self) -> float:
        """The largest of both kernel forms."""
        return max((each.difference for each in self.found), default=0.0)

    @property
    def worst_reader(self) -> str:
        """Kind and weight of the linear op that differs most."""
        op = max(self.found, key=lambda each: each.difference).op
        if op is None or op.weight is None:
            return ""
        return f"{op.kind} {'x'.join(map(str, op.weight.shape))}"

    @property
    def others(self) -> tuple[str, ...]:
        """Other fields that differ, each named once."""
        return tuple(dict.fromkeys(name for each in self.found for name in each.others))


def subject_of(file: Path, count: int) -> Subject:
    """Read a network, prepare it and draw samples."""
    source = load(file)
    samples = random_samples(input_specs(source.model), count)
    first = next(iter(samples.batches(1)))
    analysis = analyze_at(source, {name: array.shape for name, array in first.items()}, Options())
    ops = linear_ops(analysis)
    return Subject(analysis.source.model, tuple(op for op in ops if is_screened(op)), samples)


def measure(file: Path, count: int) -> Row:
    """Hold both methods against each other on one graph."""
    try:
        subject = subject_of(file, count)
        found = tuple(compare(subject, kernel) for kernel in KERNELS)
    except OnnxPfpError as error:
        return Row(file.name, refused=str(error))
    channels = sum(len(op.channel_ids) for op in subject.ops)
    kernel, most = max(zip(KERNELS, found, strict=True), key=lambda pair: pair[1].difference)
    worst = None
    if most.op is not None:
        worst = judge(subject.model, most.op, most.channel, subject.samples, kernel)
    return Row(file.name, len(subject.ops), channels, found, worst)


def compare(subject: Subject, kernel: Kernel) -> Compared:
    """Measure a network twice."""
    model, ops, samples = subject.model, subject.ops, subject.samples
    ours, screened = spent(lambda: calibrate(model, ops, samples, kernel=kernel, threads=1))
    theirs, plain = spent(lambda: calibrate(model, ops, samples, kernel=kernel, threads=1, method="plain"))
    worst, where, channel = 0.0, None, 0
    others: list[str] = []
    for op in ops:
        mine, reference = screened[op.name], plain[op.name]
        others += [f"{name} of {op.name}" for name in other_differences(mine, reference)]
        differences = relative(mine.sensitivity, reference.sensitivity)
        if differences.max(initial=0) > worst:
            worst, where = float(differences.max()), op
            channel = int(mine.channels[differences.argmax()])
    return Compared(worst, where, channel, tuple(others), ours.cpu, theirs.cpu)


def relative(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return relative differences; 1 where one of the two is zero."""
    largest = np.maximum(np.abs(found), np.abs(reference))
    return np.abs(found - reference) / np.where(largest > 0, largest, 1)


def other_differences(found: OpStatistics, reference: OpStatistics) -> list[str]:
    """Name the fields besides the sensitivity that differ."""
    differ = [name for name in COUNTS if getattr(found, name) != getattr(reference, name)]
    for name in SUMS:
        wanted = getattr(reference, name)
        most = SUMS_ALLOWED * np.abs(wanted).max(initial=0)
        if not np.allclose(getattr(found, name), wanted, rtol=SUMS_ALLOWED, atol=most):
            differ.append(name)
    return differ


def report(rows: Sequence[Row], count: int) -> str:
    """Write everything down."""
    measured = [row for row in rows if row.found]
    scored = [row for row in measured if row.channels]
    above = [row.file for row in scored if row.difference > ALLOWED]
    largest = max(scored, key=lambda row: row.difference)
    summary = (
        f"{len(scored)} graphs, {sum(row.ops for row in scored)} linear ops, {sum(row.channels for row in scored)} "
        f"channels: the largest relative difference of two sensitivities is {largest.difference:.1e} ({largest.file}); "
        f"{len(above)} graphs are above {ALLOWED:.0e}{': ' if above else ''}{', '.join(above)}."
    )
    wrong = [f"{row.file}: {', '.join(row.others)}" for row in measured if row.others]
    others = f"All other fields of the statistics agree: counts exactly, sums to {SUMS_ALLOWED:.0e}."
    if wrong:
        others = "Other fields differ:\n\n" + "\n".join(f"- {line}" for line in wrong)
    head = ["graph", "linear ops", "channels", *(f"`--kernel {kernel}`" for kernel in KERNELS)]
    head += ["differ most in", "screened, from float64", "plain, from float64", "screened s", "plain s"]
    left_out = [f"- {row.file}: {row.refused}" for row in rows if row.refused]
    left_out += [f"- {row.file}: nothing in it has a score" for row in measured if not row.channels]
    parts = [
        "# Screened and plain sensitivities",
        f"`python -m benchmarks.coverage.screened_zoo --samples {count}`: random weights, noise as input.",
        machine() + ". One thread.",
        summary,
        others,
        "Both methods compute in float32. The columns with float64 tell how far each of them is from what float64 "
        "gives, for the one channel in which they differ most, with all three fed the same tensor. A share is at most "
        "one, and screening leaves a channel alone once it is within 1e-6 of that: there the plain path is nearer. "
        "Seconds are those of both kernel forms together, and include that sessions are opened.",
        table(head, [_cells(row) for row in scored]),
    ]
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(left_out))
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    cells = [row.file, str(row.ops), str(row.channels), *(f"{each.difference:.1e}" for each in row.found)]
    cells.append(row.worst_reader)
    judged = row.worst
    cells += ["", ""] if judged is None else [f"{judged.error(x):.1e}" for x in (judged.screened, judged.plain)]
    seconds = sum(each.screened_seconds for each in row.found), sum(each.plain_seconds for each in row.found)
    return [*cells, *(f"{each:.2f}" for each in seconds)]


def main() -> int:
    """Measure all files; the exit code says whether any sensitivity differs by more than is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.graphs
        if folder.suffix == ".zip":
            folder = Path(scratch)
            unpack(options.graphs, folder)
        rows: list[Row] = []
        for file in sorted(folder.glob("*.onnx")):
            row = measure(file, options.samples)
            print(row.file, f"{row.difference:.1e}", *row.others, row.refused, file=sys.stderr, flush=True)
            rows.append(row)
    options.results.mkdir(exist_ok=True)
    (options.results / "screened.md").write_text(report(rows, options.samples), encoding="utf-8")
    return int(any(row.difference > ALLOWED or row.others for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
