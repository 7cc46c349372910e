from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from onnxpfp.allocation.fixed_sequence import ShareTest
from onnxpfp.allocation.search import Trial
from onnxpfp.channels.types import Fixed
from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.layers import LayerError, LayerErrors
from onnxpfp.comparison.promises import Agreement, DriftLimit, MeanDrift, Promises
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor
from onnxpfp.pipeline.quality_target import Certified
from onnxpfp.refit.means import Record
from onnxpfp.report.groups import GroupReport, groups_table
from onnxpfp.report.page import ReportView, at_most
from onnxpfp.report.pruning import Report, Size
from onnxpfp.report.text import as_text, print_notes
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.runtime.latency import Latency, LatencyRatio

PEAK = ActivationPeak(4096, "Relu", "r", (LiveTensor("a", 2048), LiveTensor("b", 2048)))
ASSUMPTION = "K = 3: nothing unseen is larger"
ERROR = "choice error bounds what was measured"


def _group(number: int, kept: int = 8) -> GroupReport:
    name = f"a.very.long.name.of.a.weight.that.no.console.may.cut.{number}"
    return GroupReport(
        name=name,
        channels=16,
        kept=kept,
        sensitivity_sum=12.5,
        epsilon=0.125,
        no_epsilon="",
        choice_error=0.25,
        no_choice_error="",
        ranked_by="pfp",
        widths_by="measured",
        selection="mixed",
        refitted=("next",),
        merged=(),
        folded=(),
        assumption=ASSUMPTION,
        error_assumption=ERROR,
        consumers=("next",),
    )


def _report(groups: int = 1) -> Report:
    return Report(
        before=Size(1000, 20000, 4000, PEAK),
        after=Size(600, 10000, 2500, replace(PEAK, bytes=3072)),
        inputs={"x": (1, 3, 8, 8)},
        target={"macs": 0.5},
        latency_target=None,
        reachable=0.987,
        method="pfp",
        settings={},
        allocation="measured",
        structure="channels",
        alignment=Alignment(16, "kernels compute 16 channels"),
        compensation="lstsq",
        steps=2,
        attention="heads",
        samples=176,
        samples_of="",
        samples_wanted=300,
        samples_failure=0.02,
        trials=(),
        tests=(),
        confidence=0.95,
        certified=None,
        groups=tuple(_group(number) for number in range(groups)),
        ranked=(),
        ranks_by="",
        rank_weight=None,
        removed=(
            Removal("a", "dead", (1, 2), "weights", 0),
            Removal("b", "dead", (5,), "weights", 0),
            Removal("b", "duplicate", (7,), "data", 300),
        ),
        fillers=14,
        subnormal=SubnormalWeights(31_000, 4, 30_990),
        skipped=(
            Fixed("w9", 0, 10, "it is the graph output 'y'"),
            Fixed("w1", 1, 1, "Conv 'deep' has one input channel in a group"),
            Fixed("w2", 1, 1, "Conv 'other' has one input channel in a group"),
        ),
        bodies=(),
        oracle=Equivalence(3e-7, 1e-4, 2, blank=False),
        drift=Drift(0.125, None, 0.953, 64, held_out=True),
        promises=Promises(0.95, 64, 1, Agreement(0.8801, 61, 64), (DriftLimit(0.9, 0.2341),), MeanDrift(0.1501, 0.125)),
        layers=None,
        latency=LatencyFindings(
            Latency(2.5, 2.4, 2.75, 50), Latency(1.5625, 1.4, 2.0, 50), LatencyRatio(0.625, 0.6, 0.7), threads=2
        ),
        refits=(
            Record("first", 0.5, 0.25, 1e-2),
            Record("second", 0.0625, 0.0625, math.inf),
            Record("third", 0.125, 0.03125, 1e-4),
        ),
        merged=(),
        compensated=("one", "two"),
        uncompensated=(("mm", "no Add follows it"), ("mm2", "no Add follows it")),
        providers=("CPUExecutionProvider",),
        seconds={"load": 0.26, "shapes": 0.02, "curves": 1.0},
        versions={},
        notes=(),
    )


