"""What subnormal weights cost in a run: the network as it is beside the same with zeros where no result can tell."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from onnxpfp.comparison.latency import LatencyFindings, measure_pair, seconds_for_latency
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.model.draws import without_record
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.rewrite.restore import call_again, restore
from onnxpfp.runtime.external_data import is_reference

__all__ = ["SubnormalCost", "subnormal_cost"]


@dataclass(frozen=True, slots=True)
class SubnormalCost:
    """What they cost.

    Attributes:
        zeroed: Weights that can be zero; None where it was not looked at.
        latency: The network as it is beside that with these zeros, or why it was not measured.
    """

    zeroed: int | None
    latency: LatencyFindings


def subnormal_cost(context: RunContext) -> SubnormalCost:
    """Measure it at one sample, or at one batch where that is fixed, within the time that any latency may take.

    Both are written as a pruning of which nothing goes would write them; what onnxruntime cannot run is left out.

    Args:
        context: The network.

    Raises:
        CalibrationError: It does not bear its data.
        ModelError: It does not run.
    """
    if any(is_reference(tensor) for tensor in context.whole.model.graph.initializer):
        return SubnormalCost(None, LatencyFindings(unmeasured="weights lie in other files"))
    network = open_parts(context)
    without = zero_subnormal_weights(network)
    zeroed = sum((part.context.subnormal for part in without.parts), SubnormalWeights()).zeroed
    if not zeroed:
        return SubnormalCost(0, LatencyFindings(unmeasured="on made-up inputs, results can tell each of them"))
    seconds = seconds_for_latency(sum(context.clock.seconds.values()))
    with context.clock.phase("latency"):
        feed = next(context.data.samples.batches(1))
        models = _written(network), _written(without)
        return SubnormalCost(zeroed, measure_pair(models, feed, context.requests, context.options.threads, seconds))


def _written(network: Network) -> ModelProto:
    """Return a network as it would be written, with all its channels."""
    wholes = [part.context.whole for part in network.parts]
    models = [restore(whole.model, whole, whole.graph.keep_all()) for whole in wholes]
    return without_record(call_again(network.assemble(models), wholes[0].source))
