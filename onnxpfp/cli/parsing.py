"""Values that are typed in a form of their own: shapes, axes and ranges of inputs, amounts of memory.

`--input-shape NAME:1,3,224,224` may have `x` between the sizes, and none for a scalar (`NAME:`); `--sample-axis NAME:1`
names an axis, `--input-range NAME:-1,1` the range of its numbers, `--workspace 512MB` an amount, `--keep-size` takes
one or a share. Shapes, axes and ranges need no name where the model has one input. Several targets of `sweep` are
separated by commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

from onnxpfp.errors import ModelError, OptionError

__all__ = [
    "parse_axes",
    "parse_count",
    "parse_number",
    "parse_ranges",
    "parse_several",
    "parse_shapes",
    "parse_share_or_size",
    "parse_size",
]

V = TypeVar("V")

_SHAPE = re.compile(r"\d+([,x]\d+)*")
_SHAPE_EXAMPLE = "write --input-shape NAME:1,3,224,224, with , or x between the sizes"
_AXIS = re.compile(r"-?\d+|none")
_AXIS_EXAMPLE = "write --sample-axis NAME:1, or NAME:none for what is the same for all samples"

_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
_RANGE = re.compile(f"{_NUMBER},{_NUMBER}", re.IGNORECASE)
_RANGE_EXAMPLE = "write --input-range NAME:-1,1"
_COUNT = re.compile(r"[+-]?\d+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]i?)?B", re.IGNORECASE)
_PREFIXES = "KMGT"
_SHARE = re.compile(r"\d*\.?\d+(e-?\d+)?", re.IGNORECASE)


def parse_shapes(texts: Sequence[str], model: Path) -> dict[str, tuple[int, ...]]:
    """Read shapes as they were typed.

    Args:
        texts: What was typed.
        model: The model, which tells the name of its input where none is typed.

    Raises:
        OptionError: A text is no shape, an input has two, or a name is missing.
        ModelError: The model must be asked for a name and cannot be read.
    """

    def shape_of(typed: str) -> tuple[int, ...] | None:
        known = not typed or _SHAPE.fullmatch(typed)
        return tuple(int(size) for size in re.split("[,x]", typed) if size) if known else None

    return _by_input(_Form("--input-shape", "shape", _SHAPE_EXAMPLE), texts, model, shape_of)


def parse_axes(texts: Sequence[str], model: Path) -> dict[str, int | None]:
    """Read sample axes as they were typed; None is that of an input without.

    Args:
        texts: What was typed.
        model: The model, which tells the name of its input where none is typed.

    Raises:
        OptionError: A text is no axis, an input has two, or a name is missing.
        ModelError: The model must be asked for a name and cannot be read.
    """

    def axis_of(typed: str) -> tuple[int | None] | None:
        return (None if typed == "none" else int(typed),) if _AXIS.fullmatch(typed) else None

    found = _by_input(_Form("--sample-axis", "axis", _AXIS_EXAMPLE), texts, model, axis_of)
    return {name: axis for name, (axis,) in found.items()}


def parse_ranges(texts: Sequence[str], model: Path) -> dict[str, tuple[float, float]]:
    """Read ranges of numbers as they were typed.

    Args:
        texts: What was typed.
        model: The model, which tells the name of its input where none is typed.

    Raises:
        OptionError: A text is no range, an input has two, or a name is missing.
        ModelError: The model must be asked for a name and cannot be read.
    """

    def range_of(typed: str) -> tuple[float, float] | None:
        low, _, high = typed.partition(",")
        return (float(low), float(high)) if _RANGE.fullmatch(typed) else None

    return _by_input(_Form("--input-range", "range", _RANGE_EXAMPLE), texts, model, range_of)


class _Form(NamedTuple):
    """What is typed of an input: the flag, what it is called, and an example."""

    flag: str
    what: str
    example: str


def _by_input(form: _Form, texts: Sequence[str], model: Path, read: Callable[[str], V | None]) -> dict[str, V]:
    """Read what was typed of inputs, NAME:VALUE each.

    Args:
        form: What it is.
        texts: What was typed.
        model: The model, which tells the name of its input where none is typed.
        read: Reads a value without blanks; None where it is none.
    """
    values: dict[str, V] = {}
    for text in texts:
        # Names like "input:0" have colons, too.
        name, colon, typed = text.rpartition(":")
        # A scalar has no sizes, but a colon.
        value = read(typed.replace(" ", "")) if colon or typed.strip() else None
        if value is None:
            raise OptionError(f"{form.flag} '{text}' is no {form.what}", hint=form.example)
        name = name or _only_input(model, form.flag, text, form.example)
        if name in values:
            article = "axes" if form.what == "axis" else f"{form.what}s"
            raise OptionError(f"{form.flag} gives '{name}' two {article}", hint="give it one")
        values[name] = value
    return values


def _only_input(path: Path, flag: str, text: str, example: str) -> str:
    """Return the name of the model's only input, without reading weights that lie in other files."""
    from onnx import ModelProto

    from onnxpfp.model.load import load
    from onnxpfp.runtime.given_files import MESSAGE_LIMIT, read_given

    model = ModelProto()
    try:
        model.ParseFromString(read_given(path, MESSAGE_LIMIT, ModelError, hint=""))
    except Exception:
        # The pipeline's own reader says what is wrong with the file.
        model = load(path).model
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [info.name for info in model.graph.input if info.name not in stored]
    if len(names) != 1:
        raise OptionError(
            f"{flag} '{text}' names no input, and the model has {len(names)}: {', '.join(names)}",
            hint=example,
        )
    return names[0]


