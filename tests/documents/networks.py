"""Small networks of the kinds that pages are about."""

from __future__ import annotations

import nets
import numpy as np
from onnx import ModelProto

DETECTOR = """g (float[N,3,64,64] images) => (float[N,6,80] boxes) {
    a0 = Conv <strides = [2,2], pads = [1,1,1,1]> (images, w0) a = Relu(a0)
    b0 = Conv <strides = [2,2], pads = [1,1,1,1]> (a, w1) b = Relu(b0)
    c0 = Conv <strides = [2,2], pads = [1,1,1,1]> (b, w2) c = Relu(c0)
    d0 = Conv <strides = [2,2], pads = [1,1,1,1]> (c, w3) d = Relu(d0)
    head_c0 = Conv <pads = [1,1,1,1]> (c, head_w0) head_c1 = Relu(head_c0) head_c = Conv(head_c1, head_w1)
    head_d0 = Conv <pads = [1,1,1,1]> (d, head_w2) head_d1 = Relu(head_d0) head_d = Conv(head_d1, head_w3)
    head_p = Reshape(head_c, rows) head_q = Reshape(head_d, rows)
    boxes = Concat <axis = 2> (head_p, head_q)
}"""
RECOGNISER = """g (float[N,3,32,W] x) => (float[N,P,97] characters) {
    a0 = Conv <strides = [2,2], pads = [1,1,1,1]> (x, w0) a = Relu(a0)
    b0 = Conv <strides = [2,2], pads = [1,1,1,1]> (a, w1) b = Relu(b0)
    c0 = Conv <pads = [1,1,1,1]> (b, w2) c = Relu(c0)
    column = ReduceMean <axes = [2], keepdims = 0> (c)
    places = Transpose <perm = [0,2,1]> (column)
    h0 = MatMul(places, w3) h = Relu(h0)
    scores = MatMul(h, head_w) characters = Softmax <axis = 2> (scores)
}"""
TRANSFORMER = """g (float[N,3,64,64] images) => (float[N,10] logits) {
    p0 = Conv <strides = [16,16]> (images, patches) p1 = Reshape(p0, tokens) p = Transpose <perm = [0,2,1]> (p1)
    e = LayerNormalization(p, gain0)
    q0 = MatMul(e, wq) k0 = MatMul(e, wk) v0 = MatMul(e, wv)
    q1 = Reshape(q0, heads) k1 = Reshape(k0, heads) v1 = Reshape(v0, heads)
    q = Transpose <perm = [0,2,1,3]> (q1) k = Transpose <perm = [0,2,3,1]> (k1) v = Transpose <perm = [0,2,1,3]> (v1)
    product = MatMul(q, k) shares = Softmax(product) mixed = MatMul(shares, v)
    o1 = Transpose <perm = [0,2,1,3]> (mixed) o0 = Reshape(o1, merged) o = MatMul(o0, wo) r = Add(p, o)
    f = LayerNormalization(r, gain1)
    mlp_1 = MatMul(f, mlp_w1) mlp_a = Relu(mlp_1) mlp_2 = MatMul(mlp_a, mlp_w2) s = Add(r, mlp_2)
    mean = ReduceMean <axes = [1], keepdims = 0> (s) logits = MatMul(mean, wl)
}"""
TEXT = """g (int64[N,T] tokens) => (float[N,5] topics) {
    e = Gather(vectors, tokens) h0 = MatMul(e, w0) h = Relu(h0)
    mean = ReduceMean <axes = [1], keepdims = 0> (h) topics = MatMul(mean, w1)
}"""
RECURRENT = """g (float[1,8] x, float[1,16] state) => (float[1,3] y, float[1,16] state_out) {
    a0 = MatMul(x, w0) a = Relu(a0)
    b0 = MatMul(a, w1) c0 = MatMul(state, w2) d0 = Add(b0, c0) state_out = Tanh(d0)
    y = MatMul(state_out, w3)
}"""
SIZES = {"rows": [0, 6, -1], "tokens": [0, 32, -1], "heads": [0, 16, 4, 16], "merged": [0, 16, 64]}


def _normal(*shape: int) -> np.ndarray:
    """Weights that keep the variance of what they multiply."""
    inputs = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    return nets.noise(*shape, seed=sum(shape)) * (2 / inputs) ** 0.5


def detector() -> ModelProto:
    """A backbone and heads at two scales, with the names of a YOLO: the heads are `/model.22/`."""
    convolutions = {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "w2": (64, 32, 3, 3), "w3": (64, 64, 3, 3)}
    heads = {"head_w0": (32, 64, 3, 3), "head_w1": (6, 32, 1, 1), "head_w2": (32, 64, 3, 3), "head_w3": (6, 32, 1, 1)}
    model = _built(DETECTOR, convolutions | heads, "rows")
    for node in model.graph.node:
        node.name = node.name.replace("node_head_", "/model.22/").replace("node_", "/model.0/")
    return model


def recogniser() -> ModelProto:
    """Convolutions, a mean over the height, and a head of many classes; the width of the image is free."""
    return _built(
        RECOGNISER,
        {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "w2": (64, 32, 3, 3), "w3": (64, 64), "head_w": (64, 97)},
    )


def transformer() -> ModelProto:
    """One layer of four heads and an MLP, on 16 patches."""
    attention = {"wq": (32, 64), "wk": (32, 64), "wv": (32, 64), "wo": (64, 32)}
    shapes = {"patches": (32, 3, 16, 16), **attention, "mlp_w1": (32, 128), "mlp_w2": (128, 32), "wl": (32, 10)}
    model = _built(TRANSFORMER, shapes, "tokens", "heads", "merged", ones=("gain0", "gain1"))
    for node in model.graph.node:
        node.name = node.name.replace("node_mlp_", "/mlp/")
    return model


def text() -> ModelProto:
    """A table of 50 vectors, a layer and a mean over the tokens, of which there may be any number."""
    return _built(TEXT, {"vectors": (50, 32), "w0": (32, 64), "w1": (64, 5)})


def recurrent() -> ModelProto:
    """One step of a network that gives its state out and takes it in again."""
    return _built(RECURRENT, {"w0": (8, 64), "w1": (64, 16), "w2": (16, 16), "w3": (16, 3)})


def _built(text: str, shapes: dict[str, tuple[int, ...]], *sizes: str, ones: tuple[str, ...] = ()) -> ModelProto:
    weights: dict[str, np.ndarray] = {name: _normal(*shape) for name, shape in shapes.items()}
    weights |= {name: np.ones(32) for name in ones}
    model = nets.build(text, weights)
    for name in sizes:
        model.graph.initializer.append(nets.numpy_helper.from_array(np.array(SIZES[name], np.int64), name))
    return model
