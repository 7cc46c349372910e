"""How layers are put together in real networks: expected channels and groups, and the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.idioms import CONVOLUTIONAL, SEQUENTIAL, Idiom
from support.idioms_attention import ATTENTIONS
from support.idioms_computed import BLOCKS, PIECES
from support.oracle import check_oracle, problem

BATCHES = pytest.mark.parametrize("batch", ["free", "static"])
IDIOMS = (*CONVOLUTIONAL, *SEQUENTIAL, *ATTENTIONS, *PIECES, *BLOCKS)
BY_NAME = {idiom.name: idiom for idiom in ATTENTIONS}


def with_batch(idiom: Idiom, batch: str) -> Idiom:
    return idiom if batch == "free" else replace(idiom, x=idiom.x.replace("[N,", "[2,"))


def check(idiom: Idiom) -> None:
    case = check_oracle(idiom.model(), seeds=4, tolerance=idiom.tolerance)
    assert sorted(group.channels.size for group in case.graph.groups) == sorted(idiom.groups), case.reasons
    output_side = {tensor: reason for tensor, reason in case.reasons.items() if reason != "it is the graph output 'y'"}
    assert output_side.keys() == idiom.reasons.keys(), output_side
    for tensor, part in idiom.reasons.items():
        assert part in output_side[tensor]


@pytest.mark.parametrize("idiom", IDIOMS, ids=str)
def test_idiom(idiom: Idiom) -> None:
    check(idiom)


@pytest.mark.parametrize("idiom", [idiom for idiom in IDIOMS if "[N," in idiom.x], ids=str)
def test_idiom_with_a_static_batch(idiom: Idiom) -> None:
    check(with_batch(idiom, "static"))


def test_a_table_of_relative_positions_loses_the_heads() -> None:
    graph = problem(BY_NAME["Swin, windows and roll"].model()).graph
    positions, heads = graph.axes["table"]
    assert not positions.any()
    assert heads.tolist() == graph.axes["q"][1].tolist()
    assert heads.all()


WIDTHS = {
    "torch, traced": (16, 3, 3, 10),
    "torch, dynamo": (16, 3, 3, 10),
    "packed, Split of a 3-axis": (16, 3, 10),
    "packed, Slice of a 3-axis": (16, 3, 10),
    "packed, Split of the features": (16, 3, 3, 10),
    "packed per head": (16, 3, 3, 10),
    "tf2onnx": (16, 3, 3, 10),
    "paddle": (16, 3, 10),
    "grouped queries, Expand": (16, 3, 3, 10),
    "grouped queries, shared by broadcasting": (16, 3, 3, 10),
    "one key head, Expand": (16, 3, 3, 10),
    "cross attention": (16, 14, 3, 3, 10),
    "cosine attention": (16, 4, 10),
    "Swin, windows and roll": (12, 3),
}


@BATCHES
@pytest.mark.parametrize("name", WIDTHS)
def test_the_width_goes_where_it_is_asked_for(name: str, batch: str) -> None:
    """Queries and keys lose the same part of every head, values another one unless a 3-axis holds them together."""
    case = check_oracle(with_batch(BY_NAME[name], batch).model(), seeds=3, unit="width")
    assert sorted(group.channels.size for group in case.graph.groups) == sorted(WIDTHS[name]), case.reasons
