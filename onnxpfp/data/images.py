"""Folders of images as samples: decoded by Pillow when they are asked for, and scaled as the input wants it.

Sizes change by Pillow's bilinear filter, which takes the mean over what a pixel covers, as torchvision's transforms do.
Pixels are kept as bytes (`onnxpfp.data.rows`), and only those of one run are floats.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.image_form import GRID, ImageForm, candidates, image_form
from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.data.rows import LazyRows
from onnxpfp.data.stored_statistics import FAR, LEAST_TO_TELL, StoredStatistics
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.options.data import DataOptions, Scaling
from onnxpfp.runtime.memory import amount_text, memory_limit

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "ImageReader"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY = 114
"""What pads an image, as YOLO's letterbox does."""
TRIED = 32
"""Images by which is guessed what pixels become."""
_HELD = 4
"""One of so many bytes of the memory may be for samples of different sizes, which are all held."""

_LOG = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ImageReader:
    """Reads images for one model, all in the same way.

    Attributes:
        asked: What the user says.
        shapes: Shapes of inputs that the user says.
        statistics: Tells what becomes of pixels where the user does not; None where nothing does.
        lines: How images were read, a line for each source.
        unread: How many were left out, for so many were not asked for.
    """

    asked: DataOptions = field(default_factory=DataOptions)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    statistics: Callable[[], StoredStatistics | None] = lambda: None
    lines: list[str] = field(default_factory=list[str])
    unread: int = 0
    _scaling: Scaling | None = None

    def read(
        self, paths: Sequence[Path], specs: Sequence[InputSpec], total: int, *, asked: bool = True
    ) -> dict[str, LazyRows] | list[dict[str, NDArray[Any]]]:
        """Read images: in one array where all get one size, else as a feed each.

        Args:
            paths: Their files.
            specs: The inputs.
            total: How many there are with those that are left out.
            asked: Whether the user said how many to take.

        Raises:
            CalibrationError: Pillow is not there, an image cannot be read, or they do not fit the input.
            OptionError: It must be said how they are to be read.
        """
        _pillow()
        form = image_form(specs, self.asked, self.shapes)
        name, dtype = form.spec.name, form.spec.dtype
        guessed = [*form.guessed]
        known = form.scaling or self._scaling
        if known is None:
            known, why = self._guess(form, paths)
            guessed.append(f"preprocess, {why}")
        scaling = self._scaling = known
        of = "" if total == len(paths) else f" of {total:,}{'' if asked else ' (--calib-samples takes more)'}"
        flags = f"--layout {form.layout} --color {form.color} --preprocess {scaling.name}"
        line = f"images: {len(paths):,}{of}, {form.way}; {flags}"
        if guessed:
            line += f"; guessed: {', '.join(guessed)}"
        _LOG.warning("%s", line)
        self.lines.append(line)
        self.unread += total - len(paths)
        if form.one_size:
            height, width = form.height or 0, form.width or 0
            read = partial(_pixels_of, paths, form)
            shape = (len(paths), *form.shape(height, width))
            return {name: LazyRows(shape, dtype, read, partial(_finished, form, scaling))}
        return self._feeds(paths, form, scaling)

    def _feeds(self, paths: Sequence[Path], form: ImageForm, scaling: Scaling) -> list[dict[str, NDArray[Any]]]:
        """Read images of different sizes."""
        limit, taken = memory_limit() // _HELD, 0
        feeds: list[dict[str, NDArray[Any]]] = []
        for number in range(len(paths)):
            array = _finished(form, scaling, _pixels_of(paths, form, number)[None])
            taken += array.nbytes
            if taken > limit:
                raise CalibrationError(
                    f"{counted(number + 1, 'image takes', 'images of different sizes take')} more than "
                    f"{amount_text(limit)}",
                    hint="take fewer (--calib-samples), or give them one size (--resize 640x640)",
                )
            feeds.append({form.spec.name: array})
        return feeds

    def _guess(self, form: ImageForm, paths: Sequence[Path]) -> tuple[Scaling, str]:
        """Return what brings images closest to the statistics of the file, 0-1 where nothing tells; and why."""
        usual = next(candidates(form)), "which nothing in the file tells"
        if form.resize.mode == "none" and not form.one_size:
            # They may be photographs of many megapixels.
            return usual[0], "the most common, for images of any size are not tried"
        if len(paths) < LEAST_TO_TELL:
            return usual[0], "the most common, for so few images tell nothing"
        statistics = self.statistics()
        if statistics is None:
            return usual
        chosen = range(0, len(paths), -(-len(paths) // TRIED))
        pixels = [_pixels_of(paths, form, number)[None] for number in chosen]
        found: list[tuple[float, Scaling]] = []
        for scaling in candidates(form):
            feeds = ({form.spec.name: _finished(form, scaling, each)} for each in pixels)
            try:
                found.append((statistics.distance(_batched(form, feeds))[0], scaling))
            except ModelError:
                # The run that follows says what is wrong with the model.
                return usual
        least, best = min(found, key=lambda pair: pair[0])
        return (best, "closest to the BatchNormalization statistics of the file") if least <= FAR else usual


def _batched(form: ImageForm, feeds: Iterator[dict[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Repeat an image where the input takes several at once."""
    times = form.spec.shape[0] or 1
    for feed in feeds:
        yield {name: np.repeat(array, times, axis=0) for name, array in feed.items()}


def _finished(form: ImageForm, scaling: Scaling, pixels: NDArray[Any]) -> NDArray[Any]:
    """Make what is fed of pixels, (M, H, W, C) bytes in the order of the input's channels."""
    array: NDArray[Any] = pixels
    if scaling.mean:
        mean, std = (np.array(part, np.float32) for part in (scaling.mean, scaling.std))
        array = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    array = array.astype(form.spec.dtype)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if form.layout == "NCHW" else array


def _pixels_of(paths: Sequence[Path], form: ImageForm, number: int) -> NDArray[np.uint8]:
    """Decode an image, (H, W, C) bytes in the order of the input's channels.

    Raises:
        CalibrationError: It is none, or does not fit the input.
    """
    path = paths[number]
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            # What is too large to be meant is a warning first, and an error at twice the size.
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as image:
                sized = _sized(path, _decoded(path, image, form), form)
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from error
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise _unreadable(path, error) from error
    pixels = np.asarray(sized, np.uint8).reshape(sized.height, sized.width, -1)
    if form.color == "BGR":
        pixels = pixels[:, :, ::-1]
    # Grey in an input of three channels is the same in all.
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], form.channels)))


def _unreadable(path: Path, error: BaseException) -> CalibrationError:
    reason = " ".join(str(error).split()) or "it is damaged"
    return CalibrationError(
        f"{path} cannot be read as an image: {reason}", hint="remove it from the folder, or mend it"
    )


def _decoded(path: Path, image: Image, form: ImageForm) -> Image:
    """Decode an image upright, as gray or RGB."""
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):
        raise CalibrationError(
            f"{path} has {image.mode} pixels, not bytes", hint="convert it to 8 bits, or give the samples as .npy"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "P":
        upright = upright.convert("RGBA")
    return upright.convert("L" if form.color == "gray" else "RGB")


def _sized(path: Path, image: Image, form: ImageForm) -> Image:
    """Give an image the size of the input."""
    from PIL.Image import Resampling

    bilinear, (width, height) = Resampling.BILINEAR, image.size
    if form.resize.mode == "none":
        wanted = form.height or height, form.width or width
        if wanted != (height, width):
            raise CalibrationError(
                f"{path} has {height}x{width} pixels, and input '{form.spec.name}' is {size_ref(form.spec.shape)}",
                hint="leave out --resize none",
            )
        return image
    across, down = _target(form, height, width)
    if form.resize.mode == "stretch":
        return image.resize((across, down), bilinear)
    if form.resize.side is not None:
        # As torchvision does, which cuts off fractions of a pixel.
        side, short = form.resize.side, min(width, height)
        scaled = side * width // short, side * height // short
    elif form.resize.mode == "pad":
        scale = min(across / width, down / height)
        scaled = max(1, round(width * scale)), max(1, round(height * scale))
    else:
        scale = max(across / width, down / height)
        scaled = max(across, round(width * scale)), max(down, round(height * scale))
    resized = image.resize(scaled, bilinear)
    if form.resize.mode == "pad":
        padded = _pillow().new(image.mode, (across, down), GREY if image.mode == "L" else (GREY,) * 3)
        padded.paste(resized, ((across - scaled[0]) // 2, (down - scaled[1]) // 2))
        return padded
    if scaled[0] < across or scaled[1] < down:
        raise CalibrationError(
            f"{path} has {scaled[1]}x{scaled[0]} pixels after --resize {form.resize.side}, less than {down}x{across}",
            hint="give a longer side",
        )
    left, top = round((scaled[0] - across) / 2), round((scaled[1] - down) / 2)
    return resized.crop((left, top, left + across, top + down))


def _target(form: ImageForm, height: int, width: int) -> tuple[int, int]:
    """Return the width and the height that an image is to have; the aspect ratio tells the one that is free."""
    down, across = form.height, form.width
    grid = GRID if form.resize.mode == "pad" else 1
    if down is None and across is not None:
        down = grid * -(-max(1, round(across * height / width)) // grid)
    elif across is None and down is not None:
        across = grid * -(-max(1, round(down * width / height)) // grid)
    return across or width, down or height


def _pillow() -> Any:
    """Return the module that decodes images.

    Raises:
        CalibrationError: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise CalibrationError(
            "images are decoded by Pillow, which is not installed",
            hint="pip install pillow, which the extra 'images' of onnxpfp brings, too",
        ) from error
    return Image
