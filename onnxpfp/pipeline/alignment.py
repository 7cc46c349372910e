"""Which multiples the channels of groups are kept in: what was asked for, or what suits the kernels that run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

from onnx import ModelProto, TensorProto

from onnxpfp.channels import Analysis
from onnxpfp.model.constants import all_graphs, stored_tensors, weight_names
from onnxpfp.options import Options
from onnxpfp.runtime.blocks import Alignment, alignment_of, cpu_features

__all__ = ["alignment_for", "type_of_weights"]


def alignment_for(options: Options, providers: Sequence[str], whole: Analysis) -> Alignment:
    """Return the multiples in which channels are kept.

    Args:
        options: What was asked for.
        providers: Where onnxruntime runs the network, the first by choice.
        whole: The network.
    """
    if isinstance(options.round_to, int):
        return Alignment(options.round_to, "as asked for", "asked")
    if options.sets_widths:
        return Alignment(1, f"what {' and '.join(options.removals)} {options.verb('leaves', 'leave')} is not rounded")
    return alignment_of(providers[0], type_of_weights(whole.source.flat or whole.model), cpu_features())


def type_of_weights(model: ModelProto) -> int:
    """Return the element type of most numbers in the matrices and filter banks that a model stores, bodies included.

    Returns:
        A `TensorProto.DataType`; that of floats where there are none.
    """
    counts: Counter[int] = Counter()
    for graph in all_graphs(model):
        stored = stored_tensors(graph)
        for name in weight_names(graph):
            if len(stored[name].dims) > 1:
                counts[stored[name].data_type] += prod(stored[name].dims)
    return counts.most_common(1)[0][0] if counts else TensorProto.FLOAT
