"""Prune every graph of a folder with noise, as a user would, and write down what happened.

    python -m benchmarks.coverage.zoo --graphs DIR [--reference reference.tsv] [--results benchmarks/results]

DIR holds `.onnx` files, or is a `.zip` as `shared/zoo/zoo.zip` packs them. For every file the command
`onnxpfp prune FILE OUT --calib-data random --keep-macs 0.6 --select deterministic --compensate none` runs
in a process of its own; a result is either verified (the oracle's error is printed) or refused with a reason.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

COMMAND = ["--calib-data", "random", "--keep-macs", "0.6", "--select", "deterministic", "--compensate", "none"]


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    file: str
    reachable: float | None
    reference: str
    macs_kept: float | None
    oracle_error: float | None
    tolerance: float | None
    outcome: str


def unpack(archive: Path, folder: Path) -> None:
    """Restore graphs whose weights were packed as their statistics (see shared/zoo/unpack.py)."""
    with zipfile.ZipFile(archive) as packed:
        for name in (n for n in packed.namelist() if n.endswith(".onnx")):
            rng = np.random.default_rng(0)
            model = onnx.ModelProto.FromString(packed.read(name))
            for key, array in np.load(io.BytesIO(packed.read(name + ".npz"))).items():
                position, kind, scale, shift = key.split(":")
                tensor = model.graph.initializer[int(position)]
                shape = list(tensor.dims)
                drawn = rng.normal(float(shift), float(scale), shape) if kind == "n" else None
                values = array.reshape(shape) * float(scale) + float(shift) if drawn is None else drawn
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
            onnx.save(model, folder / name)


def run(file: Path, out: Path, reference: str) -> Row:
    """Prune one file and read what the command says."""
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "onnxpfp", "prune", str(file), str(out), "--json", "-", *COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("Error")), "no message")
        reason = reason.replace(f"{file.parent}/", "")
        crashed = "Traceback" in done.stderr or "bug" in reason or out.exists()
        return Row(file.name, None, reference, None, None, None, ("CRASH " if crashed else "refused: ") + reason)
    report = json.loads(done.stdout)
    return Row(
        file.name,
        report["reachable"],
        reference,
        report["after"]["macs"] / max(report["before"]["macs"], 1),
        report["oracle"]["error"],
        report["oracle"]["tolerance"],
        "pruned",
    )


def table(rows: list[Row]) -> str:
    """Format the rows as Markdown."""
    lines = [
        "| file | parameters reachable | prototype | MACs kept | oracle error (allowed) | outcome |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if row.outcome == "pruned":
            cells = [f"{row.reachable:.1%}", row.reference, f"{row.macs_kept:.3f}"]
            cells.append(f"{row.oracle_error:.1e} ({row.tolerance:.0e})")
        else:
            cells = ["", row.reference, "", ""]
        lines.append(f"| {row.file} | {' | '.join(cells)} | {row.outcome} |")
    return "\n".join(lines) + "\n"


def references(path: Path | None) -> dict[str, str]:
    """Read the share that the prototype of the design could reach, by file."""
    if path is None:
        return {}
    rows = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return {row[0]: f"{row[3]} %" for row in rows}


def main() -> int:
    """Run all files; the exit code says whether any crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args()
    known = references(options.reference)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.graphs
        if folder.suffix == ".zip":
            folder = Path(scratch) / "graphs"
            folder.mkdir()
            unpack(options.graphs, folder)
        rows = []
        for file in sorted(folder.glob("*.onnx")):
            rows.append(run(file, Path(scratch) / "out.onnx", known.get(file.name, "")))
            print(rows[-1], file=sys.stderr, flush=True)
    bad = [row for row in rows if row.outcome.startswith("CRASH")]
    pruned = sum(row.outcome == "pruned" for row in rows)
    text = f"{len(rows)} files: {pruned} pruned, {len(rows) - pruned - len(bad)} refused, {len(bad)} crashed\n\n"
    options.results.mkdir(exist_ok=True)
    (options.results / "zoo.md").write_text(f"# Zoo\n\n{text}{table(rows)}")
    print(text + table(rows))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
