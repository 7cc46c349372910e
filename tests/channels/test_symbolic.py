"""Shape arithmetic: entries that remember where their numbers come from."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from onnxpfp.channels.size_edits import renumber
from onnxpfp.channels.symbolic import Computed, Const, Dim, as_plain, constant, evaluate, fold, leaves
from onnxpfp.channels.types import IndexRef
from onnxpfp.model.attributes import Attributes


def shape(name: str, *sizes: int):
    out = np.empty(len(sizes), object)
    out[:] = [Dim(name, axis, size) for axis, size in enumerate(sizes)]
    return out


def const(*numbers: int, name: str = "k"):
    return constant(name, np.array(numbers, np.int64))


def halved(leaf):
    """Every length halves; constants stay."""
    return leaf.value // 2 if isinstance(leaf, Dim) else leaf.value


NONE = Attributes(helper.make_node("Identity", [], ["y"]))
X = shape("x", 2, 8, 6)


def test_constant_entries_know_tensor_and_position():
    entries = constant("k", np.array([[4, 5], [6, 7]]))
    assert entries[1, 0] == Const("k", 2, 6)
    assert as_plain(entries).tolist() == [[4, 5], [6, 7]]


CASES = [
    ("Gather", [X, constant("", np.array(1))], {}, 8),
    ("Gather", [X, constant("", np.array([2, 0]))], {"axis": 0}, [6, 2]),
    ("Slice", [X, const(1), const(100)], {}, [8, 6]),
    ("Slice", [X, const(-1), const(-100), const(0), const(-1)], {}, [6, 8, 2]),
    ("Slice", [X], {"starts": [0], "ends": [2], "axes": [0]}, [2, 8]),
    ("Concat", [X[:1], const(-1), X[2:]], {"axis": 0}, [2, -1, 6]),
    ("Unsqueeze", [X, const(0)], {}, [[2, 8, 6]]),
    ("Unsqueeze", [X], {"axes": [1]}, [[2], [8], [6]]),
    ("Squeeze", [X[1:2]], {}, 8),
    ("Reshape", [X, const(3, 1)], {}, [[2], [8], [6]]),
    ("Flatten", [X], {"axis": 0}, [[2, 8, 6]]),
    ("Transpose", [X.reshape(1, 3)], {"perm": [1, 0]}, [[2], [8], [6]]),
    ("Cast", [X], {"to": 6}, [2, 8, 6]),
    ("Identity", [X], {}, [2, 8, 6]),
    ("Add", [X, const(1)], {}, [3, 9, 7]),
    ("Sub", [X, const(1)], {}, [1, 7, 5]),
    ("Mul", [X, X], {}, [4, 64, 36]),
    ("Div", [X, const(2)], {}, [1, 4, 3]),
    ("Mod", [X, const(4)], {}, [2, 0, 2]),
    ("Neg", [X], {}, [-2, -8, -6]),
    ("Min", [X, const(5), const(7)], {}, [2, 5, 5]),
    ("Max", [X, const(5)], {}, [5, 8, 6]),
    ("Equal", [X, const(8)], {}, [0, 1, 0]),
    ("Where", [const(1, 0, 1), X, const(9)], {}, [2, 9, 6]),
    ("ReduceProd", [X], {"keepdims": 0}, 96),
    ("ReduceProd", [X], {}, [96]),
    ("ReduceSum", [X, const(0)], {"keepdims": 1}, [16]),
    ("ReduceMax", [X], {"axes": [0], "keepdims": 0}, 8),
    ("Range", [constant("", np.array(n)) for n in (1, 7, 2)], {}, [1, 3, 5]),
    ("ConstantOfShape", [const(2, 2)], {"value": numpy_helper.from_array(np.array([3]))}, [[3, 3], [3, 3]]),
    ("Expand", [const(5), const(3)], {}, [5, 5, 5]),
]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "wanted"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_fold(op, inputs, attributes, wanted):
    node = helper.make_node(op, [], ["y"], **attributes)
    found = fold(op, inputs, Attributes(node))
    assert found is not None
    assert as_plain(found).tolist() == wanted


def test_op_on_numbers_follows_a_change_of_its_lengths():
    product = fold("Mul", [X[1:2], const(3)], NONE)
    assert product is not None
    assert isinstance(product[0], Computed)
    assert set(leaves(product[0])) == {Dim("x", 1, 8), Const("k", 0, 3)}
    assert evaluate(product[0], halved) == 12


def test_division_rounds_toward_zero_as_onnx_does():
    found = fold("Div", [const(-7, 7), const(2)], NONE)
    assert found is not None
    assert as_plain(found).tolist() == [-3, 3]


def test_other_ops_are_no_shape_arithmetic():
    assert fold("Relu", [X], NONE) is None
    assert fold("Range", [X[:1], X[1:2], const(1)], NONE) is None


def test_renumber_moves_up_and_drops():
    keep = np.array([True, True, False, True, True])
    axis = np.array([1, 2, 3, 4])
    assert renumber(np.array([3, 0, 1]), IndexRef(0, 1, axis, (np.array([4, 1, 2]),)), keep).tolist() == [2, 0]
    assert renumber(np.array([-1, -4]), IndexRef(0, 1, axis, (np.array([4, 1]),)), keep).tolist() == [-1, -3]
    assert renumber(np.array(3), IndexRef(0, 1, axis, ()), keep).shape == ()
