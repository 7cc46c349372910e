"""Taps read where onnxruntime reads: shapes and sums of random windows, forwards and backwards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from support.brute_shares import model_of
from support.drawn_readers import QUICK, Array, Shapes, convolutions, pointwise, transposed_convolutions

from onnxpfp.linear.im2col import output_sizes, tap_sources
from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.runtime.session import open_session

MANY = settings(QUICK, max_examples=80)


@st.composite
def automatic(draw: st.DrawFn) -> Shapes:
    """Transposed convolutions whose pads are worked out from a mode, or from the shape that shall come out."""
    shapes = draw(transposed_convolutions())
    window = shapes.window
    assert window.strides is not None
    mode = draw(st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER", None, "NOTSET"]))
    if mode in {"SAME_UPPER", "SAME_LOWER", "VALID"} and draw(st.booleans()):
        return replace(shapes, window=replace(window, pads=None, auto_pad=mode))
    kernel, sizes = shapes.weights[0][2:], shapes.data[1:]
    assert window.dilations is not None
    most = [
        (size - 1) * step + (taps - 1) * dilation + 1
        for size, step, taps, dilation in zip(sizes, window.strides, kernel, window.dilations, strict=True)
    ]
    wanted = tuple(draw(st.integers(max(1, largest - 3), largest)) for largest in most)
    mode = None if mode == "VALID" else mode
    return replace(shapes, window=Window(window.strides, None, window.dilations, mode, None, wanted))


def as_reader(shapes: Shapes, weight: Array) -> LinearOp:
    channels = np.arange(1, shapes.data[0] + 1)
    return LinearOp(
        "r", shapes.kind, "x", (1, *shapes.data), 1, channels, weight, (1, 1),
        group=shapes.group, attributes=shapes.window,
    )  # fmt: skip


def convolved(shapes: Shapes, weight: Array, data: Array) -> Array:
    """Let onnxruntime do it."""
    kind = "ConvTranspose" if shapes.kind == "conv_transpose" else "Conv"
    node = helper.make_node(kind, ["x", "w"], ["y"], group=shapes.group, **shapes.window.as_attributes())
    model = model_of([node], {"x": ("N", *shapes.data)}, ["y"], {"w": weight})
    return open_session(model, threads=1).run({"x": data})["y"]


def summed(op: LinearOp, data: Array, spatial: tuple[int, ...]) -> Array:
    """Add up what the taps read, times the weights, (N, O, P)."""
    source, inside = tap_sources(op, data.shape[2:], spatial, np.arange(math.prod(spatial)))
    u = data.reshape(*data.shape[:2], -1).astype(np.float64)[:, :, source]
    if inside is not None:
        u = np.where(inside, u, 0)
    taps = op.taps().reshape(op.group, -1, op.taps().shape[1], op.kernel_size)
    grouped = u.reshape(len(u), op.group, -1, *u.shape[2:])
    return np.einsum("gcoq,ngcpq->ngop", taps, grouped).reshape(len(u), -1, u.shape[2])


KINDS = {"conv": convolutions(), "pointwise": pointwise(), "up": transposed_convolutions(), "automatic": automatic()}


@pytest.mark.parametrize("kind", KINDS)
def test_taps_read_where_onnxruntime_reads(kind: str) -> None:
    @MANY
    @given(KINDS[kind], st.integers(0, 2**32 - 1))
    def check(shapes: Shapes, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal(shapes.weights[0]).astype(np.float32)
        data = rng.standard_normal((2, *shapes.data)).astype(np.float32)
        wanted = convolved(shapes, weight, data)
        op = as_reader(shapes, weight)
        spatial = output_sizes(op, shapes.data[1:])
        assert spatial == wanted.shape[2:]
        np.testing.assert_allclose(summed(op, data, spatial), wanted.reshape(*wanted.shape[:2], -1), atol=1e-5)

    check()


def test_no_mask_where_no_window_reaches_over_the_border() -> None:
    op = as_reader(Shapes("conv", (1, 5), 1, ((1, 1, 3),)), np.ones((1, 1, 3), np.float32))
    source, inside = tap_sources(op, (5,), (3,), np.arange(3))
    assert source.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert inside is None


def test_what_is_outside_reads_the_first_place_and_is_marked() -> None:
    shapes = Shapes("conv", (1, 2), 1, ((1, 1, 3),), window=Window(pads=(1, 1)))
    op = as_reader(shapes, np.ones((1, 1, 3), np.float32))
    source, inside = tap_sources(op, (2,), (2,), np.arange(2))
    assert source.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert inside is not None
    assert inside.tolist() == [[False, True, True], [True, True, False]]
