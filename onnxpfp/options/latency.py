"""Options of the verb that measures a latency table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxpfp.options import Options, ScopeOptions
from onnxpfp.options.checks import check_multiple
from onnxpfp.options.declaration import as_in, declare, shared_values
from onnxpfp.options.sampled_run import SampledRunOptions

__all__ = ["LatencyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions(SampledRunOptions, ScopeOptions):
    """Options of the verb that measures a latency table."""

    round_to: int | Literal["auto"] = declare(
        "auto",
        "Take widths in multiples of N alone. auto: in multiples of 1, 4, 8, 16 and 32, and then of those that "
        "are not much slower, in turns.",
        "choice",
        metavar="N|auto",
        form="count",
        check=check_multiple,
    )
    latency_batch: int = as_in(Options, "latency_batch")

    def running(self) -> Options:
        """Return the options with which the network is read and run; what is fitted is the same for every share."""
        return Options(keep_latency=0.5, **shared_values(self, Options))
