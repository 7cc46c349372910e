"""The code that is measured: a checkout, or what a commit of this one had, with the bytecode that installing brings."""

from __future__ import annotations

import compileall
import io
import os
import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.speed.machine import commit as commit_of

__all__ = ["AFTER", "BEFORE", "Code", "at_commit", "checkout"]

BEFORE, AFTER = "before", "after"
PACKAGE = "onnxpfp"


@dataclass(frozen=True, slots=True)
class Code:
    """One state of onnxpfp.

    Attributes:
        name: `BEFORE` or `AFTER`.
        folder: Where the package is.
        commit: What tells it from others.
    """

    name: str
    folder: Path
    commit: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that imports it."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}


def checkout(folder: Path) -> Code:
    """Take the files of a checkout as they are.

    Raises:
        FileNotFoundError: The package is not there.
    """
    if not (folder / PACKAGE / "__init__.py").is_file():
        raise FileNotFoundError(f"{folder} has no {PACKAGE}")
    _compile(folder)
    return Code(AFTER, folder.resolve(), commit_of(folder))


@contextmanager
def at_commit(repository: Path, commit: str) -> Generator[Code]:
    """Unpack the package as it was at a commit, for as long as it is measured."""
    git = ["git", "-C", str(repository)]
    named = subprocess.run([*git, "rev-parse", "--short", commit], capture_output=True, text=True, check=True)
    archive = subprocess.run([*git, "archive", commit, PACKAGE], capture_output=True, check=True)
    with TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            # Python 3.11 has filters from 3.11.4 on; what is unpacked is our own.
            files.extractall(scratch, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        _compile(Path(scratch))
        yield Code(BEFORE, Path(scratch), named.stdout.strip())


def _compile(folder: Path) -> None:
    """Write the bytecode of the package: pip does so, and where Python may not, every command would compile anew."""
    compileall.compile_dir(folder / PACKAGE, quiet=1)
