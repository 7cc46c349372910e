"""The reach of channels by the weights alone: whatever flows into them counts, or is said to be in doubt."""

from __future__ import annotations

import json
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto

from onnxpfp.channels import Analysis
from onnxpfp.linear.reach import Reaches, reaches_of
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run

ORACLES = nets.SHARED / "oracles" / "oracles.json"
TWO = """g (float[N,2] x) => (float[N,2] y) {
    h = Gemm <transB=1> (x, w1, b1) r = Relu(h) y = Gemm <transB=1> (r, w2)
}"""
HEAD = "g (float[N,5] x) => (float[N,3] y) {{ h = Gemm(x, w1, b1) {} y = MatMul(s, w3) }}"
HEAD_SHAPES: dict[str, Any] = {"w1": (5, 6), "b1": (6,), "w3": (6, 3)}


def opened(model: ModelProto, **given: Any) -> tuple[Analysis, Reaches]:
    analysis = open_run(model, None, Options(**given), ()).whole
    return analysis, reaches_of(analysis)


def of_group(model: ModelProto, name: str = "w1") -> tuple[np.ndarray, str]:
    """Reach and doubt of the group that a weight brings forth."""
    analysis, reaches = opened(model)
    found = {
        g.name: (reaches.values[g.channels], d) for g, d in zip(analysis.graph.groups, reaches.doubts, strict=True)
    }
    return found[name]


