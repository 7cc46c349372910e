"""`--share` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from onnxpfp.errors import OptionError
from onnxpfp.options.shares import check_shares, shares_by_pattern

Prune = Callable[..., Result]


def test_a_share_is_shown_in_the_table_of_groups(prune: Prune, folder: Path) -> None:
    flags = ["--calib-data", "data.npz", "--no-latency", "--round-to", "1", "--allocate", "bound"]
    result = prune("in.onnx", "new.onnx", *flags, "--share", "w1=0.5", "--keep-macs", "1", "--json", "new.json")
    assert result.exit_code == 0, result.output
    (group,) = json.loads((folder / "new.json").read_text())["groups"]
    assert (group["name"], group["share"], group["widths_by"]) == ("w1", 0.5, "share")
    assert group["kept"] == group["channels"] / 2
    assert "the share that was asked for with --share" in " ".join(result.output.split())
    assert ", --share 0.5" in result.output


@pytest.mark.parametrize(
    ("flags", "code", "error", "hint"),
    [
        (["--share", "w1"], 2, "--share 'w1' is not of the form PATTERN=SHARE", "--share 'layer1*=0.5' keeps half"),
        (["--share", "w1=2"], 2, "--share 'w1=2' is outside (0, 1]", "--share 'layer1*=0.5' keeps half"),
        (["--share", "w11=0.5"], 2, "--share 'w11' matches no node and no initializer", "close names: w1"),
        (
            ["--share", "*=1", "--keep-macs", "0.5"],
            3,
            "the target is 50.0% of the MACs, but 100.0% is the least",
            "lower --share, --round-to",
        ),
    ],
)
def test_what_cannot_be_meant_or_met_is_refused(
    refuse: Callable[..., object], flags: list[str], code: int, error: str, hint: str
) -> None:
    refusal = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", *flags, code=code)
    assert error in refusal.error  # type: ignore[attr-defined]
    assert hint in refusal.hint  # type: ignore[attr-defined]


def test_a_pattern_may_have_equals_signs() -> None:
    assert shares_by_pattern(["re:a=b=0.5", "c=1"]) == {"re:a=b": 0.5, "c": 1.0}
    assert shares_by_pattern({"c": 1}) == {"c": 1}


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_lies_between_none_and_all(share: float) -> None:
    with pytest.raises(OptionError, match="outside"):
        check_shares("--share", {"c": share})
