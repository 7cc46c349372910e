"""Sessions whose large outputs lie in the same memory in every run, or stay where the network runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from onnxpfp.runtime.device_memory import DeviceMemory, DeviceTensor
from onnxpfp.runtime.session import Session

__all__ = ["DeviceOutputs", "ReusedOutputs"]


@dataclass(slots=True, eq=False)
class ReusedOutputs:
    """A session on the CPU whose large outputs lie in the same memory in every run.

    Fresh memory is handed out page by page, which takes as long as a tenth of a forward pass.

    Attributes:
        session: What runs.
        outputs: Names of these outputs.
    """

    session: Session
    outputs: Sequence[str]
    _held: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    _fed: dict[str, object] = field(default_factory=dict[str, object])

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; what came out of the run before is overwritten.

        Raises:
            ModelError: As in `Session.run`.
        """
        lengths = {name: _what_sets_lengths(array) for name, array in feeds.items()}
        # onnxruntime binds no text.
        if lengths == self._fed and not any(array.dtype.hasobject for array in feeds.values()):
            return self.session.run_into(feeds, self._held)
        # The new ones need the memory of those before.
        self._held = {}
        outputs = self.session.run(feeds)
        self._fed = lengths
        self._held = {name: outputs[name] for name in self.outputs if _is_plain(outputs[name])}
        return outputs


def _what_sets_lengths(array: NDArray[Any]) -> object:
    """Return what the lengths of outputs may depend on: a shape, and a number where it is just one, such as a step."""
    return (array.shape, array.item()) if array.size == 1 and array.dtype.kind in "iub" else array.shape


def _is_plain(array: NDArray[Any]) -> bool:
    """Whether onnxruntime can write to an array again: no box of a sequence, no type that numpy lacks."""
    return array.flags.c_contiguous and array.dtype.kind in "biuf"


@dataclass(frozen=True, slots=True, eq=False)
class DeviceOutputs:
    """A session that leaves some outputs where it runs.

    Attributes:
        session: What runs.
        outputs: Names of these outputs.
        place: Where it runs.
    """

    session: Session
    outputs: Sequence[str]
    place: DeviceMemory

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, DeviceTensor | NDArray[Any]]:
        """Run once; the outputs that stay are tensors, the others arrays.

        Raises:
            ModelError: As in `Session.run`.
        """
        staying = set(self.outputs)
        home = [name for name in self.session.outputs if name not in staying]
        tensors = self.session.run_at(feeds, self.place, home)
        return {name: value if name in staying else value.numpy() for name, value in tensors.items()}