def parse_count(text: str) -> int | str:
    """Read a whole number; any other word is left for the option to judge."""
    return int(text) if _COUNT.fullmatch(text.strip()) else text


def parse_number(flag: str, text: str) -> float:
    """Read a number.

    Args:
        flag: The option that it was given for.
        text: What was typed.

    Raises:
        OptionError: The text is none.
    """
    if re.fullmatch(_NUMBER, text, re.IGNORECASE) is None:
        raise OptionError(f"{flag} '{text}' is no number", hint=f"write {flag} 0.9,0.7,0.5")
    return float(text)


def parse_several(flag: str, text: str, read: Callable[[str, str], float]) -> tuple[float, ...]:
    """Read several values, separated by commas.

    Args:
        flag: The option that they were given for.
        text: What was typed.
        read: Reads one value of it.

    Raises:
        OptionError: A value cannot be read.
    """
    return tuple(read(flag, part.strip()) for part in text.split(","))


def parse_size(flag: str, text: str) -> int:
    """Read an amount of memory: a number and a unit, of 1000 (MB) or of 1024 (MiB), in any case.

    Args:
        flag: The option that it was given for.
        text: What was typed.

    Returns:
        Whole bytes.

    Raises:
        OptionError: The text is no amount of memory.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{flag} '{text}' is no amount of memory", hint=f"write {flag} 512MB, 2GB or 1.5GiB")
    number, prefix = match.groups(default="")
    base = 1024 if len(prefix) > 1 else 1000
    power = 1 + _PREFIXES.index(prefix[0].upper()) if prefix else 0
    return int(Fraction(number) * base**power)


def parse_share_or_size(flag: str, text: str) -> float:
    """Read a share in (0, 1], or an amount as `parse_size` does.

    Args:
        flag: The option that it was given for.
        text: What was typed.

    Returns:
        The share, or whole bytes, more than 1.

    Raises:
        OptionError: The text is neither.
    """
    if _SIZE.fullmatch(text.strip()):
        size = parse_size(flag, text)
        if size > 1:
            return size
    elif _SHARE.fullmatch(text.strip()) and 0 < float(text) <= 1:
        return float(text)
    raise OptionError(
        f"{flag} '{text}' is neither a share in (0, 1] nor an amount with its unit",
        hint=f"write {flag} 0.5 for half of the file, or {flag} 4MB, 512kB or 1.5MiB",
    )
