"""The torch module that computes what an ONNX node computes, for the ops of small convolutional classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, nn

__all__ = ["ChannelPad", "Constants", "UnsupportedOpError", "layer"]

Constants = Mapping[str, NDArray[np.generic]]
"""All tensors that do not depend on the images."""
Widths = Mapping[str, int]
"""Number of channels of all tensors with more than one axis."""


class UnsupportedOpError(Exception):
    """No module computes what the node does."""

    def __init__(self, node: NodeProto, what: str) -> None:
        super().__init__(f"{node.op_type} '{node.name}': {what}")


class Add(nn.Module):
    """Sum of two tensors."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Add."""
        return a + b


class Mul(nn.Module):
    """Product of two tensors."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        return a * b


class Concat(nn.Module):
    """Tensors side by side."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Join along the channels."""
        return torch.cat(parts, 1)


class SpatialSlice(nn.Module):
    """Part of the rows and columns."""

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """Cut, (N, C, H, W)."""
        return x[:, :, self.rows, self.columns]


class ChannelPad(nn.Module):
    """Channels of zeros before and after those of the input (the shortcut without weights of He et al., option A).

    Attributes:
        channels: Width of the input, C.
        source: Input channel of every output channel, (C',); C where the output is zero.
    """

    source: Tensor

    def __init__(self, channels: int, before: int, after: int) -> None:
        super().__init__()
        self.channels = channels
        zeros = [torch.full((count,), channels) for count in (before, after)]
        self.register_buffer("source", torch.cat([zeros[0], torch.arange(channels), zeros[1]]))

    def forward(self, x: Tensor) -> Tensor:
        """Append one channel of zeros and pick from all."""
        return nn.functional.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)


Make = Callable[[NodeProto, Constants, Widths], nn.Module]
"""Builds the module of a node from the constants and the widths of all tensors."""


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _tensor(constants: Constants, name: str) -> Tensor:
    return torch.from_numpy(np.array(constants[name]))


Pair = tuple[int, int]
"""Rows and columns."""


def _pair(numbers: Sequence[int]) -> Pair:
    rows, columns = numbers
    return int(rows), int(columns)


def _window(node: NodeProto) -> tuple[Pair, Pair]:
    """Read strides and symmetric padding of rows and columns."""
    has = _attributes(node)
    strides, pads = list(has.get("strides", [1, 1])), list(has.get("pads", [0] * 4))
    if has.get("auto_pad", b"NOTSET") != b"NOTSET" or pads[:2] != pads[2:] or has.get("ceil_mode", 0):
        raise UnsupportedOpError(node, "padding that differs between the sides")
    return _pair(strides), _pair(pads[:2])


def _conv(node: NodeProto, constants: Constants, widths: Widths) -> nn.Module:
    weight, has = _tensor(constants, node.input[1]), _attributes(node)
    stride, padding = _window(node)
    dilation, kernel = _pair(has.get("dilations", (1, 1))), _pair(weight.shape[2:])
    inputs, outputs, groups = widths[node.input[0]], weight.shape[0], int(has.get("group", 1))
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    conv.weight.data = weight
    if len(node.input) > 2:
        conv.bias = nn.Parameter(_tensor(constants, node.input[2]))
    return conv


def _batch_norm(node: NodeProto, constants: Constants, widths: Widths) -> nn.Module:
    norm = nn.BatchNorm2d(widths[node.input[0]], eps=float(_attributes(node).get("epsilon", 1e-5)))
    names = ("weight", "bias", "running_mean", "running_var")
    norm.load_state_dict(
        {name: _tensor(constants, tensor) for name, tensor in zip(names, node.input[1:], strict=True)}, strict=False
    )
    return norm


def _gemm(node: NodeProto, constants: Constants, _: Widths) -> nn.Module:
    has = _attributes(node)
    if has.get("alpha", 1.0) != 1 or has.get("beta", 1.0) != 1 or has.get("transA", 0):
        raise UnsupportedOpError(node, "alpha, beta or transA")
    weight = _tensor(constants, node.input[1])
    weight = weight if has.get("transB", 0) else weight.T.contiguous()
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data, linear.bias.data = weight, _tensor(constants, node.input[2])
    return linear


