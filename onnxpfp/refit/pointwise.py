"""Element-wise ops of a network on rows (T, C) in place of its tensors; slopes by a quotient of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Floats32
from onnxpfp.refit.joint_chains import Link
from onnxpfp.refit.stages import Stages
from onnxpfp.runtime import open_session
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session

__all__ = ["Pointwise"]

STEP = 1e-3
"""Step of the quotient as a share of a channel's root mean square."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointwise:
    """Element-wise ops.

    Attributes:
        link: What they read and make.
        session: Runs them; None where there are none, or only a ReLU.
        shape: Shape of a row as they read it: the axis of the channels, and ones.
    """

    link: Link
    session: Session | None
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, link: Link, stages: Stages, rank: int, axis: int, requests: Sequence[ProviderRequest]
    ) -> Pointwise | None:
        """Take the ops from a network; None where they read more there than the tensor that the link begins with."""
        shape = tuple(-1 if number == axis else 1 for number in range(1, rank))
        makers = [stages.makers[name] for name in link.made if name in stages.makers]
        nodes = [stages.model.graph.node[number] for number in makers]
        if not link.made or [node.op_type for node in nodes] == ["Relu"]:
            return cls(link, None, shape)
        part = stages.between(makers, link.first, [link.last])
        return None if part is None else cls(link, open_session(part, requests, threads=1, shared=True), shape)

    def __call__(self, rows: Floats32) -> Floats32:
        """Return what they make of rows (T, C)."""
        if self.session is not None:
            made = self.session.run({self.link.first: rows.reshape(len(rows), *self.shape)})[self.link.last]
            return np.asarray(made, np.float32).reshape(rows.shape)
        return np.maximum(rows, 0) if self.link.made else rows

    def slope(self, rows: Floats32, made: Floats32) -> Floats32:
        """Return the derivative at rows (T, C) of which it makes `made`."""
        if self.session is None:
            return (made > 0).astype(np.float32) if self.link.made else np.ones_like(rows)
        step = STEP * np.sqrt(np.square(rows).mean(0, np.float64) + np.finfo(np.float32).tiny).astype(np.float32)
        moved = rows + step
        # What was added, after rounding.
        return (self(moved) - made) / (moved - rows)
