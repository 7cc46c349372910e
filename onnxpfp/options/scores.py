"""Options of the verb that measures the scores of a network for a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxpfp.options import Options, RunOptions, ScopeOptions
from onnxpfp.options.checks import check_shard
from onnxpfp.options.declaration import as_in, declare, shared_values
from onnxpfp.options.sampled_run import SampledRunOptions

__all__ = ["ScoreOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions(SampledRunOptions, ScopeOptions):
    """Options of the verb that measures scores: those of a run that say what is measured, and which samples."""

    shard: str | None = declare(
        None,
        "Score the I-th of N parts of the samples that one run scores; the files of all N merge to the file of that.",
        "data",
        metavar="I/N",
        default_text="all",
        check=check_shard,
    )
    kernel: Literal["sum", "max"] = as_in(RunOptions, "kernel")
    round_to: int | Literal["auto"] = as_in(RunOptions, "round_to")

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(**shared_values(self, Options))