def _text(report: Report, *, full: bool = False) -> str:
    return as_text(report, ReportView(Console(file=io.StringIO(), width=140, markup=False), full=full))


def _line(text: str, start: str) -> str:
    return next(" ".join(line.split()) for line in text.splitlines() if line.strip().startswith(start))


def test_sizes_and_facts():
    text = _text(_report())
    assert _line(text, "parameters") == "parameters 1,000 600 60.0 %"
    assert _line(text, "MACs") == "MACs, one run 20,000 10,000 50.0 %"
    assert _line(text, "file") == "file, bytes 4,000 2,500 62.5 %"
    assert _line(text, "latency") == "latency, ms 2.5 1.56 62.5 %"
    assert _line(text, "target") == "target keep 50 % of the MACs"
    assert _line(text, "reachable") == "reachable 98.7 % of the parameters lie in channels that may go"
    assert _line(text, "ran on") == "ran on CPUExecutionProvider"
    free = "channels removed first: 3 dead by the weights, 1 duplicate on all 300 samples that are not held out"
    left = "14 such channels left at first, to fill groups up to a multiple"
    assert f"{free}; {left}; the original has 31,000 subnormal weights, 30,990 written as zero" in " ".join(
        text.split()
    )
    left = _text(replace(_report(), removed=(), fillers=0, subnormal=SubnormalWeights(1, 1, 0)))
    assert _line(left, "cost nothing") == "cost nothing the original has 1 subnormal weight, none written as zero"
    only = _text(replace(_report(), removed=(), fillers=1, subnormal=SubnormalWeights()))
    assert _line(only, "cost nothing") == "cost nothing 1 such channel left at first, to fill groups up to a multiple"
    assert "cost nothing" not in _text(replace(_report(), removed=(), fillers=0, subnormal=SubnormalWeights()))
    used = "samples (S) 176 used for the scores, all but those that refits and result are judged on"
    asked = f"{used}; PFP's size formula asks for 300; by it,"
    assert asked in " ".join(text.split())
    assert "the probability that these are too few is at most 0.02" in " ".join(text.split())
    few = " ".join(_text(replace(_report(), samples_failure=None)).split())
    assert f"{asked} no probability is promised" in few
    assert "largest difference 3e-07 of the largest output, 1e-04 allowed, 2 runs" in text
    assert "relative output error 0.125, top-1 agreement 95.3 %, against the original on 64 held-out" in text
    assert _line(text, "seconds") == "seconds 1.3 (load 0.3, curves 1.0)"
    assert _line(_text(replace(_report(), seconds={"load": 0.02})), "seconds") == "seconds 0.0"


def test_latency_is_told_with_its_spread_or_why_it_is_missing():
    text = " ".join(_text(_report()).split())
    assert "median of 50 runs of each model in turns, 2 threads; pruned over original, pair by pair, 0.625," in text
    assert "in half of the pairs 0.600 to 0.700 (before 2.4 to 2.75 ms, after 1.4 to 2 ms)" in text
    missing = _text(replace(_report(), latency=LatencyFindings(unmeasured="nothing was removed")))
    assert _line(missing, "latency") == "latency not measured: nothing was removed"
    assert "latency" not in _text(replace(_report(), latency=None))
    busy = replace(_report(), latency=replace(_report().latency, waited=0.78, on_cores=True))
    told = "the machine was busy, runs waited 78 % of their time: these are times on its cores"
    assert told in " ".join(_text(busy).split())
    assert "busy" not in text


def test_a_ratio_of_pairs_that_is_not_that_of_the_medians_is_explained():
    """On a busy machine three runs of the original and three of the pruned model may fall into different times."""
    text = " ".join(_text(_report()).split())
    assert "medians of before and after" not in text
    latency = replace(_report().latency, pruned=Latency(2.0, 1.4, 2.2, 50))
    text = _text(replace(_report(), latency=latency))
    assert _line(text, "latency") == "latency, ms 2.5 2 62.5 % in pairs"
    told = "the medians of before and after would make it 0.800, but they move with all else that the machine does"
    assert f"(before 2.4 to 2.75 ms, after 1.4 to 2.2 ms); {told}" in " ".join(text.split())


