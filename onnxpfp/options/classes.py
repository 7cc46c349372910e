"""Options that say which classes stay: what goes of the outputs themselves (`onnxpfp.channels.class_axes`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from onnxpfp.errors import OptionError
from onnxpfp.options.declaration import declare

__all__ = [
    "ClassOptions",
    "check_class_axes",
    "check_class_options",
    "check_classes",
    "class_axis_numbers",
    "class_tokens",
]

_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")
_AXIS_NUMBERS = r"-?\d+(:\d+){0,3}"
_AXIS_FORM = "OUTPUT:AXIS[:FIRST[:COUNT[:EVERY]]]"
_AXIS_EXAMPLE = "--class-axis output0:1:4:80 says that the indices 4 to 83 of axis 1 of 'output0' are the classes"


def class_tokens(value: str | Sequence[int | str]) -> list[range | str]:
    """Return the classes that were named: ranges of numbers, and names.

    Args:
        value: Numbers, ranges `5-9` and names, separated by commas, or a list of them.
    """
    parts = value.split(",") if isinstance(value, str) else value
    tokens: list[range | str] = []
    for part in parts:
        match = _NUMBERS.fullmatch(str(part).strip())
        if match is None:
            tokens.append(str(part).strip())
            continue
        first = int(match[1])
        tokens.append(range(first, int(match[2] or first) + 1))
    return tokens


def check_classes(flag: str, value: str | Sequence[int | str]) -> None:
    """Refuse what names no class, or a range that runs backwards."""
    example = f"{flag} 0,2,5-9 keeps seven classes, counted from 0"
    if not isinstance(cast("object", value), Iterable):
        raise OptionError(f"{flag} {value} is no list of classes", hint=example)
    tokens = class_tokens(value)
    if not tokens or "" in tokens:
        raise OptionError(f"{flag} '{value}' names no class somewhere", hint=example)
    if any(isinstance(token, range) and not token for token in tokens):
        raise OptionError(f"{flag} {value}: a range runs from a smaller number to a larger one", hint=example)


def check_class_axes(flag: str, value: Sequence[str]) -> None:
    """Refuse what is no axis of an output."""
    for text in value:
        if not re.fullmatch(rf".+?:{_AXIS_NUMBERS}", text):
            raise _no_class_axis(flag, text)


def class_axis_numbers(text: str, output: str) -> list[int]:
    """Return what stands behind the name of an output, which may have colons, too.

    Args:
        text: OUTPUT:AXIS[:FIRST[:COUNT[:EVERY]]].
        output: The name that it begins with.

    Raises:
        OptionError: Something else than these numbers does.
    """
    numbers = text.removeprefix(f"{output}:")
    if not re.fullmatch(_AXIS_NUMBERS, numbers):
        raise _no_class_axis("--class-axis", text)
    return [*map(int, numbers.split(":"))]


def _no_class_axis(flag: str, text: str) -> OptionError:
    return OptionError(f"{flag} '{text}' is not of the form {_AXIS_FORM}", hint=_AXIS_EXAMPLE)


# Without slots of its own, for a class may inherit those of one parent only.
@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """Options of the classes that stay."""

    keep_classes: str | Sequence[int | str] | None = declare(
        None,
        "Drop all other classes from the outputs: numbers counted from 0, ranges and names, 0,2,5-9. That goes first; "
        "what is left is the original for all that follows. With --keep-macs 1 nothing else goes.",
        "choice",
        metavar="LIST",
        default_text="all",
        check=check_classes,
    )
    class_names: str | Path | Sequence[str] | None = declare(  # noqa: RUF009
        None,
        "Names of the classes, one per line, for --keep-classes; in Python a list, too. Without it those that the file "
        "has in its metadata, as exports of Ultralytics do.",
        "choice",
        metavar="FILE",
    )
    class_axes: Sequence[str] = declare(
        (),
        "The axis of an output that counts the classes, the index of class 0 and their number, for --keep-classes "
        "where the model does not tell; of anchors that lie behind one another on it also how many indices each has, "
        "as in y:1:5:80:85 for 255 = 3 x (4 + 1 + 80).",
        "choice",
        flag="class-axis",
        metavar=_AXIS_FORM,
        repeated=True,
        check=check_class_axes,
    )


def check_class_options(keep: object, names: object, axes: object) -> None:
    """Refuse what says something of classes where all of them stay: the three options, as they were given."""
    for flag, value in (("--class-names", names), ("--class-axis", axes)):
        if keep is None and value:
            raise OptionError(f"{flag} goes with --keep-classes")
