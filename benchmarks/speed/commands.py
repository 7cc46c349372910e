"""What whole command lines of onnxpfp take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.machine import cores, limited, memory, worker
from benchmarks.speed.networks import Places, file_of, images_of
from benchmarks.speed.rows import Command

__all__ = ["Errand", "Outlay", "carried_out", "spend"]

POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Errand:
    """A command line to be measured.

    Attributes:
        part: Part of the benchmark.
        subject: What it is, as tables show it.
        arguments: Of python; {model}, {data}, {out} and {report} stand for files.
        network: The model.
        images: How many calibration images the data have; 0 for none.
        times: How often it is run.
    """

    part: str
    subject: str
    arguments: tuple[str, ...]
    network: str = "resnet50"
    images: int = 0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Outlay:
    """What a command took.

    Attributes:
        wall: Seconds by the clock.
        cpu: Processor seconds of it and its children.
        bytes: Largest resident memory of the process that works.
    """

    wall: float
    cpu: float
    bytes: int


def carried_out(errand: Errand, places: Places, machine: str) -> Command:
    """Run a command with all threads, as users do.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {name: folder / name for name in ("data.npz", "out.onnx", "report.json")}
        if errand.images:
            np.savez(files["data.npz"], images_of(errand.network, errand.images, places))
        names = {file.stem: str(file) for file in files.values()} | {"model": str(file_of(errand.network, places))}
        command = [sys.executable, *(argument.format(**names) for argument in errand.arguments)]
        with limited(cores()):
            runs = [spend(command) for _ in range(errand.times)]
        report = files["report.json"]
        phases = json.loads(report.read_text(encoding="utf-8"))["seconds"] if report.exists() else {}
    return Command(
        part=errand.part,
        subject=errand.subject,
        images=errand.images,
        machine=machine,
        wall=tuple(run.wall for run in runs),
        cpu=tuple(run.cpu for run in runs),
        bytes=max(run.bytes for run in runs),
        phases=phases,
    )


def spend(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Outlay:
    """Run a command once; its peak is the last that could be read before it ended.

    Args:
        command: What is run.
        environment: All variables that it gets; None is those of this process.

    Raises:
        RuntimeError: It failed; the text is what it said.
    """
    peaks = [0]
    ended = threading.Event()
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        observer = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        observer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        ended.set()
        observer.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{said.read().decode()}")
    return Outlay(wall, usage.ru_utime + usage.ru_stime, max(peaks))


def _watch(process: int, peaks: list[int], ended: threading.Event) -> None:
    while not ended.wait(POLL_SECONDS):
        try:
            peaks.append(memory(worker(process)).get("VmHWM", 0))
        except OSError:
            # It is gone.
            return
