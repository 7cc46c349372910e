"""One row per op that draws random numbers, drawn with next to no spread, so that every runtime draws the same."""

from __future__ import annotations

import pytest
from support.rows import Row, check_row

STEADY = "mean=0.5, scale=1e-20"
SEEDED = "draws from a seed, other numbers for another shape"
ROWS = [
    Row("RandomNormalLike", f"n = RandomNormalLike<{STEADY}>(c)\nd = Add(c, n)", 8),
    Row("RandomNormalLike, opset 9", f"n = RandomNormalLike<{STEADY}>(c)\nd = Mul(c, n)", 8, opset=9),
    Row("RandomUniformLike", "n = RandomUniformLike<low=0.5, high=0.5>(c)\nd = Mul(n, c)", 8),
    Row("like another branch", f"n = RandomNormalLike<{STEADY}>(c)\nd = Add(e, n)", 8),
    Row(
        "like a shape that is computed",
        f"s = Shape(c)\nz = ConstantOfShape(s)\nn = RandomNormalLike<{STEADY}>(z)\nd = Add(c, n)",
        8,
    ),
    Row("RandomNormal", f"n = RandomNormal<{STEADY}, shape=[1, 8, 6, 6]>()\nd = Add(c, n)", 8),
    Row("RandomNormal, of all channels", f"n = RandomNormal<{STEADY}, shape=[1, 1, 6, 6]>()\nd = Add(c, n)", 8),
    Row("RandomUniform", "n = RandomUniform<low=0.5, high=0.5, shape=[8, 1, 1]>()\nd = Mul(c, n)", 8),
    Row(
        "Bernoulli",
        "g = Greater(c, k)\nf = Cast<to=1>(g)\nb = Bernoulli(f)\nd = Add(c, b)",
        8,
        weights="float k = {0.1}",
    ),
    Row("Dropout in training", "d = Dropout(c, r, t)", 8, weights="float r = {0.0}, bool t = {1}"),
    Row(
        "mask of a Dropout in training",
        "a, m = Dropout(c, r, t)\nb = Tanh(c)\nd = Where(m, b, a)",
        8,
        weights="float r = {0.0}, bool t = {1}",
    ),
    Row("RandomNormalLike with a seed", "n = RandomNormalLike<seed=1.0>(c)\nd = Add(c, n)", 0, fixed={"w_in": SEEDED}),
    Row(
        "RandomUniform with a seed",
        "n = RandomUniform<seed=1.0, shape=[8, 1, 1]>()\nd = Mul(c, n)",
        0,
        fixed={"w_in": "Mul 'd' joins it with an axis that stays"},
    ),
    Row(
        "Dropout with a seed",
        "d = Dropout<seed=1>(c, r, t)",
        0,
        weights="float r = {0.5}, bool t = {1}",
        fixed={"w_in": SEEDED},
    ),
    Row("seeded Dropout that is off", "d = Dropout<seed=1>(c, r)", 8, weights="float r = {0.5}"),
    Row(
        "Multinomial",
        "m = Multinomial<sample_size=4>(c)\nf = Cast<to=1>(m)\nd = Identity(f)",
        0,
        x="float[4,3] x",
        tail=False,
        fixed={"w_in": "draws indices of it"},
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
