"""Options of the verb that shows what could be pruned."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.options import Options, ScopeOptions
from onnxpfp.options.declaration import as_in, shared_values
from onnxpfp.options.sampled_run import SampledRunOptions

__all__ = ["InspectOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions(ScopeOptions):
    """Options of the verb that prunes nothing: where runs are measured, if any are."""

    threads: int | None = as_in(SampledRunOptions, "threads")
    providers: str = as_in(SampledRunOptions, "providers")
    strict_providers: bool = as_in(SampledRunOptions, "strict_providers")
    no_latency: bool = as_in(Options, "no_latency")

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(**shared_values(self, Options))
