"""Observers: statistics of what linear ops read, collected in the runs of the network.

Every statistic is a monoid: observers of shards of the samples merge to that of all samples, their states can be kept
in a file, and what they draw is decided by the number of a sample among all samples, never by how samples are batched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.errors import CalibrationError
from onnxpfp.linear.ops import LinearOp

__all__ = ["Batch", "Mergeable", "Observer", "State", "load_states", "save_states"]

State = Mapping[str, NDArray[Any]]
"""A statistic as arrays by name, as a file keeps it."""
_FORMAT = "onnxpfp-states-1"


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one run of the network.

    Attributes:
        first: Number of the first one among all samples, those of other shards counted too.
        samples: How many there are.
    """

    first: int
    samples: int


class Mergeable(Protocol):
    """A statistic of some samples."""

    def merge(self, other: Self) -> Self:
        """Return the statistic of both sets of samples."""
        ...

    def state(self) -> State:
        """Return its sums and maxima."""
        ...

    def restored(self, state: State) -> Self:
        """Return a statistic of the same kind with the sums and maxima of a state."""
        ...


class Observer(Mergeable, Protocol):
    """A statistic of what one linear op reads, batch by batch; one thread at a time works on it."""

    @property
    def reader(self) -> LinearOp:
        """The op whose input it observes."""
        ...

    @property
    def work(self) -> int:
        """Multiplications of one sample, roughly."""
        ...

    def see(self, data: NDArray[np.float32], batch: Batch) -> None:
        """Count one batch in.

        Args:
            data: The tensor that is read; its memory has other numbers after the call.
            batch: The samples that it belongs to.
        """
        ...

    def forget(self) -> None:
        """Forget all batches: the samples begin anew, in smaller batches."""
        ...


def save_states(path: str | Path, states: Sequence[State]) -> None:
    """Write the states of statistics to one `.npz` file, at exactly this path."""
    arrays = {f"{number}.{name}": array for number, state in enumerate(states) for name, array in state.items()}
    # An open file keeps numpy from appending a second suffix to the user's path.
    with Path(path).open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, format=np.array(f"{_FORMAT} {len(states)}"), **arrays)


def load_states(path: str | Path) -> list[dict[str, NDArray[Any]]]:
    """Read what `save_states` wrote.

    Raises:
        CalibrationError: The file is missing or holds no states.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: cast("NDArray[Any]", file[name]) for name in file.files}
        kind, count = str(arrays.pop("format")).split()
        if kind != _FORMAT:
            raise KeyError(kind)  # noqa: TRY301
        states: list[dict[str, NDArray[Any]]] = [{} for _ in range(int(count))]
        for key, array in arrays.items():
            number, _, name = key.partition(".")
            states[int(number)][name] = array
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError) as error:
        raise CalibrationError(f"{path} is not a file of statistics of onnxpfp", hint="collect them again") from error
    return states
