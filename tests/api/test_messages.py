"""Errors name what was typed: flags on the command line, keywords in Python."""

from __future__ import annotations

import nets
import pytest

import onnxpfp
from onnxpfp.api.keywords import in_keywords
from onnxpfp.options import Options
from onnxpfp.options.declaration import declared
from onnxpfp.options.prunability import PrunabilityOptions

MODEL = nets.ROOT / "models" / "fmnist_resnet.onnx"


@pytest.mark.parametrize(
    ("keywords", "message", "hint"),
    [
        ({"keep_macs": 1.5}, "keep_macs 1.5 is outside (0, 1]", "keep_macs 0.7 keeps 70 %"),
        ({"keep_macs": 0.5, "keep_params": 0.5}, "give one target: keep_macs or keep_params, not both", ""),
        ({"keep_size": 1.5}, "keep_size 1.5 is neither a share in (0, 1] nor whole bytes", None),
        ({"confidence": 0.1}, "confidence 0.1 is less than even: it is a confidence, not an error probability", None),
        ({"score": "nothing"}, "score 'nothing' is none of ", ""),
        ({"score": "hrank"}, "score hrank measures the data, and none are given", "give calibration FILE.npz"),
        ({"input_shapes": {"other": (1, 3)}}, "input_shapes names 'other', which is not an input of the model", None),
        ({"keep_classes": 3}, "keep_classes 3 is no list of classes", None),
        ({"include": "conv*"}, "include takes several values, not the text 'conv*'", "give ['conv*']"),
        ({"share": "conv*=0.5"}, "share takes several values, not the text 'conv*=0.5'", "give ['conv*=0.5']"),
        ({"input_shapes": "1,1,28,28"}, "input_shapes takes several values, not the text", "give a mapping of names"),
        ({"scores": object()}, "scores are a ScoresFile or the path of one, not object", None),
        ({"max_drift": 0.1, "steps": 2}, "max_drift and min_agreement try many targets, so they go with steps 1", ""),
    ],
)
def test_python_is_told_its_keywords(keywords: dict[str, object], message: str, hint: str | None) -> None:
    with pytest.raises(onnxpfp.OnnxPfpError) as caught:
        onnxpfp.prune(MODEL, **keywords)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert hint is None or caught.value.hint == hint
    assert "--" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("kind", [Options, PrunabilityOptions])
def test_every_flag_has_its_keyword(kind: type) -> None:
    for name, option in declared(kind):
        assert in_keywords(f"give {option.flag_of(name)} X") == f"give {name} X"


def test_a_shape_is_written_as_python_takes_it() -> None:
    assert in_keywords("give it: --input-shape x:1,3,224,224") == 'give it: input_shapes {"x": (1,3,224,224)}'
    assert in_keywords("--sample-axis x:1 or --sample-axis m:none") == 'sample_axes {"x": 1} or sample_axes {"m": None}'
    assert in_keywords("--force and --strict are no options of these verbs") == (
        "--force and --strict are no options of these verbs"
    )
