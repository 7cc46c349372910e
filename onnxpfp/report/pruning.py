"""The result for people and programs, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.allocation.fixed_sequence import ShareTest
from onnxpfp.allocation.search import Trial
from onnxpfp.channels.types import Fixed
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.layers import LayerErrors
from onnxpfp.comparison.promises import Promises
from onnxpfp.counted import counted
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.pipeline.quality_target import Certified
from onnxpfp.pipeline.verification import Size
from onnxpfp.refit.means import Record
from onnxpfp.report.activations import peaks_fact
from onnxpfp.report.bodies import BodyReport, bodies_table
from onnxpfp.report.choice import channels_by, could_go, ranks_by, widths_by
from onnxpfp.report.classes import ClassReport, class_facts
from onnxpfp.report.comparison import drift_measures, latency_fact, sizes_table
from onnxpfp.report.compensation import about_compensation, fitted_line, merged_line
from onnxpfp.report.figures import before_and_after
from onnxpfp.report.formats import plain
from onnxpfp.report.group_charts import kept_channels
from onnxpfp.report.groups import GroupReport, about_bounds, groups_table
from onnxpfp.report.latency_target import asked_latency, reached_latency
from onnxpfp.report.layers import about_layers
from onnxpfp.report.lossless import cost_nothing
from onnxpfp.report.not_finite import not_finite_fact
from onnxpfp.report.page import (
    ATTENTION,
    Column,
    Element,
    Facts,
    Heading,
    Line,
    Table,
    at_most,
    finite,
    number,
    sizes,
    spent,
)
from onnxpfp.report.promises import promised
from onnxpfp.report.ranks import RankReport, about_ranks
from onnxpfp.report.reasons import by_kind, example
from onnxpfp.report.target import asked, promised_quality, reached_quality
from onnxpfp.runtime.blocks import Alignment

__all__ = ["BodyReport", "GroupReport", "RankReport", "Report"]

REASONS = 8
"""Most reasons that are shown, likewise."""

FAR = 0.5
"""Relative output error from which a result has little in common with the original."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known about one pruning.

    Attributes:
        before: Size of the original.
        after: Size of the pruned model.
        inputs: Input shapes of one run, at which shapes were found and MACs were counted.
        target: What was asked for: macs, params, latency or size with the share that stays, size above 1 with the bytes
            of the file, max_drift or min_agreement with the bound.
        latency_target: The target of latency, and how it was reached; None for others.
        trials: Shares of the MACs that were tried on tuning samples for a target of quality, in their order.
        tests: Shares of the MACs that were tested for it on held-out samples, in their order: the last that passed is
            written. `bound` is what the test looks at; what is promised of the written file is the target itself, for
            of several shares one was chosen.
        confidence: That of the promise.
        certified: What held-out samples say of the written file for a target of quality; None where there is none.
        reachable: Share of the parameters that lie in at least one channel that may go: not in a group of one unit,
            which stays.
        method: What ranked the channels: the name of a criterion, coreset-share where pfp had no data, or plan.
        settings: What was said about that, by the names of options: dfs, dfs_threshold, sfs and maps of
            feature-statistics.
        allocation: What set the widths: measured, bound, uniform, or criterion where its settings did.
        structure: What could go, by the words of `--structure`; empty where nothing was chosen.
        alignment: The multiples in which channels are kept; None where no widths were chosen.
        compensation: What was done about dropped channels: lstsq, bias, merge or none.
        steps: How often scores and widths were measured; with ranks, how often choices were compared, the first
            counted.
        attention: What goes from an attention: heads or width.
        samples: Calibration samples that were used; 0 without data.
        samples_of: The body that they are runs of, where all weights lie in bodies: the first; else empty.
        samples_wanted: Samples that the size formula of S asks for; 0 without data.
        samples_failure: Probability, by that formula, that the samples are too few for what the bounds assume; None
            where it says none.
        groups: Decisions by group.
        ranked: Layers that became two of low rank.
        ranks_by: What set their ranks: measured or plan; empty where there are none.
        rank_weight: What the drift of ranks counted beside that of channels, 0 where all channels had to stay; None
            where no ranks were chosen.
        removed: Channels that went before, for they cost nothing.
        fillers: How many channels cost nothing and stayed then, to fill groups up to a multiple; scores may have let
            them go.
        subnormal: Subnormal numbers among the weights of the original's linear ops, and how many weights were set to
            zero for it, those of channels that went among them.
        skipped: Axes of weights that stay, with the reason.
        bodies: Bodies of If, Loop and Scan in which something multiplies; names in one stand behind its place.
        oracle: The pruned model against the masked original.
        drift: The pruned model against the original; None without data.
        promises: What the held-out samples promise of inputs like them; None where there are none, or they are noise.
        layers: The errors of the layers of the main graph; None without held-out samples, or where nothing went.
        latency: Wall time of a run of both; None where it was not asked for.
        refits: What the refit of each linear op brought on samples kept out of the fit, front to back.
        merged: Consumers whose weights took over dropped channels that are like some that stay.
        compensated: Consumers whose bias took up the mean of dropped channels, or what merging left of it.
        uncompensated: Consumers without that, with the reason.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, in the order in which they began; no second counts twice. load: model and data are
            read, and onnxruntime opens the model. shapes: of all tensors. channels: the label analysis. bodies:
            what bodies of If, Loop and Scan are fed is noted. lossless: channels that cost nothing are found and
            taken out. calibration: the sensitivities are measured, and the Gram matrices of what the linear ops read
            where widths or channels are chosen by them. ranking: scores are made of all that, and bounds that are
            measured. factors: what every rank of a layer loses. curves: the drift of the output is measured with every
            group narrowed, and every rank lowered, alone. allocation: widths, channels and ranks are chosen.
            compensation: linear ops are refitted, channels merged, or means folded into biases. rewrite: weights and
            numbers are cut. search: the trials of a target of quality, or other choices of ranks, are measured.
            verification: the checker, the oracle, the drift and the errors of the layers. latency: both models are run
            in turns. latency table: the network and its ops are run at several widths, and prunings for a target of
            latency measured.
        versions: Of this program and its libraries.
        notes: What the user should know.
        fitted: Consumers that were fitted to their own outputs in the original, by the sums in a file of scores.
        classes: The classes that stay of the outputs; None where all do. All else is of what they leave.
    """

    before: Size
    after: Size
    inputs: Mapping[str, tuple[int, ...]]
    target: Mapping[str, float]
    latency_target: LatencyTarget | None
    trials: tuple[Trial, ...]
    tests: tuple[ShareTest, ...]
    confidence: float
    certified: Certified | None
    reachable: float
    method: str
    settings: Mapping[str, float | str]
    allocation: str
    structure: str
    alignment: Alignment | None
    compensation: str
    steps: int
    attention: str
    samples: int
    samples_of: str
    samples_wanted: int
    samples_failure: float | None
    groups: tuple[GroupReport, ...]
    ranked: tuple[RankReport, ...]
    ranks_by: str
    rank_weight: float | None
    removed: tuple[Removal, ...]
    fillers: int
    subnormal: SubnormalWeights
    skipped: tuple[Fixed, ...]
    bodies: tuple[BodyReport, ...]
    oracle: Equivalence
    drift: Drift | None
    promises: Promises | None
    layers: LayerErrors | None
    latency: LatencyFindings | None
    refits: tuple[Record, ...]
    merged: tuple[str, ...]
    compensated: tuple[str, ...]
    uncompensated: tuple[tuple[str, str], ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    fitted: tuple[str, ...] = ()
    classes: ClassReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON knows; what is infinite becomes null."""
        document: dict[str, Any] = plain(asdict(self))
        return document

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show what was done, how good it is, and what was left alone."""
        yield before_and_after(self.before, self.after, self.latency, self.drift, self.promises)
        yield sizes_table(self.before, self.after, self.latency)
        yield _facts(self)
        if self.groups:
            yield Heading("Groups of channels")
            yield kept_channels(self.groups)
            yield groups_table(self.groups)
            yield from about_bounds(self.groups)
        if self.ranked:
            yield from about_ranks(self.ranked)
        if self.layers is not None and self.layers.layers:
            yield from about_layers(self.layers)
        if self.bodies:
            yield Heading("Bodies of If, Loop and Scan")
            yield bodies_table(self.bodies)
        if self.skipped:
            yield Heading("What stays, and why")
            yield _untouched_table(self.skipped)
        if self.merged or self.fitted or self.compensated or self.uncompensated or self.refits:
            yield Heading("Compensation")
            if self.merged:
                yield Line(merged_line(self.merged))
            if self.fitted:
                yield Line(fitted_line(self.fitted))
            yield from about_compensation(self.refits, self.compensated, self.uncompensated, full=full)


def _facts(report: Report) -> Facts:
    """Method, place, evidence and time, one per line."""
    rows = {} if report.classes is None else class_facts(report.classes)
    rows["channels by"] = channels_by(report.method, report.settings, report.groups)
    if "," in report.structure:
        rows["could go"] = could_go(report.structure)
    if report.target or report.alignment is not None:
        how = "anew" if report.rank_weight is None else "compared by what is left"
        again = f", {how} in {report.steps} steps" if report.steps > 1 else ""
        rows["widths by"] = widths_by(report.allocation, report.groups) + again
    if report.ranks_by:
        rows["ranks by"] = ranks_by(report.ranks_by, report.rank_weight)
    if report.alignment is not None:
        rows["widths"] = report.alignment.title
    if report.target:
        rows["target"] = asked(report.target)
    if report.latency_target is not None:
        rows["target"] = asked_latency(report.latency_target)
    if report.trials:
        rows["reached"] = _reached(report)
    if report.latency_target is not None and report.latency_target.foreseen is not None:
        rows["reached"] = reached_latency(report.latency_target)
    rows |= ATTENTION[report.attention]
    rows["counted at"] = sizes(report.inputs)
    rows["activations"] = peaks_fact(report.before.activations, report.after.activations)
    rows["reachable"] = f"{100 * report.reachable:.1f} % of the parameters lie in channels that may go"
    rows["ran on"] = ", ".join(report.providers)
    if report.samples:
        rows["samples (S)"] = _samples(report)
    if for_nothing := cost_nothing(report.removed, report.fillers, report.subnormal):
        rows["cost nothing"] = for_nothing
    if blocks := [group.name for group in report.groups if not group.kept]:
        rows["blocks"] = _blocks(blocks)
    oracle = report.oracle
    runs = counted(oracle.runs, "run")
    rows["verified"] = (
        f"masked original == pruned: largest difference {finite(oracle.error)} of the largest output, "
        f"{oracle.tolerance:.0e} allowed, {runs}"
    )
    rows["drift"] = _drift(report) + _advice(report)
    if report.promises is not None:
        rows["promised"] = promised(report.promises, planned=report.method == "plan")
    if report.drift is not None and report.drift.in_place is not None:
        rows["measured at"] = str(report.drift.in_place)
    if report.drift is not None and report.drift.not_finite + report.drift.lost:
        rows["not finite"] = not_finite_fact(report.drift)
    if report.latency is not None:
        rows["latency"] = latency_fact(report.latency)
    rows["seconds"] = spent(report.seconds)
    return Facts(rows)


def _blocks(names: Sequence[str]) -> str:
    """Name the groups that went entirely."""
    return (
        f"{counted(len(names), 'group')} went with all channels, and a constant is left of each branch: "
        f"{', '.join(names)}"
    )


def _samples(report: Report) -> str:
    """Say how many samples channels were scored on, and how far that goes for the bounds."""
    used = f"{report.samples} used for the scores, all but those that refits and result are judged on"
    if report.drift is not None and not report.drift.held_out:
        used = f"{report.samples} used for the scores, and the same ones for all else"
    if report.samples_of:
        used = f"{counted(report.samples, 'run')} of {report.samples_of} used for its scores"
    if not any(group.epsilon is not None for group in report.groups):
        return used
    failure = report.samples_failure
    enough = "is promised" if failure is None else f"is at most {at_most(failure, 1)}"
    none = "no probability" if failure is None else "the probability that these are too few"
    return f"{used}; PFP's size formula asks for {report.samples_wanted}; by it, {none} {enough}"


def _reached(report: Report) -> str:
    """Say what a target of quality led to."""
    # Held-out samples without promises are noise.
    noise = report.promises is None
    promise = promised_quality(report.target, report.certified, report.confidence, noise=noise)
    return reached_quality(report.after.macs / max(report.before.macs, 1), promise, report.trials, report.tests)


def _advice(report: Report) -> str:
    """Say what to do about a result that is far from the original."""
    if report.drift is None or (report.drift.relative_error or 0.0) < FAR:
        return ""
    better = "" if report.compensation == "lstsq" else ", or give more data for --compensate lstsq"
    return f". THAT IS FAR: keep more{better}"


def _drift(report: Report) -> str:
    drift = report.drift
    if drift is None:
        return "not measured, for there are no data"
    noun, more = ("held-out sample", "") if drift.held_out else ("sample", ", which the calibration has seen too")
    if report.tests:
        noun, more = "held-out sample", ", which tested how much may go, so it is a little optimistic"
    return f"{', '.join(drift_measures(drift))}, against the original on {counted(drift.samples, noun)}{more}"


def _untouched_table(skipped: Sequence[Fixed]) -> Table:
    reasons = sorted(by_kind(skipped).items(), key=lambda reason: -len(reason[1]))
    rows = [
        (f"{len(axes):,}", f"{sum(fixed.count for fixed in axes):,}", reason, example(axes[0]))
        for reason, axes in reasons
    ]
    columns = (number("axes"), number("indices"), Column("why they stay"), Column("for example"))
    return Table(columns, rows, of="reasons", most=REASONS, flag="-v", tight=False)
