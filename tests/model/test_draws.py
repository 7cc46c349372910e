"""Draws that the samples decide: what the op promises, the same in every network, batch and order of runs."""

from __future__ import annotations

import json

import nets
import numpy as np
import pytest
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from onnxpfp.model.draws import drawing_ops, record_kept_draws, with_fixed_draws, without_record
from onnxpfp.model.edit import add_constants
from onnxpfp.runtime import open_session
from onnxpfp.runtime.draw_keys import KEYS


def drawn(body: str, feed: nets.Array, *, opset: int = 17, ir: int = 8, elem: str = "float") -> nets.Array:
    """Run nodes that compute y from x, with draws that the samples decide."""
    return run(with_fixed_draws(parsed(body, opset=opset, ir=ir, elem=elem)), feed)


def parsed(body: str, *, opset: int = 17, ir: int = 8, elem: str = "float", rank: int = 3) -> ModelProto:
    dims = ",".join(["N", "C", "L"][:rank])
    model = nets.build(f"g ({elem}[{dims}] x) => ({elem} y) {{ {body} }}", {}, opset=opset, ir=ir)
    model.graph.output[0].CopyFrom(ValueInfoProto(name="y"))
    on = [("r", np.float32(0.3)), ("on", np.array(True)), ("off", np.array(False))]
    add_constants(model, [numpy_helper.from_array(np.asarray(value), name) for name, value in on])
    return model


def run(model: ModelProto, feed: nets.Array) -> nets.Array:
    return open_session(model).run({"x": feed}, ["y"])["y"]


FILLS = {
    "normal": ("y = RandomNormalLike<mean=2.0, scale=3.0>(x)", 2.0, 3.0),
    "uniform": ("y = RandomUniformLike<low=-2.0, high=4.0>(x)", 1.0, 6 / 12**0.5),
    "defaults": ("y = RandomNormalLike(x)", 0.0, 1.0),
}


@pytest.mark.parametrize("ir", [3, 8])
@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17])
@pytest.mark.parametrize("name", FILLS)
def test_mean_and_spread_are_what_the_op_promises_in_every_opset(name: str, opset: int, ir: int) -> None:
    body, mean, spread = FILLS[name]
    y = drawn(body, nets.noise(16, 30, 40), opset=opset, ir=ir)
    assert y.dtype == np.float32
    assert y.shape == (16, 30, 40)
    assert y.mean() == pytest.approx(mean, abs=0.05 * spread)
    assert y.std() == pytest.approx(spread, rel=0.02)
    # Samples, and the places in them, differ.
    flat = y.reshape(16, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(16)).max() < 0.2
    assert np.unique(flat[0]).size == flat[0].size


def test_a_shape_in_the_file_is_drawn_whole() -> None:
    y = drawn("y = RandomNormal<shape=[2000, 7]>()", nets.noise(3, 2, 2))
    assert y.shape == (2000, 7)
    assert (abs(y.mean()), y.std()) == pytest.approx((0, 1), abs=0.05)
    assert drawn("y = RandomUniform<shape=[5], dtype=11>()", nets.noise(1, 2, 2)).dtype == np.float64


@pytest.mark.parametrize(("elem", "dtype"), [("double", np.float64), ("float16", np.float16)])
@pytest.mark.parametrize("opset", [13, 17])
def test_types_are_kept(elem: str, dtype: type, opset: int) -> None:
    x = nets.noise(4, 3, 2, dtype=dtype)
    for body in ("y = RandomNormalLike(x)", "y = Dropout(x, r, on)"):
        assert drawn(body, x, opset=opset, elem=elem).dtype == dtype
    assert drawn("y = RandomNormalLike<dtype=11>(x)", x, opset=opset, elem=elem).dtype == np.float64


def test_bernoulli_hits_with_its_probability() -> None:
    p = np.repeat(np.linspace(0, 1, 6, dtype=np.float32), 4000).reshape(1, 6, 4000)
    y = drawn("y = Bernoulli(x)", p)
    np.testing.assert_allclose(y.mean(2)[0], [0, 0.2, 0.4, 0.6, 0.8, 1], atol=0.03)
    assert set(np.unique(y)) == {0, 1}


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    x = np.ones((4, 50, 50), np.float32)
    y = drawn("y = Dropout(x, r, on)", x)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    both = with_fixed_draws(parsed("y, m = Dropout(x, r, on)"))
    both.graph.output.append(ValueInfoProto(name="m"))
    values = open_session(both).run({"x": x})
    np.testing.assert_array_equal(values["m"], values["y"] != 0)
    assert (drawn("y = Dropout(x, , on)", x) == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_dropout_that_is_off_is_left_alone() -> None:
    off = parsed("y = Dropout(x, r, off)")
    assert with_fixed_draws(off) is off
    assert drawing_ops(off) == ()
    computed = parsed("z = Not(on) y = Dropout(x, r, z)")
    x = nets.noise(2, 3, 4)
    np.testing.assert_array_equal(run(with_fixed_draws(computed), x), x)
    assert drawing_ops(computed) == ("Dropout",)


def test_multinomial_draws_with_the_softmax_of_its_rows() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2, 0.0001], [0.1, 0.1, 0.1, 0.7]], np.float32)) + 3
    model = parsed("y = Multinomial<sample_size=5000>(x)", rank=2)
    y = run(with_fixed_draws(model), logits)
    assert (y.dtype, y.shape) == (np.int32, (2, 5000))
    shares = [np.bincount(row, minlength=4) / 5000 for row in y]
    np.testing.assert_allclose(shares, [[0.5, 0.3, 0.2, 0], [0.1, 0.1, 0.1, 0.7]], atol=0.03)
    model.graph.node[0].attribute.append(helper.make_attribute("dtype", 7))
    assert run(with_fixed_draws(model), logits).dtype == np.int64


