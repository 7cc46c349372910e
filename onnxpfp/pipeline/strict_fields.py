"""Fields of a JSON document that people may have written: each is what it must be, or said to be wrong by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from onnxpfp.pipeline.documents import whole_number

__all__ = ["DamagedError", "Fields"]


class DamagedError(Exception):
    """A field is missing, means nothing, or has a value that cannot be; the text says which, on one line."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one object.

    Attributes:
        title: What messages call the object.
        raw: The fields.
    """

    title: str
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, title: str, value: object, known: Collection[str] | None = None) -> Fields:
        """Take a value for an object.

        Args:
            title: What messages call it.
            value: The value.
            known: The fields that it may have; None where they are names.

        Raises:
            DamagedError: It is something else, or has another field, which might be a misspelt one.
        """
        if not isinstance(value, dict):
            raise DamagedError(f"{title} is no object")
        fields = cls(title, cast("dict[str, Any]", value))
        other = next((name for name in fields.raw if known is not None and name not in known), None)
        if other is not None:
            raise DamagedError(f"{title} has '{other}', which means nothing there")
        return fields

    def needed(self, name: str) -> Any:
        """Return a field that must be there.

        Raises:
            DamagedError: It is not.
        """
        if name not in self.raw:
            raise DamagedError(f"{self.title} has no '{name}'")
        return self.raw[name]

    def inner(self, name: str) -> Fields:
        """Return an object whose fields are names.

        Raises:
            DamagedError: There is none.
        """
        return Fields.of(f"'{name}' of {self.title}", self.needed(name))

    def listed(self, name: str) -> list[Any]:
        """Return a list.

        Raises:
            DamagedError: There is none.
        """
        value = self.needed(name)
        if not isinstance(value, list):
            raise DamagedError(f"'{name}' of {self.title} is no list")
        return cast("list[Any]", value)

    def text(self, name: str) -> str:
        """Return a text, which may be missing.

        Raises:
            DamagedError: It is something else.
        """
        value = self.raw.get(name, "")
        if not isinstance(value, str):
            raise DamagedError(f"'{name}' of {self.title} is no text")
        return value

    def truth(self, name: str) -> bool:
        """Return a field that is true or false.

        Raises:
            DamagedError: There is none, or it is something else.
        """
        value = self.needed(name)
        if not isinstance(value, bool):
            raise DamagedError(f"'{name}' of {self.title} is neither true nor false")
        return value

    def count(self, name: str, least: int) -> int:
        """Return a whole number that must be there.

        Raises:
            DamagedError: It is something else, or less than `least`.
        """
        try:
            count = whole_number(self.needed(name))
        except ValueError as error:
            raise DamagedError(f"'{name}' of {self.title}: {error}") from error
        if count < least:
            raise DamagedError(f"'{name}' of {self.title} is {count}, and must be at least {least}")
        return count

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield all fields, each a whole number of at least 1.

        Raises:
            DamagedError: One is something else.
        """
        for name in self.raw:
            yield name, self.count(name, 1)

    def number(self, name: str, most: float) -> float:
        """Return a number from 0 to below `most` that must be there.

        Raises:
            DamagedError: It is something else.
        """
        value = self.needed(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DamagedError(f"'{name}' of {self.title} is {value!r}, and no number")
        # A comparison, for whole numbers of a document may be too large for a float; NaN is in no range.
        if not 0 <= value < most:
            raise DamagedError(f"'{name}' of {self.title} is outside [0, {most:g})")
        return float(value)
