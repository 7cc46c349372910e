"""Temporary files and folders: all have names by which those that a kill leaves behind are known.

Whoever watches over this process removes them after he has killed it (`onnxpfp.cli.supervisor`), so a name is told
before anything of that name is made.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from onnxpfp.supervision import tell

__all__ = ["PREFIX", "saving", "temporary_file", "temporary_folder"]

PREFIX = ".onnxpfp-"
"""How the names of all temporary files and folders begin."""


def _fresh(parent: Path | None) -> Path:
    folder = Path(tempfile.gettempdir()) if parent is None else parent
    path = Path(os.path.abspath(folder)) / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    tell("temporary", str(path))
    return path


def temporary_file(parent: Path) -> tuple[int, Path]:
    """Make an empty file that only this user can read; returns its handle for writing, and its path."""
    path = _fresh(parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600), path


def temporary_folder(parent: Path | None = None) -> Path:
    """Make an empty folder that only this user can read; None is the system's temporary folder."""
    path = _fresh(parent)
    path.mkdir(0o700)
    return path


@contextmanager
def saving() -> Generator[None]:
    """Say that final files are put into place: it takes a moment, and leaves names behind if it is cut short."""
    tell("saving")
    try:
        yield
    finally:
        tell("saved")
