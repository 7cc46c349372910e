"""Refit a factored network front to back: second ops, and layers that stay, towards the original's outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import ModelProto

from onnxpfp.model.load import load
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.refit_problem import refit_setup
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.means import Record
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.transfer import with_edits

__all__ = ["RefittedFactors", "refit_factors"]


@dataclass(frozen=True, slots=True, eq=False)
class RefittedFactors:
    """A factored network after its refit.

    Attributes:
        model: The file.
        records: What the refit of each op brought on samples kept out of the fit, front to back.
    """

    model: ModelProto
    records: tuple[Record, ...]


def refit_factors(context: RunContext, factored: ModelProto) -> RefittedFactors:
    """Refit all ops of a factored network whose outputs the original has, too, each on the inputs that it has now.

    The factors of a layer are chosen with the inputs that it has in the original; behind other factored layers it has
    others. First ops stay: between them and the outputs of the original stands another op.

    Args:
        context: The original, and its samples.
        factored: The file with the factors.
    """
    source, _, _ = open_model(load(factored), context.options)
    analysis = analyze(source, context.data, context.options, context.clock)
    split = context.data.split
    assert split is not None, "who refits has samples to decide between fits"
    problem = refit_setup(context, analysis, split).problem
    original = context.whole.source.model
    known = {node.output[0] for node in original.graph.node if node.output}
    written = {node.output[0] for node in factored.graph.node if node.output}
    nodes = analysis.model.graph.node

    def refittable(layer: RefitLayer) -> bool:
        readers = {nodes[index].output[0] for index, _ in analysis.index.uses.get(layer.output, ())}
        return layer.output in known and written >= {layer.output} | readers

    problem = replace(problem, layers=tuple(filter(refittable, problem.layers)))
    with context.clock.phase("compensation") as progress:
        found = refit(problem, analysis.graph.keep_all(), Edits(), progress, original)
    return RefittedFactors(with_edits(factored, analysis.model, found.edits), found.records)
