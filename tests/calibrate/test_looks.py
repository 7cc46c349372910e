"""Observers that look at batches side by side: each at one after the other, and none waits for itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.looks import Looks
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.runtime.workers import workers

TENSORS = {"x": np.ones((1, 3), np.float32)}


@dataclass(slots=True, eq=False)
class Slow(Observer):
    """Takes some time to see, so that others wait for it."""

    needs: Mapping[str, Shape] = field(default_factory=lambda: {"x": (1, 3)})
    seen: list[int] = field(default_factory=list)

    @property
    def work(self) -> int:
        return 1

    def see(self, tensors: Arrays, batch: Batch) -> None:
        time.sleep(0.01)
        self.seen.append(batch.first)

    def statistics(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_observers_see_single_samples_of_batches_in_their_order(threads: int, count: int) -> None:
    observers, ended = [Slow() for _ in range(count)], list[int]()

    def look() -> None:
        with workers(threads) as helpers:
            looks = Looks(helpers)
            for batch in range(3):
                for number in range(4):
                    looks.begin(observers, TENSORS, Batch(4 * batch + number, 1))
                ended.append(looks.end(4, behind=1))
            ended.append(looks.end(0, 0))

    # Whatever waits for itself would hold the tests up for ever.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert [each.seen for each in observers] == [[*range(12)]] * count
    assert sum(ended) == 12
