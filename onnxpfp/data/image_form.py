"""What an input makes of images: where its channels are, its size, and what a pixel becomes there.

What the user does not say follows from the input: the axis that has 1 or 3 entries is that of the channels, the other
two behind the batch are height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxpfp.counted import counted
from onnxpfp.data.inputs import InputSpec
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.options.data import IMAGENET, Color, DataOptions, ImageLayout, Resize, Scaling, parse_resize, parse_scaling

__all__ = ["ImageForm", "candidates", "image_form"]

GRID = 32
"""Pixels; a free side that is padded is a multiple of it: many networks take no others, and more images are alike."""
_AXES = 4
_GRAY, _COLORS = 1, 3
_CHANNEL_AXIS: Mapping[ImageLayout, int] = {"NCHW": 1, "NHWC": 3}
_HINT = "give the samples as .npz or .npy, or as script.py:function that yields {input name: array}"


@dataclass(frozen=True, slots=True)
class ImageForm:
    """How images become samples.

    Attributes:
        spec: The input.
        layout: The order of its axes.
        color: The order of its channels.
        channels: How many it has.
        resize: How images get its size.
        height: In pixels; None where every image has its own.
        width: Likewise.
        scaling: What becomes of pixels; None where nobody says it.
        guessed: What follows from the input and not from what the user says.
    """

    spec: InputSpec
    layout: ImageLayout
    color: Color
    channels: int
    resize: Resize
    height: int | None
    width: int | None
    scaling: Scaling | None
    guessed: tuple[str, ...]

    @property
    def one_size(self) -> bool:
        """Whether all samples have one shape."""
        return self.height is not None and self.width is not None

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of one sample of a size, without the axis of the samples."""
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)

    @property
    def way(self) -> str:
        """How images get their size, for people."""
        size = f"{self.height or 'any'}x{self.width or 'any'}"
        free = "height" if self.height is None else "width"
        if self.resize.side is not None:
            return f"scaled to {self.resize.side} on the shorter side, then cropped to {size} around the middle"
        if self.resize.mode == "crop" and not self.one_size:
            return f"scaled to {size} in their aspect ratio"
        if self.resize.mode == "pad" and not self.one_size:
            return f"scaled to {size} in their aspect ratio, grey to the next multiple of {GRID} in {free}"
        return {
            "crop": f"scaled to cover {size} and cropped around the middle",
            "pad": f"scaled to fit into {size}, the rest grey",
            "stretch": f"stretched to {size}",
            "none": "in the size that they have",
        }[self.resize.mode]


