"""Keep half of every group of channels of one file, and hold the result against the masked original."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import AnyArray
from onnxpfp.channels import Analysis, ChannelGraph, Group, Patterns, build_channel_graph
from onnxpfp.channels.macs import count_macs, count_params
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import check_equivalence, tolerance
from onnxpfp.model.constants import Constants
from onnxpfp.model.load import load
from onnxpfp.model.shapes import Shapes, concrete_shapes, example_feeds
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at
from onnxpfp.rewrite import Edits, apply
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime import open_session, resolve_providers

__all__ = ["Cut", "cut"]

SHARE = 0.5
SAMPLES = 2
VISIBLE = 1e-3
"""Relative change of an output that the cut must make; less would show nothing."""

PRODUCTS = {"Einsum", "MatMul"}
"""Ops that multiply activations by each other in an attention."""

Feed = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Cut:
    """What became of one file.

    Attributes:
        nodes: Nodes of the graph.
        params: Parameters.
        reachable: Share of the parameters that lies in channels.
        macs_kept: Share of the MACs that stays.
        error: Largest difference to the masked original over the largest output.
        allowed: What `onnxpfp prune` allows.
        seconds: Time of the label analysis alone, on one core.
        macs_kept_twice: Share of the MACs that stays where half of every head's width goes too, in a second pass;
            as `macs_kept` where there is no attention.
        stays: Why everything stays; empty where something goes.
    """

    nodes: int
    params: int
    reachable: float
    macs_kept: float
    error: float
    allowed: float
    seconds: float
    macs_kept_twice: float
    stays: str = ""


def cut(file: Path) -> Cut:
    """Prune one file.

    Args:
        file: The ONNX file.

    Raises:
        OnnxPfpError: It is refused, or the oracle finds a difference.
        RuntimeError: The comparison shows nothing, for the cut changes no output.
    """
    source = load(file)
    shapes = concrete_shapes(source.model, {})
    constants = Constants.of(source.model)
    start = time.process_time()
    build_channel_graph(source.model, shapes, constants, Patterns())
    seconds = time.process_time() - start
    analysis = analyze_at(source, {}, Options())
    graph, model = analysis.graph, analysis.source.model
    reached, total = graph.reachable_params()
    nodes, params = len(source.model.graph.node), count_params(source.model)
    if not graph.count:
        return Cut(nodes, params, 0.0, 1.0, 0.0, 0.0, seconds, 1.0, _main_reason(graph))
    before = count_macs(source.model, shapes)
    pruned, error, allowed = _prune(analysis, list(graph.groups))
    check(source.model, pruned)
    kept = kept_twice = count_macs(pruned, concrete_shapes(pruned, {})) / before
    feed = example_feeds(model, shapes.inputs, np.random.default_rng(0))
    _see_change(source.model, pruned, feed)
    if model is not source.model:
        # Shuffles and splits were written in another way first, which must change nothing.
        error = max(error, _compare(source.model, model, analysis.shapes)[0])
    if any(node.op_type in PRODUCTS and constants.names.isdisjoint(node.input) for node in source.model.graph.node):
        widths = analyze_at(load(pruned), {}, Options(attention="width"))
        groups = _others(widths.graph, analyze_at(load(pruned), {}, Options()).graph)
        narrow, worse, _ = _prune(widths, groups)
        error = max(error, worse)
        kept_twice = count_macs(narrow, concrete_shapes(narrow, {})) / before
    return Cut(nodes, params, reached / max(total, 1), kept, error, allowed, seconds, kept_twice)


def _prune(analysis: Analysis, groups: Sequence[Group]) -> tuple[ModelProto, float, float]:
    """Keep half of every group, rounded up, drawn by chance; return also the oracle's error and what is allowed."""
    rng = np.random.default_rng(0)
    model, graph = analysis.source.model, analysis.graph
    keep = graph.keep_all()
    for group in groups:
        keep[rng.permutation(group.channels)[math.ceil(group.channels.size * SHARE) :]] = False
    pruned = apply(model, graph, keep, Edits())
    mask, kept = masked(model, graph, keep, analysis.shapes), partial(what_stays, graph, keep)
    return pruned, *_compare(mask, pruned, analysis.shapes, kept)


def _others(graph: ChannelGraph, known: ChannelGraph) -> list[Group]:
    """The groups whose channels lie elsewhere than those of every group of another analysis."""
    places = {_places(known, group) for group in known.groups}
    return [group for group in graph.groups if _places(graph, group) not in places]


def _places(graph: ChannelGraph, group: Group) -> frozenset[tuple[str, int, bytes]]:
    """Where the first channel of a group is read: output and axis of every consumer, and the indices."""
    found = [graph.consumers[position] for position in group.consumers]
    return frozenset((c.output, c.data_axis, (c.channels == group.channels[0]).tobytes()) for c in found)


def _main_reason(graph: ChannelGraph) -> str:
    """The reason that keeps most indices of weights."""
    counts: Counter[str] = Counter()
    for fixed in graph.fixed:
        counts[fixed.reason] += fixed.count
    return counts.most_common(1)[0][0] if counts else "it has no weights"


def _compare(
    one: ModelProto, two: ModelProto, shapes: Shapes, kept: Callable[[str, AnyArray], AnyArray] | None = None
) -> tuple[float, float]:
    """Return the largest relative difference and what is allowed; `kept` says what the other has of a tensor."""
    feeds = [example_feeds(one, shapes.inputs, np.random.default_rng(seed)) for seed in range(SAMPLES)]
    providers = resolve_providers("cpu")
    allowed = tolerance(one, shapes)
    oracle = check_equivalence(one, two, feeds, allowed=allowed, providers=providers, threads=1, kept=kept)
    return oracle.error, oracle.tolerance


def _see_change(model: ModelProto, pruned: ModelProto, feed: Feed) -> None:
    """Make sure that the cut changes what the model computes."""
    first, second = (open_session(each, threads=1).run(feed) for each in (model, pruned))
    if all(np.allclose(first[name], second[name], rtol=VISIBLE, atol=0) for name in first):
        raise RuntimeError("the cut changes no output, so that the comparison shows nothing")
