"""What others report who train on with labels: the readme of Torch-Pruning, as it was read in November 2026."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "SOURCE", "TITLE", "Published"]

TITLE = "ResNet-56, CIFAR-10: pruned and trained on with labels, as published"
SOURCE = """From the readme of the benchmarks of Torch-Pruning (VainF/Torch-Pruning), with the figures that it cites of
others; not measured here. Every method starts from a network of its own, so the difference is what compares with the
tables above, whose rows see no label and train nothing. 2.1 times fewer multiply-adds leave 0.47 of them."""


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that was published.

    Attributes:
        method: Its name there.
        base: Top-1 of the original in percent.
        after: Top-1 of the pruned network after training.
        times: How many times fewer multiply-adds it takes.
    """

    method: str
    base: float
    after: float
    times: float


PUBLISHED = (
    Published("DepGraph with sparse learning", 93.53, 93.77, 2.13),
    Published("ResRep", 93.71, 93.71, 2.12),
    Published("DepGraph without sparse learning", 93.53, 93.46, 2.11),
    Published("Group-GReg", 93.53, 93.55, 2.12),
    Published("Group-BN", 93.53, 93.29, 2.12),
    Published("Group-L1", 93.53, 92.93, 2.12),
    Published("AMC", 92.80, 91.90, 2.00),
    Published("CP", 92.80, 91.80, 2.00),
)
