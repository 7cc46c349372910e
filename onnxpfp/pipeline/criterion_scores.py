"""Scores of all channels by a criterion: what it needs is brought together group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from onnxpfp.arrays import AnyFloats, Floats
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis, Consumer, Group
from onnxpfp.errors import OptionError
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.producers import Filters, carriers_of, norm_scales, producers_of
from onnxpfp.pipeline.feature_maps import GroupMaps, maps_for
from onnxpfp.pipeline.measurements import Measurements, consumer_taps
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import ConsumerData, ConsumerGram, GroupData, long_rows, places
from onnxpfp.score.map_statistics import MapStatistics

__all__ = ["GramsOfGroup", "criterion_scores"]

GramsOfGroup = Callable[[Group], Sequence[ConsumerGram]]
"""Returns the consumers of a group with the covariance of what they read."""


def criterion_scores(
    criterion: Criterion,
    analysis: Analysis,
    ops: Sequence[LinearOp],
    measurements: Measurements | None,
    *,
    seed: int,
    statistics: Statistics | None = None,
    sensitivity: Floats | None = None,
    grams_of_group: GramsOfGroup | None = None,
    reach: Floats | None = None,
    feature_maps: Sequence[GroupMaps] | None = None,
) -> Floats:
    """Score every channel.

    Args:
        criterion: The criterion.
        analysis: The model.
        ops: Its consumers.
        measurements: Measures what the consumers read; None without data.
        seed: Of chance.
        statistics: Statistics of the consumers, where they are known already.
        sensitivity: PFP's sensitivities by channel id, for the criteria that need them; None
            measures them.
        grams_of_group: Returns the consumers with their covariances, for the criteria that need Gram matrices.
        reach: What channels can reach by channel id, for the criteria that need it.
        feature_maps: The statistics of the maps of every group, for the criteria that need them.

    Returns:
        Score by channel id, (count + 1,) float64, finite and not negative; entry 0 is 0.

    Raises:
        OptionError: The criterion needs something that is not there: samples, or a BatchNormalization.
        CalibrationError: The network computes NaN on the samples.
    """
    graph = analysis.graph
    consumers = _consumer_data(criterion, analysis, ops, measurements, statistics)
    filters = _filters(criterion, analysis)
    norms = norm_scales(analysis) if "scales" in criterion.needs else []
    random = np.random.default_rng(seed).random(graph.count + 1)
    values = np.zeros(graph.count + 1)
    maps = _map_statistics(criterion, analysis, ops, measurements, feature_maps)
    for number, group in enumerate(graph.groups):
        picked = [(norm.gamma, places(norm.ids, group.channels)) for norm in norms]
        data = GroupData(
            name=group.name,
            channels=group.channels,
            filters=filters(group),
            scales=tuple(gamma[where] for gamma, where in picked if where.size),
            consumers=tuple(consumers(position, group) for position in group.consumers),
            sensitivity=None if sensitivity is None else sensitivity[group.channels],
            consumer_grams=tuple(grams_of_group(group)) if grams_of_group and "gram" in criterion.needs else (),
            reach=None if reach is None else reach[group.channels],
            random=random[group.channels],
            map_statistics=maps[number] if maps else (),
        )
        values[group.channels] = _checked(criterion, group, criterion.score(data))
    return values


def _map_statistics(
    criterion: Criterion,
    analysis: Analysis,
    ops: Sequence[LinearOp],
    measurements: Measurements | None,
    known: Sequence[GroupMaps] | None,
) -> list[tuple[MapStatistics, ...]]:
    """Return the statistics of the maps of every group, where the criterion needs them."""
    if "map-statistics" not in criterion.needs:
        return []
    if known is None:
        if measurements is None:
            raise _no_data(criterion)
        known = maps_for(criterion, analysis, ops, measurements)
    return [maps.statistics for maps in known]


def _no_data(criterion: Criterion) -> OptionError:
    return OptionError(
        f"--score {criterion.name} measures the data, and none are given", hint="give --calib-data FILE.npz"
    )


def _checked(criterion: Criterion, group: Group, scores: Floats) -> Floats:
    """Refuse what is no score, and make scores of groups comparable."""
    if scores.shape != (group.channels.size,):
        raise OptionError(
            f"--score {criterion.name}: gives {list(scores.shape)} numbers for the {group.channels.size} channels of "
            f"'{group.name}'",
            hint="score() returns one number per channel",
        )
    if np.isnan(scores).any() and "scales" in criterion.needs:
        raise OptionError(
            f"--score {criterion.name}: no BatchNormalization behind '{group.name}': it is folded, or there was none",
            hint=f"export the model without folding it, or leave the group out: --exclude '{group.name}'",
        )
    if not np.isfinite(scores).all() or scores.min(initial=0.0) < 0.0:
        raise OptionError(
            f"--score {criterion.name}: the scores of '{group.name}' are not all finite and not negative",
            hint="higher scores stay; 0 is the lowest",
        )
    total = float(scores.sum())
    return scores if criterion.comparable or not total > 0.0 else scores / total


def _consumer_data(
    criterion: Criterion,
    analysis: Analysis,
    ops: Sequence[LinearOp],
    measurements: Measurements | None,
    statistics: Statistics | None,
) -> Callable[[int, Group], ConsumerData]:
    """Return what tells all that the criterion needs of a consumer."""
    needs = criterion.needs
    measured: Mapping[str, Sequence[Floats]] = {}
    if needs & {"squares", "maps", "contributions", "shares"}:
        measured = _measured(criterion, ops, measurements, statistics)

    results: list[dict[str, Floats]] = [{} for _ in ops]
    graph_consumers = analysis.graph.consumers

    def consumer(position: int, group: Group) -> ConsumerData:
        op = ops[position]
        weight = op.taps if op.weight is not None else _stored_weight(analysis, graph_consumers[position])
        arrays = {name: values[position] for name, values in measured.items()}
        where = places(op.channels, group.channels)
        return ConsumerData(where, len(op.channels), weight, **arrays, results=results[position])

    return consumer


def _stored_weight(analysis: Analysis, consumer: Consumer) -> Callable[[], AnyFloats] | None:
    """Return what reads constant weights of an Einsum, index by index, and R of a recurrence; None of others."""
    if not consumer.constant or consumer.form != "einsum":
        return None
    return lambda: np.moveaxis(analysis.constants.value(consumer.weight), consumer.weight_axis, 0)


def _measured(
    criterion: Criterion,
    ops: Sequence[LinearOp],
    measurements: Measurements | None,
    statistics: Statistics | None,
) -> dict[str, Sequence[Floats]]:
    """Measure what the criterion needs of all consumers, by the field of `ConsumerData` that gets it."""
    measured: dict[str, Sequence[Floats]] = {}
    if "squares" in criterion.needs and statistics is not None:
        measured["square_sum"] = [statistics[op.name].square_sum for op in ops]
    elif measurements is None:
        raise _no_data(criterion)
    elif "squares" in criterion.needs:
        measured["square_sum"] = measurements.square_sums()
    if "maps" in criterion.needs and measurements is not None:
        measured["map_mean"] = measurements.map_means(criterion.of_maps)
    if "contributions" in criterion.needs and measurements is not None:
        measured["contributions"] = measurements.contributions()
    if "shares" in criterion.needs and measurements is not None:
        moments = measurements.output_moments()
        measured["mean_share"] = [each.shares(consumer_taps(op)) for each, op in zip(moments, ops, strict=True)]
    return measured


def _filters(criterion: Criterion, analysis: Analysis) -> Callable[[Group], tuple[Callable[[], Iterator[Floats]], ...]]:
    """Return what lists the filters of a group, one reading for every producer.

    Channels that no Conv, Gemm or MatMul brings forth have the rows of whatever other weights do.
    """
    if "weights" not in criterion.needs:
        return lambda group: ()
    producers = producers_of(analysis)
    carriers = carriers_of(analysis)

    def filters(group: Group) -> tuple[Callable[[], Iterator[Floats]], ...]:
        return _readings(producers, group) or _readings(carriers, group)

    return filters


def _readings(producers: Sequence[Filters], group: Group) -> tuple[Callable[[], Iterator[Floats]], ...]:
    located = ((producer, places(producer.ids, group.channels)) for producer in producers)
    return tuple(partial(long_rows, producer.rows, where, producer.scale) for producer, where in located if where.size)
