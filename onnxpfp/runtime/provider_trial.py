"""Whether an execution provider really works: a small network runs on it, in a process of its own, and is compared.

`python -m onnxpfp.runtime.provider_trial NAME` prints one line of JSON. Libraries of a provider may print whatever they
like, and may crash, which costs nobody but this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import numpy as np
from onnx import IR_VERSION, ModelProto, defs, parser

from onnxpfp.errors import ModelError, OnnxPfpError
from onnxpfp.installation import ProviderState, SupportedFiles
from onnxpfp.runtime.session import open_session

__all__ = ["newest_supported", "try_provider"]

SECONDS = 120.0
"""Time that a provider has to start; TensorRT takes the longest."""
OLDEST = 13
"""Opset of the network; every onnxruntime that is supported loads it."""
CLOSE = 1e-2
"""Largest difference of the outputs, which are of the order of 1; some providers compute in half precision."""


def try_provider(name: str) -> ProviderState:
    """Try a provider in another process.

    Args:
        name: Its onnxruntime name.
    """
    command = [sys.executable, "-m", __spec__.name, name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return ProviderState(name, False, f"it has not started within {SECONDS:g} s")
    if done.returncode < 0:
        return ProviderState(name, False, f"the process crashed ({signal.Signals(-done.returncode).name})")
    try:
        return ProviderState(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return ProviderState(name, False, f"the trial failed: {last}")


def newest_supported() -> SupportedFiles:
    """Find the newest files that the installed onnxruntime loads, by loading some.

    Raises:
        ModelError: It loads none of those that the installed onnx writes.
    """

    def loads(opset: int, ir_version: int) -> bool:
        try:
            open_session(_network(opset, ir_version), threads=1)
        except ModelError:
            return False
        return True

    opsets, versions = range(defs.onnx_opset_version(), OLDEST, -1), range(IR_VERSION, 2, -1)
    ir_version = next((version for version in versions if loads(OLDEST, version)), None)
    if ir_version is None:
        raise ModelError("the installed onnxruntime loads no file that the installed onnx writes")
    return SupportedFiles(next((opset for opset in opsets if loads(opset, ir_version)), OLDEST), ir_version)


def _network(opset: int, ir_version: int) -> ModelProto:
    return parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
        "g (float[4,4] x) => (float[4,4] y) { m = MatMul(x, x) y = Relu(m) }"
    )


def _trial(name: str) -> ProviderState:
    """Run a small network on a provider, in this process."""
    given = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    try:
        session = open_session(_network(OLDEST, 8), name, threads=1)
        found = session.run({"x": given})["y"]
    except OnnxPfpError as error:
        return ProviderState(name, False, str(error), error.hint)
    if session.providers[0] != name:
        return ProviderState(name, False, f"it ran on {session.providers[0]} instead")
    if not np.allclose(found, np.maximum(given @ given, 0), atol=CLOSE):
        return ProviderState(name, False, "its results are wrong", "another version of onnxruntime may do better")
    return ProviderState(name, True)


if __name__ == "__main__":
    print(json.dumps(asdict(_trial(sys.argv[1]))))
