"""Networks whose outputs count classes: classifiers, and the heads of detectors."""

from __future__ import annotations

import nets
import numpy as np
from onnx import ModelProto

BODY = """
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
"""
BODY_WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,)}

YOLOV8 = f"""g (float[N,3,8,8] x) => (float[N,9,M] y) {{{BODY}
    box1 = Conv(r, wb1)
    box2 = Conv(p, wb2)
    class1 = Conv(r, wc1, bc1)
    class2 = Conv(p, wc2, bc2)
    both1 = Concat <axis = 1> (box1, class1)
    both2 = Concat <axis = 1> (box2, class2)
    flat1 = Reshape(both1, shape)
    flat2 = Reshape(both2, shape)
    all = Concat <axis = 2> (flat1, flat2)
    box, scores = Split <axis = 1> (all, parts)
    low, high = Split <axis = 1> (box, halves)
    sum = Add(low, high)
    size = Sub(high, low)
    s = Sigmoid(scores)
    y = Concat <axis = 1> (sum, size, s)
}}"""
"""Boxes and five classes on two scales, behind one another along axis 1."""
YOLOV8_WEIGHTS = {
    **BODY_WEIGHTS,
    "wb1": (4, 16, 1, 1),
    "wb2": (4, 16, 1, 1),
    "wc1": (5, 16, 1, 1),
    "bc1": (5,),
    "wc2": (5, 16, 1, 1),
    "bc2": (5,),
}

YOLOV5 = f"""g (float[N,3,8,8] x) => (float[N,M,8] y) {{{BODY}
    h1 = Conv(r, wh1, bh1)
    h2 = Conv(p, wh2, bh2)
    v1 = Reshape(h1, shape1)
    v2 = Reshape(h2, shape2)
    t1 = Transpose <perm = [0,1,3,4,2]> (v1)
    t2 = Transpose <perm = [0,1,3,4,2]> (v2)
    s1 = Sigmoid(t1)
    s2 = Sigmoid(t2)
    f1 = Reshape(s1, rows)
    f2 = Reshape(s2, rows)
    y = Concat <axis = 1> (f1, f2)
}}"""
"""Two anchors, each with a box, its objectness and three classes, on two scales."""
YOLOV5_WEIGHTS = {**BODY_WEIGHTS, "wh1": (16, 16, 1, 1), "bh1": (16,), "wh2": (16, 16, 1, 1), "bh2": (16,)}

RAW_YOLOV5 = f"""g (float[N,3,8,8] x) => (float[N,16,8,8] h1, float[N,16,4,4] h2) {{{BODY}
    h1 = Conv(r, wh1, bh1)
    h2 = Conv(p, wh2, bh2)
}}"""
"""The same without what puts the rows of all anchors behind one another: 16 = 2 x (4 + 1 + 3)."""

RAW_YOLOV8 = f"""g (float[N,3,8,8] x) => (float[N,9,8,8] both1, float[N,9,4,4] both2) {{{BODY}
    box1 = Conv(r, wb1)
    box2 = Conv(p, wb2)
    class1 = Conv(r, wc1, bc1)
    class2 = Conv(p, wc2, bc2)
    both1 = Concat <axis = 1> (box1, class1)
    both2 = Concat <axis = 1> (box2, class2)
}}"""
"""The heads of two scales by themselves, boxes in front of five classes."""

SOFTMAX = """g (float[N,3,8,8] x) => (float[N,6] y, float[N,6] logits) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    m = GlobalAveragePool(r)
    f = Flatten(m)
    logits = Gemm <transB = 1> (f, w3, b3)
    y = Softmax <axis = 1> (logits)
}"""
SOFTMAX_WEIGHTS = {**BODY_WEIGHTS, "w3": (6, 16), "b3": (6,)}


def _numbers(**lists: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(numbers, np.int64) for name, numbers in lists.items()}


def _built(text: str, weights: dict[str, tuple[int, ...]], numbers: dict[str, np.ndarray]) -> ModelProto:
    model = nets.build(text, weights)
    for name, array in numbers.items():
        model.graph.initializer.append(nets.numpy_helper.from_array(array, name))
    return model


def yolov8(text: str = YOLOV8) -> ModelProto:
    """Five classes behind a box."""
    numbers = _numbers(shape=[0, 9, -1], parts=[4, 5], halves=[2, 2], most=[10])
    unread = [name for name in numbers if name not in text]
    return _built(text, YOLOV8_WEIGHTS, {name: numbers[name] for name in numbers if name not in unread})


def yolov5() -> ModelProto:
    """Three classes behind a box and its objectness."""
    shapes = _numbers(shape1=[0, 2, 8, 8, 8], shape2=[0, 2, 8, 4, 4], rows=[0, -1, 8])
    return _built(YOLOV5, YOLOV5_WEIGHTS, shapes)


def raw_yolov5(nodes: str = "", outputs: str = "") -> ModelProto:
    """Two anchors of three classes, on one axis.

    Args:
        nodes: What else is computed; it may read `shape`, which divides the first head, and `back`.
        outputs: What else is put out, such as "float[N,2,8,8,8] v".
    """
    text = RAW_YOLOV5.replace("bh2)\n", f"bh2)\n{nodes}\n").replace(" h2)", f" h2, {outputs})" if outputs else " h2)")
    numbers = _numbers(shape=[0, 2, 8, 8, 8], back=[0, 16, 8, 8])
    return _built(text, YOLOV5_WEIGHTS, {name: array for name, array in numbers.items() if name in nodes})


def raw_yolov8() -> ModelProto:
    """Five classes behind a box, scale by scale."""
    return nets.build(RAW_YOLOV8, YOLOV8_WEIGHTS)


def softmax() -> ModelProto:
    """Six classes, as scores and as probabilities."""
    return nets.build(SOFTMAX, SOFTMAX_WEIGHTS)
