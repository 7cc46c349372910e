"""What is fuzzed: the readers of models, data and plans. Whatever they are given, only errors of onnxpfp come out."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nets
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp
from fuzz.mutations import mutate_archive, mutate_json, mutate_model
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import OnnxPfpError
from onnxpfp.model.load import external_files, load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at
from onnxpfp.pipeline.plan import Plan, keep_of_plan

__all__ = ["TARGETS", "Target"]

SPECS = (InputSpec("x", np.dtype(np.float32), (None, 3)), InputSpec("y", np.dtype(np.int64), (None,)))


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: Valid files.
        mutate: Changes one.
        read: Reads a file; raises nothing but errors of onnxpfp.
    """

    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], None]

    def try_on(self, data: bytes) -> bool:
        """Read a file with these bytes; tells whether it was accepted."""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / "given"
            path.write_bytes(data)
            (path.parent / "w.bin").write_bytes(bytes(range(256)) * 16)
            try:
                self.read(path)
            except OnnxPfpError as error:
                message = str(error)
            else:
                return True
        assert message
        assert len(message) < 5000
        assert "\x1b" not in message
        return False


def _models() -> list[bytes]:
    chain, outside = nets.chain(), nets.chain()
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "864")):
        tensor.external_data.add(key=key, value=value)
    typed = nets.chain()
    for item in typed.graph.initializer:
        numbers = numpy_helper.to_array(item).ravel()
        item.ClearField("raw_data")
        item.float_data.extend(numbers.tolist())
    return [model.SerializeToString() for model in (chain, outside, typed, _with_everything())]


def _with_everything() -> ModelProto:
    """Make a model with a local function, a sparse weight, bodies, short constants and a computed weight."""
    text = """g (float[N,3,8,8] x, bool c) => (float[N,4,M,K] y) {
        m = ReduceMean <keepdims = 1, axes = [1,2,3]> (w1)
        w = Sub(w1, m)
        a = Conv(x, w)
        k = Constant <value_float = 2.0> ()
        t = Mul(a, k)
        q = If (c) <
            then_branch = g1 () => (float[N,6,M,K] u) { u = Relu(t) },
            else_branch = g2 () => (float[N,6,M,K] v) { v = Neg(t) }>
        r = Relu(q)
        y = Conv(r, w2)
    }"""
    model = nets.build(text, {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3)}, opset=17)
    sparse = model.graph.sparse_initializer.add(dims=[6])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1, 4])))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], body, opsets))
    model.opset_import.add(domain="local", version=1)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.domain, relu.op_type = "local", "F"
    return model


def _read_model(path: Path) -> None:
    external_files(path)
    load(path)


def _arrays() -> list[bytes]:
    packed, compressed, single = io.BytesIO(), io.BytesIO(), io.BytesIO()
    arrays = {"x": np.arange(24, dtype=np.float32).reshape(8, 3), "y": np.arange(8)}
    np.savez(packed, **arrays)
    np.savez_compressed(compressed, **arrays)
    np.save(single, arrays["x"])
    return [packed.getvalue(), compressed.getvalue(), single.getvalue()]


def _read_data(path: Path) -> None:
    # What is no archive has one array, which is enough for one input.
    samples = load_samples(path, SPECS if path.read_bytes().startswith(b"PK") else SPECS[:1])
    next(samples.batches(4))


_GRAPH = onnxpfp.prune(nets.chain(), keep_macs=0.5, round_to=1)


def _plans() -> list[bytes]:
    options = {"calibration": nets.noise(12, 3, 8, 8), "keep_macs": 0.5, "compensate": "none", "round_to": 1}
    reweighted = onnxpfp.prune(nets.chain(), select="sampled", **options)  # type: ignore[arg-type]
    return [_GRAPH.plan.to_json().encode(), reweighted.plan.to_json().encode()]


_ANALYSIS = analyze_at(load(nets.chain()), {}, Options())


def _read_plan(path: Path) -> None:
    keep_of_plan(_ANALYSIS, file_axes(_ANALYSIS), Plan.read(path))


TARGETS = {
    "model": Target(_models, mutate_model, _read_model),
    "data": Target(_arrays, mutate_archive, _read_data),
    "plan": Target(_plans, mutate_json, _read_plan),
}
