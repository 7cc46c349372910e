"""Factor the layers of a network: moments of what they read, what every rank loses, the ranks, and the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxpfp.allocation.widths import budget_of
from onnxpfp.arrays import Floats
from onnxpfp.channels.macs import count_macs
from onnxpfp.channels.name_patterns import Patterns, nodes_left_out
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.low_rank.factor import decompose, relative_error
from onnxpfp.low_rank.layers import LowRankLayer, StayingLayer, low_rank_layers
from onnxpfp.low_rank.ranks import Choice, least_macs, rank_for_energy, ranks_for_macs
from onnxpfp.low_rank.rewrite import FactoredLayer, with_factors, with_products
from onnxpfp.low_rank.split import RankedLayer, factors_of
from onnxpfp.model.functions import without_functions
from onnxpfp.model.names import node_name
from onnxpfp.model.order import with_sorted_nodes
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.parts import Network
from onnxpfp.pipeline.rank_candidates import RankCandidate, rank_candidate
from onnxpfp.pipeline.refit_problem import POSITIONS, batch_size_of, refit_setup
from onnxpfp.progress import Count
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import Gram, collect_grams
from onnxpfp.refit.means import Record
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.sweep import Refitted, refit
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.transfer import with_edits
from onnxpfp.runtime.workers import workers

__all__ = ["Factorization", "MeasuredFactors", "factorize_network"]

NO_RANK = "it is so narrow that no rank takes fewer multiply-adds"
"""Why a layer stays that could be factored otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredFactors:
    """A layer as it will be written, and what that loses.

    Attributes:
        factored: The layer.
        kept: Share that the written factors keep: of the outputs' variance, or of the weights' energy without data.
        macs: Multiply-adds of its ops afterwards.
    """

    factored: FactoredLayer
    kept: float
    macs: int


@dataclass(frozen=True, slots=True, eq=False)
class Factorization:
    """What became of a network.

    Attributes:
        layers: The layers that were factored, in the order of the nodes.
        staying: All other ops that multiply.
        model: The file with the factors; the given one where no layer was factored.
        products: The same with one op in the place of two, and the product of their weights, which computes the same.
        refits: What the refit of each op brought on samples kept out of the fit, front to back.
    """

    layers: tuple[MeasuredFactors, ...]
    staying: tuple[StayingLayer, ...]
    model: ModelProto
    products: ModelProto
    refits: tuple[Record, ...]


def factorize_network(network: Network, asked: FactorizeOptions, *, by_data: bool) -> Factorization:
    """Factor what the target asks for.

    Args:
        network: The network and its bodies; only its main graph is factored.
        asked: The target, and which layers are in question.
        by_data: Whether the samples decide, or the weights alone.

    Raises:
        TargetUnreachableError: The target cannot be met, or no layer can be factored.
        OptionError: A pattern matches nothing.
    """
    context = network.parts[0].context
    clock, analysis = context.clock, context.whole
    base = without_functions(with_sorted_nodes(analysis.source.given))
    layers, staying = low_rank_layers(analysis, asked.scheme, _left_out(context, base, asked))
    grams: dict[str, Gram] = {}
    if by_data and layers:
        with clock.phase("calibration") as phase:
            grams = _grams(context, layers, phase)
    with clock.phase("factors") as phase:
        candidates, failures = _candidates(context, layers, grams if by_data else None, phase)
    choices = _choose(context, asked, candidates, _macs_of_run(network), [*staying, *failures])
    chosen = [(each, choice) for each, choice in zip(candidates, choices, strict=True) if choice is not None]
    whole = [each for each, choice in zip(candidates, choices, strict=True) if choice is None]
    kept = (*staying, *failures, *(layer for each in whole for layer in _whole(each, asked)))
    if not chosen:
        return Factorization((), kept, analysis.source.given, analysis.source.given, ())
    records: tuple[Record, ...] = ()
    ranked: dict[str, RankedLayer] = {}
    if by_data and context.compensation == "lstsq":
        refitted, ranked = _refitted(context, chosen)
        base, records = with_edits(base, analysis.model, refitted.edits), refitted.records
    with clock.phase("factors") as phase:
        factored = _factored(context, chosen, base, ranked, phase)
    written = [each.factored for each in factored]
    with clock.phase("rewrite"):
        model = with_factors(base, written)
        return Factorization(tuple(factored), kept, model, with_products(model, base, written), records)


