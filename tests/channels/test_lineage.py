"""Channels of a model and of one that was pruned from it: what vanished, appeared, was joined or split."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from support.graphs import build
from support.oracle import problem

from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.lineage import Lineage, lineage_of

WEIGHTS = "float[5,4] wa, float[5,4] wb, float[4,3] wc, float[4,3] wd"
FREE = "ra = Relu(a)\n rb = Relu(b)"
TIED = "s = Add(a, b)\n ra = Relu(s)\n rb = Relu(b)"
MAXIMUM = "m = ReduceMax<axes=[1],keepdims=1>(a)\n ra = Sub(a, m)\n rb = Relu(b)"


def network(middle: str) -> ModelProto:
    """Two layers side by side; what lies between their tensors decides on their channels."""
    return build(
        f"""g (float[N,5] x) => (float[N,3] y) <{WEIGHTS}> {{
            a = MatMul(x, wa)
            b = MatMul(x, wb)
            {middle}
            c = MatMul(ra, wc)
            d = MatMul(rb, wd)
            y = Add(c, d)
        }}"""
    )


def lineage(old: str, new: str) -> tuple[Lineage, ChannelGraph, ChannelGraph]:
    before, after = problem(network(old)).graph, problem(network(new)).graph
    found, graph = lineage_of(before, before.keep_all(), after)
    return found, before, graph


def widths(graph: ChannelGraph) -> list[int]:
    return [group.channels.size for group in graph.groups]


@pytest.mark.parametrize("middle", [FREE, TIED, MAXIMUM])
def test_the_same_model_has_the_same_channels(middle: str) -> None:
    found, before, after = lineage(middle, middle)
    np.testing.assert_array_equal(found.current, np.arange(before.count + 1))
    assert widths(after) == widths(before)


def test_channels_that_vanish_stay() -> None:
    found, before, after = lineage(FREE, MAXIMUM)
    assert (widths(before), widths(after)) == ([4, 4], [4])
    dropped = after.keep_all()
    dropped[after.groups[0].channels[:3]] = False
    lifted = found.lift(dropped)
    np.testing.assert_array_equal(lifted[before.axes["a"][1]], [True] * 4)
    np.testing.assert_array_equal(lifted[before.axes["b"][1]], [False, False, False, True])


def test_channels_that_appear_stay() -> None:
    found, before, after = lineage(MAXIMUM, FREE)
    assert (widths(before), widths(after)) == ([4], [4])
    assert not after.axes["a"][1].any()
    np.testing.assert_array_equal(found.current[before.axes["b"][1]], after.axes["b"][1])


def test_channels_that_are_joined_go_together() -> None:
    found, before, after = lineage(FREE, TIED)
    assert (widths(before), widths(after)) == ([4, 4], [4])
    dropped = after.keep_all()
    dropped[after.groups[0].channels[1]] = False
    for name in ("a", "b"):
        np.testing.assert_array_equal(found.lift(dropped)[before.axes[name][1]], [True, False, True, True])


def test_channels_that_are_split_go_together() -> None:
    found, before, after = lineage(TIED, FREE)
    assert (widths(before), widths(after)) == ([4], [4])
    np.testing.assert_array_equal(after.axes["a"][1], after.axes["b"][1])
    assert {consumer.weight for consumer in after.consumers} == {"wc", "wd"}
    np.testing.assert_array_equal(found.current[before.axes["a"][1]], after.axes["a"][1])


def test_what_went_before_has_no_channel() -> None:
    before, after = problem(network(FREE)).graph, problem(network(FREE)).graph
    keep = before.keep_all()
    keep[before.axes["a"][1]] = False
    found, graph = lineage_of(before, keep, after)
    # Nothing that is left of "a" can be seen in a model that still has all of it: it stays there.
    assert widths(graph) == [4]
    assert not found.lift(graph.keep_all())[before.axes["a"][1]].any()
    np.testing.assert_array_equal(found.lift(np.full(graph.count + 1, 7.0))[before.axes["b"][1]], [7.0] * 4)
