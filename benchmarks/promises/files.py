"""The pruned files of the coverage benchmark, and what becomes of every test image in them; made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

import onnxpfp
from benchmarks.accuracy.measure import macs
from benchmarks.accuracy.networks import NETWORKS, Folders, Network
from benchmarks.promises.schemes import Places
from onnxpfp.arrays import AnyArray, Bools, Floats
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.layers import layer_errors
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.pipeline.plan import Plan
from onnxpfp.runtime.providers import resolve_providers

__all__ = ["Candidate", "PrunedFile", "Pruner"]

SEED = 0
"""Of the order of the calibration images, and of onnxpfp."""
BATCH = 50
PRODUCTS = {"Conv", "Gemm"}


@dataclass(frozen=True, slots=True, eq=False)
class PrunedFile:
    """A pruned file and what became of the test images.

    Attributes:
        macs: Share of the multiply-adds in it.
        agree: Whether the largest class is the original's, (N,).
        errors: Relative error of the output, (N,).
        layers: Relative error of the output of every layer, (L, N).
    """

    macs: float
    agree: Bools
    errors: Floats
    layers: Floats

    def of(self, places: Places) -> PrunedFile:
        """Return what became of some of the images."""
        return PrunedFile(self.macs, self.agree[places], self.errors[places], self.layers[:, places])


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A file that a search may find.

    Attributes:
        percent: Share of the multiply-adds that was asked for.
        macs: Share of the multiply-adds in it.
        outcomes: What became of the test images.
    """

    percent: int
    macs: float
    outcomes: Outcomes


@dataclass(eq=False)
class Pruner:
    """Prunes one network by the product, with training images, and compares the files with it on all test images.

    Attributes:
        name: A key of `benchmarks.accuracy.networks.NETWORKS`.
        folders: Where networks and images are.
        cache: Where files and outcomes are kept.
    """

    name: str
    folders: Folders
    cache: Path
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        self.network = NETWORKS[self.name]

    @property
    def source(self) -> Path:
        """The original."""
        return self.network.file(self.folders, self.network.usual)

    def measured(self, percent: int) -> PrunedFile:
        """Return what became of the test images in the file with so many percent of the multiply-adds."""
        return PrunedFile(**self._kept(percent, "", self._outcomes), **self._kept(percent, ".layers", self._layers))

    def candidate(self, percent: int) -> Candidate:
        """Return what a search sees of that file."""
        kept = self._kept(percent, "", self._outcomes)
        return Candidate(percent, float(kept["macs"]), Outcomes(kept["agree"], kept["errors"], None))

    def _file(self, percent: int) -> Path:
        """Return where the file is; it is made where it lacks."""
        file = self._place(percent, ".onnx")
        if not file.exists():
            images = self.network.calibration(self.folders).drawn(SEED, None).x
            result = onnxpfp.prune(
                self.source, calibration=images, keep_macs=percent / 100, round_to=1, effort="low", seed=SEED, threads=1
            )
            self._place(percent, ".plan.json").write_text(result.plan.to_json(), encoding="utf-8")
            onnxpfp.save_result(result, file)
        return file

    def _place(self, percent: int, ending: str) -> Path:
        return self.cache / f"{self.source.stem}-{percent}{ending}"

    def _kept(self, percent: int, kind: str, measure: Callable[[int], dict[str, AnyArray]]) -> dict[str, AnyArray]:
        """Return what was measured before, or measure it."""
        place = self._place(percent, f"{kind}.npz")
        if not place.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            half = place.with_suffix(".half.npz")
            np.savez(half, **measure(percent))
            # A run that is stopped leaves no half file under the name.
            half.replace(place)
        with np.load(place) as arrays:
            return {name: arrays[name][()] for name in arrays.files}

    def _outcomes(self, percent: int) -> dict[str, AnyArray]:
        file = self._file(percent)
        outcomes = self._evaluator.compare(onnx.load(file)).outcomes
        assert outcomes.agree is not None
        assert outcomes.errors is not None
        share = np.array(macs(file) / macs(self.source))
        return {"macs": share, "agree": outcomes.agree, "errors": outcomes.errors}

    def _layers(self, percent: int) -> dict[str, AnyArray]:
        """Measure every convolution and linear layer but the first, which reads the image."""
        pruned, plan = onnx.load(self._file(percent)), Plan.read(self._place(percent, ".plan.json"))
        _, *nodes = (node for node in self._original.graph.node if node.op_type in PRODUCTS)
        weight = {node.output[0]: node.input[1] for node in nodes}

        def kept(name: str, array: AnyArray) -> AnyArray:
            entry = plan.initializers.get(weight[name])
            rows = None if entry is None else entry.keep.get(0)
            return array if rows is None else array[:, list(rows)]

        errors = layer_errors(self._evaluator, pruned, self._shapes(weight), kept)
        reasons = [f"{name}: {each}" for name, each in errors.items() if isinstance(each, str)]
        assert not reasons, reasons
        return {"layers": np.stack([errors[name] for name in weight])}

    def _shapes(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return the shapes of tensors in a run of one image."""
        model = onnx.load(self.source)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        values = onnx.shape_inference.infer_shapes(model).graph
        shape = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*values.value_info, *values.output)
        }
        return {name: shape[name] for name in names}

    @cached_property
    def _original(self) -> ModelProto:
        return onnx.load(self.source)

    @cached_property
    def _evaluator(self) -> Evaluator:
        samples = load_samples(self.network.test(self.folders).x, input_specs(self._original))
        return Evaluator(self._original, samples, True, BATCH, resolve_providers("cpu"), 1, DEFAULT_WORKSPACE)
