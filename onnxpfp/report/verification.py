"""The report of a verification: two files side by side, whatever made the second of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.plan_fit import PlanFit
from onnxpfp.counted import counted
from onnxpfp.model.activation_memory import ActivationPeak
from onnxpfp.report.activations import peaks_fact
from onnxpfp.report.charts import Tile, Tiles
from onnxpfp.report.classes import ClassReport, class_facts
from onnxpfp.report.comparison import drift_fact, latency_fact, sizes_table, slow_ops_chart, slow_ops_table
from onnxpfp.report.figures import before_and_after
from onnxpfp.report.formats import plain
from onnxpfp.report.not_finite import not_finite_fact
from onnxpfp.report.page import Column, Element, Facts, Heading, Table, Title, sizes, spent

__all__ = ["ComparedSize", "VerificationReport"]

FORMAT = "onnxpfp-verification"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
PROBLEMS = 8
"""Most problems that are shown where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class ComparedSize:
    """The size of a file.

    Attributes:
        params: Stored numbers of all weights.
        macs: Multiply-adds for one sample; None where the model was not run at the inputs of the original.
        bytes: Size of the file, with the files of its weights.
        activations: The peak of the main graph's activations in one run; None like `macs`.
    """

    params: int
    macs: int | None
    bytes: int
    activations: ActivationPeak | None


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """Everything that is known about two models.

    Attributes:
        original: The file of the original; None for a model object.
        pruned: The other file; likewise.
        inputs: Input shapes of one run, at which MACs were counted and the latency was measured.
        problems: Why the other model does not pass; empty where it does.
        interface: How its interface differs, in sentences; empty where it is the same.
        before: Size of the original.
        after: Size of the other.
        data: Whether the drift was measured on the user's samples ("file") or on noise ("random").
        drift: Distance of its outputs from the original's; None where they cannot be compared. Whether samples were
            held out is not known of a file, so `held_out` is always false.
        uncompared: Why outputs cannot be compared; else empty.
        plan: What was found out about a plan; None where none was given.
        latency: Wall time of a run of both; None where it was not asked for, or outputs cannot be compared.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, in the order in which they began.
        notes: What the user should know.
        classes: The classes that stay of the outputs; None where all do. All else is of what they leave.
    """

    original: str | None
    pruned: str | None
    inputs: Mapping[str, tuple[int, ...]]
    problems: tuple[str, ...]
    interface: tuple[str, ...]
    before: ComparedSize
    after: ComparedSize
    data: Literal["file", "random"]
    drift: Drift | None
    uncompared: str
    plan: PlanFit | None
    latency: LatencyFindings | None
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    classes: ClassReport | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing that was asked for is violated."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/verify.md` describes the fields."""
        return {"format": FORMAT, "version": VERSION, "passed": self.passed, **plain(asdict(self))}

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show both models side by side, and what is wrong."""
        yield Title(f"{self.original or 'the model'} and {self.pruned or 'the pruned model'}")
        yield Tiles([self._verdict(), *before_and_after(self.before, self.after, self.latency, self.drift).tiles])
        yield sizes_table(self.before, self.after, self.latency)
        yield Facts(self._facts())
        ops = self.latency.slow_ops if self.latency else ()
        if ops:
            yield Heading("Ops that do not take less time")
            yield slow_ops_chart(ops)
            yield slow_ops_table(ops)
        if self.problems:
            yield Heading("What is wrong")
            yield Table((Column("problem"),), [(problem,) for problem in self.problems], of="problems", most=PROBLEMS)

    def _verdict(self) -> Tile:
        """Say whether it passes, and whether the interface is the same."""
        interface = counted(len(self.interface), "difference") if self.interface else "the same"
        problems = "" if self.passed else f"{counted(len(self.problems), 'problem')}; "
        return Tile("Verdict", "passes" if self.passed else "does not pass", f"{problems}interface: {interface}")

    def _facts(self) -> dict[str, str]:
        peak = self.before.activations
        same = "the same" if self.classes is None else "that of the original without the other classes"
        told = {} if self.classes is None else class_facts(self.classes)
        if told:
            told["classes"] += f"; {told.pop('interface')}"
        rows = {
            **told,
            "interface": f"{counted(len(self.interface), 'difference')}, below" if self.interface else same,
            "counted at": sizes(self.inputs) or "no inputs",
            **({} if peak is None else {"activations": peaks_fact(peak, self.after.activations)}),
            "ran on": ", ".join(self.providers),
            "drift": self._drift_fact(),
        }
        if self.plan is not None:
            rows["plan"] = _plan_fact(self.plan)
        if self.drift is not None and self.drift.in_place is not None:
            rows["measured at"] = str(self.drift.in_place)
        if self.drift is not None and (not_finite := not_finite_fact(self.drift)):
            rows["not finite"] = not_finite
        if self.latency is not None:
            rows["latency"] = latency_fact(self.latency)
        return rows | {"seconds": spent(self.seconds)}

    def _drift_fact(self) -> str:
        if self.drift is None:
            return f"not measured: {self.uncompared}"
        return drift_fact(self.drift, noise=self.data == "random")


def _plan_fact(fit: PlanFit) -> str:
    """Say what was compared with the plan, and what came out."""
    if fit.weights.misfits:
        return f"{counted(len(fit.weights.misfits), 'misfit')}, below"
    if fit.equivalence is None:
        return fit.compared
    return f"{fit.compared}: largest difference {fit.equivalence.error:.3g} of the largest output, " + (
        f"{fit.equivalence.tolerance:.0e} allowed, {counted(fit.equivalence.runs, 'run')}"
    )
