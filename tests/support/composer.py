"""A hypothesis strategy that composes random networks out of ops that have rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from support.composer_indexing import MORE

SIDE = 4
WIDTHS = (4, 6, 8)
WIDEST = 16


@dataclass
class Composer:
    """Live tensors (1, C, H, W), and the nodes that made them."""

    draw: Callable
    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    live: dict[str, tuple[int, int]] = field(default_factory=dict)

    def emit(self, op: str, inputs: list[str], outputs: int = 1, **attributes) -> str:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}{len(self.nodes)}", **attributes))
        return names[0]

    def weight(self, *shape: int, positive: bool = False) -> str:
        array = self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.standard_normal(shape)
        array = array / np.sqrt(max(np.prod(shape[1:]), 1)) if len(shape) > 1 else array
        return self.store(array.astype(np.float32))

    def store(self, array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int | list[int]) -> str:
        return self.store(np.array(numbers, np.int64))

    def pick(self, minimum: int = 1) -> tuple[str, int, int]:
        name = self.draw(st.sampled_from(sorted(n for n in self.live if self.live[n][0] >= minimum)))
        return name, *self.live[name]

    def partner(self, name: str, same: bool) -> str | None:
        width, side = self.live[name]
        fits = [n for n, (w, s) in self.live.items() if s == side and n != name and (w == width or not same)]
        return self.draw(st.sampled_from(sorted(fits))) if fits else None

    def add(self, name: str, width: int, side: int) -> None:
        self.live[name] = (width, side)


def conv(g: Composer) -> None:
    x, width, side = g.pick()
    out = g.draw(st.sampled_from(WIDTHS))
    group = g.draw(st.sampled_from([k for k in (1, 2, width) if width % k == 0 and out % k == 0]))
    kernel = g.draw(st.sampled_from([1, 3]))
    inputs = [x, g.weight(out, width // group, kernel, kernel)]
    if g.draw(st.booleans()):
        inputs.append(g.weight(out))
    g.add(g.emit("Conv", inputs, group=group, pads=[kernel // 2] * 4), out, side)


def depthwise(g: Composer) -> None:
    x, width, side = g.pick()
    times = g.draw(st.sampled_from([1, 2] if 2 * width <= WIDEST else [1]))
    op = g.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    shape = (times * width, 1) if op == "Conv" else (width, times)
    g.add(g.emit(op, [x, g.weight(*shape, 3, 3)], group=width, pads=[1] * 4), times * width, side)


def transposed(g: Composer) -> None:
    x, width, side = g.pick()
    group = g.draw(st.sampled_from([1, 2] if width % 2 == 0 else [1]))
    out = g.draw(st.sampled_from(WIDTHS))
    w = g.weight(width, out // group, 3, 3)
    g.add(g.emit("ConvTranspose", [x, w], group=group, pads=[1] * 4), out, side)


def norm(g: Composer) -> None:
    x, width, side = g.pick()
    scale, bias = g.weight(width, positive=True), g.weight(width)
    if g.draw(st.booleans()):
        name = g.emit("InstanceNormalization", [x, scale, bias])
    else:
        name = g.emit("BatchNormalization", [x, scale, bias, g.weight(width), g.weight(width, positive=True)])
    g.add(name, width, side)


def unary(g: Composer) -> None:
    x, width, side = g.pick()
    g.add(g.emit(g.draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish", "Identity"])), [x]), width, side)


def binary(g: Composer) -> None:
    x, width, side = g.pick()
    other = g.partner(x, same=True)
    constant = other is None or g.draw(st.integers(0, 3)) == 0
    second = g.weight(*g.draw(st.sampled_from([(width, 1, 1), (1,), (1, width, 1, 1)]))) if constant else other
    g.add(g.emit(g.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), [x, second]), width, side)


def concat(g: Composer) -> None:
    x, width, side = g.pick()
    other = g.partner(x, same=False) or x
    if width + g.live[other][0] <= WIDEST:
        g.add(g.emit("Concat", [x, other], axis=1), width + g.live[other][0], side)


def split(g: Composer) -> None:
    x, width, side = g.pick(4)
    first = g.draw(st.integers(2, width - 2))
    name = g.emit("Split", [x, g.ints(first, width - first)], outputs=2, axis=1)
    g.add(name, first, side)
    g.add(f"{name[:-1]}1", width - first, side)


def slice_(g: Composer) -> None:
    x, width, side = g.pick(4)
    start, stop, step, out = g.draw(
        st.sampled_from([(1, width - 1, 1, width - 2), (-3, 99, 1, 3), (0, -2, 1, width - 2), (-1, -99, -1, width)])
    )
    name = g.emit("Slice", [x, g.ints(start), g.ints(stop), g.ints(1), g.ints(step)])
    g.add(name, out, side)


def gather(g: Composer) -> None:
    x, width, side = g.pick()
    picked = g.draw(st.lists(st.integers(-width, width - 1), min_size=2, max_size=6))
    g.add(g.emit("Gather", [x, g.ints(*picked)], axis=1), len(picked), side)


def pad(g: Composer) -> None:
    x, width, side = g.pick()
    before, after = g.draw(st.integers(0, 2)), g.draw(st.integers(0, 2))
    if width + before + after <= WIDEST:
        name = g.emit("Pad", [x, g.ints(0, before, 0, 0, 0, after, 0, 0)])
        g.add(name, width + before + after, side)


def pool(g: Composer) -> None:
    x, width, side = g.pick()
    op = g.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    g.add(g.emit(op, [x], kernel_shape=[3, 3], pads=[1] * 4), width, side)


def rescale(g: Composer) -> None:
    x, width, side = g.pick()
    if side > SIDE:
        g.add(g.emit("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), width, side // 2)
    elif g.draw(st.booleans()):
        g.add(g.emit("Resize", [x, "", "", g.ints(1, width, 2 * side, 2 * side)]), width, 2 * side)
    elif width % 4 == 0 and width > 4:
        mode = g.draw(st.sampled_from(["DCR", "CRD"]))
        g.add(g.emit("DepthToSpace", [x], blocksize=2, mode=mode), width // 4, 2 * side)


def gate(g: Composer) -> None:
    x, width, side = g.pick()
    pooled = g.emit("GlobalAveragePool", [x])
    small = g.emit("Relu", [g.emit("Conv", [pooled, g.weight(3, width, 1, 1)])])
    wide = g.emit("Sigmoid", [g.emit("Conv", [small, g.weight(width, 3, 1, 1)])])
    g.add(g.emit("Mul", [x, wide]), width, side)


def columns(g: Composer) -> None:
    """Work on the last axis between two transposes."""
    x, width, side = g.pick()
    name = g.emit("Transpose", [x], perm=[0, 2, 3, 1])
    if g.draw(st.booleans()):
        name = g.emit("Add", [name, g.weight(width)])
    else:
        out = g.draw(st.sampled_from(WIDTHS))
        name, width = g.emit("MatMul", [name, g.weight(width, out)]), out
    g.add(g.emit("Transpose", [name], perm=[0, 3, 1, 2]), width, side)


def shuffle(g: Composer) -> None:
    x, width, side = g.pick()
    if width % 2 == 0:
        name = g.emit("Reshape", [x, g.ints(1, 2, width // 2, side, side)])
        name = g.emit("Transpose", [name], perm=[0, 2, 1, 3, 4])
        g.add(g.emit("Reshape", [name, g.ints(1, width, side, side)]), width, side)


OPS = [conv, conv, conv, depthwise, transposed, norm, unary, binary, binary, concat, split, slice_, gather, pad, pool]
OPS += [rescale, gate, columns, shuffle, *MORE]


def head(g: Composer) -> str:
    """Flatten or pool the newest tensor and read it with a Gemm."""
    x, (width, side) = list(g.live.items())[-1]
    if g.draw(st.booleans()):
        x, side = g.emit("GlobalAveragePool", [x]), 1
    flat = g.emit("Flatten", [x])
    return g.emit("Gemm", [flat, g.weight(5, width * side * side), g.weight(5)], transB=1)


@st.composite
def compose(draw) -> ModelProto:
    """A network of one image input, three to ten random ops and two outputs."""
    g = Composer(draw, np.random.default_rng(0))
    g.live["x"] = (3, SIDE)
    conv(g)
    for op in draw(st.lists(st.sampled_from(OPS), min_size=3, max_size=10)):
        op(g)
    middle, width, side = g.pick()
    other = g.emit("Conv", [middle, g.weight(2, width, 1, 1)])
    outputs = [(head(g), [1, 5]), (other, [1, 2, side, side])]
    image: list[int | str] = [1, 3, SIDE, SIDE]
    infos: list[ValueInfoProto] = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs
    ]
    graph = helper.make_graph(
        g.nodes, "random", [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)], infos, g.weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