def test_a_group_shows_its_bounds_and_what_they_rest_on():
    text = _text(_report())
    assert _line(text, "a.very") == f"{_group(0).name} 8/16 12.5 0.125 0.25 mixed, by pfp 1 of 1 refitted"
    assert text.count(ASSUMPTION) == text.count(ERROR) == 1


def test_a_group_without_a_bound_says_why():
    reason = "the scores of --score l1 are no sensitivities"
    group = replace(
        _group(0), sensitivity_sum=None, epsilon=None, no_epsilon=reason, ranked_by="l1", assumption="", refitted=()
    )
    unmeasured = {"choice_error": None, "no_choice_error": "no samples are held out", "error_assumption": ""}
    group = replace(group, **unmeasured)
    whole = replace(group, name="b", kept=16, no_epsilon="nothing was chosen to go", ranked_by="", widths_by="")
    text = _text(replace(_report(), method="l1", groups=(group, whole, group)))
    assert _line(text, "a.very") == f"{group.name} 8/16 - - - mixed, by l1 -"
    assert _line(text, "b ") == "b 16/16 - - - all -"
    assert f"no eps for 2 cut groups: {reason}" in text
    assert "no choice error for 2 cut groups: no samples are held out" in text
    assert "nothing was chosen to go" not in text
    assert "eps bounds" not in text
    assert (
        _line(text, "samples (S)")
        == "samples (S) 176 used for the scores, all but those that refits and result are judged on"
    )


def test_what_ranked_the_channels_is_named():
    groups = [replace(_group(number), ranked_by=by) for number, by in enumerate(["energy", "energy", "pfp", ""])]
    text = " ".join(_text(replace(_report(), groups=tuple(groups))).split())
    assert "channels by mean share of the consumers' output energy, measured on the data, in 2 of 3 cut groups" in text
    assert "whose PFP bounds say nothing; in the others, Provable Filter Pruning" in text
    by_energy = " ".join(_text(replace(_report(), groups=(groups[0],))).split())
    assert "in 1 of 1 cut group, whose PFP bounds say nothing widths by" in by_energy
    assert _line(_text(_report()), "channels by") == (
        "channels by Provable Filter Pruning, sensitivities measured on the data"
    )
    asked = " ".join(_text(replace(_report(), method="energy", groups=(groups[0],))).split())
    assert "channels by mean share of the consumers' output energy, measured on the data widths by" in asked


def test_what_the_held_out_samples_promise():
    text = " ".join(_text(_report()).split())
    assert (
        "promised at least 88.0 % of inputs keep their top-1 class (61 of 64 do); relative output error at most, "
        in text
    )
    assert "in 90 % of inputs 0.235; its mean (clipped at 1) at most 0.151: each with a confidence of 95 %" in text
    assert "promised" not in _text(replace(_report(), promises=None))
    assert _report().to_dict()["promises"]["agreement"] == {"at_least": 0.8801, "agree": 61, "samples": 64}


def test_a_plan_may_know_the_samples():
    assert "if the plan was made without them" in " ".join(_text(replace(_report(), method="plan")).split())
    assert "if the plan" not in _text(_report())


def test_drift_on_samples_that_decided_is_not_called_held_out():
    text = " ".join(_text(_searched({"max_drift": 0.2}, Certified(64, 0.125, 0.19, True))).split())
    assert "against the original on 64 held-out samples, which tested how much may go, so it is a little" in text


def _searched(target, certified):
    tests = (ShareTest(0.56, 0.1, 0.15, True), ShareTest(0.5, 0.125, 0.19, True), ShareTest(0.47, 0.2, 0.3, False))
    trials = (Trial(0.8, 0.01, good=True), Trial(0.5, 0.12, good=True), Trial(0.4, 0.3, good=False))
    return replace(_report(), target=target, trials=trials, tests=tests, certified=certified)


