"""From a model that is understood to a choice of what stays, in one step or in several.

With several steps, scores and response curves are measured anew on the network as it is pruned and compensated by then:
what was redundant in the original may not be so any more. Each step says its choice in terms of the first network, and
the result is made from that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.budget.measured import Curve
from onnxpfp.calibrate import ProviderRequest, Reader
from onnxpfp.calibrate.describe import describe
from onnxpfp.channels import ChannelGraph, Ids
from onnxpfp.config import Options
from onnxpfp.pipeline.carry_out import Rewritten, carry_out
from onnxpfp.pipeline.clock import Clock
from onnxpfp.pipeline.decide import Decision, choose, selector_of
from onnxpfp.pipeline.gather import Evidence, Split, gather
from onnxpfp.pipeline.origin import lifted, origin_of
from onnxpfp.pipeline.prepare import Data, Prepared, prepare
from onnxpfp.pipeline.response import response_curves
from onnxpfp.plan import Plan
from onnxpfp.rewrite.weights import StoredAxis, stored_axes_of
from onnxpfp.select import Selection

__all__ = ["Course", "Level", "in_terms_of", "narrowed", "weighed"]


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What stays the same at every step.

    Attributes:
        data: The samples.
        split: The same by what they are for.
        requests: Where to run.
        options: How to prune.
        plan: What stays, in place of scores.
        full: The cost that the target is a share of.
        clock: Adds up seconds, and says how far it is.
    """

    data: Data
    split: Split
    requests: Sequence[ProviderRequest]
    options: Options
    plan: Plan | None
    full: int
    clock: Clock

    @property
    def chooses(self) -> bool:
        """Whether channels are to be chosen: no plan says what stays, and not everything does."""
        return self.plan is None and self.options.target[1] < 1


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A model, and what was measured on it.

    Attributes:
        prepared: The model.
        readers: Its consumers.
        evidence: Its scores.
        places: Where each consumer's weights are stored.
        curves: Its response curves, where they set the widths.
    """

    prepared: Prepared
    readers: tuple[Reader, ...]
    evidence: Evidence
    places: tuple[StoredAxis | None, ...]
    curves: tuple[Curve, ...]


def weighed(course: Course, prepared: Prepared) -> Level:
    """Measure everything on a model that a choice needs to know."""
    options, clock = course.options, course.clock
    model = prepared.source.model
    with clock.phase("calibration"):
        readers = describe(model, prepared.graph, prepared.shapes, prepared.constants)
        evidence = gather(
            prepared,
            readers,
            course.data,
            course.split,
            course.requests,
            options,
            replaying=course.plan is not None,
            clock=clock,
        )
    with clock.phase("allocation"):
        places = stored_axes_of(model, prepared.graph, prepared.constants)
    if not (course.chooses and options.allocation(evidence.known) == "measured"):
        return Level(prepared, readers, evidence, places, ())
    with clock.phase("curves") as tell:
        curves = response_curves(selector_of(prepared, evidence, places, options), evidence, tell)
    return Level(prepared, readers, evidence, places, curves)


def narrowed(course: Course, first: Level) -> tuple[Decision, Rewritten]:
    """Choose what stays of a model, and make what is left.

    Args:
        course: What is asked for.
        first: The model, and what was measured on it.

    Returns:
        The choice in its terms, and the result.

    Raises:
        PlanError: The plan does not fit this model.
        TargetUnreachableError: The target cannot be met.
    """
    prepared, level = first.prepared, first
    steps = course.options.steps if course.chooses else 1
    origin = np.arange(prepared.graph.count + 1)
    for step in range(1, steps + 1):
        decision = _decision(course, first, level, origin, _towards(course.options, step, steps))
        done = carry_out(
            first.prepared, first.readers, first.evidence, decision, first.places, course.options, course.clock
        )
        if step == steps:
            return decision, done
        smaller = prepare(prepared.source.rewritten(done.model), course.data, course.options, course.clock)
        origin = origin_of(first.prepared.graph, decision.keep, smaller.graph)
        level = weighed(course, smaller)
    raise AssertionError


def _decision(course: Course, first: Level, level: Level, origin: Ids, options: Options) -> Decision:
    """Choose what stays of the model of a level, in terms of the first."""
    with course.clock.phase("allocation"):
        found = choose(level.prepared, level.evidence, level.places, options, course.plan, level.curves, course.full)
    if level is first:
        return found
    return in_terms_of(first.prepared.graph, level.prepared.graph, found, origin)


def _towards(options: Options, step: int, steps: int) -> Options:
    """Return the options with the target of a step: equal factors lead to the last one."""
    quantity, share = options.target
    if quantity == "macs":
        return replace(options, keep_macs=share ** (step / steps))
    return replace(options, keep_params=share ** (step / steps))


def in_terms_of(first: ChannelGraph, graph: ChannelGraph, found: Decision, origin: Ids) -> Decision:
    """Say a choice on a smaller model in terms of the one that it was made from.

    Args:
        first: Channels of the larger model.
        graph: Channels of the smaller one.
        found: The choice.
        origin: The channel of the larger model for every one of the smaller (`origin_of`).
    """
    keep = lifted(found.keep, origin, first.count)
    pairs = zip(graph.groups, found.selections, strict=bool(found.selections))
    owner = {int(origin[group.channels[0]]): chosen for group, chosen in pairs}
    selections: list[Selection] = []
    for group in first.groups if owner else ():
        chosen = next(owner[channel] for channel in group.channels.tolist() if channel in owner)
        stays = keep[group.channels]
        selections.append(replace(chosen, keep=stays, factor=stays.astype(np.float64)))
    return Decision(keep, lifted(found.factor, origin, first.count), tuple(selections))
