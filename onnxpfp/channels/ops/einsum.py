"""Einsum: letters that stay pass their labels on, letters that two operands share and lose are contracted."""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.mac_terms import einsum_terms
from onnxpfp.channels.registry import Rules
from onnxpfp.model.equation import expand

__all__ = ["RULES"]

RULES = Rules()

PAIR = 2


@RULES.add("Einsum")
def einsum(n: NodeContext) -> None:
    """Einsum: equal letters are one axis; a letter that two operands share and the result lacks is contracted."""
    terms, out = expand(n.attributes.text("equation", ""), [len(n.axes(i)) for i in range(len(n.node.input))])
    owner: dict[str, Ids] = {}
    for letter in dict.fromkeys("".join(terms)):
        owner[letter] = _join(n, letter, terms)
    for letter in owner:
        if letter in out:
            continue
        shared = len(terms) == PAIR and all(term.count(letter) == 1 for term in terms)
        if shared:
            _contract(n, letter, terms, out)
        else:
            n.fix(owner[letter], "sums over it")
    for term in terms:
        for letter in term:
            if term.count(letter) > 1:
                n.fix(owner[letter], "takes its diagonal")
    n.set([owner[letter] for letter in out])


def _join(n: NodeContext, letter: str, terms: list[str]) -> Ids:
    """Tie all axes of one letter; one of length 1 that is stretched stays."""
    axes = [n.axes(i)[p] for i, term in enumerate(terms) for p, other in enumerate(term) if other == letter]
    longest = max(axes, key=lambda axis: axis.size)
    for axis in axes:
        if axis.size == longest.size:
            n.tie(longest, axis)
        else:
            n.fix(axis, "stretches it over an axis")
            n.fix(longest, "stretches another operand over it")
    return longest


def _contract(n: NodeContext, letter: str, terms: list[str], out: str) -> None:
    """Declare a consumer: a plain matrix where one operand is constant and nothing else is shared or summed."""
    axes = [term.index(letter) for term in terms]
    others = [other for term in terms for other in term if other != letter]
    plain = any(n.constant) and len(set(others)) == len(others) and set(others) == set(out)
    form = "matrix" if plain else "einsum"
    n.consume(0, axes[0], 1, axes[1], form, equation=f"{','.join(terms)}->{out}")


RULES.declare("Einsum", mac_terms=einsum_terms)