def test_a_target_of_quality_says_what_is_promised_and_how_it_was_found():
    how = (
        "; 3 trials on tuning samples (80 % good, 50 % good, 40 % too far), then 3 shares tested on the held-out ones "
        "(56 % passed, 50 % passed, 47 % failed)"
    )
    text = " ".join(_text(_searched({"min_agreement": 0.95}, Certified(256, 252 / 256, 0.961, True))).split())
    assert (
        "reached 50.0 % of the MACs: with a confidence of 95 %, at least 95 % of inputs keep their class (exact "
        f"binomial, 252 of 256 held-out samples do){how}"
    ) in text
    # The bound of one of several shares is not promised.
    assert "96.1" not in text
    text = " ".join(_text(_searched({"max_drift": 0.2}, Certified(256, 0.125, 0.19, True))).split())
    assert (
        "reached 50.0 % of the MACs: with a confidence of 95 %, the relative output error of one input, counted as 1 "
        f"where it is more, is at most 0.2 in the mean over inputs (by betting, 0.125 on 256 held-out samples){how}"
    ) in text


def test_many_groups_are_cut_unless_all_are_wanted():
    report = _report(groups=45)
    assert _text(report).count("a.very.long") == 20
    assert "... and 25 more groups; -v shows all" in _text(report)
    assert _text(report, full=True).count("a.very.long") == 45
    assert "more groups" not in _text(report, full=True)


def test_groups_that_lost_channels_are_shown_before_those_that_did_not() -> None:
    groups = tuple(_group(number, kept=8 if number in {30, 44} else 16) for number in range(45))
    shown = re.findall(r"no\.console\.may\.cut\.(\d+)", _text(replace(_report(), groups=groups)))
    assert [int(number) for number in shown] == [*range(18), 30, 44]
    assert [row[0] for row in groups_table(groups).rows] == [group.name for group in groups]


def test_reasons_are_counted():
    text = _text(_report())
    first = _line(text, "2 ")
    assert first == "2 2 Conv has one input channel in a group axis 1 of w1, for 'deep'"
    assert _line(text, "1 ") == "1 10 it is the graph output axis 0 of w9, for 'y'"
    assert "w2" not in text


def test_compensation_says_why_not():
    text = _text(_report())
    assert "folded into the biases of 2 of 4 consumers" in text
    assert "not of mm and 1 more: no Add follows it" in text
    assert "not of mm, mm2: no Add follows it" in _text(_report(), full=True)


def _widths(rule: str, **changes: str) -> Report:
    group = replace(_group(0), **{"widths_by": rule, **changes})
    return replace(_report(), steps=1, allocation=rule, groups=(group,))


def test_what_went_for_nothing_and_how_the_widths_came_about():
    text = _text(_report())
    assert "channels removed first: 3 dead by the weights, 1 duplicate on all 300 samples that are not held out" in text
    assert _line(text, "widths by") == "widths by measured drift of the output, anew in 2 steps"
    shown = "widths in steps of 16: kernels compute 16 channels (8 in groups of 32 to 63 channels, 1 in narrower ones)"
    assert _line(text, "widths   ") == shown
    bare = _text(replace(_widths("uniform"), removed=()))
    assert _line(bare, "widths by") == "widths by one share for all groups"
    drawn = _text(_widths("bound"))
    assert _line(drawn, "widths by") == "widths by draws in proportion to each group's sum of sensitivities"
    summed = _text(_widths("bound", selection="deterministic"))
    assert _line(summed, "widths by") == "widths by one sum of what every group drops of its scores"
    assert "went first" not in bare
    none = _text(_widths("uniform", ranked_by="", widths_by=""))
    assert _line(none, "widths by") == "widths by one share for all groups"


def test_widths_of_bodies_may_have_come_about_otherwise():
    groups = [_group(0), replace(_group(1), widths_by="bound", selection="deterministic"), _group(2)]
    groups = [replace(group, selection="deterministic") for group in groups]
    text = " ".join(_text(replace(_report(), steps=1, groups=tuple(groups))).split())
    assert (
        "widths by in 2 of 3 cut groups, measured drift of the output; "
        "in 1 of 3 cut groups, one sum of what every group drops of its scores widths in steps of 16: "
    ) in text


def test_what_went_for_nothing_alone_is_told_from_what_stays_whole():
    gone = replace(_group(0), selection="lossless", ranked_by="", widths_by="", epsilon=None, refitted=())
    whole = replace(gone, name="whole", kept=16)
    text = _text(replace(_report(), groups=(gone, whole)))
    assert _line(text, "a.very").endswith(" lossless -")
    assert _line(text, "whole").endswith(" all -")


