"""Weights in other files: found wherever they lie, and left there where they are large."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxpfp
from onnxpfp.calibrate.sensitivity import graph_weights as taps
from onnxpfp.errors import ModelError, OutputError
from onnxpfp.linear import describe, ops
from onnxpfp.model import load as load_module
from onnxpfp.model.load import load
from onnxpfp.pipeline.plan import Plan
from onnxpfp.runtime.external_data import is_reference, numbers

DATA = nets.noise(24, 3, 8, 8)
ROWS = nets.noise(24, 6)
MATRICES = """g (float[N,6] x) => (float[N,3] y) {
    a = MatMul(x, w1)  b = Add(a, b1)  r = Relu(b)
    t = Transpose <perm = [1, 0]> (w2)  c = MatMul(r, t)  s = Relu(c)
    d = Gemm <transB = 1> (s, w3, b3)  e = Relu(d)  y = MatMul(e, w4)
}"""
ROOMY = {"w1": (6, 24), "b1": (24,), "w2": (20, 24), "w3": (16, 20), "b3": (16,), "w4": (16, 3)}
GROUPED = """g (float[N,3,8,8] x) => (float[N,5,16,16] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu(a)
    b = Conv <pads = [1,1,1,1], group = 2> (r, w2)  s = Relu(b)
    c = Conv <group = 12, pads = [1,1,1,1]> (s, w3)  u = Relu(c)
    y = ConvTranspose <strides = [2,2]> (u, w4)
}"""
BANKS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (12, 8, 3, 3), "w3": (12, 1, 3, 3), "w4": (12, 5, 2, 2)}
PLAIN: dict[str, Any] = {"allocate": "bound", "compensate": "bias"}
"""What is done without refits, which leave weights in files alone."""
MODELS = {
    "convolutions": (nets.CHAIN, nets.CHAIN_SHAPES, DATA),
    "matrices": (MATRICES, ROOMY, ROWS),
    "groups": (GROUPED, BANKS, DATA),
}


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small models as large ones: weights stay in files, and everything is done a few numbers at a time."""
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    monkeypatch.setattr(describe, "EXTERNAL_FROM", 1)
    monkeypatch.setattr(taps, "CHUNK_BYTES", 256)
    monkeypatch.setattr("onnxpfp.arrays.CHUNK_BYTES", 256)


def save(folder: Path, model: ModelProto, name: str = "in", *, files: int = 2, gap: int = 0) -> Path:
    """Save a model with its weights in several files, every weight behind a gap."""
    path = folder / f"{name}.onnx"
    copy = ModelProto()
    copy.CopyFrom(model)
    for number, tensor in enumerate(copy.graph.initializer):
        file = folder / f"{name}.{number % files}.bin"
        with file.open("ab") as stream:
            stream.write(bytes(gap))
            entries: dict[str, Any] = {"location": file.name, "offset": stream.tell(), "length": len(tensor.raw_data)}
            stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(copy.SerializeToString())
    return path


