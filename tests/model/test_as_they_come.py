"""Models as they come: every form in which a file may keep its weights, names, shapes and types."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from support.graphs import build, weights_as_inputs
from support.oracle import check_oracle, problem, run

import onnxpfp
from onnxpfp.errors import ModelError
from onnxpfp.model.load import load

DECLARED = "float[8,3,3,3] w1, float[8] b1, float[6,8,3,3] w2, float[4,6,1,1] w3"
LAYERS = "a = Conv(x, w1, b1)\nr = Relu(a)\nc = Conv(r, w2)\ny = Conv(c, w3)"


def network(nodes: str = LAYERS, *, outputs: str = "y", x: str = "float[N,3,8,8] x", more: str = "", opset: int = 17):
    declared = ", ".join(part for part in (DECLARED, more) if part)
    return build(f"g ({x}) => ({outputs}) <{declared}> {{\n{nodes}\n}}", opset=opset)


def between(nodes: str, more: str = "", **options) -> ModelProto:
    """The network with `nodes` that compute `r` from `a`."""
    return network(LAYERS.replace("r = Relu(a)", nodes), more=more, **options)


def images(dtype=np.float32, samples: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(dtype)


def kept(model: ModelProto | Path, data=None, **options) -> dict[str, int]:
    """Prune, run the result, and return the sizes of the groups that could be pruned."""
    data = images() if data is None else data
    result = onnxpfp.prune(model, calibration=data if isinstance(data, str) else {"x": data}, keep_macs=0.6, **options)
    assert result.unchanged is None
    return {group.name: group.channels for group in result.report.groups}


BOTH = {"w1": 8, "w2": 6}


def test_ir3_with_weights_as_inputs():
    assert kept(weights_as_inputs(network(opset=9))) == BOTH


@pytest.mark.parametrize("output", ["x", "b1"], ids=["an input", "a weight"])
def test_an_output_that_no_node_computes(output):
    case = check_oracle(network(outputs=f"y, {output}"))
    assert {group.name for group in case.graph.groups} == ({"w2"} if output == "b1" else {"w1", "w2"})


def test_nodes_without_names():
    model = network()
    assert not any(node.name for node in model.graph.node)
    assert kept(model) == BOTH


def test_dead_nodes():
    check_oracle(network(f"{LAYERS}\ndead = Relu(c)\nolder = Neg(dead)"))


def test_several_outputs():
    case = check_oracle(network(f"{LAYERS}\nz = Conv(r, w4)", outputs="y, z", more="float[2,8,1,1] w4"))
    assert {group.name for group in case.graph.groups} == {"w1", "w2"}


def test_an_output_that_is_an_intermediate_feature_stays():
    case = check_oracle(network(outputs="y, r"))
    assert {group.name for group in case.graph.groups} == {"w2"}
    assert case.reasons["w1"] == "it is the graph output 'r'"


def rankless() -> ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("data", ["random", images()], ids=["random", "file"])
def test_unknown_rank_asks_for_a_shape(data):
    with pytest.raises(ModelError, match="input 'x' has no shape") as caught:
        kept(rankless(), data)
    assert caught.value.hint == 'give one: input_shapes {"x": (1,3,224,224)}'


@pytest.mark.parametrize("data", ["random", images()], ids=["random", "file"])
def test_unknown_rank_with_a_shape(data):
    assert kept(rankless(), data, input_shapes={"x": (1, 3, 8, 8)}) == BOTH


FREE = "float[N,3,H,W] x"


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("random", {}),
        ("random", {"input_shapes": {"x": (1, 3, 16, 24)}}),
        (images(), {}),
    ],
    ids=["default", "given", "from data"],
)
def test_dynamic_height_and_width(data, options):
    assert kept(network(x=FREE), data, **options) == BOTH


def test_dynamic_channels_are_those_that_the_first_layer_reads():
    assert kept(network(x="float[N,C,H,W] x"), "random") == BOTH


def test_pruned_with_dynamic_height_and_width_runs_at_any():
    result = onnxpfp.prune(network(x=FREE), calibration={"x": images()}, keep_macs=0.6)
    for side in (7, 20):
        assert run(result.model, {"x": np.ones((2, 3, side, side), np.float32)})["y"].shape == (
            2,
            4,
            side - 4,
            side - 4,
        )


def converted(model: ModelProto, element: int) -> ModelProto:
    """The model with all its numbers in another type."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        info.type.tensor_type.elem_type = element
    return model


def test_half_precision():
    assert kept(converted(network(), TensorProto.FLOAT16), images(np.float16)) == BOTH


@pytest.mark.parametrize(
    ("element", "dtype", "name"),
    [(TensorProto.DOUBLE, np.float64, "double"), (TensorProto.BFLOAT16, ml_dtypes.bfloat16, "bfloat16")],
    ids=["double", "bfloat16"],
)
def test_types_without_a_kernel_say_what_to_do(element, dtype, name):
    with pytest.raises(ModelError, match="onnxruntime cannot load the model") as caught:
        kept(converted(network(), element), images(dtype))
    assert caught.value.hint == f"some weights are {name}, for which not every op runs here: save the model in float32"


def test_double_where_there_are_kernels():
    text = "g (double[N,3] x) => (y) <double[3,8] w1, double[8,6] w2, double[6,4] w3> {\n"
    model = build(text + "a = MatMul(x, w1)\nr = Relu(a)\nc = MatMul(r, w2)\ny = MatMul(c, w3)\n}")
    assert kept(model, np.random.default_rng(0).standard_normal((16, 3))) == BOTH