def test_scores_of_a_body_are_of_its_runs():
    text = _text(replace(_report(), samples_of="y/body", samples_failure=None))
    assert "176 runs of y/body used for its scores; PFP's size formula asks for 300; by it, no probability" in text


def test_refits_are_summed_up_and_listed_where_everything_is_wanted():
    told = "as a share of its variance: 12.5 % before, 6.25 % after"
    for full in (False, True):
        text = " ".join(_text(_report(), full=full).split())
        assert told in text
        assert "no op got worse" in text
        assert ("as it was" in text) == full
    worse = replace(_report(), refits=(Record("first", 0.1, 0.2, 1.0),))
    assert "1 got worse" in _text(worse)
    assert "linear ops" not in _text(replace(_report(), refits=()))


def test_a_replayed_plan_has_no_bounds():
    group = replace(
        _group(0), selection="plan", ranked_by="plan", epsilon=None, sensitivity_sum=None, assumption="", widths_by=""
    )
    group = replace(group, choice_error=None, error_assumption="")
    text = _text(replace(_report(), method="plan", target={}, groups=(group,), drift=None, samples=0))
    assert _line(text, "a.very") == f"{group.name} 8/16 - - - plan 1 of 1 refitted"
    assert ASSUMPTION not in text
    assert "target" not in text
    assert "not measured, for there are no data" in text


def test_names_are_no_markup():
    group = replace(_group(0), name="layers[0].weight[/red]")
    assert "layers[0].weight[/red]" in _text(replace(_report(), groups=(group,)))


def test_notes_take_one_line_each():
    stream = io.StringIO()
    print_notes(["RANDOM " + "word " * 60, "short"], Console(file=stream, width=40))
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1.25e-4, 1, "0.0002"),
        (3.77e-11, 1, "4e-11"),
        (1.0, 3, "1"),
        (0.3, 3, "0.3"),
        (0.1 + 0.2, 3, "0.3"),
        (0.42401, 3, "0.425"),
        (0.9999, 3, "1"),
        (26.01, 3, "26.1"),
        (2.2250738585072014e-308, 1, "3e-308"),
        (0.0, 3, "0"),
        (math.inf, 3, "inf"),
    ],
)
def test_bounds_are_rounded_up(value: float, digits: int, shown: str):
    assert at_most(value, digits) == shown


def test_layers_come_by_their_errors_with_what_is_promised():
    layers = (
        LayerError("small", 0.0125, 0.02501, 0.95, None, None, ""),
        LayerError("large", 0.5, math.inf, 0.95, 0.25, 0.125, ""),
        LayerError("whole", None, None, None, None, None, "its output is whole numbers"),
    )
    report = replace(_report(), layers=LayerErrors(layers, 128, 0.95))
    text = _text(report)
    assert text.index("large") < text.index("small") < text.index("whole ")
    assert _line(text, "large") == "large 0.5 inf 25 % 12.5 %"
    assert _line(text, "small") == "small 0.0125 0.0251 - -"
    assert _line(text, "whole ") == "whole - - - -"
    said = " ".join(text.split())
    assert "at most, in" in said
    assert "95 % of inputs" in said
    assert (
        "written network, inputs drifted and refit included, on 128 held-out samples; with a confidence of 95 %" in said
    )
    assert (
        "at every one of these 2 layers at once 95 % of inputs like them have at most the error that is given" in said
    )
    assert "not bounded at 1 layer: its output is whole numbers" in said
    assert report.to_dict()["layers"]["layers"][1]["bound"] is None
    assert "Layers" not in _text(_report())


def test_layers_without_a_bound_say_how_many_samples_it_takes():
    layers = tuple(LayerError(name, 0.5, None, None, None, None, "3 samples are too few") for name in "ab")
    said = " ".join(_text(replace(_report(), promises=None, layers=LayerErrors(layers, 3, 0.95))).split())
    assert "on 3 held-out samples not bounded at 2 layers: 3 samples are too few" in said
    assert "of its variance not bounded" not in said
    assert "confidence" not in said
