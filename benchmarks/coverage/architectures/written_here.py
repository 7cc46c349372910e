"""Networks of families that the libraries lack, written small: U-Net, YOLO, super-resolution, text, sound."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.coverage.architectures.net import Net, image

__all__ = ["NETS"]


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Conv, BatchNormalization, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class UNet(nn.Module):
    """Encoder, decoder, and concatenations between them; transposed convolutions or resizing go up."""

    def __init__(self, *, transposed: bool) -> None:
        """Build it."""
        super().__init__()
        widths = [16, 32, 64, 128]
        self.down = nn.ModuleList([self._pair(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(b, a, 2, 2)
                if transposed
                else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(b, a, 1))
                for a, b in itertools.pairwise(widths)
            ]
        )
        self.join = nn.ModuleList([self._pair(2 * a, a) for a in widths[:-1]])
        self.head = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs), conv(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Segment an image."""
        kept: list[Tensor] = []
        for step in self.down:
            x = step(x if not kept else functional.max_pool2d(x, 2))
            kept.append(x)
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(kept[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


class C2f(nn.Module):
    """The block of YOLOv8: half goes through bottlenecks, and everything is joined."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        """Build it."""
        super().__init__()
        self.half = outputs // 2
        self.first = conv(inputs, outputs, 1)
        self.steps = nn.ModuleList(
            [nn.Sequential(conv(self.half, self.half), conv(self.half, self.half)) for _ in range(depth)]
        )
        self.last = conv((2 + depth) * self.half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        parts = list(self.first(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Three poolings in a row, joined."""

    def __init__(self, width: int) -> None:
        """Build it."""
        super().__init__()
        self.first, self.last = conv(width, width // 2, 1), conv(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A detector like YOLOv8: C2f, SPPF, a feature pyramid, and a head with a distribution per box side (DFL)."""

    BINS, CLASSES = 16, 8

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1))
        self.middle = nn.Sequential(conv(32, 64, 3, 2), C2f(64, 64, 2))
        self.deep = nn.Sequential(conv(64, 128, 3, 2), C2f(128, 128, 1), Sppf(128))
        self.up = C2f(192, 64, 1)
        self.down = conv(64, 64, 3, 2)
        self.back = C2f(192, 128, 1)
        self.boxes = nn.ModuleList(
            [nn.Sequential(conv(w, 64), conv(64, 64), nn.Conv2d(64, 4 * self.BINS, 1)) for w in (64, 128)]
        )
        self.scores = nn.ModuleList(
            [nn.Sequential(conv(w, 32), conv(32, 32), nn.Conv2d(32, self.CLASSES, 1)) for w in (64, 128)]
        )
        self.distribution = nn.Conv2d(self.BINS, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Detect: four box sides and the scores of every cell."""
        x = self.middle(self.stem(x))
        deep = self.deep(x)
        fine = self.up(torch.cat([functional.interpolate(deep, scale_factor=2), x], 1))
        coarse = self.back(torch.cat([self.down(fine), deep], 1))
        levels = [
            torch.cat([box(y), score(y)], 1).flatten(2)
            for y, box, score in zip((fine, coarse), self.boxes, self.scores, strict=True)
        ]
        sides, scores = torch.cat(levels, 2).split((4 * self.BINS, self.CLASSES), 1)
        shares = sides.view(sides.shape[0], 4, self.BINS, -1).transpose(2, 1).softmax(1)
        return torch.cat([self.distribution(shares).view(sides.shape[0], 4, -1), scores.sigmoid()], 1)


class SuperResolution(nn.Module):
    """Residual blocks and PixelShuffle."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1))
                for _ in range(3)
            ]
        )
        self.up = nn.Sequential(nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(32))
        self.last = nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge four times."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return functional.pixel_shuffle(self.last(self.up(x)), 2)


class Crnn(nn.Module):
    """Reads a line of text: convolutions, then a recurrent network over the columns."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], *, directions: int) -> None:
        """Build it."""
        super().__init__()
        self.features = nn.Sequential(conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 64))
        self.rnn = cell(64 * 8, 48, num_layers=2, bidirectional=directions == 2)
        self.head = nn.Linear(48 * directions, 37)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of every column, (T, N, 37)."""
        x = self.features(x)
        return self.head(self.rnn(x.flatten(1, 2).permute(2, 0, 1))[0])


