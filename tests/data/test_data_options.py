"""What is typed about images: scalings and sizes."""

from __future__ import annotations

from typing import Any

import pytest

from onnxpfp.errors import OptionError
from onnxpfp.options import Options
from onnxpfp.options.data import IMAGENET, Resize, Scaling, parse_resize, parse_scaling
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.options.latency import LatencyOptions
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.options.verification import VerifyOptions


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("256", Resize("crop", 256)),
        ("crop", Resize("crop")),
        ("pad", Resize("pad")),
        ("stretch", Resize("stretch")),
        ("none", Resize("none")),
        ("480x640", Resize("crop", size=(480, 640))),
        ("pad,480x640", Resize("pad", size=(480, 640))),
        ("640, pad", Resize("pad", size=(640, 640))),
        ("crop,256", Resize("crop", 256)),
        ("48x", Resize("crop", size=(48, None))),
        ("x640", Resize("crop", size=(None, 640))),
        ("pad, 48x", Resize("pad", size=(48, None))),
    ],
)
def test_ways_to_resize(text: str, wanted: Resize) -> None:
    assert parse_resize("--resize", text) == wanted


@pytest.mark.parametrize(
    "text", ["", "fit", "0", "8x0", "8x8x3", "8,9", "pad,crop", "none,8", "99999999", "-8", "x", "0x", "none,8x"]
)
def test_what_is_no_way_to_resize(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--resize '.*' (is no|gives a)") as caught:
        Options(resize=text)
    assert "write --resize 256" in caught.value.hint
    assert "48x (the width by the aspect ratio)" in caught.value.hint


def test_stretching_takes_both_sides() -> None:
    with pytest.raises(
        OptionError, match=r"^--resize 'stretch,48x' gives one side, .* aspect ratio, which stretch"
    ) as caught:
        Options(resize="stretch,48x")
    assert caught.value.hint == "leave out stretch, or give height and width: stretch,48x320"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("imagenet", IMAGENET),
        ("-1-1", Scaling("-1-1", (0.5,), (0.5,))),
        ("none", Scaling("none")),
        ("mean=0.5,std=.25", Scaling("mean=0.5,std=.25", (0.5,), (0.25,))),
        ("mean=0,1e-1,-1 std=1,2,3", Scaling("mean=0,1e-1,-1 std=1,2,3", (0, 0.1, -1), (1, 2, 3))),
    ],
)
def test_scalings(text: str, wanted: Scaling) -> None:
    assert parse_scaling("--preprocess", text) == wanted


@pytest.mark.parametrize(
    "text", ["", "0-255", "mean=1", "mean=a,std=1", "mean=1,2,std=1", "mean=0,std=0", "mean=0,std=nan", "mean=,std="]
)
def test_what_says_nothing_of_pixels(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--preprocess '"):
        Options(preprocess=text)


def test_means_of_pixels_to_255_are_translated() -> None:
    with pytest.raises(OptionError) as caught:
        Options(preprocess="mean=127.5,std=127.5")
    assert caught.value.hint == "the same is --preprocess mean=0.5,std=0.5"
    with pytest.raises(OptionError) as caught:
        Options(preprocess="mean=103.939,116.779,123.68,std=1,1,1")
    typed = caught.value.hint.removeprefix("the same is --preprocess ")
    scaling = parse_scaling("--preprocess", typed)
    assert [(200 / 255 - m) / s for m, s in zip(scaling.mean, scaling.std, strict=True)] == pytest.approx(
        [200 - 103.939, 200 - 116.779, 200 - 123.68], rel=1e-4
    )


def test_states_have_two_names() -> None:
    with pytest.raises(OptionError, match="--carry 'state' is no pair of names"):
        Options(carry=("state",))
    with pytest.raises(OptionError, match="--min-agreement promises something of new inputs, and with --carry"):
        Options(carry=("a:b",), min_agreement=0.95)


GIVEN: dict[str, Any] = {"preprocess": "-1-1", "resize": "pad", "layout": "NHWC", "color": "BGR", "carry": ("a:b",)}


@pytest.mark.parametrize("kind", [FactorizeOptions, LatencyOptions, PrunabilityOptions, SparsifyOptions, VerifyOptions])
def test_every_verb_with_data_hands_them_on(kind: Any) -> None:
    options = kind(**GIVEN)
    running = options.pruning() if kind is PrunabilityOptions else options.running()
    assert {name: getattr(running, name) for name in GIVEN} == GIVEN
