from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from onnxpfp.allocation.search import Trial
from onnxpfp.channels.types import Fixed
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.refit.means import Record
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.page import ReportView, at_most
from onnxpfp.report.pruning import Report, Size
from onnxpfp.report.text import as_text, print_notes
from onnxpfp.verify.drift import Drift
from onnxpfp.verify.equivalence import Equivalence

ASSUMPTION = "K = 3: nothing unseen is larger"


def _group(number: int, kept: int = 8) -> GroupReport:
    name = f"a.very.long.name.of.a.weight.that.no.console.may.cut.{number}"
    return GroupReport(
        name=name,
        channels=16,
        kept=kept,
        sensitivity_sum=12.5,
        epsilon=0.125,
        no_epsilon="",
        ranked_by="pfp",
        widths_by="measured",
        selection="mixed",
        refitted=("next",),
        folded=(),
        assumption=ASSUMPTION,
        consumers=("next",),
    )


def _report(groups: int = 1) -> Report:
    return Report(
        before=Size(1000, 20000, 4000),
        after=Size(600, 10000, 2500),
        inputs={"x": (1, 3, 8, 8)},
        target={"macs": 0.5},
        reachable=0.987,
        method="pfp",
        allocation="measured",
        compensation="lstsq",
        steps=2,
        attention="heads",
        samples=176,
        samples_of="",
        samples_wanted=300,
        samples_failure=0.02,
        trials=(),
        groups=tuple(_group(number) for number in range(groups)),
        removed=(
            Removal("a", "dead", (1, 2), "weights", 0),
            Removal("b", "dead", (5,), "weights", 0),
            Removal("b", "duplicate", (7,), "data", 300),
        ),
        subnormal=SubnormalWeights(31_000, 4, 30_990),
        skipped=(
            Fixed("w9", 0, 10, "it is the graph output 'y'"),
            Fixed("w1", 1, 1, "Conv 'deep' has one input channel in a group"),
            Fixed("w2", 1, 1, "Conv 'other' has one input channel in a group"),
        ),
        bodies=(),
        oracle=Equivalence(3e-7, 1e-4, 2, blank=False),
        drift=Drift(0.125, None, 0.953, 64, held_out=True),
        refits=(
            Record("first", 0.5, 0.25, 1e-2),
            Record("second", 0.0625, 0.0625, math.inf),
            Record("third", 0.125, 0.03125, 1e-4),
        ),
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
    assert _line(text, "target") == "target keep 50 % of the MACs"
    assert _line(text, "reachable") == "reachable 98.7 % of the parameters lie in channels that may go"
    assert _line(text, "ran on") == "ran on CPUExecutionProvider"
    free = "channels removed first: 3 dead by the weights, 1 duplicate on all 300 samples"
    assert f"{free}; 31,000 weights are subnormal, 30,990 written as zero" in " ".join(text.split())
    left = _text(replace(_report(), removed=(), subnormal=SubnormalWeights(1, 1, 0)))
    assert _line(left, "cost nothing") == "cost nothing 1 weight is subnormal, none written as zero"
    assert "cost nothing" not in _text(replace(_report(), removed=(), subnormal=SubnormalWeights()))
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


def test_a_group_shows_its_bounds_and_what_they_rest_on():
    text = _text(_report())
    assert _line(text, "a.very") == f"{_group(0).name} 8/16 12.5 0.125 mixed, by pfp 1 of 1 refitted"
    assert text.count(ASSUMPTION) == 1


def test_a_group_without_a_bound_says_why():
    reason = "the scores of --score l1 are no sensitivities"
    group = replace(
        _group(0), sensitivity_sum=None, epsilon=None, no_epsilon=reason, ranked_by="l1", assumption="", refitted=()
    )
    whole = replace(group, name="b", kept=16, no_epsilon="nothing was chosen to go", ranked_by="", widths_by="")
    text = _text(replace(_report(), method="l1", groups=(group, whole, group)))
    assert _line(text, "a.very") == f"{group.name} 8/16 - - mixed, by l1 -"
    assert _line(text, "b ") == "b 16/16 - - all -"
    assert f"no eps for 2 cut groups: {reason}" in text
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
    assert "in 1 of 1 cut groups, whose PFP bounds say nothing widths by" in by_energy
    assert _line(_text(_report()), "channels by") == (
        "channels by Provable Filter Pruning, sensitivities measured on the data"
    )
    asked = " ".join(_text(replace(_report(), method="energy", groups=(groups[0],))).split())
    assert "channels by mean share of the consumers' output energy, measured on the data widths by" in asked


def test_drift_on_samples_that_decided_is_not_called_held_out():
    searched = replace(_report(), target={"max_drift": 0.2}, trials=(Trial(0.5, 0.125, good=True),))
    text = " ".join(_text(searched).split())
    assert "against the original on 64 samples, which decided how much goes" in text
    assert "held-out" not in text.split("drift relative")[1].split("seconds")[0]


def test_many_groups_are_cut_unless_all_are_wanted():
    report = _report(groups=45)
    assert _text(report).count("a.very.long") == 20
    assert "... and 25 more groups; -v shows all" in _text(report)
    assert _text(report, full=True).count("a.very.long") == 45
    assert "more groups" not in _text(report, full=True)


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
    assert "channels removed first: 3 dead by the weights, 1 duplicate on all 300 samples" in text
    assert _line(text, "widths by") == "widths by measured drift of the output, anew in 2 steps"
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
        "in 1 of 3 cut groups, one sum of what every group drops of its scores target"
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
    text = _text(replace(_report(), method="plan", target={}, groups=(group,), drift=None, samples=0))
    assert _line(text, "a.very") == f"{group.name} 8/16 - - plan 1 of 1 refitted"
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
