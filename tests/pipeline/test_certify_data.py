"""Samples that only measure the result: whatever they are, the written file is the same but for the agreement in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from support.bodies import IFS, build_bodies
from support.bodies import samples as feeds_of

import onnxpfp
from onnxpfp.errors import CertificationError, OptionError

COUNT = 72
SAMPLES, OTHERS = nets.noise(COUNT, 3, 8, 8), nets.noise(48, 3, 8, 8, seed=2)
CHAIN = nets.chain()


def prune(**given: Any) -> onnxpfp.Result:
    return onnxpfp.prune(CHAIN, **{"calibration": SAMPLES, "keep_macs": 0.6, "threads": 1} | given)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_file_does_not_depend_on_them(seed: int, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", OTHERS)
    sources = (OTHERS[:3], 100 * OTHERS, tmp_path / "many.npy", [{"x": one[None]} for one in OTHERS[:7]])
    results = [prune(certification=source, seed=seed, no_metadata=True) for source in sources]
    assert len({result.model.SerializeToString() for result in results}) == 1
    drifts = [result.report.drift for result in results]
    assert [(drift.samples, drift.held_out) for drift in drifts if drift] == [
        (3, True),
        (48, True),
        (48, True),
        (7, True),
    ]
    assert len({drift.relative_error for drift in drifts if drift}) == 4


def test_all_calibration_samples_are_split_in_fit_and_tuning() -> None:
    alone, apart = prune(), prune(certification=OTHERS)
    assert alone.report.samples == COUNT - 2 * (COUNT // 8)
    assert apart.report.samples == COUNT - COUNT // 8


def test_the_limit_of_samples_is_none_for_them() -> None:
    report = prune(certification=OTHERS, samples=40).report
    assert (report.samples, report.drift and report.drift.samples) == (35, 48)


def test_too_few_samples_to_split_are_measured_on_them() -> None:
    report = prune(calibration=SAMPLES[:5], certification=OTHERS).report
    assert report.drift is not None
    assert (report.samples, report.drift.samples, report.drift.held_out) == (5, 48, True)
    alone = prune(calibration=SAMPLES[:5]).report.drift
    assert alone is not None
    assert (alone.samples, alone.held_out) == (5, False)


@pytest.mark.parametrize("name", ["weights in both branches", "weights in the main graph that one branch reads"])
def test_bodies_are_pruned_by_the_others(name: str) -> None:
    model, feeds = build_bodies(IFS[name][0]), feeds_of(name)
    given: Any = {"calibration": feeds, "keep_macs": 0.6, "threads": 1, "no_metadata": True}
    # These take one branch alone.
    apart = [{"x": np.full((1, 3), value, np.float32)} for value in (1.0, 2.0, 0.5)]
    one, two = (onnxpfp.prune(model, certification=some, **given) for some in (apart, nets.noise(30, 3, seed=9)))
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert one.report.after.params < one.report.before.params
    assert one.report.drift is not None
    assert (one.report.drift.samples, one.report.drift.held_out) == (3, True)


def test_a_plan_is_measured_on_them_too() -> None:
    plan = prune().plan
    drift = onnxpfp.prune(CHAIN, from_plan=plan, calibration=SAMPLES, certification=OTHERS).report.drift
    assert drift is not None
    assert (drift.samples, drift.held_out) == (48, True)


def test_samples_that_have_decided_are_refused() -> None:
    for calibration in (SAMPLES, {"x": SAMPLES}):
        with pytest.raises(CertificationError) as caught:
            prune(calibration=calibration, certification=SAMPLES)
        assert str(caught.value) == (
            "certification: 72 of its 72 samples are in calibration too: the first is sample 0, and sample 0 there"
        )
    mixed = np.concatenate([OTHERS, SAMPLES[[30, 7]]])
    with pytest.raises(
        CertificationError, match="2 of its 50 samples are in calibration too: the first is sample 48, "
    ):
        prune(certification=mixed)
    # What the limit leaves out has decided nothing.
    assert prune(certification=mixed, samples=7).report.drift is not None
    with pytest.raises(CertificationError, match=r"1 of its 50 .* first is sample 49, and sample 7 there"):
        prune(certification=mixed, samples=8)


@pytest.mark.parametrize(
    ("certification", "message"),
    [
        (OTHERS.astype(np.float64), "certification: input 'x' wants float32, the data are float64"),
        (OTHERS[:, :2], "certification: input 'x' wants shape (n, 3, 8, 8), the data has (48, 2, 8, 8)"),
        (np.where(OTHERS > 3, np.nan, OTHERS), "certification: input 'x' has NaN or infinite values in sample "),
        (OTHERS[:0], "certification: there are no samples"),
        ("nowhere.npz", "certification: nowhere.npz does not exist"),
        ([{"y": OTHERS[:1]}], "certification: batch 0 has the inputs ['y'], the model wants ['x']"),
        (3, "certification: a int is no source of samples"),
    ],
    ids=["dtype", "shape", "nan", "none", "file", "feeds", "number"],
)
def test_what_is_wrong_with_them_is_said_of_them(certification: Any, message: str) -> None:
    with pytest.raises(CertificationError) as caught:
        prune(certification=certification)
    assert str(caught.value).startswith(message)
    assert caught.value.hint
    assert "--" not in f"{caught.value} {caught.value.hint}"


def test_they_need_others() -> None:
    with pytest.raises(OptionError, match="certification goes with calibration, and none are given"):
        prune(calibration=None, certification=OTHERS)
    with pytest.raises(OptionError, match="certification random is noise"):
        prune(certification="random")
    with pytest.raises(OptionError, match="calibration random is noise"):
        prune(calibration="random", certification=OTHERS)
