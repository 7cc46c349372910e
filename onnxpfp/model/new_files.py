"""New files beside their place: they get their name when they are whole, and vanish when they are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from onnxpfp.errors import OutputError
from onnxpfp.runtime.scratch import temporary_file

__all__ = ["flush", "flush_folder", "new_file"]


@contextmanager
def new_file(place: Path) -> Generator[tuple[IO[bytes], Path]]:
    """Yield a new file and its temporary path; what still has that path in the end is removed.

    Args:
        place: Where it will lie; it gets the rights of what is there, else those of a new file.

    Raises:
        OutputError: It cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, temporary = temporary_file(place.parent)
        with os.fdopen(handle, "wb") as file:
            shutil.copymode(place, temporary) if place.exists() else temporary.chmod(0o666 & ~_umask())
            yield file, temporary
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be written: {error.strerror or error}", hint="what was there is as it was"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def flush(file: IO[bytes]) -> None:
    """Bring what was written onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names of a folder onto the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
