"""Three small image classifiers with the graph shapes that make pruning interesting.

Each network takes normalised images of shape (N, 1, 28, 28) and returns logits of shape (N, 10).
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 10


def named(**modules: nn.Module) -> nn.Sequential:
    """Chain modules under names, which the exported nodes and initializers then carry.

    Args:
        **modules: The modules in the order in which they run.

    Returns:
        The chain.
    """
    return nn.Sequential(OrderedDict(modules))


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Build a "same" padded convolution, its batch normalisation and an optional activation.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the square kernel.
        stride: Stride in both directions.
        groups: Number of groups; equal to ``inputs`` for a depthwise convolution.
        activation: Module applied last, or None for a linear output.

    Returns:
        The modules in order.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    if activation is None:
        return named(conv=conv, bn=nn.BatchNorm2d(outputs))
    return named(conv=conv, bn=nn.BatchNorm2d(outputs), act=activation)


def classifier(features: int) -> nn.Sequential:
    """Build the head shared by the networks: global average pooling and a linear layer.

    Args:
        features: Number of channels of the last feature map.

    Returns:
        The modules in order.
    """
    return named(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(features, CLASSES))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride=stride, activation=nn.ReLU())
        self.second = conv_bn(outputs, outputs, 3)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_bn(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the shortcut and rectify the sum."""
        out: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return out


class DenseLayer(nn.Module):
    """Pre-activation bottleneck whose output is concatenated to its input."""

    def __init__(self, inputs: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.grow = named(
            bn1=nn.BatchNorm2d(inputs),
            relu1=nn.ReLU(),
            conv1=nn.Conv2d(inputs, bottleneck, 1, bias=False),
            bn2=nn.BatchNorm2d(bottleneck),
            relu2=nn.ReLU(),
            conv2=nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Append the new channels to those received."""
        return torch.cat([x, self.grow(x)], dim=1)


def dense_block(inputs: int, layers: int, bottleneck: int, growth: int) -> nn.Sequential:
    """Build a chain of dense layers.

    Args:
        inputs: Number of input channels.
        layers: Number of layers, each adding ``growth`` channels.
        bottleneck: Number of channels between the two convolutions of a layer.
        growth: Number of channels that a layer appends.

    Returns:
        The block, with ``inputs + layers * growth`` output channels.
    """
    widths = range(inputs, inputs + layers * growth, growth)
    return nn.Sequential(*(DenseLayer(width, bottleneck, growth) for width in widths))


class SqueezeExcite(nn.Module):
    """Channel attention: each channel is scaled by a gate computed from all channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = named(
            pool=nn.AdaptiveAvgPool2d(1),
            reduce=nn.Conv2d(channels, squeezed, 1),
            relu=nn.ReLU(),
            expand=nn.Conv2d(squeezed, channels, 1),
            hardsigmoid=nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels by their gates."""
        gates: Tensor = self.gate(x)
        return x * gates


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, optional squeeze-and-excite, linear projection."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        stride: int = 1,
        squeezed: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.expand = conv_bn(inputs, expanded, 1, activation=activation())
        self.depthwise = conv_bn(expanded, expanded, 3, stride=stride, groups=expanded, activation=activation())
        self.se = SqueezeExcite(expanded, squeezed) if squeezed else nn.Identity()
        self.project = conv_bn(expanded, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, with the shortcut where the shapes allow one."""
        out: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return x + out if self.has_shortcut else out


def fmnist_resnet() -> nn.Sequential:
    """Build a residual network with two strided stages of basic blocks."""
    return named(
        stem=conv_bn(1, 16, 3, activation=nn.ReLU()),
        block1=BasicBlock(16, 32, stride=2),
        block2=BasicBlock(32, 32),
        block3=BasicBlock(32, 64, stride=2),
        block4=BasicBlock(64, 64),
        head=classifier(64),
    )


def fmnist_densenet() -> nn.Sequential:
    """Build a densely connected network of two blocks with a transition between them."""
    transition = named(
        bn=nn.BatchNorm2d(96),
        relu=nn.ReLU(),
        conv=nn.Conv2d(96, 64, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )
    return named(
        stem=nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False),
        dense1=dense_block(32, layers=4, bottleneck=40, growth=16),
        transition=transition,
        dense2=dense_block(64, layers=6, bottleneck=40, growth=16),
        bn=nn.BatchNorm2d(160),
        relu=nn.ReLU(),
        head=classifier(160),
    )


def fmnist_mobilenet() -> nn.Sequential:
    """Build a network of inverted residuals, with squeeze-and-excite in its second stage."""
    swish = nn.Hardswish
    return named(
        stem=conv_bn(1, 16, 3, stride=2, activation=nn.ReLU6()),
        block1=InvertedResidual(16, 64, 24),
        block2=InvertedResidual(24, 96, 24),
        block3=InvertedResidual(24, 96, 40, stride=2, squeezed=24, activation=swish),
        block4=InvertedResidual(40, 160, 40, squeezed=40, activation=swish),
        block5=InvertedResidual(40, 160, 40, squeezed=40, activation=swish),
        last=conv_bn(40, 160, 1, activation=swish()),
        head=classifier(160),
    )


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "fmnist_resnet": fmnist_resnet,
    "fmnist_densenet": fmnist_densenet,
    "fmnist_mobilenet": fmnist_mobilenet,
}
