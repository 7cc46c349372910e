"""Memory of intermediates that many sessions on the CPU share, and that goes back to the system once they are done.

onnxruntime's allocator keeps what it has taken until it is told to shrink, by an option of some run. Then it gives back
the regions of which nothing is in use. As it is set up by default a region is twice as large as the one before, so
some piece of it always is; here it is as large as what was asked for.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
from onnx import TensorProto, helper

__all__ = ["SHARED", "share_arena", "shrink_arena"]

SHARED = "session.use_env_allocators", "1"
"""Entry of a session's configuration: its intermediates lie there."""
_AS_REQUESTED = 1
"""`arena_extend_strategy`: a region takes what is asked for."""
_OPSET, _IR = 13, 7
"""Versions that every onnxruntime has which onnxpfp runs with."""
_SHRINK = "memory.enable_memory_arena_shrinkage", "cpu:0"
"""Entry of a run's configuration."""


@functools.cache
def share_arena() -> None:
    """Make the memory that sessions of this process can share."""
    ort: Any = importlib.import_module("onnxruntime")
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED, "max_mem": 0}))


def shrink_arena() -> None:
    """Give back to the system what no session uses any more."""
    if share_arena.cache_info().currsize:
        session, run_options = _shrinker()
        session.run(None, {"x": np.ones(1, np.float32)}, run_options)


@functools.cache
def _shrinker() -> tuple[Any, Any]:
    """Return a session with as little in it as can be, and the options with which it shrinks the arena."""
    ort: Any = importlib.import_module("onnxruntime")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "shrinker", info[:1], info[1:])
    options, run_options = ort.SessionOptions(), ort.RunOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*SHARED)
    run_options.add_run_config_entry(*_SHRINK)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]), run_options