def _refitted(
    context: RunContext, chosen: Sequence[tuple[RankCandidate, Choice]]
) -> tuple[Refitted, dict[str, RankedLayer]]:
    """Refit all ops front to back, those whose ranks were chosen with weights that keep to them.

    Returns:
        The new weights, and the layers that have a rank by now, by the output of their op. Others share their weights,
        and are factored by what they read in the original.
    """
    split = context.data.split
    assert split is not None, "who refits has samples to decide between fits"
    problem = refit_setup(context, context.whole, split).problem
    known = {layer.output for layer in problem.layers}
    ranked = {
        each.layer.uses[0].output: RankedLayer(each.layer, choice)
        for each, choice in chosen
        if each.layer.uses[0].output in known
    }
    limits = {output: each.limit for output, each in ranked.items()}
    with context.clock.phase("compensation") as progress:
        return refit(problem, context.whole.graph.keep_all(), Edits(), progress, limits), ranked


def _left_out(context: RunContext, base: ModelProto, asked: FactorizeOptions) -> dict[str, str]:
    """Return why nodes are not to be touched, by name: by the patterns, or as the file has them elsewhere."""
    source = context.whole.source
    given = {node.output[0]: node.op_type for node in base.graph.node if node.output}
    elsewhere = {
        node_name(node): "the file has it inside of a branch that is always taken"
        for node in source.model.graph.node
        if node.output and given.get(node.output[0]) != node.op_type
    }
    patterns = Patterns(asked.include, asked.exclude, source.names)
    return elsewhere | nodes_left_out(source.model.graph, patterns)


def _grams(context: RunContext, layers: Sequence[LowRankLayer], progress: Count) -> dict[str, Gram]:
    """Collect the Gram matrices of what the layers read, on the samples that fits are made on."""
    data, options = context.data, context.options
    problem = RefitProblem(
        analysis=context.whole,
        layers=(),
        fit=data.fit,
        tuning=data.fit,
        batch_size=batch_size_of(context, context.whole, data.fit),
        positions=POSITIONS,
        workspace=options.workspace,
        requests=context.requests,
        threads=options.threads,
        seed=options.seed,
    )
    uses = [use for layer in layers for use in layer.uses]
    return collect_grams(problem, uses, SpillCache(options.workspace), progress)


def _candidates(
    context: RunContext, layers: Sequence[LowRankLayer], grams: Mapping[str, Gram] | None, progress: Count
) -> tuple[list[RankCandidate], list[StayingLayer]]:
    """Find what every rank of every layer loses; a layer of which that is unknown stays."""
    candidates: list[RankCandidate] = []
    failures: list[StayingLayer] = []
    with workers(context.options.threads) as helpers:
        found = helpers.in_order(lambda layer: _candidate(context, layer, grams), layers)
        for done, (layer, each) in enumerate(zip(layers, found, strict=True), 1):
            if isinstance(each, str):
                failures += _stay(layer, each)
            else:
                candidates.append(each)
            progress(done, len(layers))
    return candidates, failures


def _candidate(context: RunContext, layer: LowRankLayer, grams: Mapping[str, Gram] | None) -> RankCandidate | str:
    """Return a layer with its choices, or why it stays."""
    seen = None if grams is None else [grams[use.output] for use in layer.uses if use.output in grams]
    return rank_candidate(context.whole, layer, seen, context.alignment)


def _macs_of_run(network: Network) -> int:
    """Count the multiply-adds of one run of the network, bodies as often as they run."""
    parts = network.parts
    return round(sum(part.runs * count_macs(part.context.whole.model, part.context.whole.shapes) for part in parts))


