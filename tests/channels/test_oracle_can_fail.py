"""The oracle is worth something: a rule that is wrong on purpose does not pass."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import check_oracle
from support.rows import Row, model_of

from onnxpfp.channels.ops import RULES

RESIDUAL = Row("", "p = Conv(c, w)\nq = Conv(e, w2)\nd = Add(p, q)", 0, weights="float[8,8,1,1] w, float[8,8,1,1] w2")


def untied(n):
    n.set(n.axes(0))


def test_dropped_tie_of_add_is_seen(monkeypatch):
    model = model_of(RESIDUAL)
    check_oracle(model)
    monkeypatch.setitem(RULES, "Add", untied)
    with pytest.raises(Exception, match=r"(?i)broken|incompatible|broadcast"):
        check_oracle(model)


def test_wrong_order_of_labels_is_seen(monkeypatch):
    """Shapes stay right, numbers do not."""

    def reversed_concat(n):
        parts = [n.axes(i) for i in range(len(n.node.input))]
        n.set((parts[0][0], np.concatenate([part[1] for part in parts[::-1]]), *parts[0][2:]))

    model = model_of(Row("", "d = Concat<axis=1>(c, e)", 0))
    check_oracle(model)
    monkeypatch.setitem(RULES, "Concat", reversed_concat)
    with pytest.raises(AssertionError, match="pruned is not the masked original"):
        check_oracle(model)


def test_number_that_is_not_spelt_is_seen(monkeypatch):
    model = model_of(Row("", "d = Conv<group=8>(c, w)", 0, weights="float[8,1,3,3] w"))
    check_oracle(model)
    rule = RULES["Conv"]

    def silent(n):
        rule(n)
        n.size_refs.clear()

    monkeypatch.setitem(RULES, "Conv", silent)
    with pytest.raises(Exception, match=r"(?i)group|broken|channels"):
        check_oracle(model)
