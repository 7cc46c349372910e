"""A network that is put into a body as a whole is pruned there as it is outside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from support.idioms import CONVOLUTIONAL, SEQUENTIAL, Idiom
from support.oracle import difference, run

import onnxpfp
from onnxpfp.errors import TargetUnreachableError

IDIOMS = [idiom for idiom in (*CONVOLUTIONAL, *SEQUENTIAL) if idiom.x.startswith("float[N")]
OPTIONS = {"keep_macs": 0.8, "allocate": "bound", "compensate": "none", "round_to": 1, "threads": 1}


def in_a_body(model: ModelProto, op: str, *, outside: bool) -> ModelProto:
    """Make all nodes of a model a branch of If or the body of a Loop that runs twice; weights go along or stay."""
    graph, inner = model.graph, GraphProto(name="inner")
    wrapped = ModelProto(ir_version=model.ir_version)
    wrapped.opset_import.extend(model.opset_import)
    inner.node.extend(graph.node)
    wrapped.graph.name = "outer"
    wrapped.graph.input.extend(graph.input)
    (wrapped.graph if outside else inner).initializer.extend(graph.initializer)
    (output,) = graph.output
    rank = len(output.type.tensor_type.shape.dim)
    if op == "If":
        zero = numpy_helper.from_array(np.zeros([1] * rank, np.float32))
        other = helper.make_graph(
            [helper.make_node("Constant", [], ["zero"], value=zero)],
            "other",
            [],
            [helper.make_tensor_value_info("zero", TensorProto.FLOAT, [1] * rank)],
        )
        wrapped.graph.input.append(helper.make_tensor_value_info("take", TensorProto.BOOL, []))
        inner.output.append(output)
        node = helper.make_node("If", ["take"], ["result"], name="node", then_branch=inner, else_branch=other)
    else:
        times = helper.make_node("Constant", [], ["times"], value=numpy_helper.from_array(np.array(2)))
        wrapped.graph.node.append(times)
        inner.input.append(helper.make_tensor_value_info("step", TensorProto.INT64, []))
        inner.input.append(helper.make_tensor_value_info("going", TensorProto.BOOL, []))
        inner.node.append(helper.make_node("Identity", ["going"], ["on"]))
        inner.output.append(helper.make_tensor_value_info("on", TensorProto.BOOL, []))
        inner.output.append(output)
        node = helper.make_node("Loop", ["times", ""], ["result"], name="node", body=inner)
    wrapped.graph.node.append(node)
    shape = [None] * (rank + (op == "Loop"))
    wrapped.graph.output.append(helper.make_tensor_value_info("result", TensorProto.FLOAT, shape))
    return wrapped


def feed(model: ModelProto, seed: int) -> dict[str, np.ndarray]:
    (info,) = [i for i in model.graph.input if i.name == "x"]
    shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("outside", [False, True], ids=["with its weights", "weights outside"])
@pytest.mark.parametrize("idiom", IDIOMS, ids=str)
def test_a_network_in_a_body_is_pruned_as_it_is(idiom: Idiom, outside: bool) -> None:
    model = idiom.model()
    op = "If" if IDIOMS.index(idiom) % 2 == outside else "Loop"
    wrapped = in_a_body(model, op, outside=outside)
    before = wrapped.SerializeToString()
    try:
        plain = onnxpfp.prune(model, **OPTIONS)
    except TargetUnreachableError:
        pytest.skip("this network cannot come down so far")
    result = onnxpfp.prune(wrapped, **OPTIONS)
    assert wrapped.SerializeToString() == before
    place = f"node/{'then_branch' if op == 'If' else 'body'}"
    found = {group.name: (group.kept, group.channels) for group in result.report.groups}
    assert found == {f"{place}: {group.name}": (group.kept, group.channels) for group in plain.report.groups}
    assert result.plan.bodies[place] == plain.plan.initializers
    onnx.checker.check_model(result.model)
    taken = {"take": np.array(True)} if op == "If" else {}
    for seed in range(3):
        (wanted,) = run(plain.model, feed(model, seed)).values()
        (got,) = run(result.model, feed(model, seed) | taken).values()
        for step in got if op == "Loop" else [got]:
            assert difference({"y": wanted}, {"y": step}) < 1e-6