def _choose(
    context: RunContext,
    asked: FactorizeOptions,
    candidates: Sequence[RankCandidate],
    total: int,
    staying: Sequence[StayingLayer],
) -> list[Choice | None]:
    """Choose schemes and ranks.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    title, share = context.whole.source.title, asked.share_of_macs
    if share == 1.0:
        return [None] * len(candidates)
    layers = [each.curves for each in candidates]
    if all(least_macs(layer) == layer.macs for layer in layers):
        reasons = list(dict.fromkeys(each.reason for each in staying))[:3]
        why = "; ".join(reasons) or (NO_RANK if candidates else "none lies in the main graph")
        raise TargetUnreachableError(f"{title}: no layer can be factored: {why}")
    if asked.energy is not None:
        choices = [rank_for_energy(layer, asked.energy) for layer in layers]
        if not any(choices):
            raise TargetUnreachableError(
                f"{title}: no layer takes fewer multiply-adds where it keeps {100 * asked.energy:g} %",
                hint="ask for a lower --energy, or for a share of the multiply-adds: --keep-macs 0.7",
            )
        return choices
    assert share is not None
    rest = total - sum(layer.macs for layer in layers)
    chosen = ranks_for_macs(layers, budget_of(share, total) - rest)
    if chosen is None:
        least = rest + sum(map(least_macs, layers))
        reachable = math.ceil(1000.0 * least / total) / 1000.0
        raise TargetUnreachableError(
            f"{title}: the target is {share:.1%} of the multiply-adds, but {reachable:.1%} is the least that low rank "
            f"can reach ({least} of {total})",
            hint=f"ask for --keep-macs {reachable:.3f} or more",
        )
    return chosen


def _factored(
    context: RunContext,
    chosen: Sequence[tuple[RankCandidate, Choice]],
    model: ModelProto,
    ranked: Mapping[str, RankedLayer],
    progress: Count,
) -> list[MeasuredFactors]:
    """Factor the layers at their ranks, in the order of the nodes.

    Args:
        context: The network.
        chosen: The layers and their ranks.
        model: The file with the weights that were refitted.
        ranked: The layers whose weights have their ranks there, by the output of their op.
        progress: Told how many layers are done, of how many.
    """
    order = {node.output[0]: index for index, node in enumerate(context.whole.model.graph.node) if node.output}
    pairs = sorted(chosen, key=lambda pair: order[pair[0].layer.uses[0].output])
    refitted = dict(zip(ranked, factors_of(model, tuple(ranked.values())), strict=True))
    factored: list[MeasuredFactors] = []
    with workers(context.options.threads) as helpers:
        for each in helpers.in_order(lambda pair: _measured(context, *pair, refitted), pairs):
            factored.append(each)
            progress(len(factored), len(pairs))
    return factored


def _measured(
    context: RunContext, candidate: RankCandidate, choice: Choice, refitted: Mapping[str, FactoredLayer]
) -> MeasuredFactors:
    """Factor a layer at its rank, round the factors to the type of the file, and see what that keeps.

    One that was refitted has its factors; what its rank keeps is told by what it reads in the original.
    """
    layer, analysis = candidate.layer, context.whole
    macs = choice.rank * layer.macs_of_rank(choice.cut)
    known = refitted.get(layer.uses[0].output)
    if known is not None:
        curve = next(curve for curve in candidate.curves.curves if curve.cut == choice.cut)
        return MeasuredFactors(known, 1.0 - float(curve.errors[choice.rank]), macs)
    weights = layer.weights(analysis)
    factors = decompose(weights, choice.cut, candidate.moments, choice.rank).factors(choice.rank)
    dtype = analysis.constants.value(layer.weight).dtype
    bias: Floats | None = None
    if candidate.means is not None and layer.uses[0].bias is not None:
        lost = (weights - factors.product()).reshape(*weights.shape[:2], -1)
        bias = layer.uses[0].bias + np.einsum("gon,gn->go", lost, candidate.means).ravel()
    factored = FactoredLayer.of(layer, choice.cut, factors, dtype, bias)
    kept = 1.0 - candidate.scale * relative_error(weights, factored.factors.product(), candidate.moments)
    return MeasuredFactors(factored, kept, macs)


def _whole(candidate: RankCandidate, asked: FactorizeOptions) -> Iterator[StayingLayer]:
    """Say why a layer stays that could be factored."""
    if least_macs(candidate.curves) == candidate.layer.macs:
        return _stay(candidate.layer, NO_RANK)
    if asked.energy is not None:
        why = f"no rank that keeps {100 * asked.energy:g} % takes fewer multiply-adds"
        return _stay(candidate.layer, why)
    return _stay(candidate.layer, "others lose less for what they save")


def _stay(layer: LowRankLayer, reason: str) -> Iterator[StayingLayer]:
    for use in layer.uses:
        yield StayingLayer(use.name, use.consumer.op, use.macs, reason)
