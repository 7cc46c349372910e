"""Where the output of a linear op is compared."""

from __future__ import annotations

import numpy as np
import pytest
from nets import noise, values
from onnx import numpy_helper
from support.graphs import build

HEAD = "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w, float[4] b, float[4] s, float[4] o, float[4] m, float[4] v, "
BODIES = {
    "nothing": "float[1] u> { a = Conv(x, w, b)  y = Sigmoid(a) }",
    "norm": "float[1] u> { a = Conv(x, w, b)  n = BatchNormalization(a, s, o, m, v)  y = Sigmoid(n) }",
    "norm, relu": "float[1] u> { a = Conv(x, w, b)  n = BatchNormalization(a, s, o, m, v)  y = Relu(n) }",
    "constant": "float[4,1,1] u> { a = Conv(x, w, b)  n = Add(u, a)  y = Relu(n) }",
    "scalar": "float[1] u> { a = Conv(x, w, b)  n = Add(a, u)  y = Sigmoid(n) }",
    "shortcut right": "float[4,3,3,3] u> { k = Conv(x, u)  r = Sigmoid(k)  a = Conv(x, w, b)  n = Add(a, r)"
    "  y = Relu(n) }",
    "shortcut left": "float[4,3,3,3] u> { k = Conv(x, u)  r = Sigmoid(k)  a = Conv(x, w, b)  n = Add(r, a)"
    "  y = Relu(n) }",
    "all": "float[4,3,3,3] u> { k = Conv(x, u)  r = Sigmoid(k)  a = Conv(x, w, b)"
    "  c = BatchNormalization(a, s, o, m, v)  n = Add(r, c)  y = Relu(n) }",
}
TENSOR = {"nothing": "a", "norm": "n", "norm, relu": "n", "constant": "n", "scalar": "n", "shortcut right": "n"}
TENSOR |= {"shortcut left": "n", "all": "n"}


@pytest.mark.parametrize("kind", BODIES)
def test_what_is_compared_is_scale_times_output_and_what_is_added(make_problem, kind: str) -> None:
    model = build(HEAD + BODIES[kind])
    _, layers, _ = make_problem(model)
    regression_target = layers["a"].target
    assert regression_target.tensor == TENSOR[kind]
    assert regression_target.shortcut == ("r" if "shortcut" in kind or kind == "all" else "")
    assert regression_target.rectified == ("= Relu(" in BODIES[kind])
    found = values(model, {"x": noise(2, 3, 6, 6)})
    per_channel = regression_target.scale[:, None, None], regression_target.offset[:, None, None]
    made = (
        per_channel[0] * found["a"]
        + per_channel[1]
        + (found[regression_target.shortcut] if regression_target.shortcut else 0)
    )
    np.testing.assert_allclose(made, found[regression_target.tensor], atol=1e-5)


STOPS = {
    "shown": "g (float[N,3,6,6] x) => (a, y) <float[4,3,3,3] w> { a = Conv(x, w)  y = Relu(a) }",
    "read twice": "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w> { a = Conv(x, w)  b = Sigmoid(a)  y = Mul(a, b) }",
    "added to itself": "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w> { a = Conv(x, w)  y = Add(a, a) }",
    "broadcast": "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w> "
    "{ a = Conv(x, w)  p = GlobalAveragePool(a)  q = Sigmoid(p)  y = Add(a, q) }",
    "norm of changing numbers": "g (float[N,3,6,6] x, float[4] s) => (y) <float[4,3,3,3] w, float[4] o, float[4] m, "
    "float[4] v> { a = Conv(x, w)  y = BatchNormalization(a, s, o, m, v) }",
    "constant map": "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w, float[4,4,4] u> { a = Conv(x, w)  y = Add(a, u) }",
    "constant along the width": "g (float[N,3,6,6] x) => (y) <float[4,3,3,3] w, float[4] u> "
    "{ a = Conv(x, w)  y = Add(a, u) }",
}


@pytest.mark.parametrize("kind", STOPS)
def test_what_is_not_affine_and_alone_ends_the_outlook(make_problem, kind: str) -> None:
    _, layers, _ = make_problem(build(STOPS[kind]))
    regression_target = layers["a"].target
    assert regression_target.tensor == "a"
    assert not regression_target.rectified
    np.testing.assert_array_equal(regression_target.scale, 1)
    np.testing.assert_array_equal(regression_target.offset, 0)


def test_a_sum_that_is_shown_is_compared_there_without_the_relu(make_problem) -> None:
    model = build("g (float[N,4,6,6] x) => (n, y) <float[4,4,1,1] w> { a = Conv(x, w)  n = Add(a, x)  y = Relu(n) }")
    _, layers, _ = make_problem(model)
    assert (layers["a"].target.tensor, layers["a"].target.shortcut) == ("n", "x")
    assert not layers["a"].target.rectified


def test_a_scale_of_next_to_nothing_counts_as_none(make_problem) -> None:
    model = build(HEAD + BODIES["norm, relu"])
    gamma = np.array([1.0, -0.5, 0.0, 1e-9], np.float32)
    next(t for t in model.graph.initializer if t.name == "s").CopyFrom(numpy_helper.from_array(gamma, "s"))
    _, layers, _ = make_problem(model)
    assert (np.sign(layers["a"].target.scale) == [1, -1, 0, 0]).all()
