"""What the ops of a stage draw: positions and targets of the original's outputs, columns of what they read by now.

Both are drawn as one where the stage of the original runs for that alone. Where chains draw from it, too, targets are
drawn in the same run, and columns once the chains have their new weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import Arrays
from onnxpfp.refit.layer_rows import Draw, LayerFamily, TargetDraw
from onnxpfp.refit.stages import Runner

__all__ = ["StageDraw"]


@dataclass(frozen=True, slots=True, eq=False)
class StageDraw:
    """Draws what the ops of the next stage should give.

    Attributes:
        families: The ops.
        teacher: Runs the original.
        seed: Of the positions.
        fitted: Batches of samples to fit; those behind are tuning samples.
        drawn: What each family drew of every batch so far, where that was done ahead.
    """

    families: Sequence[LayerFamily]
    teacher: Runner
    seed: int
    fitted: int
    drawn: list[list[TargetDraw | None]] = field(default_factory=list[list[TargetDraw | None]])

    def shows(self) -> set[str]:
        """Return the tensors of the original that the targets are computed from."""
        return set[str]().union(*(member.shows() for family in self.families for member in family.members))

    def targets(self, batch: int, shown: Arrays, given: Arrays) -> list[TargetDraw | None]:
        """Draw the targets of one batch.

        Args:
            batch: Which.
            shown: Activations that the stage of the original computes.
            given: Activations of the pruned network before the stage.
        """
        original = self.teacher.cache.batches[batch]
        targets: list[TargetDraw | None] = []
        for number, family in enumerate(self.families):
            rng = np.random.default_rng([self.seed, self.teacher.next, number, batch])
            targets.append(family.draw_targets(shown, given, original, rng, tuning=batch >= self.fitted))
        return targets

    def columns(self, targets: Sequence[TargetDraw | None], given: Arrays) -> list[Draw | None]:
        """Draw the columns that go with the targets of one batch; `given` as in `targets`."""
        return [family.draw(each, given) for family, each in zip(self.families, targets, strict=True)]
