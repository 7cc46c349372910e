from __future__ import annotations

import itertools

import numpy as np

from onnxpfp.channels.labels import Labels
from onnxpfp.channels.ops import RULES
from onnxpfp.channels.ops.reshaping import blocks


def same(labels, parts, *groups):
    """Whether every group of labels is one component, and no two groups share one."""
    ids = [{int(parts.of_label[label]) for label in group} for group in groups]
    return all(len(i) == 1 for i in ids) and len(set.union(*ids)) == len(ids)


def test_fresh_labels_are_new_and_never_zero():
    labels = Labels()
    one, two = labels.fresh(3), labels.fresh(2)
    assert one.tolist() == [1, 2, 3]
    assert two.tolist() == [4, 5]
    assert labels.count == 6


def test_untied_labels_are_components_of_their_own():
    labels = Labels()
    a = labels.fresh(3)
    parts = labels.components()
    assert same(labels, parts, *([label] for label in a))
    assert parts.fixed.sum() == 1
    assert parts.fixed[parts.of_label[0]]


def test_ties_are_transitive():
    labels = Labels()
    a, b, c = (labels.fresh(2) for _ in range(3))
    labels.tie(a, b, "")
    labels.tie(c, b, "")
    parts = labels.components()
    assert same(labels, parts, [a[0], b[0], c[0]], [a[1], b[1], c[1]])


def test_tie_broadcasts():
    labels = Labels()
    grid, column = labels.fresh(6).reshape(2, 3), labels.fresh(2)
    labels.tie(grid, column[:, None], "")
    parts = labels.components()
    assert same(labels, parts, [*grid[0], column[0]], [*grid[1], column[1]])


def test_tie_with_zero_fixes_and_says_why():
    labels = Labels()
    a = labels.fresh(3)
    labels.tie(a, np.array([0, a[1], 0]), "Add 'n' joins it")
    parts = labels.components()
    assert parts.fixed[parts.of_label[a]].tolist() == [True, False, True]
    assert parts.reasons[parts.reason[parts.of_label[a[0]]]] == "Add 'n' joins it"
    assert parts.reason[parts.of_label[a[1]]] == -1


def test_fixing_one_label_fixes_its_component_in_any_order():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    labels.fix(a[:1], "first")
    labels.tie(a, b, "tie")
    parts = labels.components()
    assert parts.fixed[parts.of_label[b]].tolist() == [True, False]


def test_the_first_reason_counts():
    labels = Labels()
    a = labels.fresh(2)
    labels.fix(a, "first")
    labels.fix(a, "second")
    parts = labels.components()
    assert {parts.reasons[parts.reason[parts.of_label[label]]] for label in a} == {"first"}


def test_reason_of_a_long_chain_is_the_cause_at_its_end():
    labels = Labels()
    chain = [labels.fresh(4) for _ in range(50)]
    for left, right in itertools.pairwise(chain):
        labels.tie(left, right, "tie")
    labels.fix(chain[-1][:2], "it is the graph output 'y'")
    parts = labels.components()
    assert parts.fixed[parts.of_label[chain[0]]].tolist() == [True, True, False, False]
    assert parts.reasons[parts.reason[parts.of_label[chain[0][0]]]] == "it is the graph output 'y'"


def test_blocks_pair_axes_of_equal_products():
    assert list(blocks((1, 8, 6, 6), (1, 288))) == [([0], [0]), ([1, 2, 3], [1])]
    assert list(blocks((1, 8, 36), (1, 2, 4, 36))) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert list(blocks((2, 3), (6,))) == [([0, 1], [0])]
    assert list(blocks((6, 4), (4, 6))) == [([0, 1], [0, 1])]
    assert list(blocks((8,), (8, 1))) == [([0], [0]), ([], [1])]


def test_every_rule_has_a_docstring():
    assert all(rule.__doc__ for rule in RULES.values())
    assert len(RULES) > 100
