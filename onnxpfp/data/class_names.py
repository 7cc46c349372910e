"""Names of the classes, and which of them were asked for."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from onnxpfp.errors import OptionError
from onnxpfp.options.classes import class_tokens

__all__ = ["METADATA_NAMES", "classes_asked_for", "names_in_metadata", "read_class_names"]

METADATA_NAMES = "names"
"""The entry of a file's metadata in which exports of Ultralytics write the names, as a Python dict."""
LONGEST = 1 << 20
"""Bytes of a file of names; what is longer is something else."""


def read_class_names(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Read the names of all classes.

    Args:
        source: A file with one name per line, or the names.

    Raises:
        OptionError: There are none, or one stands there twice.
    """
    given = isinstance(source, str | Path)
    title = f"--class-names {source}" if given else "--class-names"
    names = _lines(Path(source), title) if isinstance(source, str | Path) else tuple(map(str, source))
    if not names:
        raise OptionError(f"{title} holds no names", hint="write one name per line, that of class 0 first")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise OptionError(f"{title}: the name '{double}' stands there twice")
    return names


def _lines(path: Path, title: str) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise OptionError(f"{title}: is longer than 1 MB, so it is no list of names")
        return tuple(line.strip() for line in text.decode().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{title}: cannot be read as a text: {error}") from error


def names_in_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the classes that a file has in its metadata; empty where it has none that can be read."""
    try:
        found: Any = ast.literal_eval(metadata.get(METADATA_NAMES, ""))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(found, dict):
        named = cast("dict[Any, Any]", found)
        if named.keys() != set(range(len(named))):
            return ()
        found = [named[number] for number in range(len(named))]
    if not isinstance(found, list | tuple):
        return ()
    return tuple(map(str, cast("Sequence[Any]", found)))


def classes_asked_for(asked: str | Sequence[int | str], count: int, names: Sequence[str]) -> tuple[int, ...]:
    """Return the classes that stay, ascending.

    Args:
        asked: What was asked for.
        count: How many classes there are.
        names: Their names; none where these are not known.

    Raises:
        OptionError: There is no such class.
    """
    chosen: set[int] = set()
    for token in class_tokens(asked):
        numbers = token if isinstance(token, range) else [_number_of(token, names)]
        if numbers[-1] >= count:
            raise OptionError(
                f"--keep-classes {numbers[-1]}: there are {count} classes", hint=f"they are 0 to {count - 1}"
            )
        chosen.update(numbers)
    return tuple(sorted(chosen))


def _number_of(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    if not names:
        raise OptionError(
            f"--keep-classes '{name}' is no number, and no names are known",
            hint="--class-names FILE gives them, one per line",
        )
    holding = [each for each in names if name.casefold() in each.casefold()]
    close = holding[:3] or difflib.get_close_matches(name, names, 3, cutoff=0.4)
    raise OptionError(
        f"--keep-classes '{name}' is the name of no class",
        hint=f"close names: {', '.join(close)}" if close else f"the first ones are {', '.join(names[:5])}",
    )
