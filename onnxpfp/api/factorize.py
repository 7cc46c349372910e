"""Factorize a model: two ops of low rank in the place of one, where that saves multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.api.model_comparison import compare_models, loadable
from onnxpfp.api.save import WritableResult
from onnxpfp.api.written import drift_of, measuring, noted, verified
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.comparison.latency import LatencyFindings, is_slow, measure_pair, seconds_for_latency
from onnxpfp.data.sources import SampleSource
from onnxpfp.low_rank.layers import scheme_of
from onnxpfp.model.load import LoadedModel, ModelSource
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.factorization import Factorization, MeasuredFactors, factorize_network
from onnxpfp.pipeline.latency.interleaved import latency_feed, samples_in_run
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.provenance import Provenance
from onnxpfp.pipeline.requirements import holding_out, require_data
from onnxpfp.progress import Progress
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.factorization import FactorizationReport, FactorizedLayer
from onnxpfp.report.verification import VerificationReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["FactorizeArguments", "FactorizeResult", "factorize", "factorize_with"]

WHAT, AGAINST = "the factored model", "the one with the products of the factors"
"""What messages call the file, and what it is held against."""


@dataclass(frozen=True, slots=True, eq=False)
class FactorizeResult(WritableResult):
    """A factored model.

    Attributes:
        report: What is known about it.
    """

    report: FactorizationReport


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FactorizeArguments(FactorizeOptions):
    """Keywords of `factorize`: the options, and what only programs give."""

    calibration: SampleSource | None = field(
        default=None, metadata=documented("Unlabelled samples, as in `onnxpfp.prune`; None factors by weights alone.")
    )
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(FactorizeArguments)
def factorize(model: ModelSource, arguments: FactorizeArguments) -> FactorizeResult:
    """Put two ops of low rank in the place of every layer in which that saves most for what it loses.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data, the options or the target; its children in
            `onnxpfp.errors` say which.
    """
    return factorize_with(model, arguments.calibration, arguments, progress=arguments.progress)


def factorize_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: FactorizeOptions,
    *,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> FactorizeResult:
    """Factorize a model with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None: then the weights alone decide, and the outputs are compared on noise.
        asked: The target, and how to run.
        progress: Told how far it is.
        folder: Where weights may lie until they are written, as in `onnxpfp.api.prune.prune_with`.

    Raises:
        OnnxPfpError: As in `factorize`.
    """
    options = asked.running()
    require_data(calibration, options, replaying=True)
    with custom_ops(asked.custom_ops), one_blas_thread():
        context = open_run(
            model,
            "random" if calibration is None else calibration,
            options,
            holding_out(options, replaying=True),
            progress=progress,
            folder=folder,
            decides=calibration is not None,
        )
        network = open_parts(context)
        found = factorize_network(network, asked, by_data=calibration is not None)
        with context.clock.phase("verification"):
            oracle, other = verified(context, found.model, found.products, what=WHAT, against=AGAINST)
        compared = compare_models(measuring(context), other, asked.comparing())
        latency = None if asked.no_latency or not found.layers else _latency(context, other)
        source = context.whole.source
        unchanged = None if found.layers else source.given_bytes()
        stored = found.model
        if found.layers:
            stored, compared, _ = noted(context, _provenance(context, asked), stored, compared)
        report = _report(network, asked, found, oracle, compared, latency, by_data=calibration is not None)
        return FactorizeResult(stored, unchanged, source.external, source.scratch, source.read, report)


def _provenance(context: RunContext, asked: FactorizeOptions) -> Provenance:
    telling = context.data.given == "file"
    sha256 = context.whole.source.sha256
    return Provenance.of("factorize", asked, sha256, telling=telling, silent=asked.no_metadata)


def _latency(context: RunContext, other: LoadedModel) -> LatencyFindings:
    """Measure the latency of both files, as onnxruntime loads them."""
    opened = replace(context, whole=replace(context.whole, source=other))
    sources = loadable(context), loadable(opened)
    seconds = seconds_for_latency(sum(context.clock.seconds.values()))
    with context.clock.phase("latency"):
        found = measure_pair(sources, latency_feed(context), context.requests, context.options.threads, seconds)
    return replace(found, samples=samples_in_run(context))


def _report(
    network: Network,
    asked: FactorizeOptions,
    found: Factorization,
    oracle: Equivalence,
    compared: VerificationReport,
    latency: LatencyFindings | None,
    *,
    by_data: bool,
) -> FactorizationReport:
    context = network.parts[0].context
    source, data = context.whole.source, context.data
    return FactorizationReport(
        file=str(source.path) if source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        keep_macs=asked.share_of_macs,
        energy=asked.energy,
        scheme=asked.scheme,
        alignment=context.alignment,
        factored_by="data" if by_data else "weights",
        samples=len(data.fit) if by_data else 0,
        refits=found.refits,
        layers=tuple(map(_layer, found.layers)),
        staying=found.staying,
        before=compared.before,
        after=compared.after,
        oracle=oracle,
        drift=drift_of(compared, what=WHAT, held_out=data.held_out is not None),
        data=compared.data,
        latency=latency,
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        notes=tuple(_notes(network, compared, latency)),
    )


def _layer(each: MeasuredFactors) -> FactorizedLayer:
    factored, layer = each.factored, each.factored.layer
    return FactorizedLayer(
        nodes=tuple(use.name for use in layer.uses),
        op=layer.uses[0].consumer.op,
        scheme=scheme_of(layer, factored.cut),
        groups=layer.uses[0].op.group,
        rank=factored.factors.rank,
        first=tuple(factored.first.shape),
        second=tuple(factored.second.shape),
        kept=each.kept,
        macs=(layer.macs, each.macs),
    )


def _notes(network: Network, compared: VerificationReport, latency: LatencyFindings | None) -> Iterator[str]:
    context = network.parts[0].context
    source, data = context.whole.source, context.data
    yield from source.notes
    if data.given == "random":
        yield "RANDOM data: the drift is that of noise, not of your inputs; give --calib-data for that"
    yield from data.notes
    yield from draws_notes(context.whole.model)
    bodies = [*(part.place for part in network.parts[1:]), *(body.place for body in network.left)]
    if bodies:
        more = f" and {len(bodies) - 1} more" if len(bodies) > 1 else ""
        yield f"low rank changes the main graph only: the body {bodies[0]}{more} stays"
    kept = (compared.after.macs or 0) / max(compared.before.macs or 0, 1)
    if latency is not None and latency.ratio is not None and is_slow(latency.ratio, kept):
        yield (
            f"the factored model takes {latency.ratio.median:.2f} of the original's time at {kept:.2f} of its "
            "multiply-adds, not even half of what these promise: every layer that became two has one more op to run; "
            "--exclude leaves layers whole, --round-to sets the multiple of their ranks"
        )
