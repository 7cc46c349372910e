"""What is made sure of a file before it is written, whichever verb made it from the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import ModelProto

from onnxpfp.comparison.drift import Drift, check
from onnxpfp.comparison.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.errors import VerificationError
from onnxpfp.model.load import LoadedModel, load
from onnxpfp.model.plain import with_plain_constants
from onnxpfp.model.provenance import provenance_bytes, with_provenance
from onnxpfp.pipeline.analyze import open_model
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.provenance import Provenance
from onnxpfp.report.verification import VerificationReport

__all__ = ["drift_of", "measuring", "noted", "verified"]

ORACLE_RUNS = 2
ORACLE_BATCH = 4


def verified(
    context: RunContext, model: ModelProto, expected: ModelProto, *, what: str, against: str
) -> tuple[Equivalence, LoadedModel]:
    """Check a file, and hold it against another model that must compute the same; returns it as it is read.

    Args:
        context: The run that it was made in.
        model: The file.
        expected: The other model.
        what: What a message calls the file, such as "the factored model".
        against: What it calls the other one.

    Raises:
        VerificationError: It is broken, or computes something else.
    """
    source, options = context.whole.source, context.options
    # onnx.checker infers no shape from a sparse tensor.
    check(source.whole, with_plain_constants(model), source.given)
    other = load(model)
    one, two = (open_model(each, options)[0].model for each in (load(expected), other))
    samples = context.data.held_out or context.data.samples
    batches = samples.batches(min(context.data.batch_size, ORACLE_BATCH))
    try:
        oracle = check_equivalence(
            one,
            two,
            [feed for feed, _ in zip(batches, range(ORACLE_RUNS), strict=False)],
            allowed=tolerance(context.whole.model, context.whole.shapes),
            providers=context.requests,
            threads=options.threads,
        )
    except VerificationError as error:
        reason = str(error).replace("the masked original", against)
        raise VerificationError(reason.replace("the pruned model", what), hint=error.hint) from error
    return oracle, other


def noted(
    context: RunContext, provenance: Provenance, model: ModelProto, compared: VerificationReport
) -> tuple[ModelProto, VerificationReport, Mapping[str, str]]:
    """Let a file that has changed say how it was made.

    Args:
        context: The run that it was made in.
        provenance: What it shall say.
        model: The file.
        compared: The comparison with the original.

    Returns:
        The file, the comparison with the size that it has then, and what a plan says of it.
    """
    drift = None if compared.drift is None else replace(compared.drift, held_out=context.data.held_out is not None)
    entries = provenance.measured(drift, model)
    after = replace(compared.after, bytes=compared.after.bytes + provenance_bytes(model, entries))
    told = with_provenance(model, entries)
    return told, replace(compared, after=after), provenance.made_by(drift, model)


def measuring(context: RunContext) -> RunContext:
    """Return the run on the samples that measure the result: the held-out ones where there are any."""
    data = context.data
    return context if data.held_out is None else replace(context, data=replace(data, samples=data.held_out))


def drift_of(compared: VerificationReport, *, what: str, held_out: bool) -> Drift:
    """Return the drift of a file from the original.

    Args:
        compared: The comparison of both.
        what: What a message calls the file.
        held_out: Whether it was measured on held-out samples.

    Raises:
        VerificationError: The file does not pass as one that was made from the original.
    """
    if compared.problems or compared.drift is None:
        reasons: Sequence[str] = compared.problems or (compared.uncompared,)
        raise VerificationError(f"{what} is no substitute for the original: {reasons[0]}")
    return replace(compared.drift, held_out=held_out)
