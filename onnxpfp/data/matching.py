"""Which array is for which input, by their names."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from onnxpfp.data.inputs import InputSpec
from onnxpfp.errors import CalibrationError

__all__ = ["match_names", "only_input", "rename_hint"]

_LOG = logging.getLogger(__name__)

A = TypeVar("A")

MOST_NAMED = 8
"""Of the arrays that are there, how many a message names."""
_WORD = 3
"""Letters; shorter names lie in many others."""


def only_input(specs: Sequence[InputSpec], what: str) -> InputSpec:
    """Return the input of a model that has one.

    Args:
        specs: The inputs.
        what: What fits such a model alone.

    Raises:
        CalibrationError: It has several.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise CalibrationError(
            f"{what} fits a model with one input, this one has {len(specs)}: {names}",
            hint="give one array per input name",
        )
    return specs[0]


def match_names(
    arrays: Mapping[str, A], specs: Sequence[InputSpec], where: str, optional: Collection[str] = ()
) -> dict[str, A]:
    """Assign arrays to inputs by name; a single array needs none where there is one input.

    Args:
        arrays: What is given.
        specs: The inputs.
        where: What it is given in.
        optional: Names of other inputs that may be there.

    Raises:
        CalibrationError: An input has none.
    """
    names = [spec.name for spec in specs]
    if len(arrays) == 1 and set(names) != set(arrays) and (len(names) == 1 or "" in arrays):
        return {only_input(specs, f"{where} with one array").name: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        given = ", ".join(sorted(arrays)[:MOST_NAMED]) or "nothing"
        given += f" and {len(arrays) - MOST_NAMED} more" if len(arrays) > MOST_NAMED else ""
        hint = rename_hint(missing[0], arrays) or "name arrays like inputs"
        raise CalibrationError(f"{where} has no array for input {missing[0]!r}; it has {given}", hint=hint)
    extra = sorted(set(arrays) - set(names) - set(optional))
    if extra:
        _LOG.warning("%s: ignoring %s, no input has that name", where, ", ".join(extra))
    return {name: arrays[name] for name in (*names, *(name for name in optional if name in arrays))}


def rename_hint(missing: str, given: Collection[str]) -> str:
    """Say which name may be meant for a missing one; nothing where none is like it."""
    close = difflib.get_close_matches(missing, list(given), n=1)
    # "mask" and "attention_mask" are not close by their letters; one in the other is.
    close += [name for name in given if min(len(name), len(missing)) >= _WORD and (name in missing or missing in name)]
    return f"rename {close[0]!r} to {missing!r}" if close else ""