class WaveNet(nn.Module):
    """Dilated causal 1-D convolutions with gates, residuals and skips."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Conv1d(1, 32, 1)
        self.filters = nn.ModuleList([nn.Conv1d(32, 64, 2, dilation=2**i) for i in range(6)])
        self.residuals = nn.ModuleList([nn.Conv1d(32, 32, 1) for _ in range(6)])
        self.skips = nn.ModuleList([nn.Conv1d(32, 48, 1) for _ in range(6)])
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(48, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Predict the next sample."""
        x = self.first(x)
        total = 0
        for i, (gate, residual, skip) in enumerate(zip(self.filters, self.residuals, self.skips, strict=True)):
            one, two = gate(functional.pad(x, (2**i, 0))).chunk(2, 1)
            y = one.tanh() * two.sigmoid()
            total, x = total + skip(y), x + residual(y)
        return self.head(total)


class Tcn(nn.Module):
    """1-D residual blocks with weight normalisation computed in the graph."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.blocks = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for i, (a, b) in enumerate(((8, 32), (32, 32), (32, 64))):
            self.blocks.append(
                nn.Sequential(
                    nn.ConstantPad1d((2 * 2**i, 0), 0.0),
                    norm(nn.Conv1d(a, b, 3, dilation=2**i)),
                    nn.ReLU(),
                    nn.ConstantPad1d((2 * 2**i, 0), 0.0),
                    norm(nn.Conv1d(b, b, 3, dilation=2**i)),
                    nn.ReLU(),
                )
            )
            self.shortcuts.append(nn.Conv1d(a, b, 1) if a != b else nn.Identity())
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a sequence."""
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = torch.relu(block(x) + shortcut(x))
        return self.head(x[:, :, -1])


class Generator(nn.Module):
    """A generator of images as DCGAN has it, from a vector of noise."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Linear(32, 64 * 4 * 4)
        self.steps = nn.Sequential(
            nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Make an image."""
        return self.steps(self.first(x).view(-1, 64, 4, 4))


class Diffusion(nn.Module):
    """A denoiser's step: GroupNorm, a time embedding as scale and shift, attention over positions."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 128))
        self.first, self.last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, 64) for _ in range(4)])
        self.convs = nn.ModuleList([nn.Conv2d(64, 64, 3, padding=1) for _ in range(2)])
        self.qkv, self.out = nn.Conv2d(64, 192, 1), nn.Conv2d(64, 64, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Predict the noise."""
        x = self.first(x)
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        y = self.convs[0](functional.silu(self.norms[0](x)))
        x = x + self.convs[1](functional.silu(self.norms[1](y) * (1 + scale) + shift))
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norms[2](x)).view(b, 3, 4, c // 4, h * w).unbind(1)
        shares = (q.transpose(-1, -2) @ k * (c // 4) ** -0.5).softmax(-1)
        x = x + self.out((v @ shares.transpose(-1, -2)).reshape(b, c, h, w))
        return self.last(functional.silu(self.norms[3](x)))


class Focus(nn.Module):
    """Space to depth by slices (YOLOv5), channel shuffle, and depth to space on the way out."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.first = conv(12, 32)
        self.groups = conv(32, 32, 3, groups=4)
        self.depthwise = conv(32, 32, 3, groups=32)
        self.last = nn.Sequential(conv(32, 64, 1), nn.PixelUnshuffle(2), conv(256, 32, 1), nn.Conv2d(32, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        x = self.groups(self.first(x))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x + self.depthwise(x))


LINE = {"line": torch.zeros(1, 1, 32, 64)}
NETS = [
    Net("unet_transposed", "here", lambda: UNet(transposed=True), image(64), dynamic=True),
    Net("unet_resized", "here", lambda: UNet(transposed=False), image(64), dynamic=True),
    Net("yolo_c2f", "here", Yolo, image(64), dynamic=True),
    Net("super_resolution", "here", SuperResolution, image(32), dynamic=True),
    Net("crnn_lstm", "here", lambda: Crnn(nn.LSTM, directions=2), LINE),
    Net("crnn_gru", "here", lambda: Crnn(nn.GRU, directions=1), LINE),
    Net("wavenet", "here", WaveNet, {"sound": torch.zeros(1, 1, 200)}, dynamic=True),
    Net("tcn", "here", Tcn, {"series": torch.zeros(1, 8, 50)}, dynamic=True),
    Net("dcgan", "here", Generator, {"noise": torch.zeros(1, 32)}, dynamic=True),
    Net("diffusion_unet", "here", Diffusion, {**image(16), "time": torch.zeros(1, 16)}, dynamic=True),
    Net("focus_shuffle", "here", Focus, image(32), dynamic=True),
]
