"""Observers look at batches side by side, each at one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.runtime.workers import Task, Workers

__all__ = ["Looks"]


@dataclass(slots=True, eq=False)
class Looks:
    """Lets observers look at batches side by side; each sees them in their order.

    Attributes:
        helpers: The threads.
        begun: What was begun of every batch that is still looked at, with its samples.
    """

    helpers: Workers
    begun: deque[tuple[int, list[Task[None]]]] = field(default_factory=deque[tuple[int, list[Task[None]]]])
    _now: list[Task[None]] = field(default_factory=list[Task[None]])
    _last: dict[int, Task[None]] = field(default_factory=dict[int, Task[None]])

    def begin(self, observers: Sequence[Observer], tensors: Arrays, batch: Batch) -> None:
        """Let observers look at a batch, those with most work first: so no core waits long for the last.

        Where a tensor is empty (a cache at the first call, no detections) there is nothing to see.
        """
        seeing = [each for each in observers if not _is_empty(each.needs, tensors)]
        for observer in sorted(seeing, key=lambda each: -each.work):
            look = partial(self._look, observer, self._last.get(id(observer)), tensors)
            self._last[id(observer)] = task = self.helpers.begin(look, batch)
            self._now.append(task)

    def _look(self, observer: Observer, before: Task[None] | None, tensors: Arrays, batch: Batch) -> None:
        if before is not None:
            # To work on something else meanwhile could be to begin the look that waits for this one. Looks are begun in
            # their order, so some thread is at the earliest one.
            before.result()
        observer.see(tensors, batch)

    def end(self, samples: int, behind: int) -> int:
        """Wait until no more than so many batches are looked at, the last one among them.

        Args:
            samples: Of that one.
            behind: How many.

        Returns:
            The samples that all have seen since.
        """
        self.begun.append((samples, self._now))
        self._now = []
        seen = 0
        while len(self.begun) > behind:
            count, tasks = self.begun.popleft()
            for task in tasks:
                self.helpers.result(task)
            seen += count
        return seen


def _is_empty(needs: Mapping[str, Shape], tensors: Arrays) -> bool:
    """Whether some tensor has an axis of length 0; results that a probe computes have no shape to speak of."""
    # What stays on a device is no array of numpy.
    return any(shape and getattr(tensors[name], "size", 1) == 0 for name, shape in needs.items())
