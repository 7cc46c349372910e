"""The table of op rules: one function an op, found by domain and op type, and the facts beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import OpFacts

__all__ = ["Rule", "Rules", "merge"]

Rule = Callable[[NodeContext], None]


@dataclass(slots=True, eq=False)
class Rules:
    """The rules of a family of ops, or of all.

    Attributes:
        table: Rule by op type.
        stays: Ops that keep what they touch, with the reason.
        facts: What else holds of an op.
    """

    table: dict[str, Rule] = field(default_factory=dict[str, Rule])
    stays: dict[str, str] = field(default_factory=dict[str, str])
    facts: dict[str, OpFacts] = field(default_factory=dict[str, OpFacts])

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

    def declare(self, *ops: str, **facts: Any) -> None:
        """Declare facts of ops that have a rule here, as fields of `OpFacts`, on top of those declared before."""
        for op in ops:
            assert op in self.table, op
            self.facts[op] = replace(self.facts.get(op, OpFacts()), **facts)


def merge(families: Iterable[Rules]) -> Rules:
    """Join the families into one."""
    merged = Rules()
    for family in families:
        assert not merged.table.keys() & family.table.keys()
        merged.table.update(family.table)
        merged.stays.update(family.stays)
        merged.facts.update(family.facts)
    return merged
