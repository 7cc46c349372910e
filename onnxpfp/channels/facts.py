"""Facts of an op beside its rule: what it multiplies, where its bias is, how its results go, and what it decides.

They are declared in `channels.ops`, next to the rule; an op of which nothing is declared multiplies nothing, has no
bias, may give any number, and goes smoothly with what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto

from onnxpfp.arrays import Floats

__all__ = ["Bias", "Deciding", "LinearForm", "MacTerm", "MacTerms", "Magnitude", "OpFacts", "Ranks", "Sign"]

MacTerm = list[tuple[str, int]]
"""One term of a node's MACs: the axes (tensor, axis) whose lengths multiply to it."""
Ranks = Mapping[str, int]
"""Number of axes of every dense tensor."""
MacTerms = Callable[[NodeProto, Ranks], list[MacTerm]]
"""Returns the terms whose sum are the MACs of a node."""
LinearForm = Literal["conv", "conv_transpose", "matrix"]
"""How weights in float lie (`linear/layout.py`): (O, C/g, *k), (C, O/g, *k), or a matrix."""
Sign = Literal["never negative", "of the first input", "of all inputs"]
"""Results that have no negative number: always, or if the first input has none, or if no input has any."""
Magnitude = Literal["of the first input", "of all inputs"]
"""Results that are no further from zero than numbers of the first input, or than numbers of all inputs together."""


@dataclass(frozen=True, slots=True)
class Bias:
    """The input of an op that is added to its outputs.

    Attributes:
        position: Its position among the inputs.
        kind: "float", numbers that a fit may change; "steps", integers that count data times weight; "packed", added
            to a product whose weights only the op itself can unpack.
    """

    position: int
    kind: Literal["float", "steps", "packed"] = "float"


@dataclass(frozen=True, slots=True)
class Deciding:
    """How the results of an op jump where what it reads moves a little, as those of Round, Greater and TopK do.

    Attributes:
        picks: Whether places or number of its results hang on it, as of boxes that are picked; else only their values.
        reads: Positions of the inputs that it decides on; None is all.
        jumps: Positions of the outputs that jump; None is all.
        unless_float: Whether nothing jumps where its attribute `to` names a type of floats.
    """

    picks: bool = False
    reads: tuple[int, ...] | None = None
    jumps: tuple[int, ...] | None = None
    unless_float: bool = False


@dataclass(frozen=True, slots=True)
class OpFacts:
    """Facts that hold of every node of an op.

    Attributes:
        mac_terms: The terms of its multiply-adds; None where it has none.
        bias: Its bias.
        layout: How its weights lie, where its second input are weights in float and axis 1 or the last of its output
            are what their filters make.
        linear: Whether it is linear in its first input; an activation may follow in others.
        operands: Positions of its operands where it multiplies matrices, activations among them.
        sign: When its results have no negative number.
        saturates: Whether it may hide that its input differs; Identity stands for what it passes on.
        within_one: Whether its results lie within [-1, 1].
        states_within_one: The same of the states of a recurrence with its own activations that starts from zero.
        magnitude: How far from zero its results can be, where that follows from its inputs.
        largest: The largest |f(x)| of a function f of single numbers for |x| up to a limit, where that says more; f has
            no slope above 1.
        decides: How its results jump; None where they do not.
        moves: Whether it only gives the numbers of its first input another shape or order.
        writes: Whether it writes its third input into its first, at the places that its second says.
    """

    mac_terms: MacTerms | None = None
    bias: Bias | None = None
    layout: LinearForm | None = None
    linear: bool = False
    operands: tuple[int, int] | None = None
    sign: Sign | None = None
    saturates: bool = False
    within_one: bool = False
    states_within_one: bool = False
    magnitude: Magnitude | None = None
    largest: Callable[[Floats], Floats] | None = None
    decides: Deciding | None = None
    moves: bool = False
    writes: bool = False
