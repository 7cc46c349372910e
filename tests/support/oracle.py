"""The oracle: the original with the removed channels masked computes what the pruned model computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis, ChannelGraph, Patterns, build_channel_graph
from onnxpfp.channels.attention_axes import Unit
from onnxpfp.comparison.drift import check
from onnxpfp.model.constants import Constants
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.shapes import Shapes, concrete_shapes, example_feeds
from onnxpfp.rewrite import Edits, apply
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime.external_data import WeightFile

Array = NDArray[np.generic]
Outputs = Mapping[str, Array]

EXACT = 1e-5
"""Largest difference over the largest output: float32 sums in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A model and what was found in it."""

    model: ModelProto
    shapes: Shapes
    graph: ChannelGraph

    @property
    def analysis(self) -> Analysis:
        """The same as the pipeline has it."""
        source = LoadedModel(self.model, "", None, external=False, size_bytes=0, scratch=WeightFile())
        return Analysis(source, self.shapes, Constants.of(self.model), self.graph, ModelIndex.of(self.model))

    @property
    def reasons(self) -> dict[str, str]:
        """Why axes that bring forth channels stay, by weight."""
        return {fixed.tensor: fixed.reason for fixed in self.graph.fixed}


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A pruned case that passed."""

    case: Case
    keep: Keep
    model: ModelProto
    error: float


def problem(
    model: ModelProto, patterns: Patterns | None = None, shapes: Shapes | None = None, unit: Unit = "heads"
) -> Case:
    """Analyse a model."""
    shapes = shapes or concrete_shapes(model, {})
    return Case(model, shapes, build_channel_graph(model, shapes, Constants.of(model), patterns or Patterns(), unit))


def random_keep(graph: ChannelGraph, rng: np.random.Generator, fraction: float = 0.5, least: int = 1) -> Keep:
    """Keep about `fraction` of every group, at least `least`, and not everything."""
    keep = graph.keep_all()
    for group in graph.groups:
        size = group.channels.size
        count = int(np.clip(rng.binomial(size, fraction), min(least, size), size))
        if count == size > least:
            count -= 1
        keep[rng.permutation(group.channels)[count:]] = False
    return keep


def run(model: ModelProto, feeds: Mapping[str, Array]) -> Outputs:
    """Run a model as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def difference(one: Outputs, two: Outputs) -> float:
    """Largest difference over the largest value; infinite where shapes differ."""
    worst = 0.0
    assert one.keys() == two.keys()
    for name, a in one.items():
        b = two[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return np.inf
        if not a.size or (a == b).all():
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        assert np.isfinite(a).all(), f"'{name}' overflows: the test's numbers are bad"
        worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max(initial=1e-30)))
    return worst


def batches(model: ModelProto) -> list[dict[str, tuple[int, ...]]]:
    """Input shapes to run at: one sample, and three where the batch axis is free."""
    shapes = concrete_shapes(model, {}).inputs
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in stored]
    free = all(d and not d[0].dim_value for d in (info.type.tensor_type.shape.dim for info in inputs))
    return [dict(shapes), {name: (3, *shape[1:]) for name, shape in shapes.items()}] if free else [dict(shapes)]


def check_file(case: Case, keep: Keep, pruned: ModelProto) -> None:
    """The file is valid, its interface is the same, and its shapes are those that the labels say."""
    original = case.model
    check(original, pruned)
    stored = {tensor.name for tensor in original.graph.initializer}
    for old, new in zip(original.graph.input, pruned.graph.input, strict=True):
        assert old.name in stored or old == new
    assert list(original.graph.output) == list(pruned.graph.output)
    shapes = concrete_shapes(pruned, {}).shape
    # A weight that is there for its Shape alone goes when the numbers are written down.
    gone = stored - {tensor.name for tensor in pruned.graph.initializer}
    for name, axes in case.graph.axes.items():
        if name not in gone and name not in case.graph.uses and name not in case.graph.values:
            assert shapes.get(name) == tuple(int(keep[ids].sum()) for ids in axes), name
    for info in (*pruned.graph.value_info, *pruned.graph.input):
        dims = info.type.tensor_type.shape.dim
        # Optimizers leave the shapes of tensors that are gone.
        if not info.type.tensor_type.HasField("shape") or info.name not in shapes:
            continue
        for dim, size in zip(dims, shapes[info.name], strict=True):
            assert not dim.dim_value or dim.dim_value == size, f"stale shape of '{info.name}'"


def check_keep(case: Case, keep: Keep, *, tolerance: float = EXACT, moves: bool = True, seed: int = 0) -> Pruned:
    """Prune, and hold the result against the masked original.

    Args:
        case: The model.
        keep: What stays.
        tolerance: Largest difference over the largest output.
        moves: Whether pruning must change the outputs; else the comparison shows nothing.
        seed: Of the input.
    """
    pruned = apply(case.model, case.graph, keep, Edits())
    check_file(case, keep, pruned)
    reference = masked(case.model, case.graph, keep, case.shapes)
    error = 0.0
    for shapes in batches(case.model):
        feeds = example_feeds(case.model, shapes, np.random.default_rng(seed))
        wanted = run(reference, feeds)
        error = max(error, difference(wanted, run(pruned, feeds)))
        assert error <= tolerance, f"pruned is not the masked original: {error:.1e}"
        if moves:
            assert difference(run(case.model, feeds), wanted) > 10 * tolerance, "the mask changes nothing"
    return Pruned(case, keep, pruned, error)


def check_oracle(
    model: ModelProto,
    *,
    seeds: int = 2,
    fraction: float = 0.5,
    least: int = 1,
    tolerance: float = EXACT,
    moves: bool = True,
    unit: Unit = "heads",
) -> Case:
    """Analyse a model and try random choices of channels; something must go."""
    case = problem(model, unit=unit)
    assert any(group.channels.size > least for group in case.graph.groups), case.reasons
    for seed in range(seeds + 1):
        # The last choice keeps as little as it can: bounds and counts that become 1 or 0.
        share = fraction if seed < seeds else 0.0
        keep = random_keep(case.graph, np.random.default_rng(seed), share, least)
        assert not keep.all()
        check_keep(case, keep, tolerance=tolerance, moves=moves, seed=seed)
    check_identity(case)
    return case


def check_identity(case: Case) -> None:
    """A choice that keeps everything gives the same bytes."""
    same = apply(case.model, case.graph, case.graph.keep_all(), Edits())
    assert same.SerializeToString(deterministic=True) == case.model.SerializeToString(deterministic=True)
