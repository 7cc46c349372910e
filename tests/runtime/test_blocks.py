"""The multiples of channels that suit the kernels of a device, which is made up here."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from onnxpfp.runtime.blocks import ANY_WIDTH, Alignment, alignment_of, cpu_features
from onnxpfp.runtime.providers import CPU, CUDA, TENSORRT

SERVER, LAPTOP, PHONE = ("X86_V2", "X86_V3", "X86_V4"), ("SSE42", "AVX2", "FMA3"), ("NEON", "ASIMD", "ASIMDHP")


@pytest.mark.parametrize(
    ("provider", "weights", "features", "step", "says"),
    [
        (CPU, TensorProto.FLOAT, SERVER, 16, "AVX-512 kernels of onnxruntime's CPU provider compute 16 float channels"),
        (CPU, TensorProto.FLOAT, ("AVX2", "AVX512F"), 16, "AVX-512"),
        (CPU, TensorProto.FLOAT16, ("AVX512_SKX",), 16, "16 float channels"),
        (CPU, TensorProto.INT8, SERVER, 16, "16 sums of int8 channels"),
        (CPU, TensorProto.FLOAT, LAPTOP, 8, "AVX2 kernels"),
        (CPU, TensorProto.FLOAT, ("X86_V3",), 8, "AVX2 kernels"),
        (CPU, TensorProto.FLOAT, PHONE, 8, "NEON"),
        (CPU, TensorProto.FLOAT, (), 8, "of float weights on CPUExecutionProvider no blocks are known"),
        (CPU, TensorProto.DOUBLE, SERVER, 8, "of double weights on CPUExecutionProvider no blocks are known"),
        (CUDA, TensorProto.FLOAT16, SERVER, 8, "tensor cores take 8 channels of half precision"),
        (TENSORRT, TensorProto.BFLOAT16, (), 8, "tensor cores"),
        (TENSORRT, TensorProto.INT8, (), 32, "blocks of 32 channels"),
        (CUDA, TensorProto.FLOAT, SERVER, 8, "of float weights on CUDAExecutionProvider no blocks are known"),
        ("CoreMLExecutionProvider", TensorProto.FLOAT, PHONE, 8, "CoreMLExecutionProvider no blocks are known"),
    ],
)
def test_what_is_known_of_a_device(
    provider: str, weights: int, features: tuple[str, ...], step: int, says: str
) -> None:
    alignment = alignment_of(provider, weights, features)
    assert (alignment.step, alignment.asked) == (step, False)
    assert says in alignment.reason


def test_the_features_are_those_that_numpy_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_features(), "numpy is built for some vectors"
    for known, features in [
        ({"SIMD Extensions": {"baseline": ["NEON"], "found": ["ASIMDHP"], "not found": ["SVE"]}}, {"NEON", "ASIMDHP"}),
        ({"SIMD Extensions": {"baseline": ["SSE"], "not found": ["AVX2"]}}, {"SSE"}),
        ({}, set[str]()),
    ]:
        monkeypatch.setattr(np, "show_config", lambda mode, known=known: known)
        assert cpu_features() == features


@pytest.mark.parametrize(
    ("alignment", "steps"),
    [
        (Alignment(16, ""), {512: 16, 64: 16, 63: 8, 32: 8, 31: 1, 1: 1}),
        (Alignment(32, ""), {128: 32, 127: 16, 64: 16, 63: 8, 32: 8, 31: 1}),
        (Alignment(8, ""), {33: 8, 32: 8, 31: 1}),
        (Alignment(24, ""), {96: 24, 95: 12, 48: 12, 47: 1}),
        (Alignment(12, ""), {48: 12, 47: 1}),
        (Alignment(4, ""), {16: 4, 15: 1}),
        (Alignment(16, "", "measured"), {512: 16, 128: 16, 127: 8, 16: 8, 9: 8, 8: 8, 3: 3, 1: 1}),
        (Alignment(16, "", "measured", 16), {512: 16, 127: 16, 32: 16, 17: 16, 16: 16, 7: 7}),
        (Alignment(4, "", "measured"), {16: 4, 5: 4, 4: 4, 2: 2}),
        (Alignment(1, "", "measured"), {16: 1, 1: 1}),
        (Alignment(16, "", "asked"), {512: 16, 17: 16, 16: 16, 15: 1}),
        (ANY_WIDTH, {512: 1, 1: 1}),
    ],
)
def test_narrow_groups_have_smaller_steps_unless_a_number_was_given(
    alignment: Alignment, steps: dict[int, int]
) -> None:
    assert {channels: alignment.of_group(channels) for channels in steps} == steps


@pytest.mark.parametrize(
    ("alignment", "title"),
    [
        (
            Alignment(32, "why"),
            "in steps of 32: why (16 in groups of 64 to 127 channels, 8 in groups of 32 to 63 channels, "
            "1 in narrower ones)",
        ),
        (Alignment(8, "why"), "in steps of 8: why (1 in groups of fewer than 32 channels)"),
        (Alignment(16, "as asked for", "asked"), "in steps of 16: as asked for (1 in groups of fewer channels)"),
        (Alignment(1, "as asked for", "asked"), "in steps of 1: as asked for"),
        (Alignment(16, "why", "measured"), "in steps of 16, down to 8 in narrow groups: why"),
        (Alignment(16, "why", "measured", 16), "in steps of 16: why"),
    ],
)
def test_it_is_said_in_one_line(alignment: Alignment, title: str) -> None:
    assert alignment.title == title
