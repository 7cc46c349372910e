"""Einsum equations with every axis written out: no blanks, no ellipsis, an explicit result."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence

__all__ = ["expand"]

ELLIPSIS = "..."


def expand(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Expand an Einsum equation (https://onnx.ai/onnx/operators/onnx__Einsum.html).

    Args:
        equation: As the attribute has it, `...ij,jk->...ik` say.
        ranks: Number of axes of every operand.

    Returns:
        One letter per axis for every operand, and for the result.

    Raises:
        ValueError: The equation does not fit the ranks.
    """
    operands, arrow, result = equation.replace(" ", "").partition("->")
    terms = operands.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    covered = [rank - len(term.replace(ELLIPSIS, "")) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((count for term, count in zip(terms, covered, strict=True) if ELLIPSIS in term), default=0)
    batch = "".join(free[:widest])
    # The ellipses of operands line up at their right ends.
    full = [
        term.replace(ELLIPSIS, batch[widest - count :]) if ELLIPSIS in term else term
        for term, count in zip(terms, covered, strict=True)
    ]
    if [len(term) for term in full] != list(ranks):
        raise ValueError(f"the equation {equation!r} does not fit operands of {list(ranks)} axes")
    if arrow:
        return full, result.replace(ELLIPSIS, batch)
    times = Counter("".join(full))
    named = sorted(letter for letter in times if times[letter] == 1 and letter not in batch)
    return full, batch + "".join(named)
