"""Shares that the user sets: these groups keep what was asked for, and the others meet the target."""

from __future__ import annotations

from typing import Any

import nets
import pytest
from support import bodies

import onnxpfp
from onnxpfp.errors import OptionError, TargetUnreachableError

DATA = {"images": nets.fmnist("calibration", 96)}
GROUP = "block2.first.conv.weight"
TWO_SHARES = {GROUP: 0.5, "block3.first.conv.weight": 0.875}


def pruned(share: Any, **options: Any) -> onnxpfp.Result:
    given = {"calibration": DATA, "keep_macs": 0.7, "no_latency": True, "threads": 1, "round_to": 8} | options
    return onnxpfp.prune(nets.network("resnet"), share=share, **given)


def widths(result: onnxpfp.Result) -> dict[str, int]:
    return {group.name: group.kept for group in result.report.groups}


RULES: dict[str, dict[str, Any]] = {
    "measured drift": {},
    "bounds": {"allocate": "bound"},
    "draws": {"allocate": "bound", "select": "sampled"},
    "one share for all others": {"allocate": "uniform"},
    "weights alone": {"calibration": None},
    "two steps": {"steps": 2, "allocate": "bound"},
    "parameters": {"keep_macs": None, "keep_params": 0.7},
    "ranks": {"structure": "channels,rank"},
    "bytes": {"keep_macs": None, "keep_size": 0.75},
}


@pytest.mark.parametrize("rule", RULES)
def test_groups_keep_what_was_asked_for_and_the_others_meet_the_target(rule: str) -> None:
    result = pruned(TWO_SHARES, **RULES[rule])
    kept = widths(result)
    assert kept[GROUP] == 16
    assert kept["block3.first.conv.weight"] == 56
    report = result.report
    counted = {
        "parameters": (report.after.params, report.before.params),
        "bytes": (report.after.bytes, report.before.bytes / 0.7 * 0.75),
    }
    after, before = counted.get(rule, (report.after.macs, report.before.macs))
    assert after <= 0.7 * before
    assert sum(kept.values()) < sum(group.channels for group in report.groups)
    assert {group.share for group in report.groups if group.name in TWO_SHARES} == {0.5, 0.875}
    assert {group.widths_by for group in report.groups if group.name in TWO_SHARES} == {"share"}
    assert "share" not in {group.widths_by for group in report.groups if group.name not in TWO_SHARES}


@pytest.mark.parametrize("allocate", ["measured", "bound", "uniform"])
def test_without_another_target_nothing_else_goes(allocate: Any) -> None:
    result = pruned({GROUP: 0.25}, keep_macs=1.0, allocate=allocate)
    whole = {group.name: group.channels for group in result.report.groups}
    costs_nothing = sum(removal.channels for removal in result.report.removed)
    assert widths(result)[GROUP] == 8
    assert sum(whole.values()) - sum(widths(result).values()) == whole[GROUP] - 8 + costs_nothing


def test_a_criterion_that_sets_widths_leaves_those_of_the_user() -> None:
    result = pruned({GROUP: 0.75}, keep_macs=None, score="feature-statistics", dfs=0.5, round_to="auto")
    assert widths(result)[GROUP] == 24
    assert widths(result)["block3.first.conv.weight"] == 32


def test_a_pattern_means_what_a_node_brings_forth() -> None:
    # They note other patterns.
    patterns = ("/block2/first/conv/Conv", GROUP, "re:block2.first")
    by_node, by_weight, by_regex = (
        pruned([f"{pattern}=0.5"], allocate="bound", no_metadata=True) for pattern in patterns
    )
    assert widths(by_node) == widths(by_weight) == widths(by_regex)
    assert by_node.model == by_weight.model


def test_a_share_that_a_multiple_changes_is_told() -> None:
    result = pruned({GROUP: 0.3}, allocate="bound")
    assert widths(result)[GROUP] == 8
    (note,) = [note for note in result.report.notes if "--share" in note]
    assert note.startswith(f"--share '{GROUP}=0.3' asks for 9.6 of the 32 channels of '{GROUP}', and 8 stay")
    assert "multiples of 8" in note


def test_a_share_that_the_fewest_channels_change_is_told() -> None:
    result = pruned({GROUP: 0.25}, allocate="bound", round_to=1, min_channels=12, keep_macs=0.9)
    assert widths(result)[GROUP] == 12
    (note,) = [note for note in result.report.notes if "--share" in note]
    assert note.endswith("and 12 stay: --min-channels 12")


def test_a_share_that_is_met_to_a_channel_is_not_told() -> None:
    result = pruned({GROUP: 0.33}, allocate="bound", round_to=1)
    assert widths(result)[GROUP] == 11
    assert not [note for note in result.report.notes if "--share" in note]


def test_a_target_that_the_others_cannot_meet_is_unreachable() -> None:
    with pytest.raises(TargetUnreachableError, match="is the least that can be reached") as failure:
        pruned({"re:.": 0.9}, allocate="bound", keep_macs=0.3)
    assert failure.value.exit_code == 3
    assert failure.value.hint.startswith("lower share, round_to or min_channels, or ask for a target")


@pytest.mark.parametrize("allocate", ["measured", "bound", "uniform"])
def test_all_groups_may_have_a_share(allocate: Any) -> None:
    result = pruned({"re:.": 0.5}, allocate=allocate, round_to=1, keep_macs=0.5)
    assert all(abs(group.kept - group.channels / 2) < 1 for group in result.report.groups)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (["blok2=0.5"], {}, "'blok2' matches no node"),
    ([f"{GROUP}"], {}, "is not of the form PATTERN=SHARE"),
    (["=0.5"], {}, "is not of the form PATTERN=SHARE"),
    ([f"{GROUP}=1.5"], {}, r"outside \(0, 1\]"),
    ([f"{GROUP}=0.5", f"{GROUP}=0.6"], {}, "two shares"),
    ([f"{GROUP}=0.5", "re:block2.first=0.6"], {}, "the group 'block2.first.conv.weight' two shares"),
    (["head.fc.weight=0.5"], {}, "none of its channels may go: it is the graph output 'logits'"),
    ({GROUP: 0.5}, {"keep_macs": None, "min_agreement": 0.9}, "min_agreement finds the share"),
    ({GROUP: 0.5}, {"structure": "channels,blocks"}, "lets whole groups go"),
]


@pytest.mark.parametrize(("share", "options", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused(share: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pruned(share, **options)


def test_close_names_are_offered() -> None:
    with pytest.raises(OptionError) as failure:
        pruned(["block2.frist.conv.weight=0.5"])
    assert GROUP in failure.value.hint


def test_a_plan_says_all_shares() -> None:
    plan = pruned({GROUP: 0.5}, allocate="bound").plan
    with pytest.raises(OptionError, match="from-plan says what stays"):
        pruned({GROUP: 0.5}, keep_macs=None, from_plan=plan)


def test_groups_of_bodies_have_shares_too() -> None:
    model = bodies.build_bodies(bodies.IFS["weights in both branches"][0])
    for name, channels in (("a1", 16), ("y/else_branch: b1", 24)):
        result = onnxpfp.prune(model, keep_macs=1.0, round_to=1, no_latency=True, share={name: 0.25})
        kept = {group.name: (group.kept, group.channels) for group in result.report.groups}
        (inside,) = [each for group, each in kept.items() if group.endswith(f": {name.split(': ')[-1]}")]
        assert inside == (channels // 4, channels)
        assert sum(all_ - stay for stay, all_ in kept.values()) == channels - channels // 4
