"""How layers are put together in real networks: expected channels and groups, and the oracle."""

from __future__ import annotations

import pytest
from support.idioms import CONVOLUTIONAL, SEQUENTIAL
from support.oracle import check_oracle


def check(idiom):
    case = check_oracle(idiom.model(), seeds=4, tolerance=idiom.tolerance)
    assert sorted(group.channels.size for group in case.graph.groups) == sorted(idiom.groups), case.reasons
    output_side = {tensor: reason for tensor, reason in case.reasons.items() if reason != "it is the graph output 'y'"}
    assert output_side.keys() == idiom.reasons.keys(), output_side
    for tensor, part in idiom.reasons.items():
        assert part in output_side[tensor]


@pytest.mark.parametrize("idiom", CONVOLUTIONAL, ids=str)
def test_convolutional_idiom(idiom):
    check(idiom)


@pytest.mark.parametrize("idiom", SEQUENTIAL, ids=str)
def test_sequential_idiom(idiom):
    check(idiom)
