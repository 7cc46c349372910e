"""Broken and hostile model files: one line, in bounded time and memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.errors import ModelError
from onnxpfp.model.load import external_files, load
from onnxpfp.model.shapes import default_input_shapes

WEIGHT = "w1"
SECONDS = 10
"""What any of these may take on a machine that is shared; all take a fraction of a second alone."""


def weight_of(model: ModelProto) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == WEIGHT)


def referring(folder: Path, **entries: object) -> Path:
    """Write a model whose first weight refers to a file; `w.bin` beside it holds its numbers."""
    model = nets.chain()
    tensor = weight_of(model)
    (folder / "w.bin").write_bytes(tensor.raw_data)
    refer(tensor, **entries)
    return written(folder, model)


def refer(tensor: TensorProto, **entries: object) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def written(folder: Path, model: ModelProto) -> Path:
    path = folder / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises(ModelError) as failure:
        load(path)
    assert time.monotonic() - started < SECONDS
    message = str(failure.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 1500
    assert "\x1b" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../w.bin"}, "lies in ../w.bin, outside the model's folder"),
        ({"location": "sub/../../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "lies in /etc/passwd, outside the model's folder"),
        ({"location": "/dev/zero"}, "lies in /dev/zero, outside the model's folder"),
        ({}, "lies in a file without a name"),
        ({"location": "."}, "lies in a file without a name"),
        ({"location": "folder"}, "lies in folder, which is no regular file"),
        ({"location": "pipe"}, "lies in pipe, which is no regular file"),
        ({"location": "w\0.bin"}, "which cannot be read: embedded null byte"),
        ({"location": "w" * 100_000}, "which cannot be read: File name too long"),
        ({"location": "no\x1b[31m.bin"}, "lies in no?[31m.bin, which is missing"),
        ({"location": "w.bin", "offset": -4}, "has the offset '-4' in w.bin"),
        ({"location": "w.bin", "offset": "abc"}, "has the offset 'abc' in w.bin"),
        ({"location": "w.bin", "offset": "9" * 5000}, "has the offset '999"),
        ({"location": "w.bin", "offset": "\u0663"}, "has the offset '\u0663' in w.bin"),
        ({"location": "w.bin", "offset": 2**63}, "w.bin is cut off: the weight 'w1' ends at byte 922337203685477"),
        ({"location": "w.bin", "length": -1}, "has the length '-1' in w.bin"),
        ({"location": "w.bin", "length": "1e3"}, "has the length '1e3' in w.bin"),
        ({"location": "w.bin", "length": 4}, "does not have the numbers"),
        ({"location": "w.bin", "length": 10**9}, "w.bin is cut off"),
        ({"location": "w.bin", "offset": 1}, "w.bin is cut off"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_references_that_lead_nowhere(tmp_path: Path, entries: dict[str, object], says: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = referring(tmp_path, **entries)
    assert says in refused(path)
    assert external_files(path) <= {tmp_path / "w.bin", tmp_path / ".." / "w.bin", Path("/etc/passwd")}


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "other" / "w.bin")
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "w.bin").write_bytes(weight_of(nets.chain()).raw_data)
    for location in ("link.bin", "sub/w.bin"):
        message = refused(referring(tmp_path / "model", location=location))
        assert f"lies in {location}, which links to {tmp_path / 'other' / 'w.bin'}, outside" in message
    (tmp_path / "model" / "loop.bin").symlink_to("loop.bin")
    assert "cannot be read" in refused(referring(tmp_path / "model", location="loop.bin"))


def test_a_cache_that_links_to_the_model_and_its_weights(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    path = referring(tmp_path / "blobs", location="in.data")
    (tmp_path / "snapshot" / "in.data").symlink_to("../blobs/w.bin")
    (tmp_path / "snapshot" / "in.onnx").symlink_to(f"../blobs/{path.name}")
    assert load(tmp_path / "snapshot" / "in.onnx").external
    # A link from one place of the folder to another is fine as well.
    (tmp_path / "blobs" / "in.data").symlink_to("w.bin")
    assert load(path).external


def _in_constant(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def _in_sparse(model: ModelProto, tensor: TensorProto) -> None:
    sparse = model.graph.sparse_initializer.add(values=tensor, dims=[8])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4)))


def _in_sparse_constant(model: ModelProto, tensor: TensorProto) -> None:
    sparse = onnx.SparseTensorProto(values=tensor, dims=[8], indices=numpy_helper.from_array(np.arange(4)))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def _in_list(model: ModelProto, tensor: TensorProto) -> None:
    attribute = onnx.AttributeProto(name="values", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
    model.graph.node[0].attribute.append(attribute)


def _in_body(model: ModelProto, tensor: TensorProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["v"], ["o"])], "b", [], [onnx.ValueInfoProto(name="o")])
    body.initializer.append(tensor)
    model.graph.node.append(helper.make_node("If", ["x"], ["i"], then_branch=body, else_branch=body))


def _in_function(model: ModelProto, tensor: TensorProto) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "F", [], ["c"], [constant], opsets))


def _in_training(model: ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


@pytest.mark.parametrize(
    "place",
    [_in_constant, _in_sparse, _in_sparse_constant, _in_list, _in_body, _in_function, _in_training],
    ids=lambda place: place.__name__,
)
def test_no_tensor_anywhere_reads_a_foreign_file(
    tmp_path: Path, place: Callable[[ModelProto, TensorProto], None]
) -> None:
    model = nets.chain()
    tensor = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[4])
    refer(tensor, location="/etc/passwd", length=16)
    place(model, tensor)
    assert "the weight 'v' lies in /etc/passwd, outside the model's folder" in refused(written(tmp_path, model))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dims": [2**62, 3, 3, 3]}, "does not have the numbers that its shape [4611686018427387904, 3, 3, 3] says"),
        ({"dims": [2**32, 2**32, 1, 1]}, "does not have the numbers"),
        ({"dims": [2**62, 2**62, 2**62, 4]}, "does not have the numbers"),
        ({"dims": [0, 3, 3, 3]}, "does not have the numbers"),
        ({"dims": [-6, -3, 3, 3]}, "has the impossible shape [-6, -3, 3, 3]"),
        ({"dims": [-1]}, "has the impossible shape [-1]"),
        ({"data_type": 0}, "has the unknown element type 0"),
        ({"data_type": 99}, "has the unknown element type 99"),
        ({"data_type": TensorProto.STRING}, "does not have the numbers"),
        ({"raw_data": None, "float_data": [1.0] * 10}, "does not have the numbers"),
        ({"raw_data": None, "float_data": [1.0] * 10, "dims": [2**62]}, "does not have the numbers"),
        ({"raw_data": None, "int64_data": [1] * 216}, "does not have the numbers"),
        ({"raw_data": None}, "does not have the numbers"),
        ({"segment": TensorProto.Segment(begin=1, end=2)}, "is stored in segments"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_tensors_without_the_numbers_of_their_shape(tmp_path: Path, fields: dict[str, object], says: str) -> None:
    model = nets.chain()
    tensor = weight_of(model)
    before = {field.name: value for field, value in tensor.ListFields()} | fields
    tensor.CopyFrom(TensorProto(**{name: value for name, value in before.items() if value is not None}))
    assert says in refused(written(tmp_path, model))
    with pytest.raises(ModelError):
        load(model)


@pytest.mark.parametrize(
    ("data_type", "dims", "field", "count"),
    [
        (TensorProto.FLOAT, [3, 4], "float_data", 12),
        (TensorProto.FLOAT, [], "float_data", 1),
        (TensorProto.FLOAT, [0, 4], "float_data", 0),
        (TensorProto.FLOAT16, [3, 4], "int32_data", 12),
        (TensorProto.BFLOAT16, [3, 4], "int32_data", 12),
        (TensorProto.BOOL, [5], "int32_data", 5),
        (TensorProto.INT4, [5], "int32_data", 3),
        (TensorProto.UINT4, [4], "int32_data", 2),
        (TensorProto.INT64, [2], "int64_data", 2),
        (TensorProto.UINT32, [2], "uint64_data", 2),
        (TensorProto.DOUBLE, [2], "double_data", 2),
        (TensorProto.COMPLEX64, [2], "float_data", 4),
        (TensorProto.STRING, [2], "string_data", 2),
    ],
)
def test_numbers_in_fields_of_their_type_are_read(data_type: int, dims: list[int], field: str, count: int) -> None:
    model = nets.chain()
    numbers = [b"a"] * count if field == "string_data" else [1] * count
    model.graph.initializer.append(TensorProto(name="more", data_type=data_type, dims=dims, **{field: numbers}))
    assert load(model).model.graph.initializer[-1].name == "more"
    if count:
        model.graph.initializer[-1].dims.append(7)
        with pytest.raises(ModelError, match="the weight 'more' does not have the numbers"):
            load(model)


def _sparse(indices: np.ndarray, dims: list[int], values: int = 2) -> ModelProto:
    model = nets.chain()
    sparse = model.graph.sparse_initializer.add(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(values, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices))
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (_sparse(np.array([0, 10**12]), [6, 3]), "has numbers outside its shape [6, 3]"),
        (_sparse(np.array([0, -1]), [6, 3]), "has numbers outside its shape [6, 3]"),
        (_sparse(np.array([[0, 0], [5, 3]]), [6, 3]), "has numbers outside its shape [6, 3]"),
        (_sparse(np.array([[0, 0, 0], [5, 0, 0]]), [6, 3]), "does not have the numbers"),
        (_sparse(np.array([0, 1, 2]), [6, 3]), "does not have the numbers"),
        (_sparse(np.array([0, 1], np.int32), [6, 3]), "does not have the numbers"),
        (_sparse(np.array([0, 1]), [-6, 3]), "has the impossible shape [-6, 3]"),
        (_sparse(np.array([0, 1]), [2**40, 3]), "takes more than 2 GB with its zeros"),
        (_sparse(np.array([0, 1]), [2**62, 2**62]), "takes more than 2 GB with its zeros"),
    ],
)
def test_sparse_weights_that_cannot_be_filled_up(model: ModelProto, says: str) -> None:
    with pytest.raises(ModelError) as failure:
        load(model)
    assert says in str(failure.value)


def _calling(bodies: dict[str, list[str]]) -> ModelProto:
    """Make a model with local functions, each calling others one after another; an empty list is a Relu."""
    model = nets.chain()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for name, calls in bodies.items():
        steps = [f"t{number}" for number in range(len(calls))]
        nodes = [
            helper.make_node(call, [before], [after], domain="local")
            for call, before, after in zip(calls, ["a", *steps], [*steps[1:], "b"], strict=False)
        ] or [helper.make_node("Relu", ["a"], ["b"])]
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], nodes, opsets))
    model.opset_import.add(domain="local", version=1)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.domain, relu.op_type = "local", next(iter(bodies))
    return model


@pytest.mark.parametrize(
    ("bodies", "says"),
    [
        ({"F": ["G"], "G": ["F"]}, "its local function 'F' calls itself"),
        ({"F": ["F"]}, "its local function 'F' calls itself"),
        ({**{f"F{n}": [f"F{n + 1}"] * 2 for n in range(24)}, "F24": []}, "has 16,777,2"),
        ({**{f"F{n}": [f"F{n + 1}"] * 16 for n in range(40)}, "F40": []}, "at most 1,000,000 are read"),
        ({**{f"F{n}": [f"F{n + 1}"] for n in range(3000)}, "F3000": []}, "call each other too deep"),
    ],
    ids=["circle", "itself", "twofold", "sixteenfold", "deep"],
)
def test_functions_without_end(bodies: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ModelError) as failure:
        load(_calling(bodies))
    assert says in str(failure.value)


def test_functions_of_one_name() -> None:
    model = _calling({"F": []})
    model.functions.append(model.functions[0])
    with pytest.raises(ModelError, match="two of its local functions have one name"):
        load(model)


def test_a_call_that_does_not_fit_its_function() -> None:
    model = _calling({"F": []})
    call = next(node for node in model.graph.node if node.op_type == "F")
    call.input.extend(["w1", "w1", "w1"])
    with pytest.raises(ModelError, match="calls of the local functions F do not fit them: "):
        load(model)


def test_functions_that_the_inliner_leaves_alone_are_left_to_onnxruntime() -> None:
    # Found by fuzzing: functions without a name were tried again and again.
    for names in (("", ""), ("", "F"), ("local", "")):
        model = _calling({"F": []})
        model.functions.append(helper.make_function("local", "G", [], [], [], []))
        model.functions[-1].domain, model.functions[-1].name = names
        started = time.monotonic()
        load(model)
        assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize(
    "attribute",
    [
        onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha"),
        onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.GRAPH),
        onnx.AttributeProto(name="value_ints", type=onnx.AttributeProto.STRINGS, strings=[b"a"]),
        onnx.AttributeProto(name="value_int", type=onnx.AttributeProto.TENSOR),
    ],
    ids=["reference", "graph", "texts", "tensor"],
)
def test_constants_without_a_number(attribute: onnx.AttributeProto) -> None:
    model = nets.chain()
    model.graph.node.insert(0, onnx.NodeProto(op_type="Constant", output=["c"], attribute=[attribute]))
    with pytest.raises(ModelError, match=f"the Constant 'c' has no number in {attribute.name}"):
        load(model)


def test_names_of_functions_that_are_no_text(tmp_path: Path) -> None:
    for field in ("name", "domain", "overload"):
        model = _calling({"F": []})
        setattr(model.functions[0], field, "QQQQ")
        path = written(tmp_path, model)
        path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfe\x80\x81"))
        assert "is not text in UTF-8" in refused(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for field in ("name", "op_type", "domain", "input", "output"):
        model = nets.chain()
        node = model.graph.node[0]
        if field in {"input", "output"}:
            getattr(node, field)[0] = "QQQQ"
        else:
            setattr(node, field, "QQQQ")
        path = written(tmp_path, model)
        path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfe\x80\x81"))
        assert r"b'\xff\xfe\x80\x81' is not text in UTF-8" in refused(path)


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("field", ["doc_string", "producer_name", "producer_version", "domain", "graph"])
def test_texts_that_are_no_utf8_do_not_matter(field: str, functions: bool, tmp_path: Path) -> None:
    model = _calling({"F": []}) if functions else nets.chain()
    if field == "graph":
        model.graph.doc_string = "QQQQ"
    else:
        setattr(model, field, "QQQQ")
    path = written(tmp_path, model)
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfe\x80\x81"))
    assert load(path).model.graph.node


def test_names_of_a_megabyte_are_cut_in_messages(tmp_path: Path) -> None:
    model = nets.chain()
    tensor = weight_of(model)
    tensor.name, tensor.raw_data = "n" * 1_000_000, b"12"
    message = refused(written(tmp_path, model))
    assert "nnn...nnn" in message
    assert message.endswith("does not have the numbers that its shape [8, 3, 3, 3] says")


@pytest.mark.parametrize("kind", ["chain", "fan", "computed"])
def test_many_nodes_are_read_in_little_time(kind: str) -> None:
    model = nets.chain()
    names = [f"n{number}" for number in range(20_000)]
    if kind == "chain":
        nodes = [
            helper.make_node("Relu", [before], [after]) for before, after in zip(["w1", *names], names, strict=False)
        ]
    elif kind == "fan":
        nodes = [helper.make_node("Relu", ["w1"], [name]) for name in names]
    else:
        nodes = [
            helper.make_node("Neg", [before], [after]) for before, after in zip(["w1", *names], names, strict=False)
        ]
        nodes.append(helper.make_node("ReduceMean", [names[-1]], ["mean"], axes=[0]))
        model.graph.node[0].input[1] = "moved"
        nodes.append(helper.make_node("Sub", ["w1", "mean"], ["moved"]))
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    started = time.process_time()
    load(model)
    assert time.process_time() - started < SECONDS


def test_a_recorded_type_that_there_is_not() -> None:
    # Found by fuzzing.
    model = nets.chain()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value_float=1.0))
    model.graph.output.append(helper.make_tensor_value_info("k", 255, [1, 2]))
    assert "type 255" in " ".join(load(model).notes)


def test_a_constant_without_an_output(tmp_path: Path) -> None:
    for outputs in ([], [""]):
        model = nets.chain()
        model.graph.node.insert(0, helper.make_node("Constant", [], outputs, value_float=1.0))
        assert refused(written(tmp_path, model)) == "the Constant '' has no output"


def test_files_that_are_no_regular_files_or_too_large(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "is no regular file"
    assert refused(Path("/dev/zero")) == "is no regular file"
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**31)
    assert refused(tmp_path / "huge") == "has 2,147,483,648 bytes, at most 2,147,483,647 can be read"
    assert external_files(tmp_path / "pipe") == external_files(tmp_path / "huge") == set()


def test_nesting_beyond_what_protobuf_reads(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(2000):
        graph = field(1, field(4, b"If") + field(5, field(1, b"b") + field(6, graph)))
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11"))
    assert "or damaged" in refused(tmp_path / "bad.onnx")


@pytest.mark.parametrize("shape", [(2**62, 3, 8, 8), (1, 3, 2**40, 8), (1, 3, 2**62, 2**62)])
def test_inputs_that_no_memory_holds(shape: tuple[int, ...]) -> None:
    model = nets.chain()
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    with pytest.raises(ModelError, match="and the memory is"):
        default_input_shapes(model, {})


def test_small_weights_that_refer_to_one_part_of_a_file_again_and_again(tmp_path: Path) -> None:
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(1 << 20)
    model = nets.chain()
    for number in range(6_000):
        tensor = model.graph.initializer.add(name=f"i{number}", data_type=TensorProto.FLOAT, dims=[262_143])
        refer(tensor, location="w.bin")
    assert "its small weights take 6.3 GB, more than the memory" in _refused_in_little_memory(written(tmp_path, model))


LITTLE = 2 << 30
"""Bytes."""


def _refused_in_little_memory(path: Path) -> str:
    """Load a model in a process of its own that has little memory, and return what it says."""
    code = "import sys; from onnxpfp.model.load import load; load(sys.argv[1])"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (LITTLE, LITTLE))

    done = subprocess.run(
        [sys.executable, "-c", code, path], preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr.splitlines()[-1]
