"""The observer that keeps the sensitivity of every single weight of a family (SiPP), beside those of the channels."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.arrays import Floats32
from onnxpfp.calibrate.sensitivity.observer import Screen, SensitivityObserver
from onnxpfp.calibrate.sensitivity.settings import Positions
from onnxpfp.calibrate.sensitivity.sums import Scaled
from onnxpfp.calibrate.sensitivity.weight_screening import WeightScreening
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import LinearOp

__all__ = ["WeightSensitivityObserver"]


@dataclass(slots=True, eq=False)
class WeightSensitivityObserver(SensitivityObserver):
    """The running statistics of one family; the sensitivity of a channel is the largest of its weights.

    So with positions="max" its statistics are those of PFP with kernel="max", and its plan must say so.

    Attributes:
        positions: What of the shares at the positions of a sample counts.
    """

    positions: Positions = "max"

    def weight_shares(self) -> dict[str, Floats32 | None]:
        """Return the sensitivities of the weights of every op, V (C, O/g, k); None where nothing fires."""
        found: dict[str, Floats32 | None] = {}
        for op in self.family.ops:
            screen = self._screens.get(op.name)
            found[op.name] = screen.shares() if isinstance(screen, WeightScreening) else None
        return found

    def _screen_of(self, op: LinearOp, weights: Scaled, family: OpFamily) -> Screen:
        return WeightScreening.of(op, weights, family, self.positions)
