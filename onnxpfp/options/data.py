"""Options that say how data become samples: images, and states that outputs feed back (`onnxpfp.data`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxpfp.errors import OptionError
from onnxpfp.options.declaration import declare

__all__ = ["IMAGENET", "Color", "DataOptions", "ImageLayout", "Resize", "Scaling", "parse_resize", "parse_scaling"]

ImageLayout = Literal["NCHW", "NHWC"]
Color = Literal["RGB", "BGR", "gray"]
ResizeMode = Literal["crop", "pad", "stretch", "none"]

_MODES: tuple[ResizeMode, ...] = ("crop", "pad", "stretch", "none")
_SIZE = re.compile(r"(\d*)x(\d*)")
_SCALING = re.compile(r"mean=(.+?),?\s*std=(.+)")
_LARGEST_SIDE = 1 << 16
"""Pixels."""
_MOST_LEVEL = 255
_RESIZE_HINT = (
    "write --resize 256, 480x640 (height x width), 48x (the width by the aspect ratio), crop, pad, stretch or none, or "
    "a way and a size: pad,640x640"
)
_SCALING_HINT = "write --preprocess imagenet, 0-1, -1-1, none, or mean=0.5,0.5,0.5,std=0.25,0.25,0.25"


@dataclass(frozen=True, slots=True)
class Resize:
    """How an image gets the size of an input.

    Attributes:
        mode: Cover it and cut off what is over (crop), fit into it on grey (pad), lose the aspect ratio (stretch), or
            leave it as it is (none).
        side: The shorter side before the crop, in pixels; None is what covers the input.
        size: Height and width in pixels, where the input leaves them free; None for the one that the aspect ratio sets.
    """

    mode: ResizeMode = "crop"
    side: int | None = None
    size: tuple[int | None, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """What becomes of a pixel p from 0 to 255: (p / 255 - mean) / std, or p itself.

    Attributes:
        name: What it is called.
        mean: For all channels, or for each; empty where pixels stay as they are.
        std: Likewise.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


IMAGENET = Scaling("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""In the order R, G, B; of torchvision's models."""
SCALINGS = {
    scaling.name: scaling
    for scaling in (IMAGENET, Scaling("0-1", (0.0,), (1.0,)), Scaling("-1-1", (0.5,), (0.5,)), Scaling("none"))
}


def parse_resize(flag: str, text: str) -> Resize:
    """Read a way to resize, a size, or both.

    Raises:
        OptionError: The text is neither.
    """
    mode: ResizeMode | None = None
    side: int | None = None
    size: tuple[int | None, int | None] | None = None
    for part in text.replace(" ", "").split(","):
        both = _SIZE.fullmatch(part)
        if part in _MODES and mode is None:
            mode = part
        elif both and part != "x" and side is None and size is None:
            size = int(both[1]) if both[1] else None, int(both[2]) if both[2] else None
        elif part.isdecimal() and side is None and size is None:
            side = int(part)
        else:
            raise OptionError(f"{flag} '{text}' is no way to resize images", hint=_RESIZE_HINT)
    if not all(0 < length <= _LARGEST_SIDE for length in (*(size or ()), side) if length is not None):
        raise OptionError(f"{flag} '{text}' is no size of an image", hint=_RESIZE_HINT)
    if mode == "none" and (side or size):
        raise OptionError(f"{flag} '{text}' gives a size to images that stay as they are", hint=_RESIZE_HINT)
    if mode == "stretch" and size and None in size:
        raise OptionError(
            f"{flag} '{text}' gives one side, and the other follows from the aspect ratio, which stretching loses",
            hint="leave out stretch, or give height and width: stretch,48x320",
        )
    if side is not None and mode in {"pad", "stretch"}:
        side, size = None, (side, side)
    return Resize(mode or "crop", side, size)


def parse_scaling(flag: str, text: str) -> Scaling:
    """Read what becomes of pixels.

    Raises:
        OptionError: The text does not say it.
    """
    if text in SCALINGS:
        return SCALINGS[text]
    match = _SCALING.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{flag} '{text}' says nothing of pixels", hint=_SCALING_HINT)
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in match.groups())
    except ValueError as error:
        raise OptionError(f"{flag} '{text}' has something that is no number", hint=_SCALING_HINT) from error
    if len(mean) != len(std) or not all(value > 0 for value in std):
        what = "as many means as deviations" if len(mean) != len(std) else "deviations above 0"
        raise OptionError(f"{flag} '{text}' must have {what}", hint=_SCALING_HINT)
    if max(mean) > 1:
        divided = (",".join(f"{value / _MOST_LEVEL:.6g}" for value in part) for part in (mean, std))
        raise OptionError(
            f"{flag} '{text}' has means of pixels from 0 to 255, and they are counted from 0 to 1",
            hint="the same is {} mean={},std={}".format(flag, *divided),
        )
    return Scaling(text.strip(), mean, std)


def check_carry(flag: str, value: Sequence[str]) -> None:
    """Refuse what has no two names."""
    for text in value:
        if not all(text.partition(":")[::2]):
            raise OptionError(f"{flag} '{text}' is no pair of names", hint=f"write {flag} OUTPUT:INPUT")


# Without slots of its own, for a class may inherit those of one parent only.
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of the verbs that read data."""

    preprocess: str | None = declare(
        None,
        "What becomes of the pixels p of images: (p / 255 - mean) / std with the numbers of ImageNet (imagenet), with "
        "those that are given, one or one for each channel, p / 255 (0-1), p / 127.5 - 1 (-1-1), or p (none).",
        "data",
        metavar="imagenet|0-1|-1-1|none|mean=..,std=..",
        default_text="none for an input of whole numbers, else what fits the BatchNormalization statistics of the "
        "file, else 0-1",
        check=parse_scaling,
    )
    resize: str | None = declare(
        None,
        "How images get the size of the input: cover it and crop around the middle (crop), fit into it on grey (pad), "
        "change the aspect ratio (stretch), stay as they are (none); N is the shorter side before the crop, HxW the "
        "size where the input leaves it free; of Hx (48x) or xW the aspect ratio sets the other side, and pad fills it "
        "up to a multiple of 32.",
        "data",
        metavar="N|HxW|Hx|xW|crop|pad|stretch|none",
        default_text="crop; where one side is free the aspect ratio sets it",
        check=parse_resize,
    )
    layout: ImageLayout | None = declare(  # noqa: RUF009
        None,
        "Order of the axes of an input of images.",
        "data",
        choices=("NCHW", "NHWC"),
        default_text="where the input has 1 or 3 channels",
    )
    color: Color | None = declare(  # noqa: RUF009
        None,
        "Order of the channels of images.",
        "data",
        choices=("RGB", "BGR", "gray"),
        default_text="gray for one channel, else RGB",
    )
    carry: Sequence[str] = declare(
        (),
        "An output that is fed back as a state: the input IN of a sample is the output OUT at the one before it, as "
        "the original computes it; the data need not have it. Zeros at first, or what the data have.",
        "data",
        metavar="OUT:IN",
        repeated=True,
        check=check_carry,
    )

    @property
    def image_flags(self) -> list[str]:
        """The flags that are given of those that are of images."""
        return [f"--{name}" for name in ("preprocess", "resize", "layout", "color") if getattr(self, name) is not None]
