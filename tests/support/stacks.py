"""Two convolutions and two matrix products, one behind the other: what low rank can be tried on."""

from __future__ import annotations

import nets
from onnx import ModelProto

__all__ = ["conv_stack", "stack_shapes", "stack_text"]

TEXT = """g (float[N,CHANNELS,8,8] x) => (float[N,10] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads = [1,1,1,1], strides = [2,2]> (r, w2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    h = Gemm <transB = 1> (f, w3, b3)
    t = Relu(h)
    y = MatMul(t, w4)
}"""
SHAPES = {"b1": (24,), "w2": (32, 24, 3, 3), "w3": (40, 32), "b3": (40,), "w4": (40, 10)}


def stack_text(channels: int) -> str:
    """Return the network for images of so many channels."""
    return TEXT.replace("CHANNELS", str(channels))


def stack_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of its weights."""
    return {"w1": (24, channels, 3, 3), **SHAPES}


def conv_stack(channels: int, **options: object) -> ModelProto:
    """Build it; the other arguments are those of `nets.build`."""
    return nets.build(stack_text(channels), stack_shapes(channels), **options)  # type: ignore[arg-type]