def without(path: Path, key: str) -> Path:
    """Drop an entry of all references; an offset then means the file's beginning."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key != key]
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    path.write_bytes(model.SerializeToString())
    return path


def assert_same_weights(one: ModelProto, two: ModelProto) -> None:
    ours, theirs = nets.weights(one), nets.weights(two)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        # Readers of weights in files are measured in the graph, others outside of it: means differ by rounding.
        np.testing.assert_allclose(array, theirs[name], rtol=1e-6, atol=1e-6 * np.abs(array).max(initial=0))


@pytest.mark.parametrize("gap", [0, 4, 13])
@pytest.mark.parametrize("missing", ["", "length"])
@pytest.mark.parametrize("large", [False, True])
def test_weights_are_found_where_they_lie(
    gap: int, missing: str, large: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if large:
        request.getfixturevalue("in_files")
    path = without(save(tmp_path, nets.chain(), gap=gap), missing)
    found = load(path)
    assert found.external
    assert found.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    stay = [is_reference(tensor) for tensor in found.model.graph.initializer]
    # What lies at an odd offset can be mapped by nobody.
    assert stay == [large and gap != 13] * len(stay)
    for tensor in found.model.graph.initializer:
        np.testing.assert_array_equal(numbers(tensor), nets.weights(nets.chain())[tensor.name])


@pytest.mark.usefixtures("in_files")
def test_one_file_a_weight_needs_no_offsets(tmp_path: Path) -> None:
    path = without(without(save(tmp_path, nets.chain(), files=5), "length"), "offset")
    for tensor in load(path).model.graph.initializer:
        np.testing.assert_array_equal(numbers(tensor), nets.weights(nets.chain())[tensor.name])


@pytest.mark.usefixtures("in_files")
def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, nets.chain())
    (tmp_path / "in.1.bin").write_bytes((tmp_path / "in.1.bin").read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"in\.1\.bin is cut off: the weight '.*' ends at byte"):
        load(path)
    (tmp_path / "in.1.bin").unlink()
    with pytest.raises(ModelError, match=r"lies in in\.1\.bin, which is missing"):
        load(path)


@pytest.mark.parametrize("where", ["../in.0.bin", "/etc/hostname"])
def test_files_outside_the_folder_are_not_read(where: str, tmp_path: Path) -> None:
    path = save(tmp_path, nets.chain())
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = where
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"the weight 'w1' lies in .*, outside the model's folder"):
        load(path)


def test_a_weight_without_numbers(tmp_path: Path) -> None:
    model = nets.chain()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((0, 3), np.float32), "nothing"))
    found = load(save(tmp_path, model)).model.graph.initializer[-1]
    assert numbers(found).shape == (0, 3)


def kept_by(plan: Plan) -> dict[str, dict[int, tuple[int, ...]]]:
    return {name: dict(entry.keep) for name, entry in plan.initializers.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("select", ["deterministic", "sampled"])
@pytest.mark.parametrize("known", [False, True])
def test_weights_in_files_give_the_same_model(
    name: str, select: Any, known: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text, shapes, data = MODELS[name]
    options: dict[str, Any] = {"calibration": data if known else None, "keep_macs": 0.6, "select": select}
    options |= {"round_to": 1} | PLAIN
    path = save(tmp_path, nets.build(text, shapes), gap=4)
    wanted = onnxpfp.prune(path, **options)
    assert not any(is_reference(tensor) for tensor in wanted.stored.graph.initializer)
    request.getfixturevalue("in_files")
    found = onnxpfp.prune(path, **options)
    assert any(is_reference(tensor) for tensor in found.stored.graph.initializer)
    assert kept_by(found.plan) == kept_by(wanted.plan)
    assert found.report.oracle.error <= 1e-5
    ours, theirs = nets.weights(found.model), nets.weights(wanted.model)
    assert ours.keys() == theirs.keys()
    for key, array in ours.items():
        # Sums in another order: biases take up means that were measured, and samples are weighed by sensitivities.
        np.testing.assert_allclose(array, theirs[key], rtol=1e-4, atol=1e-6)
        exact = "w" in key and "bias" not in key and (select == "deterministic" or not known)
        assert not exact or np.array_equal(array, theirs[key]), key


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("known", [False, True])
def test_half_precision_is_read_as_it_lies(
    name: str, known: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text, shapes, data = MODELS[name]
    model = nets.build(text.replace("float[", "float16["), shapes, dtype=np.float16)
    calibration = data.astype(np.float16) if known else None
    path = save(tmp_path, model)
    wanted = onnxpfp.prune(path, calibration=calibration, keep_macs=0.6, round_to=1, **PLAIN)
    request.getfixturevalue("in_files")
    found = onnxpfp.prune(path, calibration=calibration, keep_macs=0.6, round_to=1, **PLAIN)
    assert any(is_reference(tensor) for tensor in found.stored.graph.initializer)
    # The checksum of a file is known only of one that has its numbers.
    assert replace(found.plan, made_by={}) == replace(wanted.plan, made_by={})
    assert nets.weights(found.model)["w2"].dtype == np.float16
    np.testing.assert_array_equal(nets.weights(found.model)["w2"], nets.weights(wanted.model)["w2"])


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize(("external_from", "refitted"), [(1, ()), (300, ("node_a", "node_y"))])
def test_refits_leave_large_weights_in_files_alone(
    external_from: int, refitted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "EXTERNAL_FROM", external_from)
    path, options = save(tmp_path, nets.chain(), gap=4), {"calibration": DATA, "keep_macs": 0.6}
    found = onnxpfp.prune(path, **options, allocate="bound", compensate="lstsq")
    plain = onnxpfp.prune(path, **options, **PLAIN)
    assert tuple(refit.name for refit in found.report.refits) == refitted
    assert any(is_reference(tensor) for tensor in found.stored.graph.initializer)
    ours, theirs = nets.weights(found.model), nets.weights(plain.model)
    same = {name for name in theirs if np.array_equal(ours[name], theirs[name])}
    # What is not refitted takes up the mean of what it lost.
    assert "w2" in same
    assert "node_c" in found.report.compensated
    assert ("w3" in same) == (not refitted)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_casts_of_weights_stay_in_the_graph(dtype: Any, tmp_path: Path) -> None:
    model = nets.build(
        "g (float[N,6] x) => (float[N,3] y) { v = Cast <to = 1> (w1) a = MatMul(x, v) r = Relu(a) "
        "u = Cast <to = 1> (w2) y = MatMul(r, u) }",
        {},
    )
    for name, shape in {"w1": (6, 32), "w2": (32, 3)}.items():
        array = nets.noise(*shape).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = onnxpfp.prune(save(tmp_path, model), calibration=ROWS, keep_macs=0.5, compensate="none")
    assert {tuple(array.shape) for array in nets.weights(found.model).values()} == {(6, 16), (16, 3)}
    assert all(is_reference(tensor) for tensor in found.stored.graph.initializer)
    wanted = onnxpfp.prune(model, calibration=ROWS, keep_macs=0.5, compensate="none")
    assert_same_weights(found.model, wanted.model)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_large_model_is_written_with_its_weights_beside_it(share: float, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    found = onnxpfp.prune(save(inputs, nets.chain()), calibration=DATA, keep_macs=share)
    target = tmp_path / "out.onnx"
    written = onnxpfp.save_result(found, target)
    assert written == sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
    onnx.checker.check_model(str(target), full_check=True)
    np.testing.assert_array_equal(nets.run(onnx.load(target), DATA), nets.run(found.model, DATA))
    assert_same_weights(onnx.load(target), found.model)
    for tensor in onnx.load(target, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries.keys() <= {"location", "offset", "length"}
        assert entries.get("location", "out.onnx.data") == "out.onnx.data"


@pytest.mark.usefixtures("in_files")
def test_a_large_model_can_replace_itself_once(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    model = nets.chain()
    onnx.save(model, source, save_as_external_data=True, location="in.onnx.data", size_threshold=0)
    found = onnxpfp.prune(source, calibration=DATA, keep_macs=0.7, exclude=["w1"])
    wanted = nets.run(found.model, DATA)
    onnxpfp.save_result(found, source, source=source, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "in.onnx.data"]
    np.testing.assert_array_equal(nets.run(onnx.load(source), DATA), wanted)
    # Weights that nothing was cut from lay in the file that is gone.
    with pytest.raises(ModelError, match=r"in\.onnx\.data: was changed while a model that reads it was in use"):
        assert found.model


@pytest.mark.parametrize("large", [False, True])
def test_the_weights_of_an_input_that_stays_are_not_overwritten(
    large: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if large:
        request.getfixturevalue("in_files")
    source = tmp_path / "in.onnx"
    onnx.save(nets.chain(), source, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = onnxpfp.prune(source, calibration=DATA, keep_macs=0.6)
    with pytest.raises(OutputError, match=r"its weights would overwrite .*out\.onnx\.data, which .*in\.onnx reads"):
        onnxpfp.save_result(found, tmp_path / "out.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("in_files")
def test_new_weights_go_away_with_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    found = onnxpfp.prune(save(tmp_path, nets.chain()), calibration=DATA, keep_macs=0.6)
    assert len(list(scratch.iterdir())) == 1
    del found
    gc.collect()
    assert not list(scratch.iterdir())


@pytest.mark.usefixtures("in_files")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone: new weights cannot be put there: No such file"):
        onnxpfp.prune(save(tmp_path, nets.chain()), calibration=DATA, keep_macs=0.6)


def test_a_model_object_that_protobuf_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6, **PLAIN)
    monkeypatch.setattr(load_module, "HELD_AT_MOST", 1000)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    found = onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6, **PLAIN)
    assert any(is_reference(tensor) for tensor in found.stored.graph.initializer)
    assert_same_weights(found.model, wanted.model)


def test_a_model_object_must_hold_its_weights(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path, nets.chain()), load_external_data=False)
    with pytest.raises(ModelError, match="'w1' lies in a file, and a model object does not say where that is"):
        onnxpfp.prune(model, keep_macs=0.6)


def test_external_weights_are_brought_to_the_same_form() -> None:
    rng = np.random.default_rng(0)
    for kind, group, shape in (
        ("conv", 1, (6, 4, 3, 3)),
        ("conv", 2, (6, 2, 3, 3)),
        ("conv_transpose", 2, (4, 3, 2, 2)),
    ):
        weight = rng.standard_normal(shape, dtype=np.float32)
        in_memory = ops.LinearOp("r", kind, "x", (1, 4, 8, 8), 1, np.arange(4), weight, (1, 6, 8, 8), group)  # type: ignore[arg-type]
        external = ops.FileWeight(shape, lambda weight=weight: weight)  # type: ignore[misc]
        other = ops.LinearOp("r", kind, "x", (1, 4, 8, 8), 1, np.arange(4), external, (1, 6, 8, 8), group)  # type: ignore[arg-type]
        np.testing.assert_array_equal(in_memory.taps(), other.taps())
        assert in_memory.kernel == other.kernel == shape[2:]


MEASURE = """
import sys, threading
from onnxpfp.api.prune import prune_with
from onnxpfp.options import Options
from onnxpfp.api.save import save_result

