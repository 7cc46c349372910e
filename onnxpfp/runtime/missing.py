"""The op that onnxruntime lacks, read from the message with which it refuses a model."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["MissingOp", "missing_op"]

_MESSAGES = (
    re.compile(r"Fatal error: (?P<domain>[^\s:]*):(?P<op>[^\s(]+)\(-?\d+\) is not a registered function/op"),
    re.compile(
        r'In Node, \(".*?", (?P<op>[^\s,]+), "(?P<domain>[^"]*)", -?\d+\) : .*Error '
        r"(?:No Op registered for|No opset import for domain)",
        re.DOTALL,
    ),
    re.compile(r"Could not find an implementation for (?P<op>[^\s(]+)\(\d+\) node with name '(?P<node>[^']*)'"),
    re.compile(r"Failed to find kernel for (?P<domain>\S+)\.(?P<op>[^\s.(]+)\(\d+\) \(node:'(?P<node>[^']*)'"),
)
"""Of unknown ops, and of known ones without a kernel, for these types at least."""


@dataclass(frozen=True, slots=True)
class MissingOp:
    """An op that onnxruntime lacks.

    Attributes:
        op: Its op type.
        domain: Its domain; None where the message does not say it.
        node: The node for which it lacks a kernel; empty for any node of this op.
    """

    op: str
    domain: str | None
    node: str

    @property
    def title(self) -> str:
        """The op as people write it."""
        return f"{self.domain}:{self.op}" if self.domain else self.op


def missing_op(error: BaseException) -> MissingOp | None:
    """Return the op for whose sake onnxruntime refuses a model; None where it has other reasons."""
    text = str(error.__cause__ or error)
    for message in _MESSAGES:
        match = message.search(text)
        if match is not None:
            parts = match.groupdict()
            return MissingOp(parts["op"], parts.get("domain"), parts.get("node", ""))
    return None