@pytest.mark.parametrize("body", [*(body for body, _, _ in FILLS.values()), "y = Dropout(x, r, on)"])
def test_a_sample_has_the_same_draws_in_every_batch_and_run(body: str) -> None:
    x = nets.noise(6, 5, 4)
    session = open_session(with_fixed_draws(parsed(body)))
    whole = session.run({"x": x})["y"]
    np.testing.assert_array_equal(session.run({"x": x})["y"], whole)
    for number in (3, 0):
        np.testing.assert_array_equal(session.run({"x": x[number : number + 1]})["y"][0], whole[number])
    other = session.run({"x": x + 1})["y"]
    assert (other != whole).mean() > 0.3


def test_nodes_draw_apart() -> None:
    y = drawn("a = RandomNormalLike(x) b = RandomNormalLike(x) y = Mul(a, b)", nets.noise(8, 30, 30))
    assert abs(y.mean()) < 0.05


def test_steps_of_a_loop_draw_apart() -> None:
    text = """g (float[N,C,L] x) => (y) {
        n = Constant<value = int64 {5}>()
        c = Constant<value = bool {1}>()
        last, y = Loop(n, c, x) <body = b (int64 i, bool go, float[N,C,L] s)
            => (bool more, float[N,C,L] t, float[N,C,L] z)
            { more = Identity(go)  t = Identity(s)  z = RandomNormalLike(s) }> }"""
    model = nets.build(text, {})
    y = run(with_fixed_draws(model), nets.noise(2, 10, 20)).reshape(5, -1)
    assert np.abs(np.corrcoef(y) - np.eye(5)).max() < 0.2


def test_steps_of_a_scan_draw_apart() -> None:
    text = """g (float[5,C,L] x) => (y) {
        y = Scan<num_scan_inputs = 1, body = b (float[C,L] s) => (float[C,L] z) { z = RandomNormalLike(s) }>(x) }"""
    y = run(with_fixed_draws(nets.build(text, {})), nets.noise(5, 10, 20)).reshape(5, -1)
    assert np.abs(np.corrcoef(y) - np.eye(5)).max() < 0.2


def test_branches_and_local_functions_draw_too() -> None:
    text = """g (float[N,C,L] x) => (y) {
        s = ReduceSum<keepdims = 0>(x)  z = Sub(s, s)  c = Equal(s, z)
        y = If(c) <then_branch = t () => (float[N,C,L] p) { p = Identity(x) },
                   else_branch = e () => (float[N,C,L] q) { q = RandomNormalLike(x) }> }"""
    model = nets.build(text, {})
    x = nets.noise(3, 4, 5)
    assert drawing_ops(model) == ("RandomNormalLike",)
    y = run(with_fixed_draws(model), x)
    np.testing.assert_array_equal(run(with_fixed_draws(model), x), y)
    assert y.std() > 0.5
    called = nets.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[N,C,L] x) => (float[N,C,L] y) { a = own.noisy(x)  y = own.noisy(a) }
        <domain: "own", opset_import: ["": 17]> noisy (a) => (b) { n = RandomNormalLike(a)  b = Add(a, n) }""")
    twice = run(with_fixed_draws(called), x) - x
    assert twice.std() == pytest.approx(2**0.5, abs=0.4)


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_nothing_is_drawn_for_axes_of_length_0(shape: tuple[int, ...]) -> None:
    assert drawn("y = RandomNormalLike(x)", np.zeros(shape, np.float32)).shape == shape


def test_inputs_of_any_type_decide() -> None:
    for name, x in {
        "string": np.array([["one"], ["two"], ["one"]], object),
        "int64": np.array([[1], [2], [1]]),
        "bool": np.array([[True], [False], [True]]),
    }.items():
        model = nets.build(f"g ({name}[3,1] x) => (float[3,50] y) {{ y = RandomNormal<shape = [3,50]>() }}", {})
        y = run(with_fixed_draws(model), x)
        np.testing.assert_array_equal(y[0], y[2])
        assert not np.array_equal(y[0], y[1])


def test_what_is_left_of_a_draw_is_what_it_was() -> None:
    """Twice cut: the indices are those of the first network."""
    x = nets.noise(3, 8, 4)
    whole = drawn("y = RandomNormalLike(x)", x)
    model = parsed("y = RandomNormalLike(x)")
    labels = [np.zeros(3, np.int64), np.arange(1, 9), np.zeros(4, np.int64)]
    keep = np.ones(9, np.bool_)
    keep[[2, 5]] = False
    record_kept_draws(model, {"y": labels}, keep)
    np.testing.assert_array_equal(run(with_fixed_draws(model), x[:, :6]).shape, (3, 6, 4))
    session = open_session(with_fixed_draws(model))
    keys = open_session(with_fixed_draws(parsed("y = RandomNormalLike(x)"))).keyed({"x": x})[KEYS]
    once = [0, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(session.run({"x": x[:, once], KEYS: keys})["y"], whole[:, once])
    again = np.ones(7, np.bool_)
    again[1] = False
    record_kept_draws(model, {"y": [labels[0], np.arange(1, 7), labels[2]]}, again)
    twice = [2, 3, 5, 6, 7]
    session = open_session(with_fixed_draws(model))
    np.testing.assert_array_equal(session.run({"x": x[:, twice], KEYS: keys})["y"], whole[:, twice])
    assert len(model.metadata_props) == 1
    assert json.loads(model.metadata_props[0].value) == {"y": [None, [8, twice], None]}
    plain = without_record(model)
    assert not plain.metadata_props
    assert without_record(plain) is plain
    assert plain.graph.SerializeToString() == parsed("y = RandomNormalLike(x)").graph.SerializeToString()
