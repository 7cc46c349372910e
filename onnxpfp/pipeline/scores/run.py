"""Measure a network once, for a file of scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

import onnxpfp
from onnxpfp.calibrate.collect import calibrate, calibration_batch
from onnxpfp.calibrate.sensitivity.settings import EPSILON
from onnxpfp.channels import Analysis
from onnxpfp.channels.lineage import Lineage
from onnxpfp.data.overlap import sample_digests
from onnxpfp.data.samples import Samples
from onnxpfp.data.shards import Shard
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.pipeline.choice_bounds import UNIT_SAMPLES, squares_key
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.lossless_step import find_in, taken_out
from onnxpfp.pipeline.measurements import SquareObserver
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.refit_problem import refit_setup, start_gram_observers
from onnxpfp.pipeline.scores.file import DIGEST, ScoresFile
from onnxpfp.pipeline.scores.header import ScoredSamples, ScoresHeader
from onnxpfp.pipeline.scores.lossless_record import lossless_to_dict
from onnxpfp.pipeline.scores.part import ScoredGroup, ScoredPart

__all__ = ["digest_of_all", "header_of", "score_network"]


def header_of(context: RunContext) -> ScoresHeader:
    """Return what must be equal where scores are made and used."""
    options = context.options
    return ScoresHeader(
        version=onnxpfp.__version__,
        model=context.whole.source.sha256,
        kernel=options.entries,
        guard=EPSILON,
        seed=options.seed,
        attention=options.attention,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        inputs=dict(context.whole.shapes.inputs),
    )


def score_network(network: Network, shard: Shard, title: str) -> ScoresFile:
    """Measure every part of a network on a shard of the samples that a whole run would score.

    What costs nothing is found on all samples in every shard, so that all measure the same network.

    Args:
        network: The network.
        shard: Which of the samples.
        title: What messages call the file.

    Raises:
        CalibrationError: The network computes NaN on the samples.
    """
    main = network.parts[0]
    measured = [_scored_or_left(part, shard) for part in network.parts]
    fit = main.context.data.fit
    # Where the main graph has nothing to measure, nothing says how many samples run at once.
    scored = measured[0].scored if measured[0].batch else shard.cut(fit, 1)[0]
    some = np.zeros((0, DIGEST), np.uint8) if scored is None else sample_digests(scored)
    count = 0 if scored is None else len(scored)
    data = ScoredSamples(digest_of_all(fit), len(fit), count, (shard,), main.context.data.independent)
    parts = {part.place: each.result for part, each in zip(network.parts, measured, strict=True)}
    return ScoresFile(title, header_of(main.context), (data,), some, parts)


def digest_of_all(samples: Samples) -> str:
    """Return the digest of samples in their order, in hexadecimal."""
    return hashlib.sha256(sample_digests(samples).tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """What was measured of a part.

    Attributes:
        result: It.
        batch: How many samples run at once; 0 where there was nothing to measure.
        scored: The samples of the shard; None where it has none.
    """

    result: ScoredPart
    batch: int = 0
    scored: Samples | None = None


def _scored_or_left(part: NetworkPart, shard: Shard) -> _Scored:
    """Measure a part; a body that cannot be measured stays."""
    if not part.prunable:
        return _Scored(_left(part, part.stays))
    try:
        return _scored(part, shard)
    except (CalibrationError, ModelError) as error:
        if part.body is None:
            raise
        return _Scored(_left(part, str(error)))


def _left(part: NetworkPart, why: str) -> ScoredPart:
    whole = part.context.whole
    lineage = Lineage.unchanged(whole.graph)
    groups = _groups(part.context, lineage)
    return ScoredPart(whole.graph.count, groups, part.context.subnormal.zeroed, stays=why)


def _groups(context: RunContext, lineage: Lineage) -> tuple[ScoredGroup, ...]:
    """List the groups of a part, and what has become of their channels."""
    return tuple(
        ScoredGroup(
            group.name,
            context.alignment.of_group(group.channels.size),
            tuple(lineage.current[group.channels].tolist()),
        )
        for group in context.whole.graph.groups
    )


def _scored(part: NetworkPart, shard: Shard) -> _Scored:
    """Take out of a part what costs nothing, and measure what is left."""
    context = part.context
    with context.clock.phase("lossless"):
        ops = linear_ops(context.whole)
    lossless = find_in(context, ops)
    step = taken_out(context, lossless, ops)
    found = ScoredPart(
        context.whole.graph.count,
        _groups(context, step.lineage),
        context.subnormal.zeroed,
        lossless_to_dict(lossless),
    )
    return _measured(context, step.analysis, found, shard)


def _measured(context: RunContext, analysis: Analysis, found: ScoredPart, shard: Shard) -> _Scored:
    options, data = context.options, context.data
    with context.clock.phase("calibration") as progress:
        ops = linear_ops(analysis)
        if not ops:
            return _Scored(found)
        squares = [
            SquareObserver(op, squares_key(context, position), UNIT_SAMPLES)
            for position, op in enumerate(ops)
            if op.weight is not None
        ]
        setup = None if data.split is None else refit_setup(context, analysis, data.split)
        grams = () if setup is None else start_gram_observers(setup, fits_only=False)
        observers = [*grams, *squares]
        batch = calibration_batch(
            analysis.model,
            ops,
            data.fit,
            kernel=options.entries,
            batch_size=context.batch_limit,
            providers=context.requests,
            workspace_bytes=options.workspace,
            observers=observers,
        )
        some, first = shard.cut(data.fit, batch)
        if some is None:
            return _Scored(found, batch)
        statistics = calibrate(
            analysis.model,
            ops,
            some,
            kernel=options.entries,
            batch_size=context.batch_limit,
            providers=context.requests,
            threads=options.threads,
            workspace_bytes=options.workspace,
            progress=progress,
            observers=observers,
            first_sample=first,
            batch=batch,
        )
        sums = {name: each for observer in grams for name, each in observer.statistics().items()}
        squared = {name: each for observer in squares for name, each in observer.statistics().items()}
    return _Scored(replace(found, ops=statistics, squares=squared, grams=sums), batch, some)
