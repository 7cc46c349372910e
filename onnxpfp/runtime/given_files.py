"""Files that others give are read whole if they are regular files of a bounded size; no pipe is waited for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnxpfp.errors import OnnxPfpError

__all__ = ["MESSAGE_LIMIT", "read_given"]

MESSAGE_LIMIT = 2**31 - 1
"""Bytes; a protobuf message cannot be larger."""


def read_given(path: Path, limit: int, error: type[OnnxPfpError], *, hint: str) -> bytes:
    """Read a file.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.
        hint: What to do about a file that is larger.

    Raises:
        OnnxPfpError: As `error`: it cannot be read, is no regular file, or is larger.
    """
    try:
        # To open a pipe without this would wait for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path}: is no regular file", hint="give a file on a disk")
            data = b"" if status.st_size > limit else file.read(status.st_size)
    except (OSError, ValueError) as failure:
        # A name with a null byte is a ValueError.
        reason = failure.strerror if isinstance(failure, OSError) else failure
        hint = "give a file in it" if isinstance(failure, IsADirectoryError) else ""
        raise error(f"{path}: cannot be read: {reason}", hint=hint) from failure
    if status.st_size > limit:
        raise error(f"{path}: has {status.st_size:,} bytes, at most {limit:,} can be read", hint=hint)
    return data
