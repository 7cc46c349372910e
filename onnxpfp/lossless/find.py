"""Find the channels that go for free.

With enough data two passes over them tell: the first takes small statistics of every axis that a consumer contracts,
the second checks the multiples that those propose on all numbers. What goes on all samples would go on any of them, so
few samples come first, and the passes are over the groups of which something would go on these. Without data weights
have to show it (`proof`), and noise takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Bools
from onnxpfp.calibrate.batch_size import samples_at_once
from onnxpfp.calibrate.observer import Shape
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.channels import Analysis, Group
from onnxpfp.data.samples import Samples
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.linear.bias import mean_shift
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.lossless.consumers import ConsumerTerms, Reading, readings_of, sites_of
from onnxpfp.lossless.detect import LosslessChoice, Trace, choose_removals
from onnxpfp.lossless.fillers import choose_fillers
from onnxpfp.lossless.fold import folds_of
from onnxpfp.lossless.negligible import bounds_by_weights
from onnxpfp.lossless.proof import Proof, prove
from onnxpfp.lossless.subnormal import subnormal_channels
from onnxpfp.lossless.traces import Pair, Site, Watch, gaps_of, noise_like, traces_of
from onnxpfp.lossless.types import Lossless, Merge, Removal, RemovalKind
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.runtime.blocks import ANY_WIDTH, Alignment
from onnxpfp.runtime.providers import ProviderRequest

__all__ = ["FIRST_SAMPLES", "LEAST_SAMPLES", "find_lossless"]

LEAST_SAMPLES = 32
"""With fewer samples data prove nothing: a channel may be zero on all of them by chance."""
FIRST_SAMPLES = 8
"""Samples that come first: few wake most of what is alive, and what they do not wake is looked at on all."""


def find_lossless(
    analysis: Analysis,
    ops: Sequence[LinearOp],
    stored_axes: Sequence[StoredAxis | None],
    samples: Samples,
    *,
    trusted: bool,
    batch_size: int | None,
    providers: Sequence[ProviderRequest],
    threads: int | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    progress: Callable[[int, int], None] | None = None,
    alignment: Alignment = ANY_WIDTH,
) -> Lossless:
    """Find dead, constant, negligible and duplicate channels, and how the consumers do without them.

    Args:
        analysis: The model.
        ops: Its consumers as linear ops.
        stored_axes: Where each consumer's weights are stored (`linear.weights.stored_axes_of`).
        samples: The data, all that may decide; any inputs that fit where none are given.
        trusted: Whether the samples are the user's data. If not, or if they are fewer than `LEAST_SAMPLES`, only what
            the weights show goes.
        batch_size: As in `run_observers`.
        providers: Where to run.
        threads: Threads inside one op; None lets onnxruntime choose.
        workspace_bytes: As in `run_observers`.
        progress: As in `run_observers`.
        alignment: The multiples of channels that groups are filled up to by some that cost nothing.

    Raises:
        CalibrationError: The network computes NaN on the data.
        ModelError: onnxruntime cannot run it.
    """
    model, graph = analysis.model, analysis.graph
    by_data = trusted and len(samples) >= LEAST_SAMPLES
    if by_data:
        proof = Proof(np.ones(graph.count + 1, np.bool_), np.zeros(graph.count + 1, np.int64))
    else:
        proof = prove(analysis, stored_axes)
        samples = noise_like(model, samples, np.random.default_rng(0))
    bounds = None if by_data else bounds_by_weights(analysis)
    terms = ConsumerTerms(analysis, ops, stored_axes, folds_of(analysis, ops), proof.settled, bounds)
    run = partial(
        run_observers,
        model,
        batch_size=batch_size,
        limit=samples_at_once(analysis),
        providers=providers,
        threads=threads,
        workspace_bytes=workspace_bytes,
        progress=progress,
    )
    few = samples.take(FIRST_SAMPLES)
    try:
        choices = _search(terms, proof, partial(run, samples=samples), partial(run, samples=few) if by_data else None)
    except (CalibrationError, ModelError):
        if by_data:
            raise
        # Noise is no input that the network must bear.
        choices = []
    choices = _with_fillers(choices, alignment, terms)
    return _collect(terms, choices, len(samples) if by_data else 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Proposal:
    """The channels of one group that can go: `choice` after the second pass.

    Of them `fillers` stay, (n,), those that are `idle` as they are, (n,).
    """

    group: Group
    readings: list[Reading]
    choice: LosslessChoice
    fillers: Bools
    idle: Bools

    @property
    def free(self) -> Bools:
        """Channels that cost nothing, (n,)."""
        return self.choice.gone | (self.choice.partner >= 0)

    @property
    def unseen(self) -> Bools:
        """Those of them that no output shows, (n,)."""
        hidden = [~reading.view.alive.any(1) | reading.negligible for reading in self.readings]
        return self.choice.gone & np.logical_and.reduce(hidden)


def _search(terms: ConsumerTerms, proof: Proof, watch: Watch, watch_few: Watch | None) -> list[_Proposal]:
    """Propose channels of all groups, and confirm them.

    Args:
        terms: The consumers.
        proof: What may go.
        watch: Runs the network over the samples.
        watch_few: Runs it over few of them; None where nothing is to be gained by that.
    """
    shapes, groups = terms.analysis.shapes.shape, terms.analysis.graph.groups
    traces = traces_of(watch_few or watch, sites_of(terms.analysis), shapes)
    proposed = [_propose(group, terms, proof, traces) for group in groups]
    if watch_few is not None:
        left = [number for number, proposal in enumerate(proposed) if proposal.free.any()]
        sites = dict.fromkeys(
            site for number in left for reading in proposed[number].readings for site in reading.sites
        )
        traces = {**traces, **(traces_of(watch, sites, shapes) if sites else {})}
        for number in left:
            proposed[number] = _propose(groups[number], terms, proof, traces)
    return _confirmed(proposed, traces, watch, shapes)


def _propose(group: Group, terms: ConsumerTerms, proof: Proof, traces: Mapping[Site, Trace]) -> _Proposal:
    readings = readings_of(group, terms, traces)
    choice = choose_removals([reading.view for reading in readings], _classes(group, readings, proof))
    none = np.zeros(group.channels.size, np.bool_)
    return _Proposal(group, readings, choice, none, none)


def _classes(group: Group, readings: Sequence[Reading], proof: Proof) -> NDArray[np.int64]:
    """Number what may be merged: settled channels freely, others with equal ones that noise brings to life."""
    classes = np.where(proof.settled[group.channels], -1, proof.classes[group.channels])
    awake = np.logical_and.reduce([reading.view.alive.all(1) for reading in readings])
    asleep = np.flatnonzero((classes >= 0) & ~awake)
    classes[asleep] = -2 - asleep
    return classes


def _merges(reading: Reading, channel: int, partner: int) -> list[Merge]:
    """Return what the weights behind a reading take over of one channel."""
    if reading.view.free[channel]:
        return []
    _, factors = reading.view.factors(channel, np.array([partner]))
    return [
        (int(dropped), int(kept), float(factor))
        for dropped, kept, factor in zip(reading.rows[channel], reading.rows[partner], factors[0], strict=True)
        if factor
    ]


def _confirmed(
    proposed: Sequence[_Proposal], traces: Mapping[Site, Trace], watch: Watch, shapes: Mapping[str, Shape]
) -> list[_Proposal]:
    """Return what was proposed without the merges that do not hold on all numbers."""
    asked: dict[Site, list[Pair]] = {}
    claims: list[tuple[Site, int, int, int]] = []
    for number, proposal in enumerate(proposed):
        for channel in np.flatnonzero(proposal.choice.partner >= 0).tolist():
            for reading in proposal.readings:
                pairs = _merges(reading, channel, int(proposal.choice.partner[channel]))
                for site in reading.sites if pairs else ():
                    listed = asked.setdefault(site, [])
                    claims += [(site, len(listed) + place, number, channel) for place in range(len(pairs))]
                    listed += pairs
    gaps = gaps_of(watch, asked, shapes)
    partners = [proposal.choice.partner.copy() for proposal in proposed]
    for site, place, number, channel in claims:
        trace = traces[site]
        if not gaps[site][place] <= trace.grain * trace.scale[asked[site][place][0]]:
            partners[number][channel] = -1
    return [
        replace(proposal, choice=LosslessChoice(proposal.choice.gone, partner))
        for proposal, partner in zip(proposed, partners, strict=True)
    ]


def _with_fillers(proposed: Sequence[_Proposal], alignment: Alignment, terms: ConsumerTerms) -> list[_Proposal]:
    """Keep as many of the channels that cost nothing as fill every group up to a multiple."""
    if not any(proposal.free.any() for proposal in proposed):
        return [*proposed]
    slow = subnormal_channels(terms.analysis)
    filled: list[_Proposal] = []
    for one in proposed:
        idle = one.unseen & ~slow[one.group.channels]
        step = alignment.of_group(one.group.channels.size)
        filled.append(replace(one, fillers=choose_fillers(one.free, idle, step), idle=idle))
    return filled


def _collect(terms: ConsumerTerms, choices: Sequence[_Proposal], samples: int) -> Lossless:
    """Put the choices of all groups together."""
    graph = terms.analysis.graph
    keep = graph.keep_all()
    merges: dict[int, list[Merge]] = {}
    values: dict[int, NDArray[np.float64]] = {}
    emptied: dict[int, list[int]] = {}
    quieted: set[int] = set()
    removed: list[Removal] = []
    for one in choices:
        dropped = one.free & ~one.fillers
        taken = one.free & ~(one.fillers & one.idle)
        keep[one.group.channels[dropped]] = False
        quieted |= set(one.group.channels[taken & ~dropped].tolist())
        removed += _removals(one, dropped, terms.settled[one.group.channels], samples)
        for reading in one.readings:
            merged = [
                merge
                for channel in np.flatnonzero(taken & (one.choice.partner >= 0)).tolist()
                for merge in _merges(reading, channel, int(one.choice.partner[channel]))
            ]
            folded = np.flatnonzero(taken & reading.view.free & ~reading.negligible & reading.view.alive.any(1))
            empty = reading.rows[taken & ~dropped & reading.view.alive.any(1)].ravel().tolist()
            for position, value in zip(reading.consumers, reading.values, strict=True):
                if empty:
                    emptied.setdefault(position, []).extend(empty)
                if merged:
                    merges.setdefault(position, []).extend(merged)
                if folded.size:
                    mean = values.setdefault(position, np.zeros(len(terms.ops[position].channels)))
                    mean[reading.rows[folded]] = value[folded]
    gone = np.zeros(graph.count + 1)
    shifts = {
        position: mean_shift(op := terms.ops[position], np.tile(mean[:, None], op.kernel_size), gone)
        for position, mean in values.items()
    }
    fillers = sum(int(one.fillers.sum()) for one in choices)
    taken_over = {position: tuple(some) for position, some in merges.items()}
    read_no_more = {position: tuple(some) for position, some in emptied.items()}
    return Lossless(keep, taken_over, shifts, tuple(removed), read_no_more, frozenset(quieted), fillers)


def _removals(proposal: _Proposal, dropped: Bools, settled: Bools, samples: int) -> Iterator[Removal]:
    dead = settled & ~np.logical_or.reduce([reading.view.alive.any(1) for reading in proposal.readings])
    constant = np.logical_and.reduce([reading.constant for reading in proposal.readings])
    small = np.logical_or.reduce([reading.negligible for reading in proposal.readings]) & proposal.choice.gone
    kinds: dict[RemovalKind, NDArray[np.bool_]] = {
        "dead": dropped & dead,
        "constant": dropped & constant & ~dead,
        "negligible": dropped & small & ~constant & ~dead,
        "duplicate": dropped & ~small & ~constant & ~dead,
    }
    for kind, which in kinds.items():
        if which.any():
            ids = tuple(proposal.group.channels[which].tolist())
            yield Removal(proposal.group.name, kind, ids, "data" if samples else "weights", samples)
