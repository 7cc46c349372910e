"""What a run cannot do without is missed before anything expensive is done."""

from __future__ import annotations

from typing import Any

import nets
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp import errors
from onnxpfp.pipeline import context

MISSING = "there is no such file.onnx"
DATA = nets.noise(8, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_drift": 0.1}, errors.OptionError),
        ({"score": "wanda"}, errors.OptionError),
        ({"score": "reconstruction", "compensate": "lstsq"}, errors.OptionError),
        ({"compensate": "lstsq"}, errors.CalibrationError),
        ({"allocate": "measured"}, errors.CalibrationError),
    ],
)
def test_data_are_missed_before_anything_is_read(options: dict[str, Any], kind: type[onnxpfp.OnnxPfpError]) -> None:
    name = next(iter(options))
    with pytest.raises(kind, match=f"{name}.* measures the data, and none are given"):
        onnxpfp.prune(MISSING, **options)


def test_prunability_misses_them_too() -> None:
    with pytest.raises(errors.OptionError, match="and none are given"):
        onnxpfp.prunability(MISSING, calibration=None)


def _fixed(batch: int) -> ModelProto:
    model = nets.chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model


@pytest.mark.parametrize(("batch", "least"), [(0, 8), (2, 16)])
@pytest.mark.parametrize(
    "options",
    [
        *({"max_drift": 0.1}, {"min_agreement": 0.9}, {"compensate": "lstsq"}, {"allocate": "measured"}),
        {"score": "reconstruction"},
    ],
)
def test_too_few_are_noticed_before_the_analysis(
    options: dict[str, Any], batch: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "analyze", lambda *_: pytest.fail("the analysis began"))
    model, count = _fixed(batch) if batch else nets.chain(), 8 - 2 + batch
    says = f"{next(iter(options))}.* holds samples out to decide on, which takes {least} samples, and {count} are given"
    with pytest.raises(errors.CalibrationError, match=says):
        onnxpfp.prune(model, calibration=nets.noise(count, 3, 8, 8), **options)


def test_a_plan_misses_only_what_it_needs() -> None:
    plan = onnxpfp.prune(nets.chain(), keep_macs=0.6).plan
    again = onnxpfp.prune(nets.chain(), calibration=DATA[:7], from_plan=plan, allocate="measured", score="wanda")
    assert again.report.method == "plan"
    with pytest.raises(errors.CalibrationError, match="compensate lstsq holds samples out"):
        onnxpfp.prune(nets.chain(), calibration=DATA[:7], from_plan=plan, compensate="lstsq")