def _clip(node: NodeProto, constants: Constants, _: Widths) -> nn.Module:
    low, high = (float(constants[name]) for name in node.input[1:])
    return nn.Hardtanh(low, high)


def _average_pool(node: NodeProto, _: Constants, __: Widths) -> nn.Module:
    has = _attributes(node)
    strides, padding = _window(node)
    inside = bool(has.get("count_include_pad", 0))
    return nn.AvgPool2d(_pair(has["kernel_shape"]), strides, padding, count_include_pad=inside)


def _max_pool(node: NodeProto, _: Constants, __: Widths) -> nn.Module:
    strides, padding = _window(node)
    return nn.MaxPool2d(_pair(_attributes(node)["kernel_shape"]), strides, padding)


def _flatten(node: NodeProto, constants: Constants, _: Widths) -> nn.Module:
    """Flatten and Reshape to one row a sample."""
    rows = len(constants[node.input[1]]) == 2 if node.op_type == "Reshape" else True
    if not rows or _attributes(node).get("axis", 1) != 1:
        raise UnsupportedOpError(node, "does not make one row a sample")
    return nn.Flatten()


def _concat(node: NodeProto, _: Constants, __: Widths) -> nn.Module:
    if _attributes(node)["axis"] != 1:
        raise UnsupportedOpError(node, "not along the channels")
    return Concat()


def _slice(node: NodeProto, constants: Constants, _: Widths) -> nn.Module:
    starts, ends, axes, steps = (constants[name].tolist() for name in node.input[1:])
    cut = {2: slice(None), 3: slice(None)}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # The largest integer means the end of the axis, whatever its length.
        piece = slice(start, None if end >= 2**31 - 1 else end, step)
        if axis not in cut and piece != slice(0, None, 1):
            raise UnsupportedOpError(node, "cuts something else than rows and columns")
        cut[axis] = piece
    return SpatialSlice(cut[2], cut[3])


def _pad(node: NodeProto, constants: Constants, widths: Widths) -> nn.Module:
    pads = constants[node.input[1]].tolist()
    value = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(())
    zeros = _attributes(node).get("mode", b"constant") == b"constant" and not value.any()
    # (N, C, H, W) before, then after.
    others = [*pads[:1], *pads[2:5], *pads[6:]]
    if not zeros or len(pads) != 8 or any(others):
        raise UnsupportedOpError(node, "pads something else than channels, or not with zeros")
    return ChannelPad(widths[node.input[0]], pads[1], pads[5])


def _hard_sigmoid(node: NodeProto, _: Constants, __: Widths) -> nn.Module:
    has = _attributes(node)
    if abs(has.get("alpha", 0.2) - 1 / 6) > 1e-6 or has.get("beta", 0.5) != 0.5:
        raise UnsupportedOpError(node, "not torch's slope")
    return nn.Hardsigmoid()


def _plain(module: Callable[[], nn.Module]) -> Make:
    """Make a module without parameters."""
    return lambda _node, _constants, _widths: module()


MODULES: Mapping[str, Make] = {
    "Add": _plain(Add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda: nn.AdaptiveAvgPool2d(1)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(nn.Hardswish),
    "MaxPool": _max_pool,
    "Mul": _plain(Mul),
    "Pad": _pad,
    "Relu": _plain(nn.ReLU),
    "Reshape": _flatten,
    "Sigmoid": _plain(nn.Sigmoid),
    "Slice": _slice,
}
"""The module of every op."""


def layer(node: NodeProto, constants: Constants, widths: Widths) -> nn.Module:
    """Build the module of a node.

    Raises:
        UnsupportedOpError: There is none that computes the same.
    """
    make = MODULES.get(node.op_type)
    if make is None:
        raise UnsupportedOpError(node, "not known")
    return make(node, constants, widths)
