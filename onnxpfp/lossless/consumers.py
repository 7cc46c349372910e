"""Views of a group's channels as its consumers read them, in the terms of `detect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Bools, Floats, Ids
from onnxpfp.channels import Analysis, Consumer, Group
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.lossless.detect import NEAR, Trace, View
from onnxpfp.lossless.negligible import negligible_indices
from onnxpfp.lossless.traces import Site

__all__ = ["ConsumerTerms", "Reading", "readings_of", "site_of", "sites_of"]


@dataclass(frozen=True, slots=True, eq=False)
class ConsumerTerms:
    """The consumers of a model, and what may be done at each.

    Attributes:
        analysis: The model.
        ops: Its consumers as linear ops.
        stored_axes: Where each consumer's weights are stored; None where they cannot be changed.
        folds: Whether a constant can be folded into a consumer's bias, (consumers,).
        settled: Channels whose values the data may settle: zero or constant there is zero or constant, (count + 1,).
        bounds: How far from zero every channel is at most, by the weights, (count + 1,); None where data tell.
    """

    analysis: Analysis
    ops: Sequence[LinearOp]
    stored_axes: Sequence[StoredAxis | None]
    folds: Bools
    settled: Bools
    bounds: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One consumer of a group, or several that share their weights; none for an input that is only masked.

    Attributes:
        consumers: Their positions.
        sites: What each of them reads.
        rows: Positions on the contracted axis of every channel, (n, R).
        constant: Channels that are constant for each of them, zero included, (n,).
        negligible: Channels that go for none of them can tell them from its bias, (n,).
        values: By consumer the middle of what was seen of every index, (n, R).
        view: The same for `detect.choose`.
    """

    consumers: tuple[int, ...]
    sites: tuple[Site, ...]
    rows: Ids
    constant: Bools
    negligible: Bools
    values: tuple[Floats, ...]
    view: View


def site_of(consumer: Consumer) -> Site:
    """Return what a consumer reads."""
    return consumer.data, consumer.data_axis


def sites_of(analysis: Analysis) -> dict[Site, None]:
    """List everything that has to be looked at, each once."""
    read = [site_of(consumer) for consumer in analysis.graph.consumers]
    masked = [(mask.tensor, mask.axis) for mask in analysis.graph.masks if mask.tensor not in analysis.constants.names]
    return dict.fromkeys([*read, *masked])


def readings_of(group: Group, terms: ConsumerTerms, traces: Mapping[Site, Trace]) -> list[Reading]:
    """Describe what every consumer of a group sees of its channels."""
    graph = terms.analysis.graph
    together: dict[StoredAxis | int, list[int]] = {}
    for position in group.consumers:
        stored_axis = terms.stored_axes[position]
        together.setdefault(position if stored_axis is None else stored_axis, []).append(position)
    readings = [_reading(group, tuple(positions), terms, traces) for positions in together.values()]
    read = {site_of(graph.consumers[position]) for position in group.consumers}
    for mask in graph.masks:
        site = (mask.tensor, mask.axis)
        if site not in read and np.isin(mask.channels, group.channels).any():
            rows = _rows(mask.channels, group.channels)
            readings.append(_only_dead((), (site,), rows, _alive(traces.get(site), rows, mask.zero, terms)))
    return readings


def _rows(axis: Ids, channels: Ids) -> Ids:
    """Return the positions of every channel on an axis in ascending order, (n, R)."""
    positions = np.flatnonzero(np.isin(axis, channels))
    order = np.argsort(axis[positions], kind="stable")
    return positions[order].reshape(channels.size, -1)


def _alive(trace: Trace | None, rows: Ids, zero: str, terms: ConsumerTerms) -> Bools:
    """Tell which indices were ever something else than zero; all where that cannot be told."""
    if trace is None or (zero and zero not in terms.analysis.constants.names):
        return np.ones(rows.shape, np.bool_)
    neutral = terms.analysis.constants.value(zero).astype(np.float64).ravel() if zero else np.zeros(1)
    if neutral.size != 1:
        return np.ones(rows.shape, np.bool_)
    return ~((trace.low == neutral[0]) & (trace.high == neutral[0]))[rows]


