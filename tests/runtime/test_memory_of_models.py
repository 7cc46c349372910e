"""What is large is in memory once: models that are loaded, files that were read, weights that nobody works with."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.graphs import build
from support.oracle import problem

from onnxpfp.errors import ModelError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import HeldWeight
from onnxpfp.model.constants import Constants
from onnxpfp.model.load import load
from onnxpfp.runtime import heap, session
from onnxpfp.runtime.payload import at_hand
from onnxpfp.runtime.session import open_session

WIDTH, OUTPUTS = 1024, 5120
"""20 MB of weights."""


def layers(outputs: int = OUTPUTS) -> ModelProto:
    model = build(f"g (float[N,4] x) => (float[N,{outputs}] y) {{ h = MatMul(x, v)  r = Relu(h)  y = MatMul(r, w) }}")
    rng = np.random.default_rng(0)
    for name, shape in (("v", (4, WIDTH)), ("w", (WIDTH, outputs))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_a_large_model_is_loaded_from_a_file_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loaded: list[str | bytes] = []
    create = session.create_handle

    def noted(ort: Any, payload: str | bytes, *rest: Any) -> Any:
        loaded.append(payload)
        return create(ort, payload, *rest)

    monkeypatch.setattr(session, "create_handle", noted)
    x = np.ones((2, 4), np.float32)
    expected = open_session(layers(8), threads=1).run({"x": x})["y"]
    assert isinstance(loaded[0], bytes)
    found = open_session(layers, threads=1).run({"x": x})["y"]
    assert Path(loaded[1]).parent.parent == tmp_path
    assert not [*tmp_path.iterdir()]
    assert found.shape == (2, OUTPUTS)
    assert expected.shape == (2, 8)


def test_the_file_is_written_weight_by_weight() -> None:
    model = layers()
    model.graph.initializer.add().CopyFrom(model.graph.initializer[-1])
    model.graph.initializer[-1].name = "another"
    model.metadata_props.add(key="a", value="b")
    model.graph.doc_string = "what it does"
    largest = max(len(tensor.raw_data) for tensor in model.graph.initializer)
    tracemalloc.start()
    with at_hand(model) as (path, large):
        assert tracemalloc.get_traced_memory()[1] < largest + largest // 8
        tracemalloc.stop()
        assert large
        assert onnx.load(path) == model


def highest_resident() -> int:
    """Return the most bytes of this process that were in memory since `clear_refs` was written."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets the highest memory")
def test_no_copy_of_a_large_model_is_made_to_find_its_size() -> None:
    model = build("g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    for number in range(16):
        array = np.ones((1024, 1024), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, f"w{number}"))
    heap.trim_heap()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = heap.resident_bytes()
    with at_hand(model):
        # 64 MiB of weights, of which one or two are copied at a time.
        assert highest_resident() < before + (32 << 20)


def test_a_broken_large_model_is_told_without_the_name_of_that_file() -> None:
    model = layers()
    model.graph.node[1].op_type = "Nonesuch"
    with pytest.raises(ModelError, match="Nonesuch") as caught:
        open_session(model)
    assert "network.onnx" not in str(caught.value)


def test_large_weights_are_not_held_beside_the_model() -> None:
    constants = Constants.of(layers())
    small, large = constants.value("v"), constants.value("w")
    assert constants.value("v") is small
    assert constants.value("w") is large
    before, seen = large.copy(), weakref.ref(large)
    del large
    assert seen() is None
    np.testing.assert_array_equal(constants.value("w"), before)


def test_ops_read_large_weights_out_of_the_model(tmp_path: Path) -> None:
    onnx.save(layers(), tmp_path / "in.onnx")
    model = load(tmp_path / "in.onnx").model
    (wide,) = linear_ops(problem(model).analysis)
    assert isinstance(wide.weight, HeldWeight)
    assert wide.weight.shape == (WIDTH, OUTPUTS)
    stored = numpy_helper.to_array(model.graph.initializer[1])
    np.testing.assert_array_equal(wide.taps().reshape(WIDTH, OUTPUTS), stored)


def test_the_bytes_of_a_file_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(layers(8), path)
    source = load(path)
    assert source.data is None
    assert source.given_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"\x7a\x00")
    with pytest.raises(ModelError, match="was changed while it was in use"):
        source.given_bytes()
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        source.given_bytes()


def test_free_memory_goes_back_above_the_ceiling_and_not_for_a_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, trims = [100], 0

    def trim() -> None:
        nonlocal trims
        trims += 1
        resident[0] -= 10

    monkeypatch.setattr(heap, "resident_bytes", lambda: resident[0])
    monkeypatch.setattr(heap, "trim_heap", trim)
    ceiling = heap.Ceiling.above(40)
    for size, expected in ((140, 0), (141, 1), (141, 1), (142, 2)):
        resident[0] = size
        ceiling.keep()
        assert trims == expected
    resident[0] = 100
    ceiling = heap.Ceiling.above(40, step=40)
    for size, expected in ((141, 3), (142, 3), (171, 3), (172, 4)):
        resident[0] = size
        ceiling.keep()
        assert trims == expected
