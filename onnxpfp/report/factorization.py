"""The report of a factorization: what became of every layer, and how far the file is from the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.counted import counted
from onnxpfp.low_rank.layers import StayingLayer
from onnxpfp.refit.means import Record
from onnxpfp.report.activations import peaks_fact
from onnxpfp.report.charts import Bars, Series
from onnxpfp.report.comparison import drift_fact, latency_fact, sizes_table
from onnxpfp.report.compensation import about_compensation
from onnxpfp.report.figures import before_and_after
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, Table, Title, number, sizes, spent
from onnxpfp.report.verification import ComparedSize
from onnxpfp.runtime.blocks import Alignment

__all__ = ["FactorizationReport", "FactorizedLayer"]

FORMAT = "onnxpfp-factorization"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
REASONS = 8
"""Most reasons that are shown where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class FactorizedLayer:
    """A layer that became two.

    Attributes:
        nodes: The nodes that read its weights, one or several.
        op: Their type.
        scheme: How the kernel is divided.
        groups: Convolution groups.
        rank: Filters of the first op, by group.
        first: Shape of the first op's weights.
        second: Shape of the second one's.
        kept: Share that is kept before refits: of the outputs' variance on the samples, or of the weights' energy. It
            is below 0 where more is lost than varies, as a mean that no bias takes up.
        macs: Multiply-adds before and after, of all its nodes in one run.
    """

    nodes: tuple[str, ...]
    op: str
    scheme: Literal["channel", "spatial"]
    groups: int
    rank: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    kept: float
    macs: tuple[int, int]


@dataclass(frozen=True, slots=True)
class FactorizationReport:
    """Everything that is known about a factorization.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run, at which MACs were counted.
        keep_macs: The share of the multiply-adds that was asked for; None where the energy was the target.
        energy: The share of every layer's variance or energy that was asked for; likewise.
        scheme: The schemes that were in question.
        alignment: The multiples in which ranks are taken; a layer's ranks are those that save multiply-adds.
        factored_by: Whether the samples decided ("data"), or the weights alone ("weights").
        samples: Samples that the factors and refits were fitted on.
        refits: What the refit of each op brought on samples kept out of the fit, front to back; empty where nothing was
            refitted.
        layers: The layers that became two, in the order of the nodes.
        staying: All other ops that multiply.
        before: Size of the original.
        after: Size of the file that is written.
        oracle: The file against the same with one op in the place of two, and the product of their weights.
        drift: Distance of its outputs from the original's.
        data: Whether the drift was measured on the user's samples ("file") or on noise ("random").
        latency: Time of a run of both; None where it was not asked for.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, in the order in which they began.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    keep_macs: float | None
    energy: float | None
    scheme: str
    alignment: Alignment
    factored_by: Literal["data", "weights"]
    samples: int
    refits: tuple[Record, ...]
    layers: tuple[FactorizedLayer, ...]
    staying: tuple[StayingLayer, ...]
    before: ComparedSize
    after: ComparedSize
    oracle: Equivalence
    drift: Drift
    data: Literal["file", "random"]
    latency: LatencyFindings | None
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/factorize.md` describes the fields."""
        return {"format": FORMAT, "version": VERSION, **plain(asdict(self))}

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show what became of the layers, and how far the file is from the original."""
        yield Title(f"{self.file or 'the model'}: {len(self.layers)} of {counted(self._nodes(), 'layer')} factored")
        yield before_and_after(self.before, self.after, self.latency, self.drift)
        yield sizes_table(self.before, self.after, self.latency)
        yield Facts(self._facts())
        if self.layers:
            yield Heading("Layers that became two")
            yield self._layers_chart()
            yield self._layers_table()
            kept = f"kept: share of its {self._what}, before refits, by the layer alone"
            yield Line(f"{kept} with the inputs that it has in the original")
            yield from about_compensation(self.refits, (), (), full=full)
        if self.staying:
            yield Heading("Layers that stay")
            yield self._staying_table()

    @property
    def _what(self) -> str:
        """What is kept of a layer."""
        return "outputs' variance on the samples" if self.factored_by == "data" else "weights' energy"

    def _nodes(self) -> int:
        return len(self.layers) + len(self.staying)

    def _facts(self) -> dict[str, str]:
        target = f"{100 * self.energy:g} % of every layer's {self._what}" if self.energy is not None else ""
        if self.keep_macs is not None:
            target = f"{100 * self.keep_macs:g} % of the multiply-adds"
        by = f"the weights and {counted(self.samples, 'sample')}" if self.factored_by == "data" else "the weights alone"
        oracle = self.oracle
        peak = self.before.activations
        rows = {
            "target": f"{target}, scheme {self.scheme}, factored by {by}",
            "ranks": _ranks_fact(self.alignment),
            "verified": f"one op with the product of two in their place == the file: largest difference "
            f"{oracle.error:.3g} of the largest output, {oracle.tolerance:.0e} allowed, {counted(oracle.runs, 'run')}",
            "drift": drift_fact(self.drift, noise=self.data == "random"),
            "counted at": sizes(self.inputs) or "no inputs",
            **({} if peak is None else {"activations": peaks_fact(peak, self.after.activations)}),
            "ran on": ", ".join(self.providers),
        }
        if self.latency is not None:
            rows["latency"] = latency_fact(self.latency, "factored over original")
        return rows | {"seconds": spent(self.seconds)}

    def _layers_table(self) -> Table:
        rows = [
            (
                ", ".join(layer.nodes),
                layer.op,
                layer.scheme,
                f"{layer.rank}" if layer.groups == 1 else f"{layer.rank} x {layer.groups}",
                f"{100 * layer.kept:.2f} %",
                *(f"{count:,}" for count in layer.macs),
                f"{100 * layer.macs[1] / layer.macs[0]:.1f} %",
            )
            for layer in self.layers
        ]
        columns = (
            Column("node"),
            Column("op"),
            Column("scheme"),
            *map(number, ("rank", "kept", "MACs before", "after", "share")),
        )
        return Table(columns, rows, of="layers")

    def _layers_chart(self) -> Bars:
        """Show what the layers cost before and after."""
        return Bars(
            "Multiply-adds of the layers that became two",
            [", ".join(layer.nodes) for layer in self.layers],
            [
                Series("after", [layer.macs[1] for layer in self.layers]),
                Series("before", [layer.macs[0] for layer in self.layers], faint=True),
            ],
            axis="multiply-adds of one run",
            of="layer",
        )

    def _staying_table(self) -> Table:
        """Show the reasons, those of most multiply-adds first, each with the first of its ops."""
        macs, counts = Counter[str](), Counter[str]()
        first: dict[str, str] = {}
        for each in self.staying:
            macs[each.reason] += each.macs
            counts[each.reason] += 1
            first.setdefault(each.reason, each.name)
        rows = [
            (reason, first[reason] + (f" and {counts[reason] - 1} more" if counts[reason] > 1 else ""), f"{count:,}")
            for reason, count in macs.most_common()
        ]
        return Table((Column("reason"), Column("node"), number("MACs")), rows, of="reasons", most=REASONS)


def _ranks_fact(alignment: Alignment) -> str:
    """Say in which multiples ranks are taken."""
    if alignment.step == 1:
        return f"in steps of 1: {alignment.reason}"
    return f"in steps of {alignment.step}, finer ones in layers that have few: {alignment.reason}"
