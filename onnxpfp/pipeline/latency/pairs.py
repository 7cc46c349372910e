"""Measure what pairs of ops of low rank take in the place of layers, on this machine.

Every point is the network with all layers that may get a rank as two ops, cut to widths and ranks that are drawn at
random, and measured as `points.py` measures the network with whole layers; there is a set of points for every scheme.
So the pairs have the layout and the fusions that they will have beside each other. What the numbers in factors are does
not matter for that; they are as large together as the layer's weights.

An op of a pair is fitted as any other op is (`onnxpfp.allocation.op_latency`), with the rank for the channels between
both; layers of one shape have one fit, for that of a single one is off by a third on small networks. The profile adds
to every op, and what passes between ops is charged to none. So the pairs of a scheme are fitted to the latencies of the
whole network again: those are what it takes by the fit of its ops without these layers, and a multiple of what the
pairs do, and a constant for their calls.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

import numpy as np
from onnx import ModelProto

from onnxpfp.allocation.op_latency import OpCounts, OpLatency, fit_op, fit_total
from onnxpfp.allocation.structure_cost import LayerTerms
from onnxpfp.arrays import Floats, Ints
from onnxpfp.channels import Analysis
from onnxpfp.low_rank.factor import Factors
from onnxpfp.low_rank.rewrite import FactoredLayer, with_factors
from onnxpfp.model.constants import stored_tensors
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.latency.op_latencies import BLOCKS, MeasuredWidths, OpLatencies
from onnxpfp.pipeline.latency.pair_latencies import PairLatencies
from onnxpfp.pipeline.latency.points import TimedNetwork, cut_to, draw_shares, rounded, steps_of
from onnxpfp.pipeline.pair_ops import Factoring, RankedProduct, pair_ops
from onnxpfp.pipeline.ranked_layers import rankable_layers
from onnxpfp.pipeline.structure_costs import COUNTS, layer_terms
from onnxpfp.progress import Count
from onnxpfp.runtime.external_data import numbers

__all__ = ["MeasuredPairs", "fit_pairs", "measure_pairs"]

POINTS = 12
"""Points of a scheme; three factors of an op are fitted to them."""
LEAST = 0.5
"""Of what pairs take for what they do by the profile, so much is left at least, however the network was disturbed."""
NOTHING = OpLatency(0.0, 0.0, 0.0, 1, 0.0)


class MeasuredPairs(NamedTuple):
    """What was measured at some widths and ranks.

    Attributes:
        measured: The widths, and the latency of the network and of its ops, those of the pairs among them.
        ranks: Ranks of the layers, (L,).
    """

    measured: MeasuredWidths
    ranks: Ints


def measure_pairs(context: RunContext, whole: float, inside: float, progress: Count) -> PairLatencies:
    """Measure what pairs of low rank take in a network, and fit that.

    Args:
        context: The main graph of a network, with the latencies of its ops.
        whole: Milliseconds of its run when those were measured: a machine that is busier now takes longer.
        inside: Those that bodies of If, Loop and Scan take of it, which belong to none of its ops.
        progress: Told how many points are done, of how many.

    Raises:
        CalibrationError: There are too few samples for a run.
        LatencyTableError: It cannot be measured.
    """
    layers = rankable_layers(context, context.whole)
    schemes = [
        [Factoring(layer, layer.cuts[number]) for layer in layers if len(layer.cuts) > number]
        for number in range(max((len(layer.cuts) for layer in layers), default=0))
    ]
    if not schemes:
        return PairLatencies()
    ops: dict[tuple[str, int], tuple[OpLatency, OpLatency]] = {}
    rng, trial = np.random.default_rng(context.options.seed), TimedNetwork.of(context, whole)
    for number, scheme in enumerate(schemes):
        points: list[MeasuredPairs] = []
        for kept, ranks in _drawn(context, scheme, rng):
            progress(number * POINTS + len(points), len(schemes) * POINTS)
            points.append(_measured(trial, scheme, kept, ranks, inside))
        ops |= fit_pairs(context.whole, context.latencies, scheme, points)
    return PairLatencies(ops)


def _drawn(context: RunContext, scheme: Sequence[Factoring], rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
    """Draw widths and ranks, in multiples of all steps that are in question in turns; the first have all channels."""
    sizes = full_widths(context.whole)
    most = np.array([max(1, (each.layer.macs - 1) // each.layer.macs_of_rank(each.cut)) for each in scheme], np.int64)
    alignments = [each.alignment for each in context.candidates] or [context.alignment]
    shares = draw_shares(rng, np.concatenate([sizes, most]), POINTS)
    shares[0, : sizes.size] = 1.0
    for point, alignment in zip(shares, cycle(alignments), strict=False):
        by_group, by_layer = point[: sizes.size], point[sizes.size :]
        widths = rounded(by_group * sizes, sizes, steps_of(alignment, sizes))
        yield widths, rounded(by_layer * most, most, steps_of(alignment, most))


def _measured(
    trial: TimedNetwork, scheme: Sequence[Factoring], kept: Ints, ranks: Ints, inside: float
) -> MeasuredPairs:
    """Measure the network at some widths and ranks."""
    pairs = [*zip(scheme, ranks.tolist(), strict=True)]
    model = cut_to(trial.context.whole, kept, lambda cut: with_factors(cut, _factored(cut, pairs)))
    measured = trial.measure_model(kept, model)
    return MeasuredPairs(measured._replace(ms=measured.ms - inside), ranks)


def _factored(cut: ModelProto, pairs: Sequence[tuple[Factoring, int]]) -> Iterator[FactoredLayer]:
    """Yield the layers of a network that was cut with factors drawn at random, whose product is as large as a weight.

    Values of another size might underflow layer by layer, and subnormal numbers are slow.
    """
    rng, stored = np.random.default_rng(0), stored_tensors(cut.graph)
    nodes = {node.output[0]: node for node in cut.graph.node if node.output}
    for (layer, at), rank in pairs:
        weight = numbers(stored[nodes[layer.uses[0].output].input[1]])
        bank = layer.bank(weight, 1)
        _, outputs, channels, *kernel = bank.shape
        before, behind = kernel[:at], kernel[at:]
        first = rng.standard_normal((1, rank, channels, *before, *(1 for _ in behind)))
        second = rng.standard_normal((1, outputs, rank, *(1 for _ in before), *behind))
        second *= math.sqrt(np.square(bank).sum() / (first[0, 0].size * second[0, :, 0].size * rank))
        yield FactoredLayer.of(layer, at, Factors(first, second), weight.dtype, None)


def fit_pairs(
    analysis: Analysis, latencies: OpLatencies, scheme: Sequence[Factoring], points: Sequence[MeasuredPairs]
) -> Mapping[tuple[str, int], tuple[OpLatency, OpLatency]]:
    """Fit the latencies of pairs to measured ones.

    Args:
        analysis: The network.
        latencies: Those of its ops.
        scheme: The layers that were two ops at all points.
        points: What was measured.

    Returns:
        Those of both ops by `Factoring.key`; a layer is left out of whose pair the profile did not know both ops.
    """
    graph, units = analysis.graph, latencies.units
    fitted = _fitted_ops(analysis, scheme, points)
    totals = np.array([point.measured.ms for point in points])

    def sums(ops: Mapping[tuple[str, int], tuple[OpLatency, OpLatency]]) -> tuple[Floats, Floats]:
        """Return what all layers take whole, and with such ops, (K,) each."""
        count = COUNTS["latency"](analysis, latencies, PairLatencies(ops))
        counted = [count(each) for each in scheme]
        whole = layer_terms(graph, [[RankedProduct(term, 0) for term in each.whole] for each in counted])
        pair = layer_terms(graph, [each.pair for each in counted])
        return _at(whole, points) / units, _at(pair, points) / units

    network = latencies.cost(analysis)
    nothing = {each.key: (NOTHING, NOTHING) for each in scheme}
    wholes, rest = sums(nothing)
    base = np.array([network.total(point.measured.kept) for point in points]) / units - wholes + rest
    working = {key: (one.scaled(1.0, 0.0), two.scaled(1.0, 0.0)) for key, (one, two) in fitted.items()}
    factor, constant = fit_total(totals - base, sums({**nothing, **working})[1] - rest, totals)
    calls = sum(op.constant for pair in fitted.values() for op in pair)
    share = min(constant / calls, 1.0) if calls else 0.0
    # What calls do not explain is that of all pairs alike.
    more = (constant - share * calls) / len(scheme)
    work = max(factor, LEAST)
    scaled = {key: (one.scaled(work, share), two.scaled(work, share)) for key, (one, two) in fitted.items()}
    return {key: (one, replace(two, constant=two.constant + more)) for key, (one, two) in scaled.items()}


def _at(terms: LayerTerms, points: Sequence[MeasuredPairs]) -> Floats:
    """Add up terms at the widths and ranks of all points, (K,)."""
    totals = [
        terms.over(terms.model.terms_at(measured.kept)[:, None], ranks[:, None], ranks.size).sum()
        for measured, ranks in points
    ]
    return np.array(totals, np.float64)


def _fitted_ops(
    analysis: Analysis, scheme: Sequence[Factoring], points: Sequence[MeasuredPairs]
) -> dict[tuple[str, int], tuple[OpLatency, OpLatency]]:
    """Fit each op of the pairs to its times in the profile; layers of one shape are fitted as one."""
    counts = {block: _counts(analysis, scheme, points, block) for block in (1, *BLOCKS)}
    times = np.array([[_times(point, factoring) for point in points] for factoring in scheme])
    alike: dict[Hashable, list[int]] = {}
    for number, factoring in enumerate(scheme):
        if times[number].any(axis=0).all():
            alike.setdefault(_shape(analysis, factoring), []).append(number)
    fitted: dict[tuple[str, int], tuple[OpLatency, OpLatency]] = {}
    for numbers_ in alike.values():
        one, two = (
            fit_op(
                times[numbers_, :, place].ravel(),
                {
                    block: OpCounts(*(each[numbers_, :, place, what].ravel() for what in range(2)))
                    for block, each in counts.items()
                },
            )
            for place in range(2)
        )
        fitted |= {scheme[number].key: (one, two) for number in numbers_}
    return fitted


def _times(point: MeasuredPairs, factoring: Factoring) -> list[float]:
    """Return the times of both ops in the profile."""
    ops, name = point.measured.ops, factoring.layer.name
    return [ops.get(f"{name}/low_rank_{place}", 0.0) for place in ("first", "second")]


def _shape(analysis: Analysis, factoring: Factoring) -> Hashable:
    """Return what layers have in common that take the same time: how they slide, and what may be fused with them."""
    (layer, cut), index = factoring, analysis.index
    use = layer.uses[0]
    op = use.op
    behind = sorted(index.model.graph.node[node].op_type for node, _ in index.uses.get(use.output, ()))
    return op.kind, op.kernel, op.attributes, op.data_shape, op.output_shape, cut, tuple(behind)


def _counts(analysis: Analysis, scheme: Sequence[Factoring], points: Sequence[MeasuredPairs], block: int) -> Floats:
    """Count what all ops do at all points: elements and multiply-adds, (L, K, 2, 2), of each first and second op."""
    products: list[list[RankedProduct]] = []
    for factoring in scheme:
        for op in pair_ops(analysis, factoring):
            products += [[*op.elements(1, block)], [op.multiplied(1, block)]]
    terms = layer_terms(analysis.graph, products)
    rows = [
        terms.over(terms.model.terms_at(measured.kept)[:, None], np.repeat(ranks, 4)[:, None], len(products))
        for measured, ranks in points
    ]
    return np.array(rows, np.float64).reshape(len(points), -1, 2, 2).swapaxes(0, 1)
