"""The pipeline, top to bottom: load, understand, score, decide, rewrite, verify, report."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.calibrate import ProviderRequest, Reader, Samples, Statistics
from onnxpfp.calibrate import Source as DataSource
from onnxpfp.calibrate.describe import describe
from onnxpfp.channels import ChannelGraph
from onnxpfp.config import Options
from onnxpfp.decide import Decision, decide
from onnxpfp.errors import OptionError, PlanError, TargetUnreachableError
from onnxpfp.model.load import Source, load
from onnxpfp.model.measure import count_macs, count_params, mac_model, param_model
from onnxpfp.model.shapes import Shapes, concrete_shapes
from onnxpfp.plan import Plan, keep_of_plan, make_plan
from onnxpfp.prepare import Data, Prepared, open_model, prepare, read_data
from onnxpfp.report.build import Outcome, build_report
from onnxpfp.report.types import Report, Size
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.compensate import Compensation, fold_means, new_biases
from onnxpfp.rewrite.mask import masked
from onnxpfp.rewrite.weights import StoredAxis, reweight, reweightable, stored_axes_of
from onnxpfp.score.types import Scores
from onnxpfp.scoring import measure, score_with_data, score_without_data, wanted_samples
from onnxpfp.verify import Drift, check, compare, measure_drift, tolerance

__all__ = ["Progress", "Result", "prune", "prune_with"]

Progress = Callable[[str, int, int], None]
"""Told the phase, how far it is, and how far it goes."""

HELD_OUT = 256
"""Most samples that are kept away from the calibration to measure the drift on."""
ORACLE_RUNS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A pruned model.

    Attributes:
        model: The pruned model.
        plan: What was kept.
        report: What is known about it.
        unchanged: The bytes of the input where nothing was removed, else None.
        external: Whether the input kept its weights in other files.
    """

    model: ModelProto
    plan: Plan
    report: Report
    unchanged: bytes | None
    external: bool