peak, over = 0, threading.Event()

def watch():
    global peak
    while not over.wait(0.002):
        with open("/proc/self/status") as file:
            found = [int(line.split()[1]) for line in file if line.startswith(("RssAnon", "RssShmem"))]
        peak = max(peak, sum(found))

thread = threading.Thread(target=watch, daemon=True)
thread.start()
data = None if sys.argv[3] == "none" else sys.argv[3]
options = Options(keep_macs=0.7, samples=None if data is None else 8)
save_result(prune_with(sys.argv[1], data, options), sys.argv[2])
over.set()
thread.join()
print(peak * 1024)
"""


def chain_of_products(folder: Path, name: str, width: int, layers: int) -> Path:
    """Write matrix products of one size, their weights in two files."""
    rng = np.random.default_rng(0)
    tensors: list[TensorProto] = []
    for number in range(layers):
        file = folder / f"{name}.{number % 2}.bin"
        array = rng.standard_normal((width, width), dtype=np.float32) / np.float32(np.sqrt(width / 2))
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        with file.open("ab") as stream:
            for key, value in (("location", file.name), ("offset", stream.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            array.tofile(stream)
        tensors.append(tensor)
    nodes = []
    for number in range(layers):
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"y{number}"], f"product{number}"))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"]))
    ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, ["N", width]) for n in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    path = folder / f"{name}.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("data", ["none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("random", "file"))])
def test_memory_does_not_grow_with_the_model(data: str, tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        given = data
        if data == "file":
            given = str(path.with_suffix(".npz"))
            np.savez(given, x0=nets.noise(8, int(path.stem)))
        run = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out.onnx"), given]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    layers, width = 18, 1408
    small, large = (chain_of_products(tmp_path, str(size), size, layers) for size in (32, width))
    weight = 4 * width * width
    assert layers * weight > load_module.IN_MEMORY
    # The pieces that are worked on at once are about as large as a whole weight here.
    assert peak(large) - peak(small) < layers * weight / 2
