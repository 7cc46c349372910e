"""Make one row of the accuracy benchmark."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.accuracy.measure import classes, macs, params, speedup, top1
from benchmarks.accuracy.networks import NETWORKS, Folders, Images
from benchmarks.accuracy.peers import Task, UnreachableShareError
from benchmarks.accuracy.plan import Job
from benchmarks.accuracy.rows import Key, Row
from onnxpfp import __version__
from onnxpfp.errors import TargetUnreachableError

__all__ = ["Where", "key", "make"]


@dataclass(frozen=True, slots=True)
class Where:
    """Where the data are, and the threads of one row."""

    folders: Folders
    threads: int


class _RefusedError(Exception):
    """The target is not reached; the text says why."""


def key(job: Job, folders: Folders) -> Key:
    """Return the key of the row that a job makes."""
    return _source(job, folders).stem, job.way.method, job.target, job.seed


def make(job: Job, where: Where) -> Row:
    """Prune and measure.

    Raises:
        RuntimeError: onnxpfp failed otherwise than by not reaching the target.
    """
    network = NETWORKS[job.network]
    source, test = _source(job, where.folders), network.test(where.folders)
    calibration = network.calibration(where.folders).drawn(job.seed, job.way.most)
    before = _original(source, job.network, where.folders)
    start = _processor_seconds()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "pruned.onnx"
        refused, measured = "", {}
        try:
            _prune(job, source, out, calibration, where.threads)
        except _RefusedError as error:
            refused = str(error)
        seconds = _processor_seconds() - start
        if not refused:
            after = classes(out, test.x)
            measured = {
                "macs": round(macs(out) / macs(source), 4),
                "params": round(params(out) / params(source), 4),
                "top1": top1(after, test.known),
                "agreement": top1(after, before),
                "speedup": speedup(source, out, test.x),
            }
    return Row(
        model=source.stem,
        method=job.way.method,
        tool=_tool(job),
        target=job.target,
        seed=job.seed,
        images=len(calibration.x),
        seconds=round(seconds, 1),
        dense=top1(before, test.known),
        refused=refused,
        **measured,
    )


def _source(job: Job, folders: Folders) -> Path:
    network = NETWORKS[job.network]
    return network.file(folders, job.way.kind(network))


def _processor_seconds() -> float:
    """Return the time of this process and of the commands that it ran; other work on the machine does not count."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _tool(job: Job) -> str:
    if job.way.peer is None:
        return f"onnxpfp {__version__}"
    return f"{job.way.peer.package} {importlib.metadata.version(job.way.peer.package)}"


@cache
def _original(source: Path, network: str, folders: Folders) -> NDArray[np.int64]:
    """Return the classes that the original finds; measured once a process."""
    return classes(source, NETWORKS[network].test(folders).x)


def _prune(job: Job, source: Path, out: Path, calibration: Images, threads: int) -> None:
    if job.way.peer is None:
        _prune_here(job, source, out, calibration, threads)
        return
    try:
        job.way.peer.prune(Task(source, out, job.target, macs, calibration.x, calibration.labels))
    except UnreachableShareError as error:
        raise _RefusedError(str(error)) from error


def _prune_here(job: Job, source: Path, out: Path, calibration: Images, threads: int) -> None:
    """Run onnxpfp's command line."""
    command = [sys.executable, "-m", "onnxpfp", job.way.verb, str(source), str(out), "--quiet", "--no-latency"]
    if len(calibration.x):
        data = out.with_suffix(".npz")
        np.savez(data, **{onnx.load(source).graph.input[0].name: calibration.x})
        command += ["--calib-data", str(data)]
    command += ["--keep-macs", str(job.target), "--seed", str(job.seed), "--threads", str(threads), *job.way.flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == TargetUnreachableError.exit_code:
        raise _RefusedError(done.stderr.strip().splitlines()[0])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