def image_form(specs: Sequence[InputSpec], asked: DataOptions, given: Mapping[str, tuple[int, ...]]) -> ImageForm:
    """Find out how images become samples.

    Args:
        specs: The inputs.
        asked: What the user says.
        given: Shapes of inputs that the user says.

    Raises:
        CalibrationError: No input takes images, or what is said does not fit it.
        OptionError: It is to be said more exactly.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs) or "none"
        raise CalibrationError(f"images fit a model with one input, this one has {len(specs)}: {names}", hint=_HINT)
    spec = specs[0]
    if len(spec.shape) != _AXES or spec.is_text:
        raise CalibrationError(f"input '{spec.name}' is {spec.describe()}, which is no batch of images", hint=_HINT)
    fixed = given.get(spec.name) or ()
    shape = tuple(dim or (fixed[axis] if len(fixed) == _AXES else None) for axis, dim in enumerate(spec.shape))
    layout = asked.layout or _layout(spec, shape)
    channels = shape[_CHANNEL_AXIS[layout]] or (_GRAY if asked.color == "gray" else _COLORS)
    color = asked.color or ("gray" if channels == _GRAY else "RGB")
    other: ImageLayout = "NHWC" if layout == "NCHW" else "NCHW"
    if channels not in (_GRAY, _COLORS) or (channels == _GRAY and color != "gray"):
        turned = shape[_CHANNEL_AXIS[other]] in (None, _GRAY, _COLORS)
        raise CalibrationError(
            f"input '{spec.name}' is {spec.describe()}, with {counted(channels, 'channel')} "
            f"as {layout}, and images are {color}",
            hint=f"--layout {other} reads it the other way; images have 1 or 3 channels"
            if turned
            else "leave --color out, or write --color gray"
            if channels == _GRAY
            else _HINT,
        )
    resize = Resize() if asked.resize is None else parse_resize("--resize", asked.resize)
    sides = (shape[2], shape[3]) if layout == "NCHW" else (shape[1], shape[2])
    height, width = _size(spec, resize, sides)
    guessed = [name for name in ("layout", "color") if getattr(asked, name) is None]
    scaling = _scaling(spec, asked, channels, color)
    return ImageForm(spec, layout, color, channels, resize, height, width, scaling, tuple(guessed))


def _layout(spec: InputSpec, shape: tuple[int | None, ...]) -> ImageLayout:
    found: list[ImageLayout] = [layout for layout, axis in _CHANNEL_AXIS.items() if shape[axis] in (_GRAY, _COLORS)]
    if not found and None in (shape[1], shape[3]):
        raise OptionError(
            f"input '{spec.name}' is {spec.describe()}: which axis has the channels of images is not known",
            hint="--layout NCHW or --layout NHWC says it",
        )
    if not found:
        raise CalibrationError(
            f"input '{spec.name}' is {spec.describe()}: no axis has the 1 or 3 channels of images", hint=_HINT
        )
    return found[0]


def _size(spec: InputSpec, resize: Resize, sides: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """Return height and width; None where every image has its own."""
    if resize.size is not None:
        return _asked_size(spec, resize.size, sides)
    if resize.mode == "none" or None not in sides:
        return sides
    if resize.side is not None:
        raise OptionError(
            f"input '{spec.name}' is {spec.describe()}: --resize {resize.side} says how long the shorter side of "
            "images is before the crop, and not to what they are cropped",
            hint=_by_sides(sides, resize.side),
        )
    if sides == (None, None) or resize.mode == "stretch":
        raise OptionError(
            f"input '{spec.name}' is {spec.describe()}: of what size images are to be is not known",
            hint="give what the network was trained with, height x width: --resize pad,640x640 for many detectors, "
            "--resize 48x for lines of text (48 pixels high, the width by the aspect ratio); or --resize none, and "
            "every image stays as it is",
        )
    return sides


def _by_sides(sides: tuple[int | None, int | None], side: int) -> str:
    """Say how images get one length where the input leaves sides free."""
    if sides != (None, None):
        return "leave it out, and the aspect ratio sets the side that is free"
    return (
        f"--resize {side}x{side} crops around the middle and pad,{side}x{side} adds grey; --resize {side}x makes "
        f"images {side} pixels high, such as lines of text, and x{side} as wide, the other side by the aspect ratio"
    )


def _asked_size(
    spec: InputSpec, wanted: tuple[int | None, int | None], sides: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    """Return height and width as they are asked for, and as the input has them where they are not.

    Raises:
        OptionError: The input has others, or leaves nothing free.
    """
    text = "x".join(str(length or "") for length in wanted)
    if None in wanted and None not in sides:
        raise OptionError(
            f"--resize {text} leaves a side to the aspect ratio, and input '{spec.name}' takes {sides[0]}x{sides[1]}",
            hint="leave it out, and images are cropped around the middle; --resize pad adds grey in place of that",
        )
    if any(None not in (side, asked) and side != asked for side, asked in zip(sides, wanted, strict=True)):
        raise OptionError(
            f"--resize asks for {text}, and input '{spec.name}' is {spec.describe()}",
            hint="leave the size out",
        )
    height, width = (asked or side for side, asked in zip(sides, wanted, strict=True))
    return height, width


def _scaling(spec: InputSpec, asked: DataOptions, channels: int, color: Color) -> Scaling | None:
    """Return what becomes of pixels, with one number for all channels or for each in their order."""
    whole = spec.dtype.kind in "iub"
    if whole and spec.dtype.itemsize == 1 and spec.dtype.kind != "u":
        raise CalibrationError(
            f"input '{spec.name}' is {spec.describe()}, which does not hold pixels from 0 to 255", hint=_HINT
        )
    if asked.preprocess is None:
        return parse_scaling("--preprocess", "none") if whole else None
    scaling = parse_scaling("--preprocess", asked.preprocess)
    if whole and scaling.name != "none":
        raise OptionError(
            f"--preprocess {scaling.name} makes fractions, and input '{spec.name}' is {spec.describe()}",
            hint="--preprocess none leaves pixels as they are",
        )
    return _in_order(scaling, channels, color)


def _in_order(scaling: Scaling, channels: int, color: Color) -> Scaling:
    """Return a scaling in the order of the channels of an input.

    Raises:
        OptionError: It is of another number of channels.
    """
    if len(scaling.mean) not in (0, 1, channels):
        raise OptionError(
            f"--preprocess {scaling.name} is of {counted(len(scaling.mean), 'channel')}, and the input has {channels}",
            hint="give one mean and one deviation, or one for each channel",
        )
    if scaling == IMAGENET and color == "BGR":
        return Scaling(scaling.name, scaling.mean[::-1], scaling.std[::-1])
    return scaling


def candidates(form: ImageForm) -> Iterator[Scaling]:
    """Yield what pixels mostly become, the most common first."""
    for name in ("0-1", "imagenet", "-1-1", "none"):
        scaling = parse_scaling("--preprocess", name)
        if len(scaling.mean) in (0, 1, form.channels):
            yield _in_order(scaling, form.channels, form.color)
