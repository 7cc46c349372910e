"""Samples of a function in a Python file, `script.py:function`: it returns feeds, or anything else that is a source.

The contract is that of NVIDIA's polygraphy: without a name the function is `load_data`, and feeds are dicts of arrays
by input name. The file runs in this process, with its folder on the path while it does. What it prints goes to stderr,
for stdout is for results.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from onnxpfp.errors import CalibrationError, OnnxPfpError

__all__ = ["Script", "script_of"]

_FORM = re.compile(r"(.+\.py)(?::(\w+))?")
_DEFAULT = "load_data"
_MODULE = "onnxpfp_data_script"


class _Source(SourceFileLoader):
    """Runs a file, and writes no bytecode beside it: the folder of the data stays as it was."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


@dataclass(frozen=True, slots=True)
class Script:
    """A function in a file.

    Attributes:
        path: The file.
        function: Its name.
    """

    path: Path
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.function}"

    def source(self) -> Any:
        """Call the function and return what it returns; where that is read item by item, it yields these.

        Raises:
            CalibrationError: There is no such file or function, or it fails.
        """
        if not self.path.is_file():
            raise CalibrationError(f"{self.path} does not exist", hint="check the path of the data")
        with self._running():
            module = self._module()
            function = getattr(module, self.function, None)
            if not callable(function):
                names = [name for name in vars(module) if callable(getattr(module, name)) and name[0] != "_"]
                raise CalibrationError(
                    f"{self.path} has no function '{self.function}'; it has {', '.join(names) or 'none'}",
                    hint=f"--calib-data {self.path}:{(names or ['function'])[0]}",
                )
            found = function()
        return self._items(iter(cast("Iterable[Any]", found))) if _is_lazy(found) else found

    def _module(self) -> ModuleType:
        loader = _Source(_MODULE, str(self.path))
        spec = importlib.util.spec_from_file_location(_MODULE, self.path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module

    def _items(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield what it yields, as long as it does."""
        while True:
            with self._running():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def _running(self) -> Generator[None]:
        """Say in one line what fails in the file, and where.

        Raises:
            CalibrationError: Something does.
        """
        folder = str(self.path.resolve().parent)
        sys.path.insert(0, folder)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except OnnxPfpError:
            raise
        except Exception as error:
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if self._is_own(frame.filename)
            ]
            if isinstance(error, SyntaxError):
                lines.append(error.lineno)
            where = f" in line {lines[-1]}" if lines else ""
            message = " ".join(str(error).split())
            raise CalibrationError(
                f"{self} fails{where}: {type(error).__name__}: {message}", hint="-vv shows the traceback"
            ) from error
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)

    def _is_own(self, name: str) -> bool:
        return Path(name).resolve() == self.path.resolve()


def _is_lazy(found: object) -> bool:
    return isinstance(found, Iterator) and getattr(cast("Any", found), "get_next", None) is None


def script_of(source: object) -> Script | None:
    """Return the script that a source names; None where it names none."""
    match = _FORM.fullmatch(str(source)) if isinstance(source, str | Path) else None
    return None if match is None else Script(Path(match[1]), match[2] or _DEFAULT)
