"""The report of a sparsification: which weights stay, what that promises, and how far the file is from the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.counted import counted
from onnxpfp.linear.weight_layers import WholeLayer
from onnxpfp.report.charts import Bars, Series, Tiles
from onnxpfp.report.comparison import drift_fact
from onnxpfp.report.figures import drift_tiles, left_of
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, Table, Title, at_most, number, sizes, spent
from onnxpfp.report.verification import ComparedSize
from onnxpfp.score.pfp import K

__all__ = ["DENSE_KERNELS", "LayerSparsity", "SparsityReport"]

FORMAT = "onnxpfp-sparsity"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
REASONS = 8
"""Most reasons that are shown where nothing else is asked for."""
DENSE_KERNELS = (
    "onnxruntime's kernels are dense: they multiply by zeros as by any number, so a run takes no less time. What gets "
    "smaller is the file once it is compressed, or stored with --sparse-initializers"
)
"""What zeros bring."""


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """One layer whose weights may go.

    Attributes:
        nodes: The nodes that read its weights, one or several.
        op: Their type.
        weight: The tensor that they read.
        shape: Its shape.
        nonzero: Weights that are not zero, before and after; after is counted in the file.
        bytes: Bytes of the weights as stored numbers.
        compressed: The same once compressed, before and after.
        sparse: Whether the file stores them as a sparse tensor.
        parts: Sums that the bound is of: two for every output, those of weights above and below zero, as far as they
            have weights.
        drawn: How many of them were drawn from; the others keep their weights as they are.
        bound: Largest bound on the relative error of a part; None where nothing is promised.
        bounded: Parts whose bound is below 1; None likewise.
    """

    nodes: tuple[str, ...]
    op: str
    weight: str
    shape: tuple[int, ...]
    nonzero: tuple[int, int]
    bytes: int
    compressed: tuple[int, int]
    sparse: bool
    parts: int
    drawn: int
    bound: float | None
    bounded: int | None


@dataclass(frozen=True, slots=True)
class SparsityReport:
    """Everything that is known about a sparsification.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run.
        keep_weights: The share of the weights that was asked for; None where a plan was replayed.
        budget: How many weights may stay; likewise.
        select: How they were chosen; likewise.
        positions: What of the shares at the positions of a sample counted; likewise.
        delta: Probability that the bound of a drawn layer may fail over its draws, for one input.
        samples: Samples that the sensitivities were measured on; 0 where a plan was replayed.
        unbounded: Why there are no bounds; empty where there are.
        layers: The layers whose weights may go, in the order of the nodes.
        whole: All other ops that multiply.
        before: Size of the original.
        after: Size of the file that is written.
        compressed: Bytes of both once compressed by zlib.
        oracle: The file against the original whose graph multiplies the weights by the choice.
        drift: Distance of its outputs from the original's.
        data: Whether the drift was measured on the user's samples ("file") or on noise ("random").
        providers: Where onnxruntime really ran.
        seconds: Time by phase, in the order in which they began.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    keep_weights: float | None
    budget: int | None
    select: str | None
    positions: str | None
    delta: float
    samples: int
    unbounded: str
    layers: tuple[LayerSparsity, ...]
    whole: tuple[WholeLayer, ...]
    before: ComparedSize
    after: ComparedSize
    compressed: tuple[int, int]
    oracle: Equivalence
    drift: Drift
    data: Literal["file", "random"]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def nonzero(self) -> tuple[int, int]:
        """Weights of all layers that are not zero, before and after."""
        return sum(layer.nonzero[0] for layer in self.layers), sum(layer.nonzero[1] for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/sparsify.md` describes the fields."""
        return {"format": FORMAT, "version": VERSION, **plain(asdict(self))}

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show what became of the layers, what that promises, and how far the file is from the original."""
        before, after = self.nonzero
        yield Title(
            f"{self.file or 'the model'}: {after:,} of {before:,} weights stay in {counted(len(self.layers), 'layer')}"
        )
        yield self._tiles()
        yield self._sizes()
        yield Facts(self._facts())
        yield Line(f"{DENSE_KERNELS}.")
        yield Heading("Layers")
        yield self._layers_chart()
        yield self._layers_table()
        yield Line(self._promise())
        if self.whole:
            yield Heading("Ops whose weights all stay")
            yield self._whole_table()

    def _sizes(self) -> Table:
        counts = (
            ("weights that are not zero", *self.nonzero),
            ("file, bytes", self.before.bytes, self.after.bytes),
            ("compressed (zlib), bytes", *self.compressed),
        )
        rows = [(title, f"{old:,}", f"{new:,}", f"{100 * new / max(old, 1):.1f} %") for title, old, new in counts]
        return Table((Column(""), *map(number, ("before", "after", "kept"))), rows, tight=False, in_tiles=True)

    def _tiles(self) -> Tiles:
        """Show what is left, and how far the outputs are from the original's."""
        counts = (
            left_of("Weights that are not zero", *self.nonzero),
            left_of("File, bytes", self.before.bytes, self.after.bytes),
            left_of("Compressed (zlib), bytes", *self.compressed),
        )
        return Tiles([*(tile for tile in counts if tile is not None), *drift_tiles(self.drift)])

    def _layers_chart(self) -> Bars:
        """Show how many weights of every layer stay."""
        return Bars(
            "Weights that stay in every layer",
            [", ".join(layer.nodes) for layer in self.layers],
            [
                Series("stay", [layer.nonzero[1] for layer in self.layers]),
                Series("become zero", [layer.nonzero[0] - layer.nonzero[1] for layer in self.layers], faint=True),
            ],
            axis="weights that were not zero",
            stacked=True,
            of="layer",
        )

    def _facts(self) -> dict[str, str]:
        target = "a plan was replayed"
        if self.keep_weights is not None:
            share = "largest" if self.positions == "max" else "mean"
            target = (
                f"{100 * self.keep_weights:g} % of the weights that are not zero, {self.budget:,}; {self.select}, by "
                f"the {share} share over positions, on {counted(self.samples, 'sample')}"
            )
        oracle = self.oracle
        return {
            "target": target,
            "verified": f"the original with its weights masked in the graph == the file: largest difference "
            f"{oracle.error:.3g} of the largest output, {oracle.tolerance:.0e} allowed, {counted(oracle.runs, 'run')}",
            "drift": drift_fact(self.drift, noise=self.data == "random"),
            "run at": sizes(self.inputs) or "no inputs",
            "ran on": ", ".join(self.providers),
            "seconds": spent(self.seconds),
        }

    def _layers_table(self) -> Table:
        drawn = any(layer.drawn for layer in self.layers)
        rows = [
            (
                ", ".join(layer.nodes),
                layer.op,
                *(f"{count:,}" for count in layer.nonzero),
                f"{100 * layer.nonzero[1] / max(layer.nonzero[0], 1):.1f} %",
                *(f"{count:,}" for count in layer.compressed),
                *([f"{layer.drawn:,}"] if drawn else []),
                "-" if layer.bound is None else at_most(layer.bound, 2),
                "-" if layer.bounded is None else f"{layer.bounded:,} of {layer.parts:,}",
            )
            for layer in self.layers
        ]
        titles = ("weights", "stay", "share", "compressed", "after", *(["drawn"] if drawn else []), "bound", "below 1")
        return Table((Column("node"), Column("op"), *map(number, titles)), rows, of="layers")

    def _promise(self) -> str:
        """Say what the bounds are of, and when they say nothing."""
        if self.unbounded:
            return f"No bound: {self.unbounded}."
        draws = ""
        if any(layer.drawn for layer in self.layers):
            draws = (
                f" For one input it fails with a probability of at most {self.delta:g} over the draws of a layer; it "
                "is below 1 only after very many draws."
            )
        said = sum(layer.bound is not None and layer.bound < 1 for layer in self.layers)
        empty = "" if said else " At this target it says nothing of any layer as a whole."
        return (
            "bound: how far the choice moves any sum of the layer at most, as a share of it, apart for the weights "
            "above and below zero (the parts) and for inputs above and below zero; where these cancel, the output "
            "moves by more. The largest over the parts of the layer, alone, with the inputs that it has in the "
            "original; 1 or more promises nothing; below 1: parts whose bound does. Assumed: no weight's share of a "
            f"sum is ever above K = {K} times the largest of the {counted(self.samples, 'sample')} seen.{draws}{empty}"
        )

    def _whole_table(self) -> Table:
        counts = Counter(each.reason for each in self.whole)
        first: dict[str, str] = {}
        for each in self.whole:
            first.setdefault(each.reason, each.name)
        rows = [
            (reason, first[reason] + (f" and {count - 1} more" if count > 1 else ""))
            for reason, count in counts.most_common()
        ]
        return Table((Column("reason"), Column("node")), rows, of="reasons", most=REASONS)
