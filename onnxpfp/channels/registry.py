"""The table of op rules: one function an op, found by domain and op type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from onnxpfp.channels.context import NodeContext

__all__ = ["Rule", "Rules", "merge"]

Rule = Callable[[NodeContext], None]


@dataclass(slots=True, eq=False)
class Rules:
    """The rules of one family of ops."""

    table: dict[str, Rule] = field(default_factory=dict[str, Rule])

    def add(self, *ops: str) -> Callable[[Rule], Rule]:
        """Register a function as the rule of `ops` (domain and colon before those not of ONNX)."""

        def register(rule: Rule) -> Rule:
            for op in ops:
                assert op not in self.table, op
                self.table[op] = rule
            return rule

        return register


def merge(families: Iterable[Rules]) -> Mapping[str, Rule]:
    """Join the families into one table."""
    table: dict[str, Rule] = {}
    for family in families:
        assert not table.keys() & family.table.keys()
        table.update(family.table)
    return table
