"""Options of the verbs that compare two files, and of the one that does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxpfp.options import ModelOptions, Options
from onnxpfp.options.checks import check_largest_error, check_least_share
from onnxpfp.options.classes import check_class_options
from onnxpfp.options.declaration import as_in, declare, shared_values
from onnxpfp.options.sampled_run import SampledRunOptions

__all__ = ["ComparisonOptions", "VerifyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions(SampledRunOptions, ModelOptions):
    """Options of the verbs that compare two files: their data, the runtime, and the latency."""

    latency_batch: int = as_in(Options, "latency_batch")
    no_latency: bool = as_in(Options, "no_latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(ComparisonOptions):
    """Options of the verb that compares two files."""

    max_drift: float | None = declare(
        None,
        "Do not pass a model whose outputs have a relative error above X.",
        "target",
        metavar="X",
        check=check_largest_error,
    )
    min_agreement: float | None = declare(
        None,
        "Do not pass a model whose top-1 class agrees with the original's on less than a share A of the samples.",
        "target",
        metavar="A",
        check=check_least_share,
    )
    keep_classes: str | Sequence[int | str] | None = as_in(Options, "keep_classes")
    class_names: str | Path | Sequence[str] | None = as_in(Options, "class_names")  # noqa: RUF009
    class_axes: Sequence[str] = as_in(Options, "class_axes")

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        ModelOptions.__post_init__(self)
        check_class_options(self.keep_classes, self.class_names, self.class_axes)

    def running(self) -> Options:
        """Return the options with which both networks are read and run."""
        return Options(**shared_values(self, Options))
