"""`--attention`: whole heads go, or the same part of every head, or one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import cli_models
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp.errors import OptionError
from onnxpfp.model.shapes import concrete_shapes

HEADS, WIDTH, TOKENS, INPUT = 4, 6, 5, 8
SEPARATE = """g (float[N,5,8] x) => (float[N,5,3] y) {
    e = LayerNormalization(x, s)
    q0 = MatMul(e, wq) k0 = MatMul(e, wk) v0 = MatMul(e, wv)
    q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v1 = Reshape(v0, heads)
    q = Transpose <perm = [0,2,1,3]> (q1) k = Transpose <perm = [0,2,3,1]> (k1) v = Transpose <perm = [0,2,1,3]> (v1)
    product = MatMul(q, k) scaled = Mul(product, scale) shares = Softmax(scaled) mixed = MatMul(shares, v)
    o1 = Transpose <perm = [0,2,1,3]> (mixed) o0 = Reshape(o1, merged) h = MatMul(o0, wo)
    y = MatMul(h, last)
}"""
PACKED = """g (float[N,5,8] x) => (float[N,5,3] y) {
    e = LayerNormalization(x, s)
    p0 = MatMul(e, wp) p1 = Reshape(p0, five) p = Transpose <perm = [2,0,3,1,4]> (p1)
    q = Gather <axis = 0> (p, i0) k1 = Gather <axis = 0> (p, i1) v = Gather <axis = 0> (p, i2)
    k = Transpose <perm = [0,1,3,2]> (k1)
    product = MatMul(q, k) scaled = Mul(product, scale) shares = Softmax(scaled) mixed = MatMul(shares, v)
    o1 = Transpose <perm = [0,2,1,3]> (mixed) o0 = Reshape(o1, merged) h = MatMul(o0, wo)
    y = MatMul(h, last)
}"""
NUMBERS = {
    "heads": [0, TOKENS, HEADS, WIDTH],
    "five": [0, TOKENS, 3, HEADS, WIDTH],
    "merged": [0, TOKENS, HEADS * WIDTH],
    **{f"i{number}": number for number in range(3)},
}
KINDS = pytest.mark.parametrize("text", [SEPARATE, PACKED], ids=["separate", "packed"])


def block(text: str) -> ModelProto:
    """Attention between a LayerNormalization and a head: only its heads and widths can go."""
    inner = HEADS * WIDTH
    weights = {"wq": (INPUT, inner), "wk": (INPUT, inner), "wv": (INPUT, inner), "wp": (INPUT, 3 * inner)}
    shapes = {**weights, "wo": (inner, INPUT), "last": (INPUT, 3), "s": (INPUT,), "scale": ()}
    read = {word.strip("(),") for word in text.replace("(", " ").split()}
    model = cli_models.build(text, {name: shape for name, shape in shapes.items() if name in read})
    for name, numbers in NUMBERS.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return model


def measured(model: ModelProto) -> tuple[int, int, int]:
    """Heads, and the widths of keys and of values."""
    onnx.checker.check_model(model, full_check=True)
    shape = concrete_shapes(model, {}).shape
    heads = {shape[name][1] for name in ("q", "k", "v", "mixed")}
    assert len(heads) == 1
    assert shape["o0"][-1] == shape["mixed"][1] * shape["mixed"][3]
    return heads.pop(), shape["q"][3], shape["v"][3]


def spelt(model: ModelProto) -> set[int]:
    """The numbers in the targets of the Reshapes."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {int(number) for node in model.graph.node if node.op_type == "Reshape" for number in stored[node.input[1]]}


def samples() -> np.ndarray:
    """Samples for `block`."""
    return np.random.default_rng(2).standard_normal((24, TOKENS, INPUT)).astype(np.float32)


def pruned(model: ModelProto, unit: str) -> onnxpfp.Result:
    """Prune what lies in the attention alone: `last` contracts what comes out of it."""
    return onnxpfp.prune(model, calibration=samples(), keep_macs=0.7, attention=unit, exclude=["last"])


@KINDS
def test_heads_go_whole(text: str) -> None:
    result = pruned(block(text), "heads")
    heads, keys, values = measured(result.model)
    assert heads < HEADS
    assert (keys, values) == (WIDTH, WIDTH)
    assert {heads, heads * WIDTH} <= spelt(result.model)
    assert result.report.oracle.error <= 1e-5


@KINDS
def test_every_head_gets_narrower(text: str) -> None:
    result = pruned(block(text), "width")
    heads, keys, values = measured(result.model)
    assert heads == HEADS
    assert min(keys, values) < WIDTH
    assert {HEADS, HEADS * values} <= spelt(result.model)
    assert result.report.oracle.error <= 1e-5


@KINDS
def test_heads_first_and_then_their_width(text: str) -> None:
    first = pruned(block(text), "heads")
    second = pruned(first.model, "width")
    heads, _, _ = measured(first.model)
    left, keys, values = measured(second.model)
    assert left == heads < HEADS
    assert min(keys, values) < WIDTH
    assert second.report.oracle.error <= 1e-5
    assert second.report.after.macs < first.report.after.macs < first.report.before.macs


@pytest.mark.parametrize(("unit", "names"), [("heads", {HEADS}), ("width", {WIDTH})])
def test_inspect_counts_the_unit(unit: str, names: set[int]) -> None:
    found = onnxpfp.inspect(block(SEPARATE), attention=unit, exclude=["last"])
    assert found.attention == unit
    assert {group.channels for group in found.groups} == names


@pytest.mark.parametrize("unit", ["heads", "width"])
def test_the_command_line_hands_it_on(folder: Path, prune, inspect, unit: str) -> None:
    onnx.save(block(PACKED), folder / "in.onnx")
    np.savez(folder / "data.npz", x=samples())
    flags = ("--attention", unit, "--exclude", "last")
    result = prune("in.onnx", "out.onnx", "--calib-data", "data.npz", *flags, "--json", "report.json")
    assert result.exit_code == 0, result.output
    heads, _, values = measured(onnx.load(folder / "out.onnx"))
    assert (heads < HEADS, values < WIDTH) == (unit == "heads", unit == "width")
    assert json.loads((folder / "report.json").read_text())["attention"] == unit
    assert ("the same part of every head may go" in result.stdout) == (unit == "width")
    assert json.loads(inspect("in.onnx", *flags, "--json", "-").stdout)["attention"] == unit
    assert ("the same part of every head may go" in inspect("in.onnx", *flags).stdout) == (unit == "width")


def test_nothing_else_is_a_unit(prune) -> None:
    with pytest.raises(OptionError, match="attention 'both' is none of heads, width"):
        pruned(block(SEPARATE), "both")
    result = prune("in.onnx", "out.onnx", "--attention", "both")
    assert result.exit_code == 2
    assert "'both' is not one of 'heads', 'width'" in result.stderr


def test_a_plan_remembers_what_went(tmp_path: Path) -> None:
    first = onnxpfp.prune(block(SEPARATE), attention="width", keep_macs=0.8)
    path = tmp_path / "plan.json"
    path.write_text(first.plan.to_json(), encoding="utf-8")
    again = onnxpfp.prune(block(SEPARATE), from_plan=path)
    assert again.model == first.model
    assert again.report.attention == "width"
