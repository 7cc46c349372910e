"""Images of printed lines of text, and what is written in them.

Words, numbers, dates and codes, in the fonts of Debian's packages fonts-dejavu-core and fonts-liberation, in many sizes
and colours, a little blurred and noisy. Calibration and test lines have other words and other random numbers. An image
becomes an input as rapidocr-onnxruntime 1.4.4 makes it: BGR, 48 pixels high, -1 to 1, zeros on the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CALIBRATION", "FONTS", "HEIGHT", "TEST", "WIDTH", "Lines", "as_input", "draw_lines"]

HEIGHT, WIDTH = 48, 320
"""Pixels of an input."""
FONTS = (
    *(f"dejavu/DejaVu{face}.ttf" for face in ("Sans", "Sans-Bold", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold")),
    *(
        f"liberation/Liberation{family}-{style}.ttf"
        for family in ("Sans", "Serif", "Mono")
        for style in ("Regular", "Bold", "Italic", "BoldItalic")
    ),
)
"""Files below the folder of fonts."""
SIZES = (14, 40)
"""Points of a font, from and below."""
MARGIN = (1, 7)
"""Pixels around the letters."""
PAPER, PEN = (170, 256), (0, 110)
"""Brightness of every colour."""
BLUR, NOISE = 0.95, 16.0
"""Most blur in pixels, and most standard deviation of the noise in steps of 255."""
MOST = 24
"""Letters in a line."""
CALIBRATION, TEST = 400, 500
"""Lines of each part."""

Part = Literal["calibration", "test"]
SEEDS: dict[Part, int] = {"calibration": 1, "test": 2}
Write = Callable[[np.random.Generator, list[str]], str]


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines of text.

    Attributes:
        x: What the network is fed, (N, 3, 48, 320) float32.
        texts: What is written in each.
    """

    x: NDArray[np.float32]
    texts: tuple[str, ...]


def draw_lines(part: Part, count: int, fonts: Path, height: int = HEIGHT) -> Lines:
    """Draw the first lines of one part, the same in every run.

    Args:
        part: Of whose words and seed.
        count: How many.
        fonts: Folder with `FONTS`.
        height: Pixels of an input.

    Raises:
        FileNotFoundError: A font is not there.
    """
    absent = [name for name in FONTS if not (fonts / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{fonts} has no {', '.join(absent)}; fonts-dejavu-core and fonts-liberation have them")
    rng, words = np.random.default_rng(SEEDS[part]), _words(part)
    texts, images = list[str](), np.empty((count, 3, height, WIDTH), np.float32)
    while len(texts) < count:
        text = _sentence(rng, words)
        font = fonts / FONTS[rng.integers(len(FONTS))]
        image = _image(rng, text, font)
        if image.width * height <= image.height * WIDTH:
            images[len(texts)] = as_input(image, height)
            texts.append(text)
    return Lines(images, tuple(texts))


def as_input(image: Image.Image, height: int = HEIGHT) -> NDArray[np.float32]:
    """Bring a line that is not too long into the form of an input, (3, height, 320)."""
    from PIL import Image

    width = math.ceil(height * image.width / image.height)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    blue_first = np.asarray(resized, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    x = np.zeros((3, height, WIDTH), np.float32)
    x[:, :, :width] = (blue_first / 255 - 0.5) / 0.5
    return x


@cache
def _words(part: Part) -> list[str]:
    """Return every other word of the list."""
    words = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()
    return words[list(SEEDS).index(part) :: len(SEEDS)]


def _sentence(rng: np.random.Generator, words: list[str]) -> str:
    """Write one line, at most so long that it is read at a usual size."""
    kinds: tuple[Write, ...] = (_two_words, _two_words, _capitals, _amount, _date, _code, _address)
    text = kinds[rng.integers(len(kinds))](rng, words)
    return text if len(text) <= MOST else text[:MOST].strip()


def _word(rng: np.random.Generator, words: list[str]) -> str:
    return words[rng.integers(len(words))]


def _two_words(rng: np.random.Generator, words: list[str]) -> str:
    first, second = _word(rng, words), _word(rng, words)
    return f"{first.capitalize()} {second}"


def _capitals(rng: np.random.Generator, words: list[str]) -> str:
    return _word(rng, words).upper()


def _amount(rng: np.random.Generator, words: list[str]) -> str:
    return f"{_word(rng, words).capitalize()}: {rng.integers(1, 10_000):,}.{rng.integers(100):02}"


def _date(rng: np.random.Generator, _: list[str]) -> str:
    return f"{rng.integers(1990, 2030)}-{rng.integers(1, 13):02}-{rng.integers(1, 29):02}"


def _code(rng: np.random.Generator, _: list[str]) -> str:
    letters = "".join(chr(ord("A") + i) for i in rng.integers(26, size=3))
    return f"{letters}-{rng.integers(10_000, 1_000_000)}"


def _address(rng: np.random.Generator, words: list[str]) -> str:
    return f"{_word(rng, words)}{rng.integers(10, 100)}@{_word(rng, words)}.com"


def _image(rng: np.random.Generator, text: str, font: Path) -> Image.Image:
    """Print a line in one colour on another, then blur it and add noise."""
    # Not installed for everybody who reads the rows.
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    face = ImageFont.truetype(str(font), int(rng.integers(*SIZES)))
    left, top, right, bottom = face.getbbox(text)
    margin = int(rng.integers(*MARGIN))
    paper, pen = (tuple(map(int, rng.integers(*limits, size=3))) for limits in (PAPER, PEN))
    size = (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin)
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=pen, font=face)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    noise = rng.normal(0, rng.uniform(0, NOISE), (*size[::-1], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
