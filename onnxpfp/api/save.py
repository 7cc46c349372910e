"""Write a result: the model, and beside it what was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from onnxpfp.api.prune import Result
from onnxpfp.model.save import check_target, keep_weights, save_alone, save_model

__all__ = ["save_result"]


def save_result(
    result: Result,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> int:
    """Write a pruned model atomically; an existing file stays as it is until the new one is whole.

    Args:
        result: What `prune` returned.
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