@dataclass(slots=True)
class _Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def prune(
    model: ModelProto | str | os.PathLike[str],
    *,
    calibration: DataSource | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    select: Literal["deterministic", "sampled", "mixed", "auto"] = "auto",
    score: Literal["pfp", "energy"] = "pfp",
    kernel: Literal["sum", "max"] = "sum",
    compensate: Literal["none", "bias"] | None = None,
    delta: float = 1e-16,
    seed: int = 0,
    threads: int | None = None,
    providers: str = "cpu",
    round_to: int | None = None,
    min_channels: int = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    batch_size: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    from_plan: Plan | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Prune a model.

    Args:
        model: A path or a model object; it is not changed.
        calibration: Unlabelled samples: a path of a `.npz` or `.npy` file, an array or arrays by input
            name (axis 0 = samples), an iterable of feeds, an onnxruntime CalibrationDataReader, or the
            word "random". None prunes by weights alone.
        keep_macs: As the fields of the same name in `onnxpfp.config.Options`, like all below.
        keep_params: See `Options`.
        select: See `Options`.
        score: See `Options`.
        kernel: See `Options`.
        compensate: See `Options`.
        delta: See `Options`.
        seed: See `Options`.
        threads: See `Options`.
        providers: See `Options`.
        round_to: See `Options`.
        min_channels: See `Options`.
        include: See `Options`.
        exclude: See `Options`.
        samples: See `Options`.
        batch_size: See `Options`.
        input_shapes: See `Options`.
        from_plan: A plan to replay in place of scoring.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data, the options or the target; its
            children in `onnxpfp.errors` say which.
    """
    options = Options(
        keep_macs=keep_macs,
        keep_params=keep_params,
        select=select,
        score=score,
        kernel=kernel,
        compensate=compensate,
        delta=delta,
        seed=seed,
        threads=threads,
        providers=providers,
        round_to=round_to,
        min_channels=min_channels,
        include=tuple(include),
        exclude=tuple(exclude),
        samples=samples,
        batch_size=batch_size,
        input_shapes=input_shapes or {},
    )
    plan = from_plan if from_plan is None or isinstance(from_plan, Plan) else Plan.read(Path(from_plan))
    return prune_with(model, calibration, options, plan=plan, progress=progress)


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What the data, or the weights alone, tell."""

    scores: Scores | None
    statistics: Statistics | None
    held_out: Samples | None
    seen: Samples
    wanted: int


@dataclass(frozen=True, slots=True, eq=False)
class _Rewritten:
    """The pruned model, and what it is held against."""

    model: ModelProto
    mask: ModelProto
    compensation: Compensation | None


def prune_with(
    model: ModelProto | str | os.PathLike[str],
    calibration: DataSource | None,
    options: Options,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> Result:
    """Prune a model with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None.
        options: How to prune.
        plan: A plan to replay in place of scoring.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: As in `prune`.
    """
    clock, tell = _Clock(), progress or _silent
    if options.score == "energy" and calibration is None and plan is None:
        raise OptionError("--score energy measures the data, and none are given", hint="give --calib-data FILE.npz")
    with clock.phase("load"):
        tell("load", 0, 1)
        source = load(model)
        session, requests = open_model(source, options)
        data = read_data(source, session, calibration, options)
    with clock.phase("graph"):
        tell("graph", 0, 1)
        prepared = prepare(source, data, options)
        _refuse_if_nothing(prepared, options, plan)
        readers = describe(source.model, prepared.graph, prepared.shapes, prepared.constants)
    with clock.phase("calibration"):
        evidence = _gather(prepared, readers, data, requests, options, plan, tell)
    with clock.phase("allocation"):
        tell("allocation", 0, 1)
        places = stored_axes_of(source.model, prepared.graph, prepared.constants)
        decision = _decide(prepared, evidence, places, options, plan)
    with clock.phase("rewrite"):
        tell("rewrite", 0, 1)
        done = _rewrite(prepared, readers, evidence, decision, places, options)
    with clock.phase("verification"):
        tell("verification", 0, 1)
        check(source.model, done.model)
        feeds = _feeds(evidence, data)
        oracle = compare(
            done.mask,
            done.model,
            feeds,
            allowed=tolerance(prepared.shapes),
            providers=requests,
            threads=options.threads,
        )
        drift = _drift(source, done.model, evidence, data, requests, options)
        after = _size_after(prepared, done.model, decision)
    outcome = Outcome(
        prepared=prepared,
        data=data,
        options=options,
        scores=evidence.scores,
        selections=() if plan else decision.selections,
        keep=decision.keep,
        compensation=done.compensation,
        oracle=oracle,
        drift=drift,
        before=_size(source.model, prepared.shapes, source.size_bytes),
        after=after,
        samples=len(evidence.seen) if evidence.statistics is not None else 0,
        wanted=evidence.wanted,
        providers=session.providers,
        seconds=clock.seconds,
        replayed=plan,
    )
    report = build_report(outcome)
    return Result(
        model=done.model,
        plan=_plan(prepared, decision, places, report),
        report=report,
        unchanged=source.data if decision.keep.all() else None,
        external=source.external,
    )


def _silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


def _refuse_if_nothing(prepared: Prepared, options: Options, plan: Plan | None) -> None:
    """Say why nothing can be pruned, the most frequent reasons first."""
    if prepared.graph.groups or plan is not None or options.target[1] == 1:
        return
    reasons = Counter(fixed.reason for fixed in prepared.graph.fixed).most_common(3)
    told = "; ".join(reason for reason, _ in reasons) or "no Conv, Gemm or MatMul has weights in it"
    raise TargetUnreachableError(
        f"{prepared.source.title}: nothing in it can be pruned: {told}",
        hint="its layers are not coupled by ops that this version knows, or --exclude names them all",
    )


def _held_out(samples: Samples) -> int:
    """Return how many samples to hold out: whole feeds where their size is fixed."""
    unit = samples.fixed_batch or 1
    return min(HELD_OUT, len(samples) // 4) // unit * unit


def _gather(
    prepared: Prepared,
    readers: tuple[Reader, ...],
    data: Data,
    requests: Sequence[ProviderRequest],
    options: Options,
    plan: Plan | None,
    tell: Progress,
) -> _Evidence:
    """Split the data, measure the readers and score the channels."""
    held = _held_out(data.samples) if data.given != "none" else 0
    rng = np.random.default_rng(options.seed)
    rest, held_out = data.samples.split(held, rng) if held else (data.samples, None)
    if data.given == "none":
        scores = None if plan else score_without_data(prepared, readers, options)
        return _Evidence(scores, None, None, data.samples, 0)
    wanted = wanted_samples(readers, options.delta)
    seen = rest.take(min(wanted, len(rest)))
    statistics = measure(
        prepared,
        readers,
        seen,
        data.batch_size,
        requests,
        options,
        lambda done, total: tell("calibration", done, total),
    )
    scores = score_with_data(prepared, readers, statistics, len(seen), options)
    return _Evidence(scores, statistics, held_out, seen, wanted)


def _refuse_unscalable(graph: ChannelGraph, places: tuple[StoredAxis | None, ...], scale: NDArray[np.float64]) -> None:
    """Make sure that every factor of a plan has a weight to go into."""
    for consumer, place in zip(graph.consumers, places, strict=True):
        if place is None and (scale[consumer.channels] != 1).any():
            raise PlanError(
                f"the plan scales weights of {consumer.op} '{consumer.name}', which cannot be scaled in this model",
                hint="make a plan with --select deterministic",
            )


def _decide(
    prepared: Prepared,
    evidence: _Evidence,
    places: tuple[StoredAxis | None, ...],
    options: Options,
    plan: Plan | None,
) -> Decision:
    graph = prepared.graph
    if plan is not None:
        keep, factor = keep_of_plan(graph, plan)
        _refuse_unscalable(graph, places, np.where(keep, factor, 1.0))
        return Decision(keep, np.where(keep, factor, 0.0), ())
    if options.target[1] == 1:
        return Decision(graph.keep_all(), np.ones(graph.count + 1), ())
    assert evidence.scores is not None
    model, reference = prepared.source.model, None
    if options.target[0] == "macs":
        cost = mac_model(model, graph, prepared.shapes)
    else:
        folds = evidence.statistics is not None and options.compensate != "none"
        reference = count_params(model)
        cost = param_model(graph, new_biases(model, graph, prepared.constants) if folds else ())
    return decide(graph.groups, evidence.scores, cost, reweightable(graph, places), options, reference)


def _rewrite(
    prepared: Prepared,
    readers: tuple[Reader, ...],
    evidence: _Evidence,
    decision: Decision,
    places: tuple[StoredAxis | None, ...],
    options: Options,
) -> _Rewritten:
    """Reweight, compensate and slice; mask the edited original for the oracle."""
    model, graph, constants = prepared.source.model, prepared.graph, prepared.constants
    scale = np.where(decision.keep, decision.factor, 1.0)
    edits = reweight(graph, constants, places, scale)
    compensation = None
    if evidence.statistics is not None and options.compensate != "none":
        compensation = fold_means(model, graph, constants, readers, evidence.statistics, decision.factor, edits)
        edits = compensation.edits
    pruned = apply(model, graph, decision.keep, edits)
    edited = apply(model, graph, graph.keep_all(), edits) if edits else model
    return _Rewritten(pruned, masked(edited, graph, decision.keep, prepared.shapes), compensation)


def _feeds(evidence: _Evidence, data: Data) -> list[Mapping[str, NDArray[np.generic]]]:
    """Take a few sets of inputs for the oracle, unseen ones where there are any."""
    samples = evidence.held_out or evidence.seen
    batches = samples.batches(min(data.batch_size, 4))
    return [feed for feed, _ in zip(batches, range(ORACLE_RUNS), strict=False)]


def _drift(
    source: Source,
    pruned: ModelProto,
    evidence: _Evidence,
    data: Data,
    requests: Sequence[ProviderRequest],
    options: Options,
) -> Drift | None:
    if data.given == "none":
        return None
    return measure_drift(
        source.model,
        pruned,
        evidence.held_out or evidence.seen,
        batch_size=data.batch_size,
        held_out=evidence.held_out is not None,
        providers=requests,
        threads=options.threads,
    )


def _size(model: ModelProto, shapes: Shapes, size_bytes: int) -> Size:
    return Size(count_params(model), count_macs(model, shapes), size_bytes)


def _size_after(prepared: Prepared, pruned: ModelProto, decision: Decision) -> Size:
    """Measure the pruned model anew, from its own shapes."""
    if decision.keep.all():
        return _size(prepared.source.model, prepared.shapes, prepared.source.size_bytes)
    return _size(pruned, concrete_shapes(pruned, prepared.shapes.inputs), pruned.ByteSize())


def _plan(
    prepared: Prepared,
    decision: Decision,
    places: tuple[StoredAxis | None, ...],
    report: Report,
) -> Plan:
    graph = prepared.graph
    scales: dict[str, dict[int, NDArray[np.float64]]] = {}
    for consumer, place in zip(graph.consumers, places, strict=True):
        factor = decision.factor[consumer.channels]
        if place is not None and ((factor != 1) & (factor != 0)).any():
            ids = graph.axes[place.tensor][place.axis]
            scales.setdefault(place.tensor, {})[place.axis] = decision.factor[ids]
    return make_plan(
        graph,
        decision.keep,
        sha256=prepared.source.sha256,
        scales=scales,
        stored=tuple(graph.stored_axes()),
        groups=[
            {"name": g.name, "kept": g.kept, "channels": g.channels, "selection": g.selection} for g in report.groups
        ],
    )
