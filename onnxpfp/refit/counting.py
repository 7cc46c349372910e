"""Rows that were drawn are counted in, in their order, while others are drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from onnxpfp.arrays import CHUNK_BYTES, AnyFloats
from onnxpfp.refit.layer_rows import Draw, LayerFamily
from onnxpfp.refit.moments import Piece
from onnxpfp.runtime.workers import Task, Workers

__all__ = ["Counting", "Waiting"]

BEGUN = 16
"""Pieces of sums that are computed at a time, each of 256 KB at most."""


@dataclass(slots=True, eq=False)
class Waiting:
    """What a family drew and has not counted in: draws of small batches are counted in together.

    Attributes:
        family: The family.
        draws: Its draws, all of them of tuning samples or none.
    """

    family: LayerFamily
    draws: list[Draw] = field(default_factory=list[Draw])

    def add(self, draw: Draw) -> Iterator[Piece]:
        """Let another draw wait, and yield what there is to do to count those in that have waited long enough."""
        if self.draws and self.draws[0].tuning != draw.tuning:
            yield from self.take()
        self.draws.append(draw)
        if sum(each.nbytes for each in self.draws) >= CHUNK_BYTES:
            yield from self.take()

    def take(self) -> Iterator[Piece]:
        """Yield what there is to do to count in what waits."""
        draws, self.draws = self.draws, []
        if draws:
            yield from self.family.take(Draw.joined(draws))


@dataclass(slots=True, eq=False)
class Counting:
    """Counts draws in while others are made.

    Attributes:
        helpers: Threads that compute the sums.
        begun: Sums that are computed and not added yet.
    """

    helpers: Workers
    begun: deque[tuple[Piece, Task[AnyFloats]]] = field(default_factory=deque[tuple[Piece, Task[AnyFloats]]])

    def begin(self, pieces: Iterable[Piece]) -> None:
        """Count pieces in, but for the last of them: so many are worked on at once that no thread waits."""
        for piece in pieces:
            self.begun.append((piece, self.helpers.begin(lambda each: each.compute(), piece)))
            if len(self.begun) > (BEGUN if self.helpers.count > 1 else 0):
                self._add()

    def end(self) -> None:
        """Count in what was begun."""
        while self.begun:
            self._add()

    def _add(self) -> None:
        piece, sums = self.begun.popleft()
        piece.add(self.helpers.result(sums))
