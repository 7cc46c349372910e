"""Options of the verb that measures the scores of a network for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnxpfp.options import Options, RunOptions, ScopeOptions
from onnxpfp.options.checks import check_shard
from onnxpfp.options.data import DataOptions
from onnxpfp.options.declaration import as_in, declare, shared_values

__all__ = ["ScoreOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions(DataOptions, ScopeOptions):
    """Options of the verb that measures scores: those of a run that say what is measured, and which samples."""

    samples: int | None = as_in(RunOptions, "samples")
    sample_axes: Mapping[str, int | None] = as_in(RunOptions, "sample_axes")
    batch_size: int | None = as_in(RunOptions, "batch_size")
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
    seed: int = as_in(RunOptions, "seed")
    threads: int | None = as_in(RunOptions, "threads")
    workspace: int = as_in(RunOptions, "workspace")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(**shared_values(self, Options))
