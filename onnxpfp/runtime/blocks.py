"""How many channels the kernels of a device compute at once, as far as that is known without a measurement.

onnxruntime's CPU provider keeps the channels of float convolutions in blocks (layout NCHWc) of 16 with AVX-512 and of 8
with AVX2 (`MlasNchwcGetBlockSize`, set in its core/mlas/lib/platform.cpp): one with 17 output channels computes 32.
Matrix products are computed by vectors, and one of AVX-512 holds 16 floats, or 16 of the 32-bit sums of int8. Most ops
in half precision are computed as floats there. On ARM a vector holds 4 floats; kernels in blocks of 16 are an option of
the build that is off by default.

Tensor cores take half precision in multiples of 8 (NVIDIA's "Matrix Multiplication Background", requirements of tensor
cores), and TensorRT keeps int8 in blocks of 32 channels (`TensorFormat::kCHW32`).

docs/design.md has what steps of 16, 8 and 1 are worth on a CPU with AVX-512, and what they cost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from onnx import TensorProto

from onnxpfp.runtime.providers import CPU, CUDA, TENSORRT

__all__ = ["ANY_WIDTH", "USUAL", "Alignment", "alignment_of", "cpu_features"]

USUAL = 8
"""Channels in a block where nothing is known, and the smallest step that a group is rounded to by itself."""
STEPS = 4
"""So many steps has a group at least that is rounded by itself; of fewer, half of one is more than an eighth of it."""
AVX512 = frozenset({"X86_V4", "AVX512F", "AVX512_SKX"})
"""As numpy calls it: X86_V4 from 2.4 on."""
AVX2 = frozenset({"X86_V3", "AVX2"})
ARM = frozenset({"NEON", "ASIMD"})

_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_BYTE = frozenset({TensorProto.INT8, TensorProto.UINT8})
_SINGLE = frozenset({TensorProto.FLOAT, *_HALF})
_ON_CPU = (
    (AVX512, 16, "AVX-512 kernels of onnxruntime's CPU provider compute 16 {} at once"),
    (AVX2, 8, "AVX2 kernels of onnxruntime's CPU provider compute 8 {} at once"),
    (ARM, 8, "8 {} are two vectors of this CPU's NEON instructions"),
)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The multiples in which the channels of groups are kept.

    Attributes:
        step: The multiple.
        reason: Why, in words.
        source: Where it comes from. What was asked for as a number holds for every group of at least so many channels.
            Else a group of fewer than `STEPS` steps has a half of it, or a quarter, and so on down to 8. One that has
            fewer than so many of these is not rounded by what is known of kernels alone. Where they were measured, what
            other widths cost is known, so steps are smaller, twice as many in a group; one that has no more channels
            than a step stays whole.
        finest: The smallest step that a narrow group goes down to.
    """

    step: int
    reason: str
    source: Literal["known", "asked", "measured"] = "known"
    finest: int = USUAL

    @property
    def asked(self) -> bool:
        """Whether it was asked for as a number."""
        return self.source == "asked"

    def of_group(self, channels: int) -> int:
        """Return the multiple in which a group of so many channels is kept."""
        if self.asked:
            return self.step if channels >= self.step else 1
        step = self.step
        while channels < self._fewest * step and step % 2 == 0 and step >= 2 * self.finest:
            step //= 2
        if self.source == "measured":
            # No kernel is faster with a part of one step.
            return min(step, channels)
        return step if channels >= STEPS * step else 1

    @property
    def _fewest(self) -> int:
        """So many steps has a group that is wide enough for the whole step."""
        return 2 * STEPS if self.source == "measured" else STEPS

    @property
    def title(self) -> str:
        """All of it in one line."""
        if self.step == 1:
            return f"in steps of 1: {self.reason}"
        if self.asked:
            return f"in steps of {self.step}: {self.reason} (1 in groups of fewer channels)"
        if self.source == "measured":
            finer = f", down to {self.finest} in narrow groups" if self.finest < self.step else ""
            return f"in steps of {self.step}{finer}: {self.reason}"
        parts: list[str] = []
        for step, same in groupby(range(STEPS * self.step - 1, 0, -1), self.of_group):
            widths = [*same]
            if step != self.step:
                parts.append(f"{step} in {_groups(widths[-1], widths[0], first=not parts)}")
        return f"in steps of {self.step}: {self.reason} ({', '.join(parts)})"


def _groups(least: int, most: int, *, first: bool) -> str:
    if least > 1:
        return f"groups of {least} to {most} channels"
    return f"groups of fewer than {most + 1} channels" if first else "narrower ones"


ANY_WIDTH = Alignment(1, "nothing asks for more")
"""Of what chooses no widths."""


def alignment_of(provider: str, weights: int, features: Collection[str]) -> Alignment:
    """Return what is known of the kernels that run a network.

    Args:
        provider: Where most of it runs.
        weights: The element type of its weights (`TensorProto.DataType`).
        features: What the CPU can do, as `cpu_features` calls it.
    """
    if provider == CPU and weights in _SINGLE | _BYTE:
        what = "sums of int8 channels" if weights in _BYTE else "float channels"
        for names, step, reason in _ON_CPU:
            if names & set(features):
                return Alignment(step, reason.format(what))
    if provider in {CUDA, TENSORRT} and weights in _HALF:
        return Alignment(8, "tensor cores take 8 channels of half precision at once")
    if provider in {CUDA, TENSORRT} and weights in _BYTE:
        return Alignment(32, "int8 runs in blocks of 32 channels on tensor cores")
    kind = TensorProto.DataType.Name(weights).lower()
    return Alignment(USUAL, f"8 is usual; of {kind} weights on {provider} no blocks are known")


def cpu_features() -> frozenset[str]:
    """Return the vector instructions of this CPU that numpy was built to use."""
    known = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return frozenset([*known.get("baseline", []), *known.get("found", [])])
