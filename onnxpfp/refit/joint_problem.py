"""What a joint refit works on: a producer, its consumers, rows to fit them to, and how much is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import Floats32
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_machine import Affine, ChainMachine, Tape
from onnxpfp.refit.joint_ranks import RankedConsumer, RankedProducer
from onnxpfp.refit.joint_rows import ChainRows

__all__ = ["ChainBatch", "JointEffort", "JointProblem", "JointWeights", "Starts"]

Starts = Mapping[str, InitialWeights]
"""Weights of linear ops as they are by now, by output."""


@dataclass(frozen=True, slots=True)
class JointEffort:
    """How much is done to refit producers with their consumers.

    Attributes:
        sweeps: Most sweeps over the network.
        rounds: Most times in a sweep that steps of a producer and a fit of its consumers follow each other.
        fewer: So many times fewer positions are drawn than for the consumers' own refits.
        passes: Forward passes that a sweep may take for it, by an estimate (`joint_choice.py`).
    """

    sweeps: int
    rounds: int
    fewer: int
    passes: float = math.inf


@dataclass(slots=True, eq=False)
class ChainBatch:
    """The rows of one batch, and what the network makes of them by now.

    Attributes:
        rows: The rows.
        produced: The producer's outputs, (Q, C).
        direction: What the step that is tried adds to them.
        tape: What follows from them.
        gaps: What each consumer's outputs are too large by.
    """

    rows: ChainRows
    produced: Floats32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    direction: Floats32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    tape: Tape = field(default_factory=lambda: Tape([], [], []))
    gaps: list[Floats32] = field(default_factory=list[Floats32])


@dataclass(frozen=True, slots=True, eq=False)
class JointWeights:
    """Weights of a producer and its consumers, taps first."""

    producer: Affine
    consumers: tuple[Affine, ...]


@dataclass(frozen=True, slots=True, eq=False)
class JointProblem:
    """A producer and its consumers, and rows to fit them to.

    Attributes:
        machine: What lies between.
        fitted: Batches to fit.
        tuning: Batches of tuning samples, which choose among the steps.
        start: The weights as they are; the ridge of the consumers pulls towards them.
        biased: Whether the bias of the producer can change.
        consumers_biased: The same of each consumer.
        rounds: Most times that steps of the producer and a fit of its consumers follow each other.
        ranked_producer: Along what the producer moves where its weights keep to a rank.
        ranked_consumers: How each consumer is fitted where its weights are to keep to one; None where they are free.
        attainable: Whether the weights of all consumers keep to their ranks as they are.
    """

    machine: ChainMachine
    fitted: tuple[ChainBatch, ...]
    tuning: tuple[ChainBatch, ...]
    start: JointWeights
    biased: bool
    consumers_biased: tuple[bool, ...]
    rounds: int
    ranked_producer: RankedProducer | None
    ranked_consumers: tuple[RankedConsumer | None, ...]
    attainable: bool
