"""The parts of a network: its main graph, and the bodies of If, Loop and Scan, each a network of its own.

A body is fed what the network around it feeds it (`onnxpfp.bodies`). What goes in and out of it stays as it is, so each
part is analysed, measured and pruned alone, and takes the place of what it was. Held-out samples feed no body: what it
costs and what it was chosen by come from the others, and the result is measured on the network around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto, TensorProto

from onnxpfp.bodies.extract import Lengths, body_model, shared_constants
from onnxpfp.bodies.feeds import BodyFeeds, feeds_of_bodies
from onnxpfp.bodies.graphs import BODY_OPS, Body, bodies_of, names_inside
from onnxpfp.bodies.insert import put_body, store_in_nodes
from onnxpfp.bodies.move import with_weights_outside
from onnxpfp.channels import Analysis
from onnxpfp.channels.name_patterns import name_inside, names_of
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Feed
from onnxpfp.data.splits import CalibrationData, Split, split_samples
from onnxpfp.errors import ModelError, PlanError
from onnxpfp.model.draws import record_of_body
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE
from onnxpfp.model.folding import fold_weights
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.opset import standard_opset
from onnxpfp.model.plain import with_plain_constants
from onnxpfp.model.shapes import static_lengths
from onnxpfp.pipeline.analyze import analyze
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.reading import CHECKS
from onnxpfp.pipeline.requirements import holding_out

__all__ = [
    "AnalyzedPart",
    "LeftBody",
    "Network",
    "NetworkPart",
    "open_parts",
    "require_planned",
]

SCAN_WITHOUT_BATCH = 9
"""First opset whose Scan goes over all axes alike."""
UNTAKEN = "no sample takes this branch, held-out ones aside"
UNSTEPPED = "it does not run once on the samples, held-out ones aside"


class _BodySamples(FeedSamples):
    """Feeds of a body: what a network computes may be infinite, such as masks."""

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it)."""
        yield from zip(self.feeds, self.counts, strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class AnalyzedPart:
    """The main graph, or a body, as far as it is known without data.

    Attributes:
        analysis: The analysis.
        runs: How often it runs in one run of the network.
    """

    analysis: Analysis
    runs: float = 1.0

    def named(self, name: str) -> str:
        """Return the name of what is in it, as reports call it: behind the place of a body."""
        return name_inside(self.analysis.source.place, name)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPart:
    """The main graph, or a body.

    Attributes:
        context: What its stages share.
        runs: How often it runs in one run of the network.
        body: The body; None for the main graph.
        outer: Number of the part around it.
        shared: The constants outside that its model has copies of, as they were.
        stays: Why nothing of it goes, whatever could; empty where it may.
    """

    context: RunContext
    runs: float = 1.0
    body: Body | None = None
    outer: int = 0
    shared: Mapping[str, TensorProto] = field(default_factory=dict[str, TensorProto])
    stays: str = ""

    @property
    def prunable(self) -> bool:
        """Whether something of it may go."""
        return bool(self.context.whole.graph.groups) and not self.stays

    @property
    def place(self) -> str:
        """Where it is; empty for the main graph."""
        return self.context.whole.source.place

    @property
    def analyzed(self) -> AnalyzedPart:
        """It without its data."""
        return AnalyzedPart(self.context.whole, self.runs)


@dataclass(frozen=True, slots=True)
class LeftBody:
    """A body that stays as it is.

    Attributes:
        place: Where it is.
        reason: Why.
    """

    place: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network in parts.

    Attributes:
        parts: The main graph, then the bodies, outer ones before those inside of them.
        left: Bodies that stay.
    """

    parts: tuple[NetworkPart, ...]
    left: tuple[LeftBody, ...]

    def assemble(self, models: Sequence[ModelProto]) -> ModelProto:
        """Put what has become of the parts together; the first is the main graph. None of them is changed.

        Args:
            models: One for every part.
        """
        if len(models) == 1 and not self.left:
            return models[0]
        copies: list[ModelProto] = []
        for model in models:
            copy = ModelProto()
            copy.CopyFrom(model)
            copies.append(copy)
        for part, model in reversed([*zip(self.parts, copies, strict=True)]):
            if part.body is not None:
                put_body(copies[part.outer], part.body, model, part.shared)
                record_of_body(copies[part.outer], model, part.body.node, part.body.attribute)
        source = self.parts[0].context.whole.source
        with_weights_outside(copies[0], source.given)
        if copies[0].ir_version < INITIALIZERS_ARE_FREE:
            store_in_nodes(copies[0].graph)
        return copies[0]


def open_parts(context: RunContext) -> Network:
    """Find the bodies of a network, and what they are fed.

    Args:
        context: The network.

    Raises:
        OptionError: A pattern matches nothing.
    """
    parts, left = [NetworkPart(context)], list[LeftBody]()
    number = 0
    while number < len(parts):
        for found in _inside(parts[number], number):
            if isinstance(found, NetworkPart):
                parts.append(found)
            else:
                left.append(found)
        number += 1
    return Network(tuple(parts), tuple(left))


def _inside(outer: NetworkPart, number: int) -> Iterator[NetworkPart | LeftBody]:
    """Yield the bodies of one part."""
    context = outer.context
    analysis, data = context.whole, context.data
    bodies = bodies_of(analysis.model)
    prefix = f"{outer.place}/" if outer.place else ""
    known: list[Body] = []
    for body in bodies:
        why = _unknown(analysis.model, body)
        if why:
            yield LeftBody(prefix + body.place, why)
        else:
            known.append(body)
    if not known:
        return
    split, options = data.split, context.options
    sources = [data.samples] if split is None else [split.fit, split.tuning]
    try:
        with context.clock.phase("bodies") as progress:
            fed = feeds_of_bodies(
                *(analysis.model, known, analysis.constants, sources),
                *(context.requests, options.threads, options.workspace, progress),
            )
            lengths = static_lengths(analysis.model)
    except ModelError as error:
        yield from (LeftBody(prefix + body.place, str(error)) for body in known)
        return
    for body, feeds in zip(known, fed, strict=True):
        try:
            yield _part(outer, number, body, prefix + body.place, feeds, lengths)
        except ModelError as error:
            yield LeftBody(prefix + body.place, str(error))


def _unknown(model: ModelProto, body: Body) -> str:
    """Say why it is not known what a body is fed; empty if it is."""
    if body.node.op_type not in BODY_OPS or body.node.domain not in {"", "ai.onnx"}:
        return f"{body.title} runs it, and what that feeds it is not known"
    if body.node.op_type == "Scan" and standard_opset(model) < SCAN_WITHOUT_BATCH:
        return f"{body.title} is that of opset 8, which has an axis of samples of its own"
    return ""


def _part(
    outer: NetworkPart, number: int, body: Body, place: str, fed: Sequence[BodyFeeds], lengths: Lengths
) -> NetworkPart:
    """Make a part of a body.

    Raises:
        ModelError: It cannot be one; the message is why it stays.
    """
    failure = next((each.failure for each in fed if each.failure), "")
    if failure:
        raise ModelError(failure)
    context = outer.context
    taken = [feed for each in fed for feed in each.feeds]
    runs = sum(each.runs for each in fed) / max(1, sum(each.samples for each in fed))
    conditional = body.node.op_type == "If"
    if context.data.given != "file" and conditional:
        # Made-up inputs take a branch by chance: each counts alike, and may be looked at.
        runs = 0.5
        taken = taken or [feed for each in fed for feed in each.unseen][:CHECKS]
    if not taken:
        raise ModelError(UNTAKEN if conditional else UNSTEPPED)
    ranks = Counter(map(_ranks, taken)).most_common(1)[0][0]
    alike = [[feed for feed in each.feeds if _ranks(feed) == ranks] for each in fed]
    taken = [feed for feed in taken if _ranks(feed) == ranks]
    source = _source(outer, body, place, taken, lengths)
    data = replace(_data(context, source.model, taken, alike), independent=context.data.independent and conditional)
    stays = ""
    if data.split is None and context.data.given != "none":
        flags = holding_out(context.options, replaying=context.plan is not None)
        stays = next((f"{flag}, and it runs {len(taken)} times only" for flag in flags), stays)
    analysis = analyze(source, data, context.options, context.clock)
    plan = None if context.plan is None else context.plan.of_body(place)
    full = QUANTITIES[context.options.target[0]].whole(analysis, context.latencies)
    inner = replace(context, whole=analysis, data=data, plan=plan, full=full)
    shared = set(shared_constants(body, context.whole.constants))
    originals = source.rewritten_from or source.model
    copied = {tensor.name: tensor for tensor in originals.graph.initializer if tensor.name in shared}
    return NetworkPart(inner, outer.runs * runs, body, number, copied, stays)


def _ranks(feed: Feed) -> tuple[int, ...]:
    """Return the numbers of axes of what a body is fed: the first state of a Loop may have others than the next."""
    return tuple(array.ndim for array in feed.values())


def _source(outer: NetworkPart, body: Body, place: str, feeds: Sequence[Feed], lengths: Lengths) -> LoadedModel:
    around = outer.context.whole.source
    model = body_model(outer.context.whole.model, body, outer.context.whole.constants, feeds, lengths)
    graph = outer.context.whole.model.graph
    names = around.names | names_inside(graph) | set(names_of(graph))
    flat = with_plain_constants(model)
    source = replace(
        around,
        model=model,
        data=b"",
        size_bytes=0,
        rewritten_from=None,
        flat=flat,
        stale=(),
        tail=None,
        place=place,
        names=names,
    )
    return source.rewritten(fold_weights(flat))


def _data(
    context: RunContext, model: ModelProto, feeds: Sequence[Feed], fed: Sequence[Sequence[Feed]]
) -> CalibrationData:
    """Split the feeds of a body as the samples are that they come from, or anew where one part has none."""
    specs = input_specs(model)

    def samples(some: Sequence[Feed]) -> FeedSamples:
        return _BodySamples(specs, tuple(some), (1,) * len(some), {})

    given, pool = context.data.given, samples(feeds)
    if len(fed) > 1 and all(fed):
        return CalibrationData(pool, given, 1, Split(*map(samples, fed)))
    split = None if given == "none" else split_samples(pool, context.options.seed, 0)[1]
    return CalibrationData(pool, given, 1, split)


def require_planned(network: Network, plan: Plan) -> None:
    """Make sure that every body that a plan names is there, and can be looked at.

    Raises:
        PlanError: One is not.
    """
    reasons = {body.place: body.reason for body in network.left}
    for place in plan.bodies.keys() - {part.place for part in network.parts}:
        if place in reasons:
            raise PlanError(
                f"the plan cuts the body {place}, which stays: {reasons[place]}",
                hint="give the data that the plan was made with: --calib-data FILE.npz",
            )
        raise PlanError(
            f"the plan names the body {place}, which the model does not have",
            hint="replay a plan on the network it was made for, with the same node names",
        )
