"""What a run cannot do without: data, enough of them to hold some out, channels that may go.

Each is made sure of as soon as it can be told: before anything is read, when the data are there, after the analysis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from onnxpfp.channels import Analysis
from onnxpfp.data.sources import SampleSource
from onnxpfp.data.splits import CalibrationData, Split, least_to_split
from onnxpfp.errors import CalibrationError, ModelError, OptionError
from onnxpfp.model.constants import all_graphs, stored_tensors, subgraphs, weight_names
from onnxpfp.model.names import node_name
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import CUSTOM_OPS_HINT
from onnxpfp.pipeline.criteria import criterion_of
from onnxpfp.pipeline.footprint import staying_axes

__all__ = [
    "PRUNABILITY_HOLDS_OUT",
    "blame_missing_ops",
    "holding_out",
    "require_data",
    "require_data_for_prunability",
    "require_split",
    "stores_matrix",
    "why_nothing",
]

PRUNABILITY_HOLDS_OUT = "prunability is measured on samples that are held out"
_GIVE_DATA = "give --calib-data FILE.npz"


def require_data(calibration: SampleSource | None, options: Options, *, replaying: bool) -> None:
    """Make sure that there are data if a pruning needs some.

    Args:
        calibration: The data as they were given.
        options: How to prune.
        replaying: Whether a plan says what stays, so that nothing is scored and no quality is aimed at.

    Raises:
        OptionError: There are none for the target or the score.
        CalibrationError: There are none for anything else.
    """
    if calibration is not None:
        return
    criterion = criterion_of(options.score)
    if not replaying and (options.limit_flag or criterion.needs_data):
        measuring = options.limit_flag or f"--score {criterion.name}"
        raise OptionError(f"{measuring} measures the data, and none are given", hint=_GIVE_DATA)
    if flag := next(_deciding(options, replaying=replaying), ""):
        raise CalibrationError(f"{flag} measures the data, and none are given", hint=_GIVE_DATA)


def require_data_for_prunability(calibration: SampleSource | None) -> None:
    """Make sure that there are data to measure prunability on.

    Raises:
        OptionError: There are none.
    """
    if calibration is None:
        raise OptionError("prunability is how far the output drifts on data, and none are given", hint=_GIVE_DATA)


def holding_out(options: Options, *, replaying: bool) -> list[str]:
    """List what of a pruning holds samples out, for `require_split`."""
    return [f"{flag} holds samples out to decide on" for flag in _deciding(options, replaying=replaying)]


def _deciding(options: Options, *, replaying: bool) -> Iterator[str]:
    """Yield the flags that ask for a decision on samples that are held out."""
    if options.limit_flag and not replaying:
        yield options.limit_flag
    if options.compensate == "lstsq":
        yield "--compensate lstsq"
    if not replaying:
        criterion = criterion_of(options.score)
        if "gram" in criterion.needs:
            yield f"--score {criterion.name}"
        if options.allocate == "measured":
            yield "--allocate measured"


def require_split(data: CalibrationData, holding_out: str) -> Split:
    """Return the samples by what they are for.

    Args:
        data: The samples.
        holding_out: What holds some out.

    Raises:
        CalibrationError: There are too few for that.
    """
    if data.split is None:
        raise CalibrationError(
            f"{holding_out}, which takes {least_to_split(data.samples)} samples, and {len(data.samples)} are given",
            hint="give more unlabelled samples",
        )
    return data.split


def why_nothing(analysis: Analysis) -> str:
    """Say why a model without groups has none; the most frequent reasons come first.

    1. Axes of weights stay: their reasons.
    2. All matrices and filter banks are stored in the graphs inside of nodes.
    3. There are some, but none brings forth channels that another op contracts, such as filters of one channel.
    4. There are none.
    """
    reasons = Counter(fixed.reason for fixed in staying_axes(analysis)).most_common(3)
    if reasons:
        return "; ".join(reason for reason, _ in reasons)
    if not any(map(stores_matrix, all_graphs(analysis.model))):
        return "it stores no matrix and no filter bank"
    if stores_matrix(analysis.model.graph):
        return "none of its weights brings forth channels that another Conv, Gemm, MatMul or other product reads"
    inside = next(node for node in analysis.model.graph.node if _holds_matrix(node))
    return f"its weights lie inside of {inside.op_type} '{node_name(inside)}'"


def stores_matrix(graph: GraphProto) -> bool:
    """Tell whether a graph stores a matrix or a filter bank, those of graphs inside of its nodes apart."""
    stored = stored_tensors(graph)
    return any(len(stored[name].dims) > 1 for name in weight_names(graph))


def _holds_matrix(node: NodeProto) -> bool:
    return any(stores_matrix(graph) or any(map(_holds_matrix, graph.node)) for graph in subgraphs(node))


def blame_missing_ops(analysis: Analysis, why: str = "") -> None:
    """Raise where a part of a model without groups is not run.

    Raises:
        ModelError: It is not, so that the ops that onnxruntime lacks are to blame.
    """
    tail = analysis.source.tail
    if tail is not None:
        raise ModelError(
            f"{analysis.source.title}: {tail.refusal}, and nothing before {tail.titles} can be pruned{why}",
            hint=CUSTOM_OPS_HINT,
        )
