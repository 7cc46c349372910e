"""The table of op rules: one function an op, found by domain and op type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from onnxpfp.channels.context import NodeContext

__all__ = ["Rule", "Rules", "merge"]

Rule = Callable[[NodeContext], None]


@dataclass(slots=True, eq=False)
class Rules:
    """The rules of a family of ops, or of all.

    Attributes:
        table: Rule by op type.
        stays: Ops that keep what they touch, with the reason.
    """

    table: dict[str, Rule] = field(default_factory=dict[str, Rule])
    stays: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, *ops: str) -> Callable[[Rule], Rule]:
        """Register a function as the rule of `ops` (domain and colon before those not of ONNX)."""

        def register(rule: Rule) -> Rule:
            for op in ops:
                assert op not in self.table, op
                self.table[op] = rule
            return rule

        return register

    def stay(self, why: str, *ops: str) -> None:
        """Put ops on the list of those that keep what they touch; `why` is a verb phrase, the node its subject."""

        @self.add(*ops)
        def keep(n: NodeContext) -> None:
            """Stays: every axis of what it touches is kept."""
            n.keep_all(why)

        self.stays.update(dict.fromkeys(ops, why))


def merge(families: Iterable[Rules]) -> Rules:
    """Join the families into one."""
    merged = Rules()
    for family in families:
        assert not merged.table.keys() & family.table.keys()
        merged.table.update(family.table)
        merged.stays.update(family.stays)
    return merged
