"""Rows of results of several kinds in one file, a line of JSON each; of those with one key the newest counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

__all__ = ["Key", "RowKinds"]

Key = tuple[Any, ...]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RowKinds(Generic[R]):
    """The kinds of rows that a file has.

    Attributes:
        kinds: Frozen dataclasses with a property `key`, which tells a row from others of its kind.
        stored: Makes of the values of a row, by field, those that are written.
    """

    kinds: tuple[type[R], ...]
    stored: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def by_name(self) -> dict[str, type[R]]:
        """The kinds as the file calls them."""
        return {_name(kind): kind for kind in self.kinds}

    def kind_of(self, row: R) -> str:
        """Return what the file calls rows like this."""
        return _name(type(row))

    def read(self, file: Path) -> dict[Key, R]:
        """Read the rows in the order in which their keys came first; there are none without a file."""
        if not file.exists():
            return {}
        rows: list[Any] = [self._parsed(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {(self.kind_of(row), *row.key): row for row in rows}

    def append(self, file: Path, rows: Sequence[R]) -> None:
        """Add rows at the end."""
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(map(self._line, rows))

    def compact(self, file: Path) -> None:
        """Drop the rows that later ones replaced, and sort."""
        rows = [row for _, row in sorted(self.read(file).items(), key=lambda item: item[0])]
        file.write_text("".join(map(self._line, rows)), encoding="utf-8")

    def _line(self, row: Any) -> str:
        return json.dumps({"kind": self.kind_of(row), **self.stored(asdict(row))}) + "\n"

    def _parsed(self, line: str) -> R:
        values: dict[str, Any] = _tupled(json.loads(line))
        return self.by_name[values.pop("kind")](**values)


def _name(kind: type[Any]) -> str:
    return kind.__name__.lower()


def _tupled(value: Any) -> Any:
    """Make tuples of the lists among the values, as rows have them."""
    match value:
        case dict():
            return {name: _tupled(each) for name, each in value.items()}
        case list():
            return tuple(value)
    return value
