"""What a written file says of how it was made, in `metadata_props`, where netron and others show it.

The entries of the last step are `onnxpfp.version`, `onnxpfp.source_sha256` (of the file that the step was given) and so
on. A file that had some already was made in several steps: those of the first become `onnxpfp.1.version` ..., of the
second `onnxpfp.2.version` ..., so `onnxpfp.1.source_sha256` is the checksum of the file that all began with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from onnx import ModelProto

__all__ = ["provenance_bytes", "with_provenance"]

_PREFIX = "onnxpfp."
_NAMES = ("version", "source_sha256", "target", "options", "agreement")
_NUMBERED = re.compile(rf"onnxpfp\.(\d+)\.({'|'.join(_NAMES)})")


def with_provenance(model: ModelProto, entries: Mapping[str, str]) -> ModelProto:
    """Return a model that says how it was made; the same one where that changes nothing.

    Args:
        model: The model; it is not changed.
        entries: What it says, by names without prefix; without any, nothing of the kind stays in the model.
    """
    before, after = _read(model), _after(_read(model), entries)
    if before == after:
        return model
    told = ModelProto()
    told.CopyFrom(model)
    del told.metadata_props[:]
    _write(told, after)
    return told


def provenance_bytes(model: ModelProto, entries: Mapping[str, str]) -> int:
    """Return how many bytes `with_provenance` adds to a model, which are fewer than 0 where it takes some out."""
    before = _read(model)
    sizes = list[int]()
    for some in (before, _after(before, entries)):
        alone = ModelProto()
        _write(alone, some)
        sizes.append(alone.ByteSize())
    return sizes[1] - sizes[0]


def _read(model: ModelProto) -> list[tuple[str, str]]:
    return [(entry.key, entry.value) for entry in model.metadata_props]


def _write(model: ModelProto, entries: list[tuple[str, str]]) -> None:
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)


def _after(before: list[tuple[str, str]], entries: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return all entries of a model once it has new ones; those of others stay where they are."""
    own = {_PREFIX + name for name in _NAMES}
    if not entries:
        return [(key, value) for key, value in before if key not in own and not _NUMBERED.fullmatch(key)]
    steps = [int(match[1]) for key, _ in before if (match := _NUMBERED.fullmatch(key))]
    last = f"{_PREFIX}{max(steps, default=0) + 1}."
    kept = [(last + key.removeprefix(_PREFIX) if key in own else key, value) for key, value in before]
    return [*kept, *((_PREFIX + name, entries[name]) for name in _NAMES if name in entries)]
