"""A network whose large outputs stay where it runs: the counterpart of `onnxpfp.runtime.binding.Reusing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxpfp.runtime.device_memory import DeviceMemory, DeviceTensor
from onnxpfp.runtime.session import Session

__all__ = ["DeviceOutputs"]


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
        found = self.session.run_at(feeds, self.place, home)
        return {name: value if name in staying else value.numpy() for name, value in found.items()}
