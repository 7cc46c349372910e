"""Two models that are compared: what both show, and what the one decides on and the other is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import AnyArray, Arrays
from onnxpfp.channels.ops import facts_of
from onnxpfp.comparison.decisions import Decisions, exposing
from onnxpfp.comparison.inside import InnerDecision, deciding_inside_on_given
from onnxpfp.errors import VerificationError
from onnxpfp.model.edit import GIVEN
from onnxpfp.runtime.session import Session

__all__ = ["ModelPair", "check_results", "run_on"]

SAME = 1e-6
"""Largest relative difference of numbers that one op makes of the same numbers."""


def _watched(model: ModelProto, decided_on: Iterable[str]) -> dict[str, float]:
    """Return what is compared, and the least value that its differences are measured against.

    Beside the outputs these are the tensors that something decides on, what it makes of them, and those that saturating
    ops make them from: a sigmoid that is 0 everywhere would hide a wrong channel. Such an op rounds to a share of 1,
    however small its result is.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    watched: dict[str, float] = {}
    names = [*(output.name for output in model.graph.output), *sorted(decided_on)]
    while names:
        name = names.pop()
        node = producer.get(name)
        watched[name] = 1.0 if node is not None and facts_of(node).within_one else 0.0
        if node is not None and facts_of(node).saturates and node.input[0] not in watched:
            names.append(node.input[0])
    return watched


@dataclass(frozen=True, slots=True, eq=False)
class ModelPair:
    """Two models that are compared.

    Attributes:
        masked: The one.
        pruned: The other.
        decisions: What the one decides on, and so has the other do.
        watched: As in `_watched`.
        kept: As in `check_equivalence`.
        inside: What is decided on inside of bodies, and given there too.
    """

    masked: ModelProto
    pruned: ModelProto
    decisions: Decisions
    watched: Mapping[str, float]
    kept: Callable[[str, AnyArray], AnyArray]
    inside: tuple[InnerDecision, ...]

    @classmethod
    def of(
        cls,
        masked: ModelProto,
        pruned: ModelProto,
        kept: Callable[[str, AnyArray], AnyArray] | None,
        inside: tuple[InnerDecision, ...],
    ) -> Self:
        """Find what both have to compare."""
        decisions = Decisions.of(masked)
        watched = _watched(masked, decisions.tensors | decisions.results | {inner.shown for inner in inside})
        shared = {name for node in pruned.graph.node for name in node.output}
        shared |= {info.name for info in (*pruned.graph.input, *pruned.graph.initializer, *masked.graph.output)}
        watched = {name: floor for name, floor in watched.items() if name in shared}
        return cls(masked, pruned, decisions, watched, kept or (lambda _, array: array), inside)

    @property
    def shown(self) -> set[str]:
        """What is compared of the outputs: they, and what saturating ops make them from."""
        return {*_watched(self.masked, ())}

    def exposed(self, model: ModelProto, given: Arrays | None = None) -> ModelProto:
        """Copy one of the models: it shows what is compared, and may decide on given numbers."""
        if given is not None:
            model = deciding_inside_on_given(self.decisions.on_given(model, given), self.inside)
        return exposing(model, self.watched)

    def given(self, values: Arrays) -> dict[str, AnyArray]:
        """Return what a model is fed to decide on, of what the masked one shows."""
        inside = {GIVEN + inner.shown: values[inner.shown] for inner in self.inside}
        return {**self.decisions.given(values), **inside}

    def wanted(self, values: Arrays) -> dict[str, AnyArray]:
        """Return what the pruned model must compute, of all that the masked one shows; what has no numbers is left."""
        outputs = {output.name for output in self.masked.graph.output}
        return {
            name: self.kept(name, value)
            for name, value in values.items()
            if name in outputs or name in self.decisions.results or value.dtype.kind in "fV"
        }


def check_results(decisions: Decisions, wanted: Arrays, outputs: Arrays) -> None:
    """Make sure that what decides on the same numbers decides the same.

    Raises:
        VerificationError: It does not.
    """
    for name in sorted(decisions.results & wanted.keys()):
        one, two = wanted[name], outputs[name]
        alike = one.shape == two.shape and one.dtype.kind in "fiub"
        if alike and not np.allclose(one, two, rtol=SAME, atol=0, equal_nan=True):
            raise VerificationError(
                f"the pruned model is not the masked original: what decides '{name}' decides otherwise on the same "
                "numbers",
                hint="please report it with the model: a fault of onnxpfp",
            )


def run_on(session: Session, feed: Arrays, given: Arrays) -> dict[str, AnyArray]:
    """Run a model on its inputs and on what it shall decide on."""
    return session.run({**feed, **{name: given[name] for name in session.inputs if name in given}})