def norms(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """||[F_j; b_j]|| of a matrix (D, C)."""
    return np.sqrt(np.square(weight.astype(np.float64)).sum(0) + np.square(bias.astype(np.float64)))


@pytest.mark.shared
def test_the_fully_connected_oracle() -> None:
    if not ORACLES.exists():
        pytest.skip(f"{ORACLES} is not there")
    a = {name: np.asarray(value) for name, value in json.loads(ORACLES.read_text())["A"].items() if name[0] in "Wbst"}
    reach, doubt = of_group(nets.build(TWO, {"w1": a["W1"], "b1": a["b1"], "w2": a["W2"]}))
    s = (np.abs(a["W2"]) * reach).max(axis=0)
    np.testing.assert_allclose(s, a["s"], rtol=1e-6)
    assert s.sum() == pytest.approx(a["t"], rel=1e-6)
    assert not doubt


def test_a_bias_extends_the_norm() -> None:
    rows = np.array([[3, 4], [1, 0], [0, 2], [0.6, 0.8]])
    reach, _ = of_group(nets.build(TWO, {"w1": rows, "b1": np.array([0, 0, 2, 1.0]), "w2": (2, 4)}))
    np.testing.assert_allclose(reach, [5, 1, 2 * 2**0.5, 2**0.5], rtol=1e-6)


STEPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ReLU": ("s = Relu(h)", {}, "n"),
    "pooled, turned and turned back": (
        "u = Unsqueeze(h, two) p = GlobalMaxPool(u) t = Transpose <perm = [0,2,1]> (p) "
        "q = Transpose <perm = [0,2,1]> (t) s = Flatten(q)",
        {"two": np.array([2])},
        "n",
    ),
    "Clip around zero": ("s = Clip(h, low, high)", {"low": np.array(0.0), "high": np.array(6.0)}, "n"),
    "a bias of its own": ("r = Relu(h) s = Add(r, c)", {"c": (6,)}, "n + abs(w['c'])"),
    "a number that is added": ("s = Sub(h, c)", {"c": np.array([3.0])}, "n + 3"),
    "BatchNormalization behind ReLU": (
        "r = Relu(h) s = BatchNormalization <epsilon = 0.0> (r, g, b, m, v)",
        {"g": (6,), "b": (6,), "m": (6,), "v": np.arange(1.0, 7.0)},
        "n * abs(w['g']) / np.sqrt(w['v']) + abs(w['b'] - w['m'] * w['g'] / np.sqrt(w['v']))",
    ),
    "a scale": ("r = Relu(h) s = Mul(r, c)", {"c": (6,)}, "n * abs(w['c'])"),
    "its own sigmoid": ("q = Sigmoid(h) s = Mul(h, q)", {}, "n"),
    "a gate": ("k = MatMul(x, w2) q = Sigmoid(k) s = Mul(h, q)", {"w2": (5, 6)}, "n"),
    "a gate of one number": ("k = MatMul(x, w2) q = Sigmoid(k) s = Mul(h, q)", {"w2": (5, 1)}, "n"),
    "a sigmoid": ("s = Sigmoid(h)", {}, "np.ones(6)"),
    "a branch": ("k = MatMul(x, w2) q = Relu(k) s = Add(h, q)", {"w2": (5, 6)}, "n + norms(w['w2'], np.zeros(6))"),
    "itself, twice": ("s = Add(h, h)", {}, "2 * n"),
    "a gentle slope": ("s = PRelu(h, c)", {"c": np.array([0.25])}, "n"),
    "Elu with a steep end": ("s = Elu <alpha = 4.0> (h)", {}, "4 * n"),
    "Selu": ("s = Selu(h)", {}, "1.0507009 * 1.6732632 * n"),
    "a steep leak": ("s = LeakyRelu <alpha = -2.0> (h)", {}, "2 * n"),
    "Softplus": ("s = Softplus(h)", {}, "n + np.log(2)"),
    "GELU, spelled out": (
        "d = Div(h, root) e = Erf(d) o = Add(e, one) p = Mul(h, o) s = Mul(p, half)",
        {"root": np.array(2.0**0.5), "one": np.array(1.0), "half": np.array(0.5)},
        "n",
    ),
    "h-swish, spelled out": (
        "a = Add(h, three) c = Clip(a, zero, six) p = Mul(h, c) s = Div(p, six)",
        {"three": np.array(3.0), "zero": np.array(0.0), "six": np.array(6.0)},
        "n",
    ),
    "a gate that is clipped": (
        "k = MatMul(x, w2) q = Clip(k, low, high) s = Mul(h, q)",
        {"w2": (5, 6), "low": np.array(-2.0), "high": np.array(1.5)},
        "2 * n",
    ),
    "a division by numbers": ("s = Div(h, c)", {"c": np.arange(1.0, 7.0)}, "n / w['c']"),
    "a steep slope": ("s = PRelu(h, c)", {"c": np.array([-3.0])}, "3 * n"),
}
"""What lies between a Gemm and its consumer, and the reach there by the norms n of the Gemm's filters."""


def built(step: str, shapes: dict[str, Any], head: str = HEAD) -> ModelProto:
    model = nets.build(head.format(step), {**HEAD_SHAPES, **{k: v for k, v in shapes.items() if k != "two"}})
    if "two" in shapes:
        model.graph.initializer.append(nets.numpy_helper.from_array(shapes["two"].astype(np.int64), "two"))
    return model


@pytest.mark.parametrize("name", STEPS)
def test_what_is_known_is_counted(name: str) -> None:
    step, shapes, formula = STEPS[name]
    model = built(step, shapes)
    w = {key: value.astype(np.float64) for key, value in nets.weights(model).items()}
    expected = eval(formula, {"np": np, "norms": norms, "w": w, "n": norms(w["w1"], w["b1"])})
    reach, doubt = of_group(model)
    np.testing.assert_allclose(reach, expected, rtol=1e-5)
    assert not doubt
    # And it is a bound: R is the norm of what is read, with a 1 appended.
    for row in nets.noise(50, 5, seed=3):
        radius = np.sqrt(np.square(row).sum() + 1)
        read = nets.values(model, {"x": row[None]})["s"][0].reshape(6, -1)
        assert (np.abs(read).max(1) <= radius * reach * (1 + 1e-5)).all()


DOUBTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "two activations": ("k = MatMul(x, w2) s = Mul(h, k)", {"w2": (5, 6)}, "multiplies two activations"),
    "an exponential": ("s = Exp(h)", {}, "does not follow from weights"),
    "another normalization": (
        "u = Unsqueeze(h, two) i = InstanceNormalization(u, c, c) s = Flatten(i)",
        {"c": (6,), "two": np.array([2])},
        "does not follow from weights",
    ),
    "Clip off zero": ("s = Clip(h, low)", {"low": np.array(2.0)}, "does not follow from weights"),
    "a division": ("k = Abs(h) d = Add(k, c) s = Div(h, d)", {"c": (6,)}, "does not follow from weights"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_not_known_is_in_doubt_and_still_counted(name: str) -> None:
    step, shapes, why = DOUBTS[name]
    reach, doubt = of_group(built(step, shapes))
    assert why in doubt
    assert (reach > 0).all()


def test_an_input_that_is_added_is_in_doubt() -> None:
    head = "g (float[N,5] x, float[N,1] z) => (float[N,3] y) {{ h = Gemm(x, w1, b1) {} y = MatMul(s, w3) }}"
    model = built("s = Add(h, z)", {}, head)
    reach, doubt = of_group(model)
    assert doubt == "'z' is an input of the model"
    w = nets.weights(model)
    np.testing.assert_allclose(reach, norms(w["w1"], w["b1"]) + 1, rtol=1e-5)


def test_an_embedding_counts_with_its_largest_number() -> None:
    text = """g (int64[N,4] x) => (float[N,4,3] y) {
        e = Gather(table, x) h = MatMul(e, w1) r = Relu(h) k = MatMul(r, w2) s = Add(e, k) y = MatMul(s, w3)
    }"""
    model = nets.build(text, {"table": (12, 8), "w1": (8, 10), "w2": (10, 8), "w3": (8, 3)})
    reach, doubt = of_group(model, "table")
    w = nets.weights(model)
    np.testing.assert_allclose(reach, np.abs(w["table"]).max(0) + norms(w["w2"], np.zeros(8)), rtol=1e-5)
    assert not doubt


@pytest.mark.parametrize("state", [False, True])
def test_states_of_a_recurrence_lie_within_one(state: bool) -> None:
    text = f"""g (float[7,2,5] x) => (float[7,2,3] y) {{
        q, q_h = GRU <hidden_size = 6> (x, w1, r1{", , , z" if state else ""}) s = Squeeze(q, one) y = MatMul(s, w3)
    }}"""
    model = nets.build(text, {"w1": (1, 18, 5), "r1": (1, 18, 6), "w3": (6, 3), "z": np.full((1, 2, 6), 9.0)})
    model.graph.initializer.append(nets.numpy_helper.from_array(np.array([1], np.int64), "one"))
    analysis, reaches = opened(model)
    (group,) = analysis.graph.groups
    assert (reaches.values[group.channels] >= 1.0).all()
    assert bool(reaches.doubts[0]) == state


DROPPING = """g (float[N,5] x) => (float[N,3] y) <float rate = {{0.75}}, bool on = {{1}}, bool off = {{0}}> {{
    h = Gemm(x, w1, b1) {} y = MatMul(s, w3)
}}"""


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("s = Dropout(h)", ""),
        ("s = Dropout(h, rate)", ""),
        ("s = Dropout(h, rate, off)", ""),
        ("s = Dropout(h, rate, on)", "how large Dropout 'node_s' can get does not follow from weights"),
        ("d, q = Dropout(h) s = Cast <to = 1> (q)", "how large Dropout 'node_d' can get does not follow from weights"),
    ],
)
def test_dropout_that_draws_makes_larger_what_is_left(step: str, why: str) -> None:
    model = built(step, {}, DROPPING)
    reach, doubt = of_group(model)
    assert doubt == why
    w = nets.weights(model)
    assert why or reach == pytest.approx(norms(w["w1"], w["b1"]), rel=1e-5)
