"""Sparsify a model: the single weights that matter least become zeros (SiPP)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.api.model_comparison import compare_models
from onnxpfp.api.save import WritableResult
from onnxpfp.api.written import drift_of, measuring, noted, verified
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.counted import counted
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import ModelError, OptionError
from onnxpfp.model.compressed import compressed_bytes, compressed_model_bytes
from onnxpfp.model.load import ModelSource
from onnxpfp.model.names import node_name
from onnxpfp.model.plain import with_sparse_initializers
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.provenance import Provenance
from onnxpfp.pipeline.sparse_plan import SparsePlan
from onnxpfp.pipeline.sparsification import SparseLayer, Sparsification, sparsify_network
from onnxpfp.progress import Progress
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.sparsity import LayerSparsity, SparsityReport
from onnxpfp.report.verification import VerificationReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops, open_session

__all__ = ["SparsifyArguments", "SparsifyResult", "sparsify", "sparsify_with"]

WHAT, AGAINST = "the sparsified model", "the original with masked weights"
"""What messages call the file, and what it is held against."""


@dataclass(frozen=True, slots=True, eq=False)
class SparsifyResult(WritableResult):
    """A sparsified model.

    Attributes:
        report: What is known about it.
        plan: Which weights stay, and what they are multiplied by.
    """

    report: SparsityReport
    plan: SparsePlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparsifyArguments(SparsifyOptions):
    """Keywords of `sparsify`: the options, and what only programs give."""

    calibration: SampleSource | None = field(
        default=None, metadata=documented("Unlabelled samples, as in `onnxpfp.prune`; a plan needs none.")
    )
    from_plan: SparsePlan | str | os.PathLike[str] | None = field(
        default=None, metadata=documented("A plan to replay in place of a choice: `result.plan`, or its file.")
    )
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(SparsifyArguments)
def sparsify(model: ModelSource, arguments: SparsifyArguments) -> SparsifyResult:
    """Set the single weights to zero that matter least by their sensitivities (SiPP); no shape changes.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data, the options or the plan; its children in
            `onnxpfp.errors` say which.
    """
    plan = arguments.from_plan
    if plan is not None and not isinstance(plan, SparsePlan):
        plan = SparsePlan.read(Path(plan))
    return sparsify_with(model, arguments.calibration, arguments, plan=plan, progress=arguments.progress)


def sparsify_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: SparsifyOptions,
    *,
    plan: SparsePlan | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> SparsifyResult:
    """Sparsify a model with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None where a plan is replayed.
        asked: How many weights stay, how they are chosen, and how to run.
        plan: What stays, in place of a choice.
        progress: Told how far it is.
        folder: Where weights may lie until they are written, as in `onnxpfp.api.prune.prune_with`.

    Raises:
        OnnxPfpError: As in `sparsify`.
    """
    if calibration is None and plan is None:
        raise OptionError(
            "sparsify measures the shares of the weights on data, and none are given", hint="give --calib-data FILE.npz"
        )
    with custom_ops(asked.custom_ops), one_blas_thread():
        context = open_run(
            model,
            "random" if calibration is None else calibration,
            asked.running(),
            (),
            progress=progress,
            folder=folder,
            decides=plan is None,
        )
        network = open_parts(context)
        found = sparsify_network(network, asked, plan)
        with context.clock.phase("rewrite"):
            stored, sparse = _stored(context, found, asked)
        with context.clock.phase("verification"):
            oracle, other = verified(context, stored, found.masked, what=WHAT, against=AGAINST)
        compared = compare_models(measuring(context), other, asked.comparing())
        source = context.whole.source
        unchanged = None if found.changed or sparse else source.given_bytes()
        told, with_notes, made_by = noted(context, _provenance(context, asked, plan), stored, compared)
        if unchanged is None:
            stored, compared = told, with_notes
        made = replace(found.plan, made_by=made_by)
        report = _report(network, asked, found, stored, sparse, oracle, compared, plan)
        return SparsifyResult(stored, unchanged, source.external, source.scratch, source.read, report, made)


def _provenance(context: RunContext, asked: SparsifyOptions, plan: SparsePlan | None) -> Provenance:
    return Provenance.of(
        "sparsify",
        asked,
        context.whole.source.sha256,
        telling=context.data.given == "file",
        silent=asked.no_metadata,
        planned=None if plan is None else plan.made_by,
    )


def _stored(context: RunContext, found: Sparsification, asked: SparsifyOptions) -> tuple[ModelProto, tuple[str, ...]]:
    """Return the file, with sparse tensors where they are asked for, and the names of these.

    Raises:
        ModelError: onnxruntime does not load it with sparse tensors.
    """
    if not asked.sparse_initializers:
        return found.model, ()
    stored, sparse = with_sparse_initializers(found.model, {each.layer.stored for each in found.layers})
    try:
        if sparse:
            open_session(stored, context.requests, threads=asked.threads)
    except ModelError as error:
        reason = f"onnxruntime does not load it with sparse initializers: {error}"
        raise ModelError(f"{context.whole.source.title}: {reason}", hint="leave out --sparse-initializers") from error
    return stored, sparse


def _report(
    network: Network,
    asked: SparsifyOptions,
    found: Sparsification,
    stored: ModelProto,
    sparse: tuple[str, ...],
    oracle: Equivalence,
    compared: VerificationReport,
    plan: SparsePlan | None,
) -> SparsityReport:
    context = network.parts[0].context
    source, data = context.whole.source, context.data
    chosen = plan is None
    unbounded = _unbounded(context, asked, plan)
    return SparsityReport(
        file=str(source.path) if source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        keep_weights=asked.keep_weights if chosen else None,
        budget=found.budget,
        select=asked.select if chosen else None,
        positions=asked.positions if chosen else None,
        delta=asked.delta,
        samples=len(data.fit) if chosen else 0,
        unbounded=unbounded,
        layers=tuple(_layer(each, sparse, bounded=not unbounded) for each in found.layers),
        whole=found.whole,
        before=compared.before,
        after=compared.after,
        compressed=(compressed_model_bytes(source.whole), compressed_model_bytes(stored)),
        oracle=oracle,
        drift=drift_of(compared, what=WHAT, held_out=data.held_out is not None),
        data=compared.data,
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        notes=tuple(_notes(network, asked, found, sparse, plan)),
    )


def _unbounded(context: RunContext, asked: SparsifyOptions, plan: SparsePlan | None) -> str:
    """Say why there are no bounds; empty where there are."""
    if plan is not None:
        return "a plan was replayed, and nothing measured"
    if context.data.given == "random":
        return "the samples are noise"
    if asked.positions == "mean":
        return "the mean of a weight's shares over positions bounds none of them; --positions max does"
    return ""


def _layer(each: SparseLayer, sparse: tuple[str, ...], *, bounded: bool) -> LayerSparsity:
    layer, choice = each.layer, each.choice
    before = each.before.astype(np.float32)
    parts = np.unique(2 * layer.outputs[before != 0] + (before[before != 0] < 0))
    bounds = choice.bounds[parts] if choice is not None and bounded else None
    return LayerSparsity(
        nodes=tuple(map(node_name, layer.nodes)),
        op=layer.nodes[0].op_type,
        weight=layer.weight,
        shape=layer.shape,
        nonzero=(int(np.count_nonzero(each.before)), int(np.count_nonzero(each.after))),
        bytes=each.after.nbytes,
        compressed=(compressed_bytes([each.before.tobytes()]), compressed_bytes([each.after.tobytes()])),
        sparse=layer.stored in sparse,
        parts=len(parts),
        drawn=0 if choice is None else int(np.count_nonzero(choice.drawn)),
        bound=None if bounds is None else float(bounds.max(initial=0.0)),
        bounded=None if bounds is None else int(np.count_nonzero(bounds < 1)),
    )


def _notes(
    network: Network, asked: SparsifyOptions, found: Sparsification, sparse: tuple[str, ...], plan: SparsePlan | None
) -> Iterator[str]:
    context = network.parts[0].context
    source, data = context.whole.source, context.data
    yield from source.notes
    if data.given == "random" and plan is None:
        yield "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs"
    elif data.given == "random":
        yield "RANDOM data: the drift is that of noise, not of your inputs; give --calib-data for that"
    yield from data.notes
    yield from draws_notes(context.whole.model)
    bodies = [*(part.place for part in network.parts[1:]), *(body.place for body in network.left)]
    if bodies:
        more = f" and {len(bodies) - 1} more" if len(bodies) > 1 else ""
        yield f"weights go in the main graph only: the body {bodies[0]}{more} stays"
    empty = [each.layer.name for each in found.layers if not each.after.any() and each.before.any()]
    if empty:
        more = ", ..." if len(empty) > 3 else ""
        yield (
            counted(
                len(empty),
                "layer lost all its weights, so it gives its bias alone",
                "layers lost all their weights, so they give their bias alone",
            )
            + f": {', '.join(empty[:3])}{more}"
        )
    if asked.sparse_initializers:
        left = len(found.layers) - len(sparse)
        yield (
            f"{counted(len(sparse), 'weight is', 'weights are')} stored as sparse tensors, "
            f"{counted(left, 'takes fewer bytes as it is', 'take fewer bytes as they are')}, or cannot be"
        )
    if plan is not None and plan.source_sha256 != source.sha256:
        yield "the plan was made for another file; it fits this one by names and shapes"
