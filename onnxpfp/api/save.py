"""Write a result: the model, and beside it what was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from onnx import ModelProto

from onnxpfp.model.save import check_target, keep_weights, save_alone, save_model

__all__ = ["Writable", "save_result"]


class Writable(Protocol):
    """What a verb has made of a model."""

    @property
    def stored(self) -> ModelProto:
        """The model to be written: large weights may lie in files."""
        ...

    @property
    def unchanged(self) -> bytes | None:
        """The bytes of the input where nothing was changed, else None."""
        ...

    @property
    def external(self) -> bool:
        """Whether the input kept its weights in other files."""
        ...

    @property
    def read(self) -> tuple[Path, ...]:
        """The input and the files of its weights; empty for a model object."""
        ...


def save_result(
    result: Writable,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> int:
    """Write a result atomically; an existing file stays as it is until the new one is whole.

    Args:
        result: What `prune` or `factorize` returned.
        path: Where to.
        source: The input; it is only overwritten with `force`.
        force: Whether the input may be overwritten, and a `<name>.data` that is none of the model at `path`.

    Returns:
        Bytes written.

    Raises:
        OutputError: It cannot be written there.
    """
    target = Path(path)
    check_target(target, source=None if source is None else Path(source), force=force)
    keep_weights(target, result.read)
    if result.unchanged is not None and not result.external:
        return save_alone(target, result.unchanged)
    return save_model(target, result.stored, external=result.external, force=force)
