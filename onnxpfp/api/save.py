"""Write a result: the model, and beside it what was asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxpfp.model.save import check_target, keep_weights, save_alone, save_model
from onnxpfp.runtime.external_data import WeightFile, with_weights_in_memory

__all__ = ["WritableResult", "save_result"]


@dataclass(frozen=True, slots=True, eq=False)
class WritableResult:
    """What a verb has made of a model.

    Attributes:
        stored: The model to be written: large weights may lie in files (`onnxpfp.runtime.external_data`).
        unchanged: The bytes of the input where nothing was changed, else None.
        external: Whether the input kept its weights in other files.
        scratch: What keeps those files.
        read: The input and the files of its weights; empty for a model object.
    """

    stored: ModelProto
    unchanged: bytes | None
    external: bool
    scratch: WeightFile
    read: tuple[Path, ...]

    @property
    def model(self) -> ModelProto:
        """The model with all its weights; large ones are loaded at every call, so `save_result` takes less."""
        return with_weights_in_memory(self.stored)


def save_result(
    result: WritableResult,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> int:
    """Write a result atomically; an existing file stays as it is until the new one is whole.

    Args:
        result: What `prune`, `factorize` or `sparsify` returned.
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
