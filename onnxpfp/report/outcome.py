"""What the stages of the pipeline hand on to the report."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.pipeline.calibration import Calibration, DataCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.network_steps import MeasuredPart
from onnxpfp.pipeline.parts import NetworkPart
from onnxpfp.pipeline.selector import Decision
from onnxpfp.refit.means import Compensation

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The results of the pipeline's stages for one part of the network, in their order.

    Attributes:
        measured_part: The part, and what was measured on it.
        decision: What stays, in terms of the part as it was.
        compensation: What was done about the channels that go.
    """

    measured_part: MeasuredPart
    decision: Decision
    compensation: Compensation | None

    @property
    def part(self) -> NetworkPart:
        """The part."""
        return self.measured_part.part

    @property
    def context(self) -> RunContext:
        """What its stages share."""
        return self.part.context

    @property
    def calibration(self) -> Calibration:
        """Its scores."""
        return self.measured_part.measured.calibration

    @property
    def lossless(self) -> LosslessStep:
        """What went from it for free."""
        return self.measured_part.lossless

    @property
    def samples(self) -> int:
        """Samples that the calibration has used."""
        return self.calibration.samples if isinstance(self.calibration, DataCalibration) else 0

    @property
    def samples_wanted(self) -> int:
        """Samples that the size formula asks for."""
        return self.calibration.required if isinstance(self.calibration, DataCalibration) else 0

    @property
    def failure(self) -> float | None:
        """Probability, by the same formula, that the samples are too few for what the bounds assume."""
        return self.calibration.failure if isinstance(self.calibration, DataCalibration) else None

    def named(self, name: str) -> str:
        """Return the name of what is in this part, as a report calls it: behind the place of its body."""
        return self.part.analyzed.named(name)
