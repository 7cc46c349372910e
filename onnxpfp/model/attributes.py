"""A node's attributes as typed Python values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, numpy_helper

__all__ = ["Attributes"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """Reads the attributes of one node; each reader says the type that it expects.

    Attributes:
        node: The node.
    """

    node: NodeProto

    def _find(self, name: str, *types: AttributeProto.AttributeType) -> AttributeProto | None:
        for attribute in self.node.attribute:
            if attribute.name == name and (not types or attribute.type in types):
                return attribute
        return None

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def integer(self, name: str, default: int) -> int:
        """An integer."""
        attribute = self._find(name, AttributeProto.INT)
        return default if attribute is None else attribute.i

    def real(self, name: str, default: float) -> float:
        """A float."""
        attribute = self._find(name, AttributeProto.FLOAT)
        return default if attribute is None else attribute.f

    def text(self, name: str, default: str) -> str:
        """A string."""
        attribute = self._find(name, AttributeProto.STRING)
        return default if attribute is None else attribute.s.decode("utf-8", "replace")

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or None where it is not given."""
        attribute = self._find(name, AttributeProto.INTS)
        return None if attribute is None else list(attribute.ints)

    def reals(self, name: str) -> list[float] | None:
        """A list of floats, or None where it is not given."""
        attribute = self._find(name, AttributeProto.FLOATS)
        return None if attribute is None else list(attribute.floats)

    def tensor(self, name: str) -> NDArray[Any] | None:
        """A tensor, or None where it is not given."""
        attribute = self._find(name, AttributeProto.TENSOR)
        return None if attribute is None else numpy_helper.to_array(attribute.t)

    def window(self, names: Sequence[str]) -> dict[str, str | list[int]]:
        """Collect the named texts and lists that are given."""
        values: dict[str, str | list[int]] = {}
        for name in names:
            numbers = self.integers(name)
            if numbers is not None:
                values[name] = numbers
            elif name in self:
                values[name] = self.text(name, "")
        return values
