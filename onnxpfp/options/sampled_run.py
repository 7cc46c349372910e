"""Options of the verbs that run a network on samples: which, how many at once, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxpfp.options.checks import check_at_least_one, check_seed, check_workspace
from onnxpfp.options.data import DataOptions
from onnxpfp.options.declaration import declare

__all__ = ["DEFAULT_WORKSPACE", "SampledRunOptions"]

DEFAULT_WORKSPACE = 512_000_000
"""Bytes."""


# Without slots of its own, for a class may inherit those of one parent only.
@dataclass(frozen=True, kw_only=True)
class SampledRunOptions(DataOptions):
    """Options of the verbs that run a network on samples."""

    samples: int | None = declare(
        None,
        "Use at most N samples.",
        "data",
        flag="calib-samples",
        metavar="N",
        default_text="512 images, all samples of other data",
        check=check_at_least_one,
    )
    sample_axes: Mapping[str, int | None] = declare(
        {},
        "Axis of an input along which the samples lie; none: its data are the same for all samples. A model with one "
        "input needs no name.",
        "data",
        flag="sample-axis",
        metavar="NAME:1",
        default_text="the one called batch, else 0 where it is free, else the free one",
        form="axis",
        repeated=True,
    )
    batch_size: int | None = declare(
        None,
        "Run at most N samples at once.",
        "data",
        metavar="N",
        default_text="16, 1 to 64 by the size of tensors, or what the model takes",
        check=check_at_least_one,
    )
    seed: int = declare(0, "Seed of everything that is drawn at random.", "runtime", metavar="N", check=check_seed)
    threads: int | None = declare(
        None, "Threads of onnxruntime.", "runtime", metavar="N", default_text="its own choice", check=check_at_least_one
    )
    workspace: int = declare(
        DEFAULT_WORKSPACE,
        "Limit of tensors and matrices held in measuring and fitting; copies and weights come on top: 512MB, 2GB, ...",
        "runtime",
        metavar="SIZE",
        default_text="512MB",
        form="size",
        check=check_workspace,
    )
    providers: str = declare(
        "cpu",
        "Devices to run on, by priority, comma-separated: cpu, cuda, cuda:1, trt, or names of onnxruntime.",
        "runtime",
        metavar="LIST",
    )
    strict_providers: bool = declare(
        False, "Fail if a node can only run on the CPU. Without it such nodes run there.", "runtime"
    )
