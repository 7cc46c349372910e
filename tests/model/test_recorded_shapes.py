"""Files whose recorded shapes are not those of their tensors: what is computed wins, and the report says so once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper
from support.graphs import build, weights_as_inputs
from support.oracle import run

import onnxpfp
from onnxpfp.model.constants import all_graphs
from onnxpfp.model.load import load

DECLARED = "float[8,3,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[4,8,1,1] w3"
LAYERS = "a = Conv(x, w1, b1)\nr = Relu(a)\nc = Conv(r, w2)\n{middle}\nq = Conv(z, w3)\ny = {end}"
FREE = "float[N,3,8,8] x"


def network(middle: str = "z = Relu(c)", end: str = "Neg(q)", x: str = FREE, more: str = "") -> ModelProto:
    text = f"g ({x}) => (y) <{DECLARED}{more}> {{\n{LAYERS.format(middle=middle, end=end)}\n}}"
    return onnx.shape_inference.infer_shapes(build(text, opset=13))


def recorded(graph: GraphProto, name: str) -> onnx.TypeProto.Tensor:
    infos = [info for info in (*graph.input, *graph.value_info, *graph.output) if info.name == name]
    assert len(infos) == 1, name
    return infos[0].type.tensor_type


def widen(*names: str, axis: int = 1, size: int = 16) -> Callable[[ModelProto], None]:
    """Record another length of an axis, as a tool leaves it that narrowed the weights."""

    def change(model: ModelProto) -> None:
        for name in names:
            recorded(model.graph, name).shape.dim[axis].dim_value = size

    return change


def another_rank(model: ModelProto) -> None:
    recorded(model.graph, "r").shape.dim.add(dim_value=1)


def another_type(model: ModelProto) -> None:
    recorded(model.graph, "r").elem_type = TensorProto.DOUBLE


def inner(name: str, tensor: str, shape: tuple[int, ...]) -> Callable[[ModelProto], None]:
    """Record a shape in a graph inside of a node."""

    def change(model: ModelProto) -> None:
        graph = next(graph for graph in all_graphs(model) if graph.name == name)
        infos = [info for info in (*graph.input, *graph.output) if info.name == tensor]
        if infos:
            infos[0].CopyFrom(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
        else:
            graph.value_info.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))

    return change


BRANCH = (
    "m = ReduceSum<keepdims = 0>(x)\nt = Cast<to = 9>(m)\nz = If(t) <then_branch = yes () => (float[N,8,6,6] o) "
    "{ p = Neg(c)\n o = Relu(p) }, else_branch = no () => (float[N,8,6,6] o2) { o2 = Neg(c) }>"
)
SCAN = (
    "s = Transpose<perm = [2, 0, 1, 3]>(c)\nh = Scan(s) <num_scan_inputs = 1, "
    "body = b (float[N,8,6] v) => (float[N,8,6] o) "
    "{ p = Neg(v)\n o = Relu(p) }>\nz = Transpose<perm = [1, 2, 0, 3]>(h)"
)
CASES = {
    "intermediates": (network(), widen("a", "r")),
    "every tensor": (network(), widen("a", "r", "c", "z", "q", "y")),
    "the output": (network(), widen("y")),
    "a space axis": (network(), widen("c", axis=2, size=12)),
    "another rank": (network(), another_rank),
    "another type, which onnxruntime refuses": (network(), another_type),
    "a matrix, which onnxruntime refuses": (
        network(
            end="Gemm(f, w4)",
            middle="z = Relu(c)\nf = ReduceMean<axes = [2, 3], keepdims = 0>(z)",
            more=", float[8,5] w4",
        ),
        widen("f"),
    ),
    "a branch's output": (network(BRANCH), inner("yes", "o", (2, 16, 6, 6))),
    "inside of a branch": (network(BRANCH), inner("yes", "p", (2, 16, 6, 6))),
    "the input of a body, which onnxruntime refuses": (network(SCAN), inner("b", "v", (2, 16, 6))),
    "inside of a body": (network(SCAN), inner("b", "p", (2, 16, 6))),
}


def images(samples: int = 8) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


def stale_notes(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if note.startswith("the file recorded shapes that its tensors do not have")]


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request) -> tuple[ModelProto, ModelProto]:
    """A model, and the same with records that are not true."""
    model, change = request.param
    wrong = ModelProto()
    wrong.CopyFrom(model)
    change(wrong)
    assert wrong != model
    return model, wrong


def test_result_is_that_of_the_file_with_right_records(pair, tmp_path):
    right, wrong = pair
    options = {"calibration": {"x": images()}, "keep_macs": 0.8}
    one, two = onnxpfp.prune(right, **options), onnxpfp.prune(wrong, **options)
    assert (len(stale_notes(one.report.notes)), len(stale_notes(two.report.notes))) == (0, 1)
    outputs = [run(result.model, {"x": images()})["y"] for result in (one, two)]
    assert np.array_equal(*outputs)


def test_what_is_written_records_nothing_wrong(pair, tmp_path):
    result = onnxpfp.prune(pair[1], calibration={"x": images()}, keep_macs=0.8)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert not load(written).stale
    value = run(written, {"x": images()})["y"]
    dims = recorded(written.graph, "y").shape.dim
    assert all(dim.dim_value in {0, size} for dim, size in zip(dims, value.shape, strict=True))


def test_file_from_which_nothing_goes_keeps_its_bytes(pair, tmp_path):
    onnx.save(pair[1], tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": images()}, keep_macs=1)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_inspection_says_so_once(pair):
    right, wrong = (onnxpfp.inspect(model, input_shapes={"x": (1, 3, 8, 8)}) for model in pair)
    assert (len(stale_notes(right.notes)), len(stale_notes(wrong.notes))) == (0, 1)
    assert (right.groups, right.stays, right.total) == (wrong.groups, wrong.stays, wrong.total)


def test_right_records_stay():
    model = network()
    widen("a")(model)
    left = load(model).model
    assert [info.name for info in left.graph.value_info] == ["r", "c", "z", "q"]
    assert load(network()).model == network()


def test_output_is_corrected_and_keeps_the_name_of_its_free_axis():
    model = network()
    widen("y")(model)
    dims = recorded(load(model).model.graph, "y").shape.dim
    assert (dims[0].dim_param, [dim.dim_value for dim in dims][1:]) == ("N", [4, 6, 6])


@pytest.mark.parametrize("recorded_as", [0, -1])
def test_lengths_that_mean_unknown_contradict_nothing(recorded_as):
    model = network()
    widen("r", size=recorded_as)(model)
    assert not load(model).stale


def test_weight_that_is_listed_as_an_input_with_another_shape():
    model = weights_as_inputs(
        build(
            "g (float[1,3,8,8] x) => (y) <float[8,3,3,3] w1, float[4,8,1,1] w3> { a = Conv(x, w1)\n y = Conv(a, w3) }",
            opset=9,
        )
    )
    widen("w1", axis=0)(model)
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.8)
    assert stale_notes(result.report.notes)
    onnx.checker.check_model(result.model)
    assert run(result.model, {"x": images(1)})["y"].shape == (1, 4, 6, 6)


def counting() -> ModelProto:
    """A network with a tensor whose length depends on the data: only a run tells."""
    text = f"""g ({FREE}) => (float[N,4,6,6] y, int64[4,k] n) <{DECLARED}, float t> {{
a = Conv(x, w1, b1)\nr = Relu(a)\nz = Conv(r, w2)\ny = Conv(z, w3)\ng = Greater(y, t)\nm = NonZero(g)\nn = Neg(m) }}"""
    return build(text, opset=13)


def test_record_that_only_a_run_contradicts():
    model = counting()
    for infos, name in ((model.graph.value_info, "m"), (model.graph.output, "n")):
        kept = [info for info in infos if info.name != name]
        del infos[:]
        infos.extend([*kept, helper.make_tensor_value_info(name, TensorProto.INT64, [4, 1])])
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.8)
    assert len(stale_notes(result.report.notes)) == 1
    assert "m" not in {info.name for info in result.model.graph.value_info}
    dims = recorded(result.model.graph, "n").shape.dim
    assert [(dim.dim_value, dim.dim_param) for dim in dims] == [(4, ""), (0, "")]
