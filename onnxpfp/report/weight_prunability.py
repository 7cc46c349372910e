"""The report of the prunability of single weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from onnxpfp.pipeline.weight_prunability import WeightCurve
from onnxpfp.report.charts import Curve, Plot, Tile, Tiles
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Heading, Table, Title, number, sizes, spent
from onnxpfp.report.prunability import told_losses

__all__ = ["WeightPrunabilityReport"]

FORMAT = "onnxpfp-weight-prunability"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
_BY = {
    "magnitude": "the largest magnitudes over all layers stay",
    "sipp": "the largest sensitivities over all layers stay (SiPP)",
    "random": "weights stay at random",
}


@dataclass(frozen=True, slots=True)
class WeightPrunabilityReport:
    """How few of the weights of a model are enough.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run.
        weights: How many weights its layers have.
        by: What decides which stay.
        losses: How the loss is measured, by output.
        loss: That of the original.
        limit: Largest loss that counts as no harm.
        beta: Share of the original's loss that may come on top, where there are labels; None where there are none.
        samples: Samples that the loss was measured on.
        curves: What was measured: one by magnitude or SiPP, or one for each draw at random.
        smallest: The smallest share that is enough, in the mean over the curves.
        median: The same in the median.
        unbroken: The smallest share down to which all are, in the mean.
        area: Area under the curve, in the mean.
        providers: Where onnxruntime really ran.
        seconds: Time by phase.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    weights: int
    by: str
    losses: Mapping[str, str]
    loss: float
    limit: float
    beta: float | None
    samples: int
    curves: tuple[WeightCurve, ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def smallest(self) -> float:
        """The smallest share that is enough, in the mean over the curves."""
        return fmean(curve.prunability.smallest for curve in self.curves)

    @property
    def median(self) -> float:
        """The same in the median."""
        return median(curve.prunability.smallest for curve in self.curves)

    @property
    def unbroken(self) -> float:
        """The smallest share down to which all are, in the mean."""
        return fmean(curve.prunability.unbroken for curve in self.curves)

    @property
    def area(self) -> float:
        """Area under the curve, in the mean."""
        return fmean(curve.prunability.area for curve in self.curves)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/prunability.md` describes the fields."""
        means = {name: getattr(self, name) for name in ("smallest", "median", "unbroken", "area")}
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain({**asdict(self), **means})}
        return document

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show how few are enough, and the curve."""
        yield Title(f"{self.file or 'the model'}: weights that can be kept within a loss of {self.limit:.4g}")
        rows = {
            "enough": self._verdict(),
            "loss": f"{told_losses(self.losses)}; of the original {self.loss:.4g}",
            "chosen by": f"{_BY[self.by]}; in one shot, nothing refitted",
            "weights": f"{self.weights:,}, of all convolutions and matrix products",
            "samples": f"{self.samples}",
            "measured at": sizes(self.inputs),
            "ran on": ", ".join(self.providers),
            "seconds": spent(self.seconds),
        }
        yield Tiles(
            [
                Tile("Weights that are enough", f"{100 * self.smallest:.3g} %", f"of {self.weights:,}", self.smallest),
                Tile("Area under the curve", f"{self.area:.3g}"),
            ]
        )
        yield Facts(rows)
        yield Heading("Loss by weights kept")
        yield self._chart()
        for draw, curve in enumerate(self.curves, 1):
            yield Heading("Curve" if len(self.curves) == 1 else f"Draw {draw}")
            points = [
                (f"{100 * share:.4g} %", f"{loss:.4g}", "within" if loss <= self.limit else "")
                for share, loss in zip(curve.shares, curve.losses, strict=True)
            ]
            yield Table((number("weights kept"), number("loss"), Column("")), points, tight=False)

    def _chart(self) -> Plot:
        """Draw what was measured, and what counts as no harm."""
        names = ["measured"] if len(self.curves) == 1 else [f"draw {draw}" for draw in range(1, len(self.curves) + 1)]
        curves = [
            Curve(name, [*zip(curve.shares, curve.losses, strict=True)])
            for name, curve in zip(names, self.curves, strict=True)
        ]
        return Plot(
            "Loss of the network", "weights kept", "loss", curves, limit=self.limit, limit_name="counts as no harm"
        )

    def _verdict(self) -> str:
        """Say how few are enough."""
        broken = "" if self.unbroken == self.smallest else f", unbroken down to {100 * self.unbroken:.3g} %"
        drawn = f"; mean of {len(self.curves)} draws, median {100 * self.median:.3g} %" if self.by == "random" else ""
        return f"{100 * self.smallest:.3g} % of the weights{broken}; area {self.area:.3g}{drawn}"
