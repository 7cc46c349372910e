"""The table of criteria by name."""

from __future__ import annotations

from collections.abc import Mapping

from onnxpfp.score.criterion import Criterion
from onnxpfp.score.energy import Energy, Wanda
from onnxpfp.score.magnitude import L1, L2, BnScale, Fpgm, Lamp, Random
from onnxpfp.score.maps import Apoz, Chip, HRank
from onnxpfp.score.pfp import Pfp
from onnxpfp.score.reconstruction import Reconstruction
from onnxpfp.score.thinet import ThiNet

__all__ = ["CRITERIA", "criterion_of"]

_TABLE: tuple[Criterion, ...] = (
    *(Pfp(), Reconstruction(), Energy()),
    *(L1(), L2(), Fpgm(), Lamp(), BnScale(), Random()),
    *(Wanda(), ThiNet(), HRank(), Apoz(), Chip()),
)

CRITERIA: Mapping[str, Criterion] = {criterion.name: criterion for criterion in _TABLE}
"""All criteria by name; `onnxpfp.options.SCORES` has the names without numpy."""


def criterion_of(score: object) -> Criterion:
    """Return the criterion of a name, or the one that a user passes himself."""
    if isinstance(score, Criterion):
        return score
    return CRITERIA[str(score)]
