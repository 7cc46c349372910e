"""Make the rows of one job; every command runs in a process of its own, and the commands of a job take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.commands import Outlay, spend
from benchmarks.speed.machine import limited, machine
from benchmarks.whole_command.codes import Code
from benchmarks.whole_command.plan import PEER_METHOD, Condition, Job
from benchmarks.whole_command.rows import Peer, Row, Waited, Whole
from benchmarks.whole_command.subjects import NETWORKS, Network, Places

__all__ = ["Settings", "make"]

HERE = Path(__file__).parent
ALL_THREADS = 1 << 10
"""More than any machine here has: no library is held back."""
SPIN = "while True: pass"


@dataclass(frozen=True, slots=True)
class Settings:
    """How commands are run.

    Attributes:
        places: Where files are.
        codes: What is measured.
        rounds: How often each command is run.
        held: Whether BLAS is held to one thread where onnxpfp is given one.
    """

    places: Places
    codes: Sequence[Code]
    rounds: int
    held: bool


@dataclass(slots=True)
class _Runs:
    """What the runs of one command took."""

    outlays: list[Outlay] = field(default_factory=list[Outlay])
    phases: list[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])

    @property
    def seconds(self) -> dict[str, Any]:
        """Values of a row."""
        return {"cpu": tuple(each.cpu for each in self.outlays), "wall": tuple(each.wall for each in self.outlays)}

    @property
    def with_phases(self) -> dict[str, Any]:
        """Values of a row that stands beside the forward pass; a phase that a run has not takes no time in it."""
        names = dict.fromkeys(name for run in self.phases for name in run)
        phases = {name: tuple(run.get(name, 0.0) for run in self.phases) for name in names}
        return {**self.seconds, "bytes": max(each.bytes for each in self.outlays), "phases": phases}


@dataclass(frozen=True, slots=True)
class _Bench:
    """A network with its samples in a file, and the files that commands write."""

    network: Network
    settings: Settings
    folder: Path

    @property
    def common(self) -> dict[str, Any]:
        """Values of every row."""
        return {"network": self.network.name, "images": self.network.images, "machine": machine()}

    @property
    def model(self) -> str:
        """The file that is pruned."""
        return str(self.network.file(self.settings.places))

    def file(self, name: str) -> Path:
        """Return where something is written."""
        return self.folder / name

    def write_samples(self) -> None:
        """Write what is pruned with."""
        np.savez(self.file("samples.npz"), self.network.samples(self.settings.places))

    def prune(self, code: Code, threads: int, runs: _Runs, *, by_phase: bool) -> None:
        """Run `onnxpfp prune` once.

        Args:
            code: Which.
            threads: Asked for; 0 asks for none.
            runs: Where to put what it took.
            by_phase: Whether phases are counted on the processor, and kept.
        """
        program = [str(HERE / "processor_clock.py")] if by_phase else ["-m", "onnxpfp"]
        command = [sys.executable, "-P", *program, "prune", self.model, str(self.file("out.onnx")), "--force"]
        command += ["--calib-data", str(self.file("samples.npz")), "--json", str(self.file("report.json")), "--quiet"]
        command += ["--threads", str(threads)] if threads else []
        runs.outlays.append(spend(command, code.environment))
        if by_phase:
            runs.phases.append(json.loads(self.file("report.json").read_text(encoding="utf-8"))["seconds"])

    def forward(self, passes: _Runs) -> float:
        """Run the forward pass in a process of its own; return its processor seconds."""
        out = self.file("forward.json")
        command = [sys.executable, "-P", str(HERE / "forward.py"), self.model, str(self.file("samples.npz")), "1"]
        passes.outlays.append(spend([*command, str(out)]))
        return float(json.loads(out.read_text(encoding="utf-8"))["cpu"])


def make(job: Job, settings: Settings) -> Sequence[Row]:
    """Make the rows of one job.

    Raises:
        RuntimeError: A command failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(NETWORKS[job.network], settings, Path(scratch))
        bench.write_samples()
        match job.part:
            case "whole":
                return _whole(bench)
            case "threads":
                return _waited(bench, job.conditions)
            case _:
                return _peer(bench)


def _whole(bench: _Bench) -> list[Row]:
    """Let the forward pass take turns with the command of every code."""
    settings = bench.settings
    runs, passes = {code: _Runs() for code in settings.codes}, _Runs()
    with limited(1):
        forward = [bench.forward(passes)]
        for _ in range(settings.rounds):
            for code in settings.codes:
                with limited(1 if settings.held else ALL_THREADS):
                    bench.prune(code, 1, runs[code], by_phase=True)
                forward.append(bench.forward(passes))
    common = bench.common | _forward(forward, passes)
    return [
        Whole(**common, **found.with_phases, code=code.name, commit=code.commit, held=settings.held)
        for code, found in runs.items()
    ]


def _waited(bench: _Bench, conditions: Sequence[Condition]) -> list[Row]:
    """Run the command as users do, under several conditions."""
    settings = bench.settings
    runs = {(code, *condition): _Runs() for condition in conditions for code in settings.codes}
    for _ in range(settings.rounds):
        for (code, threads, busy), found in runs.items():
            with limited(ALL_THREADS), _beside(busy):
                bench.prune(code, threads, found, by_phase=False)
    return [
        Waited(**bench.common, **found.seconds, code=code.name, commit=code.commit, threads=threads, busy=busy)
        for (code, threads, busy), found in runs.items()
    ]


def _peer(bench: _Bench) -> list[Row]:
    """Let the forward pass take turns with the peer."""
    runs, passes, out = _Runs(), _Runs(), bench.file("peer.json")
    command = [str(bench.settings.places.peers), "-P", "-m", "benchmarks.whole_command.taylor", bench.model]
    command += [str(bench.file("samples.npz")), str(out)]
    with limited(1):
        forward = [bench.forward(passes)]
        for _ in range(bench.settings.rounds):
            runs.outlays.append(spend(command, {**os.environ, "PYTHONPATH": str(HERE.parents[1])}))
            found = json.loads(out.read_text(encoding="utf-8"))
            runs.phases.append(found["seconds"])
            forward.append(bench.forward(passes))
    common = bench.common | _forward(forward, passes)
    return [Peer(**common, **runs.with_phases, tool=found["tool"], method=PEER_METHOD)]


def _forward(seconds: Sequence[float], passes: _Runs) -> dict[str, Any]:
    return {"forward_cpu": tuple(seconds), "forward_bytes": max(each.bytes for each in passes.outlays)}


@contextmanager
def _beside(count: int) -> Generator[None]:
    """Keep so many cores busy meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
