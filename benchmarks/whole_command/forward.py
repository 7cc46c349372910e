"""Run all samples through a network with a plain session of onnxruntime, and say what a pass takes.

    python -m benchmarks.whole_command.forward MODEL SAMPLES.npz THREADS OUT.json

The session is ready and its memory touched before anything counts. Short passes are repeated; the median counts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

__all__ = ["BATCH", "passed"]

BATCH = 16
"""Samples in one run."""
SECONDS, MOST = 2.0, 20
"""Processor seconds of all passes together that are aimed at, and most passes."""


def passed(model: Path, samples: np.ndarray, threads: int) -> tuple[float, float]:
    """Return what a pass over all samples takes: seconds of the processor, and by the clock."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    feeds = [{entry.name: samples[start : start + BATCH]} for start in range(0, len(samples), BATCH)]
    session.run(None, feeds[0])
    spent: list[tuple[float, float]] = []
    while not spent or len(spent) < min(MOST, math.ceil(SECONDS / max(spent[0][0], 1e-9))):
        cpu, wall = time.process_time(), time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    processor, clock = (statistics.median(each) for each in zip(*spent, strict=True))
    return processor, clock


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    for name in ("model", "samples"):
        parser.add_argument(name, type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    (samples,) = np.load(options.samples).values()
    cpu, wall = passed(options.model, samples, options.threads)
    options.out.write_text(json.dumps({"cpu": cpu, "wall": wall}), encoding="utf-8")


if __name__ == "__main__":
    main()
