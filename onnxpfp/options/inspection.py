"""Options of the verb that shows what could be pruned."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.options import Options, RunOptions, ScopeOptions
from onnxpfp.options.declaration import as_in, shared_values

__all__ = ["InspectOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions(ScopeOptions):
    """Options of the verb that prunes nothing: where runs are measured, if any are."""

    threads: int | None = as_in(RunOptions, "threads")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")
    no_latency: bool = as_in(Options, "no_latency")

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(**shared_values(self, Options))