def _only_dead(consumers: tuple[int, ...], sites: tuple[Site, ...], rows: Ids, alive: Bools) -> Reading:
    """Describe a place whose weights cannot be changed: a channel goes there if it is zero."""
    free = np.asarray(~alive.any(1))
    nothing = np.zeros(rows.shape)
    view = View(free, alive, nothing, np.zeros((*rows.shape, 2)), NEAR, merges=False)
    return Reading(consumers, sites, rows, free, np.zeros_like(free), tuple(nothing for _ in consumers), view)


def _reading(group: Group, positions: tuple[int, ...], terms: ConsumerTerms, traces: Mapping[Site, Trace]) -> Reading:
    consumers = [terms.analysis.graph.consumers[position] for position in positions]
    sites = tuple(site_of(consumer) for consumer in consumers)
    rows = _rows(consumers[0].channels, group.channels)
    site_traces = [traces[site] for site in sites]
    alive = np.logical_or.reduce(
        [
            _alive(None if _is_own_state(consumer, terms) else trace, rows, consumer.zeros[0], terms)
            for consumer, trace in zip(consumers, site_traces, strict=True)
        ]
    )
    settled = terms.settled[group.channels]
    if not _may_change(positions, terms):
        return _only_dead(positions, sites, rows, alive | ~settled[:, None])
    constant = np.logical_and.reduce([trace.constant[rows].all(1) for trace in site_traces]) & settled
    folds = bool(terms.folds[list(positions)].all())
    goes = (~alive.any(1) & settled) | (constant & folds)
    negligible = ~goes & np.logical_and.reduce(
        [
            _negligible(position, group, rows, trace, terms)
            for position, trace in zip(positions, site_traces, strict=True)
        ]
    )
    # Of what was never seen the middle is no number, and no constant.
    with np.errstate(invalid="ignore"):
        middles = tuple((trace.low + trace.high)[rows] / 2 for trace in site_traces)
    return Reading(
        positions,
        sites,
        rows,
        constant,
        negligible,
        middles,
        View(
            free=goes | negligible,
            alive=alive,
            scale=np.maximum.reduce([trace.scale[rows] for trace in site_traces]),
            projections=np.concatenate([trace.projections[rows] for trace in site_traces], -1),
            near=max(NEAR, *(2 * trace.grain for trace in site_traces)),
            merges=_same_blocks(rows, terms.ops[positions[0]]),
        ),
    )


def _negligible(position: int, group: Group, rows: Ids, trace: Trace, terms: ConsumerTerms) -> Bools:
    """Tell which channels one consumer cannot tell from its bias, (n,)."""
    magnitude = trace.scale
    if terms.bounds is not None:
        magnitude = np.full(trace.scale.size, np.inf)
        magnitude[rows] = terms.bounds[group.channels][:, None]
    small = negligible_indices(
        terms.analysis, position, terms.ops[position], magnitude, bounded=terms.bounds is not None
    )
    return np.asarray(small[rows].all(1))


def _is_own_state(consumer: Consumer, terms: ConsumerTerms) -> bool:
    """Whether a recurrence reads its own states: what it starts from is not among those that are seen."""
    return consumer.data in terms.analysis.model.graph.node[consumer.node].output


def _may_change(positions: tuple[int, ...], terms: ConsumerTerms) -> bool:
    """Whether consumers have float weights that can take over channels."""
    return all(
        terms.stored_axes[position] is not None
        and terms.ops[position].weight is not None
        and not any(terms.analysis.graph.consumers[position].zeros)
        and not _is_own_state(terms.analysis.graph.consumers[position], terms)
        and _plainly_stored(position, terms)
        for position in positions
    )


def _plainly_stored(position: int, terms: ConsumerTerms) -> bool:
    """Whether a grouped filter bank lies in the file as the node reads it, (O, C/g, *kernel)."""
    op = terms.ops[position]
    if op.kind != "conv" or op.group == 1:
        return True
    return terms.stored_axes[position] == StoredAxis(terms.analysis.graph.consumers[position].weight, 1)


def _same_blocks(rows: Ids, op: LinearOp) -> bool:
    """Whether the indices of one rank lie in one group of the convolution, so that they reach the same outputs."""
    blocks = rows // (len(op.channels) // op.group)
    return bool((blocks == blocks[:1]).all())
