"""The graphs of a calibration where it runs: each is loaded once, however many families use it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.runtime.device_memory import DeviceMemory, DeviceTensor
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session, open_session

__all__ = ["Program", "Programs"]


class Program(Protocol):
    """A graph, by what decides its nodes; equal programs are the same graph."""

    def model(self) -> ModelProto:
        """Return the graph."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Programs:
    """Runs graphs and leaves what comes out where it is.

    Attributes:
        place: Where that is.
        requests: Providers, as for the network: what these may not leave to the CPU, these graphs may not.
        threads: Threads of an op on the CPU.
        lock: Held by the family that is worked on: all share the device, and so its memory.
    """

    place: DeviceMemory
    requests: tuple[ProviderRequest, ...]
    threads: int | None = None
    lock: Lock = field(default_factory=Lock)
    _sessions: dict[Program, Session] = field(default_factory=dict[Program, Session])

    def run(
        self, program: Program, feeds: Mapping[str, DeviceTensor | NDArray[Any]], home: Collection[str] = ()
    ) -> dict[str, DeviceTensor]:
        """Run a graph.

        Args:
            program: The graph.
            feeds: Its inputs and maybe more.
            home: Outputs that come to the CPU.

        Raises:
            ModelError: onnxruntime refuses or fails.
            ProviderError: The providers are strict and cannot run every node.
        """
        if program not in self._sessions:
            self._sessions[program] = open_session(program.model(), self.requests, threads=self.threads)
        session = self._sessions[program]
        return session.run_at({name: feeds[name] for name in session.inputs}, self.place, home)

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, DeviceTensor]:
        """Bring arrays where graphs read them."""
        return {name: self.place.put(array) for name, array in arrays.items()}
