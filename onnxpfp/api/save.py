"""Write a result: the model, and beside it what was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from onnxpfp.api.prune import Result
from onnxpfp.model.save import check_target, keep_weights, save_bytes, save_model

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
        force: Whether the input may be overwritten.

    Returns:
        Bytes written.

    Raises:
        OutputError: It cannot be written there.
    """
    target = Path(path)
    check_target(target, source=None if source is None else Path(source), force=force)
    keep_weights(target, result.read)
    if result.unchanged is not None and not result.external:
        save_bytes(target, result.unchanged)
        return len(result.unchanged)
    return save_model(target, result.stored, external=result.external)