def test_weights_kept_in_bfloat16():
    text = "g (float[N,3,8,8] x) => (y) <bfloat16[8,3,3,3] w1, float[6,8,3,3] w2, float[4,6,1,1] w3> {\n"
    assert kept(build(f"{text}q = Cast<to=1>(w1)\n{LAYERS.replace('w1, b1', 'q')}\n}}")) == BOTH


def sparse(name: str, array: np.ndarray, flat: bool) -> SparseTensorProto:
    """The half of the numbers that is largest."""
    chosen = np.abs(array) > np.median(np.abs(array))
    places = np.flatnonzero(chosen) if flat else np.argwhere(chosen)
    values = numpy_helper.from_array(array[chosen], name)
    return SparseTensorProto(values=values, indices=numpy_helper.from_array(places.astype(np.int64)), dims=array.shape)


def without(model: ModelProto, name: str) -> np.ndarray:
    """Take an initializer out and return its numbers."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor)
    model.graph.initializer.remove(tensor)
    return array


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializer(flat):
    model = network()
    model.graph.sparse_initializer.append(sparse("w2", without(model, "w2"), flat))
    feed = {"x": images(samples=2)}
    assert np.array_equal(run(model, feed)["y"], run(load(model).model, feed)["y"])
    assert kept(model) == BOTH


def test_sparse_constant():
    model = network()
    tensor = sparse("", without(model, "w2"), flat=True)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], sparse_value=tensor))
    assert kept(model) == BOTH


@pytest.mark.parametrize(
    "nodes",
    [
        "k = Constant<value_floats=[0.5,1.0,2.0,0.1,0.2,1.0,2.0,3.0]>()\nu = Constant<value_ints=[1,8,1,1]>()\n"
        "q = Reshape(k, u)\nr = Mul(a, q)",
        "k = Constant<value_float=0.5>()\nr = Mul(a, k)",
        "k = Constant<value_ints=[0,8,-1,6]>()\nr = Reshape(a, k)",
        "s = Shape<start=0, end=1>(a)\nk = Constant<value_ints=[8]>()\nm = Constant<value_ints=[-1,6]>()\n"
        "t = Concat<axis=0>(s, k, m)\nr = Reshape(a, t)",
        "k = Constant<value_int=3>()\nf = Cast<to=1>(k)\nr = Mul(a, f)",
    ],
    ids=["floats", "float", "ints", "ints in a computed shape", "int"],
)
def test_short_forms_of_constants(nodes):
    assert kept(between(nodes)) == BOTH


def test_a_file_that_nothing_went_from_keeps_its_forms(tmp_path):
    model = between("k = Constant<value_float=0.5>()\nr = Mul(a, k)")
    model.graph.sparse_initializer.append(sparse("w2", without(model, "w2"), flat=True))
    onnx.save(model, tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": images()}, keep_macs=1)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_optional_inputs_that_are_empty():
    assert kept(between("r = Clip(a, , k)", "float k = {1.0}")) == BOTH


@pytest.mark.parametrize("where", ["nodes", "import", "both"])
def test_the_standard_domain_spelt_out(where):
    model = network()
    if where != "import":
        for node in model.graph.node:
            node.domain = "ai.onnx"
    if where != "nodes":
        model.opset_import[0].domain = "ai.onnx"
    assert kept(model) == BOTH


BRANCHES = """a = Conv(x, w1, b1)
r = Relu(a)
c = Conv(r, w2)
s = ReduceSum<keepdims=0>(x)
t = Greater(s, z)
e = If (t) <then_branch = yes () => (float[N,6,4,4] u) <float {0} = {{2.0}}> {{ u = Mul(c, {0}) }},
else_branch = no () => (float[N,6,4,4] v) <float {0} = {{3.0}}> {{ v = Mul(c, {0}) }}>
y = Conv(e, w3)"""


@pytest.mark.parametrize("name", ["k", "b1"], ids=["the same name in both branches", "a name of the main graph too"])
def test_names_that_subgraphs_use_again(name):
    case = check_oracle(network(BRANCHES.format(name), more="float z = {0.0}"))
    assert {group.name: group.channels.size for group in case.graph.groups} == {"w1": 8}


def test_a_weight_that_a_branch_reads_too_stays():
    nodes = LAYERS.replace(
        "y = Conv(c, w3)",
        "s = ReduceSum<keepdims=0>(x)\nt = Greater(s, z)\n"
        "e = If (t) <then_branch = yes () => (float[N,6,4,4] u) { u = Conv(r, w2) },\n"
        "else_branch = no () => (float[N,6,4,4] v) { v = Neg(c) }>\ny = Conv(e, w3)",
    )
    assert problem(network(nodes, more="float z = {0.0}")).reasons["w2"] == "If 'e' reads it in a subgraph"


def test_weights_in_several_files(tmp_path):
    model = network()
    (tmp_path / "sub").mkdir()
    for number, tensor in enumerate(model.graph.initializer):
        raw = numpy_helper.to_array(tensor).tobytes()
        name = f"sub/w{number}.bin" if number % 2 else f"w{number}.bin"
        (tmp_path / name).write_bytes(bytes(4096) + raw)
        for field in ("float_data", "raw_data"):
            tensor.ClearField(field)
        tensor.raw_data = raw
        set_external_data(tensor, name, offset=4096, length=len(raw))
        tensor.ClearField("raw_data")
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": images()}, keep_macs=0.6)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert np.isfinite(run(onnx.load(tmp_path / "out.onnx"), {"x": images()})["y"]).all()
    assert (tmp_path / "w0.bin").stat().st_size == 4096 + 8 * 27 * 4
