"""Places: where tensors lie that do not come back to the host."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.runtime.providers import CPU, CUDA, ProviderRequest

__all__ = ["DeviceMemory", "DeviceTensor", "device_memory_of"]

DeviceTensor = Any
"""An `OrtValue`, which has no type stubs: a tensor in the memory of a provider."""

_KINDS = {CPU: "cpu", CUDA: "cuda"}


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory that a provider computes on.

    Attributes:
        kind: As onnxruntime calls it: cpu or cuda.
        number: Which device of that kind.
    """

    kind: str = "cpu"
    number: int = 0

    def put(self, array: NDArray[Any]) -> DeviceTensor:
        """Copy an array there; on the CPU it stays where it is."""
        ort: Any = importlib.import_module("onnxruntime")
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.kind, self.number)


def device_memory_of(requests: Sequence[ProviderRequest]) -> DeviceMemory | None:
    """Return where the first provider computes; None where tensors cannot be left there."""
    kind = _KINDS.get(requests[0].name)
    return None if kind is None else DeviceMemory(kind, int(dict(requests[0].options).get("device_id", "0")))
