"""What sessions shared goes back to the system once nothing uses it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.graphs import build

from onnxpfp.runtime import open_session
from onnxpfp.runtime.heap import trim_heap

BYTES = 128 << 20


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux shows it")
def test_intermediates_of_a_session_that_is_open_go_back() -> None:
    model = build("g (float[N] x, int64[1] n) => (y) { e = Expand(x, n)  s = Sqrt(e)  y = ReduceMax(s) }")
    session = open_session(model, threads=1, shared=True)
    feeds = {"x": np.full(1, 4.0, np.float32), "n": np.array([BYTES // 4])}
    before = resident()
    assert session.run(feeds)["y"].item() == 2.0
    kept = resident() - before
    trim_heap()
    assert kept - (resident() - before) >= BYTES * 3 // 4
    assert session.run(feeds)["y"].item() == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux shows it")
def test_without_arena_nothing_is_kept() -> None:
    model = build("g (float[N] x, int64[1] n) => (y) { e = Expand(x, n)  s = Sqrt(e)  y = ReduceMax(s) }")
    session = open_session(model, threads=1, arena=False)
    before = resident()
    assert session.run({"x": np.full(1, 4.0, np.float32), "n": np.array([BYTES // 4])})["y"].item() == 2.0
    assert resident() - before < BYTES // 4
