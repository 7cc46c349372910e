"""One row per case of Einsum and of the recurrent ops."""

from __future__ import annotations

import numpy as np
import pytest
from support.graphs import build
from support.oracle import check_oracle, problem
from support.rows import ROWS, TOKENS, Row, check_row

from onnxpfp import prune
from onnxpfp.model.equation import expand

EINSUM = [
    Row("matrix", 'd = Einsum<equation="nk,ko->no">(c, w)', 14, 2, "float[8,6] w", x=ROWS),
    Row("matrix, weight first", 'd = Einsum<equation="ok,nk->no">(w, c)', 14, 2, "float[6,8] w", x=ROWS),
    Row("implicit result", 'd = Einsum<equation="ak, kz">(c, w)', 14, 2, "float[8,6] w", x=ROWS),
    Row("ellipsis", 'd = Einsum<equation="...k,ko->...o">(c, w)', 14, 2, "float[8,6] w", x=TOKENS, head="matmul"),
    Row("Conv by letters", 'd = Einsum<equation="bchw,oc->bohw">(c, w)', 14, 2, "float[6,8] w"),
    Row(
        "stack of matrices",
        'd = Einsum<equation="bsk,bko->bso">(c, w)',
        14,
        2,
        "float[2,8,6] w",
        {"w": "Einsum 'd'"},
        x=TOKENS,
        head="matmul",
    ),
    Row("two activations", 'd = Einsum<equation="nk,mk->nm">(c, e)', 8, 1, x=ROWS, tail=False),
    Row(
        "transpose",
        't = Einsum<equation="bsk->bks">(c)\nd = Einsum<equation="bks->bsk">(t)',
        8,
        1,
        x=TOKENS,
        head="matmul",
    ),
    Row("elementwise", 'd = Einsum<equation="nk,nk->nk">(c, e)', 8, 1, x=ROWS),
    Row("sum", 'd = Einsum<equation="nk->n">(c)', 0, fixed={"w_in": "sums over it"}, x=ROWS, tail=False),
    Row(
        "three operands",
        'd = Einsum<equation="nk,nk,ko->no">(c, e, w)',
        6,
        1,
        "float[8,6] w",
        {"w_in": "sums over it", "w_e": "sums over it", "w": "sums over it"},
        x=ROWS,
    ),
    Row(
        "heads that a projection contracts",
        's = Constant<value = int64[4] {2,4,2,4}>()\nr = Reshape(c, s)\nd = Einsum<equation="bshw,hwo->bso">(r, w)',
        10,
        2,
        "float[2,4,6] w",
        x=TOKENS,
        head="matmul",
    ),
]


@pytest.mark.parametrize("row", EINSUM, ids=str)
def test_einsum(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize(
    ("equation", "ranks", "wanted"),
    [
        ("ij,jk->ik", [2, 2], (["ij", "jk"], "ik")),
        ("ij, jk", [2, 2], (["ij", "jk"], "ik")),
        ("...ij,...jk->...ik", [4, 3], (["abij", "bjk"], "abik")),
        ("...i,i", [3, 1], (["abi", "i"], "ab")),
        ("ii->i", [2], (["ii"], "i")),
    ],
)
def test_equations_are_spelt_out(equation: str, ranks: list[int], wanted: tuple[list[str], str]) -> None:
    assert expand(equation, ranks) == wanted


def test_an_equation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        expand("ij->i", [3])


def recurrent(op: str, gates: int, *, extra: str = "", inputs: str = "", weights: str = "", shown: str = "s") -> Row:
    """A recurrence over 5 steps of 2 sequences with 8 inputs and 6 units in each of 2 directions."""
    outputs = {"s": "y1", "l": ", h1", "sl": "y1, h1"}[shown]
    flat = {"s": "y1", "l": "h1", "sl": "y1"}[shown]
    perm = "0,2,1,3" if flat == "y1" else "1,0,2"
    shape = "5,2,12" if flat == "y1" else "2,12"
    body = (
        f'{outputs} = {op}<hidden_size=6, direction="bidirectional"{extra}>(c, w, r{inputs})\n'
        f"t = Transpose<perm=[{perm}]>({flat})\n"
        f"s = Constant<value = int64[{len(shape.split(','))}] {{{shape}}}>()\n"
        "d = Reshape(t, s)"
    )
    declared = f"float[2,{6 * gates},8] w, float[2,{6 * gates},6] r{weights}"
    name = f"{op} {extra}{inputs}{shown}"
    fixed = {state: "joins it with an axis that stays" for state in ("h0", "c0") if state in inputs}
    return Row(name, body, 14, 2, declared, fixed, x="float[5,2,3] x", head="matmul", tolerance=2e-5)


RECURRENT = [
    recurrent("LSTM", 4),
    recurrent("LSTM", 4, inputs=", b", weights=", float[2,48] b"),
    recurrent(
        "LSTM", 4, inputs=", b, , h0, c0, p", weights=", float[2,48] b, float[2,2,6] h0, float[2,2,6] c0, float[2,18] p"
    ),
    recurrent("LSTM", 4, shown="sl"),
    recurrent("LSTM", 4, shown="l"),
    recurrent("GRU", 3, inputs=", b", weights=", float[2,36] b"),
    recurrent(
        "GRU", 3, extra=", linear_before_reset=1", inputs=", b, , h0", weights=", float[2,36] b, float[2,2,6] h0"
    ),
    recurrent("RNN", 1, inputs=", b", weights=", float[2,12] b"),
    recurrent("RNN", 1, extra=', activations=["Relu","Relu"]'),
]


@pytest.mark.parametrize("row", RECURRENT, ids=str)
def test_recurrent(row: Row) -> None:
    check_row(row)


def test_stacked_recurrences_are_measured_and_pruned() -> None:
    model = build(
        """g (float[7,B,5] x) => (float[7,B,4] y) <float[1,32,5] w1, float[1,32,8] r1,
            float[1,24,8] w2, float[1,24,8] r2, float[8,4] v, int64[1] one = {1}> {
            a = LSTM<hidden_size=8>(x, w1, r1)
            b = Squeeze(a, one)
            c, h = GRU<hidden_size=8>(b, w2, r2)
            d = Squeeze(c, one)
            y = MatMul(d, v)
        }"""
    )
    case = problem(model)
    assert case.graph.count == 16
    check_oracle(model, tolerance=2e-5, seeds=3)
    rng = np.random.default_rng(0)
    result = prune(model, calibration=rng.standard_normal((7, 6, 5)).astype(np.float32), keep_macs=0.5)
    assert result.report.oracle.error < 1e-4
