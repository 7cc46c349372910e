"""Pieces that pool, resize, sample and transform images."""

from __future__ import annotations

import numpy as np

from support.composer_graph import SIDE, Composer, Image, Pieces

PIECES = Pieces()


@PIECES.add("AveragePool", "LpPool", "MaxPool", since=7)
def pool(g: Composer, op: str) -> None:
    x = g.pick()
    if x.side > SIDE and g.flip():
        g.add(g.emit(op, x.name, kernel_shape=[2, 2], strides=[2, 2]), x.width, x.side // 2)
        return
    options = {"count_include_pad": int(g.flip())} if op == "AveragePool" else {}
    g.add(g.emit(op, x.name, kernel_shape=[3, 3], pads=[1] * 4, **options), x.width, x.side)


@PIECES.add("GlobalAveragePool", "GlobalMaxPool", since=7)
@PIECES.add("GlobalLpPool", since=7, until=21)
def global_pool(g: Composer, op: str) -> None:
    """Gate an image by its own pixels, through two small layers or at once."""
    x = g.pick()
    wide = g.emit(op, x.name)
    if g.flip():
        small = g.emit("Relu", g.emit("Conv", wide, g.weight(3, x.width, 1, 1)))
        wide = g.emit("Sigmoid", g.emit("Conv", small, g.weight(x.width, 3, 1, 1)))
    g.add(g.emit("Mul", x.name, wide), x.width, x.side)


@PIECES.add("MaxUnpool", since=11)
def unpool(g: Composer, op: str) -> None:
    x = g.pick()
    small, places = g.emits("MaxPool", [x.name], 2, kernel_shape=[2, 2], strides=[2, 2])
    g.add(g.emit(op, small, places, kernel_shape=[2, 2], strides=[2, 2]), x.width, x.side)


@PIECES.add("com.microsoft:MaxpoolWithMask")
def masked_pool(g: Composer, op: str) -> None:
    x = g.pick()
    mask = np.ones((1, 1, x.side, x.side), np.int32)
    mask[..., 1, 2] = 0
    g.add(g.emit(op, x.name, g.store(mask), kernel_shape=[3, 3], pads=[1] * 4), x.width, x.side)


@PIECES.add("Resize", since=13)
@PIECES.add("Upsample", since=7, until=9)
def rescale(g: Composer, op: str) -> None:
    x = g.pick()
    if op == "Upsample":
        scales = {"scales": [1.0, 1.0, 2.0, 2.0]} if g.opset < 9 else {}
        inputs = [x.name] if scales else [x.name, g.reals(1, 1, 2, 2)]
        wide = g.emit(op, *inputs, mode="nearest", **scales)
    else:
        mode = g.choose("nearest", "linear")
        kind = g.choose("scales", "sizes", "axes") if g.opset >= 18 else g.choose("scales", "sizes")
        if kind == "scales":
            wide = g.emit(op, x.name, "", g.reals(1, 1, 2, 2), mode=mode)
        elif kind == "axes":
            wide = g.emit(op, x.name, "", "", g.ints(2 * x.side, 2 * x.side), axes=[2, 3], mode=mode)
        else:
            wide = g.emit(op, x.name, "", "", _doubled(g, x), mode=mode)
    if x.side > SIDE:
        g.add(g.emit("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2]), x.width, x.side)
    else:
        g.add(wide, x.width, 2 * x.side)


def _doubled(g: Composer, x: Image) -> str:
    """The shape of an image of twice the side: stored where the batch is known, or computed."""
    if g.batch is not None and g.flip():
        return g.ints(g.batch, x.width, 2 * x.side, 2 * x.side)
    first = g.sliced(g.emit("Shape", x.name), 0, 0, 2)
    return g.emit("Concat", first, g.ints(2 * x.side, 2 * x.side), axis=0)


@PIECES.add("CenterCropPad", since=18)
def crop(g: Composer, op: str) -> None:
    # onnxruntime's optimizer moves a Transpose into the op's function and breaks it, so no turned channels here.
    g.fresh = False
    x = g.pick()
    if g.flip():
        wide = g.emit(op, x.name, g.ints(x.side + 1, x.width, x.side + 1), axes=[2, 1, 3])
        g.add(g.emit("MaxPool", wide, kernel_shape=[2, 2]), x.width, x.side)
        return
    small = g.emit(op, x.name, g.ints(1, 1), axes=[-2, -1])
    g.add(g.emit("Add", x.name, small), x.width, x.side)


@PIECES.add("GridSample", "com.microsoft:GridSample", since=16)
def grid(g: Composer, op: str) -> None:
    """At stored places, or at computed ones."""
    x = g.pick()
    if g.batch is not None and g.flip():
        places = g.store(g.rng.uniform(-1, 1, (g.batch, x.side, x.side, 2)).astype(np.float32))
    else:
        places = g.emit("Tanh", g.transpose(g.emit("Conv", x.name, g.weight(2, x.width, 1, 1)), 0, 2, 3, 1))
    modes = ("bilinear", "nearest", "bicubic") if g.opset < 20 or ":" in op else ("linear", "nearest", "cubic")
    name = g.emit(op, x.name, places, mode=g.choose(*modes), padding_mode=g.choose("zeros", "border"))
    g.add(name, x.width, x.side)


@PIECES.add("com.microsoft:CropAndResize", since=16)
@PIECES.add("RoiAlign", since=16, until=21)
@PIECES.add("MaxRoiPool", since=7, until=21)
def regions(g: Composer, op: str) -> None:
    """Regions of the first sample, whose mean is added to the image."""
    x = g.pick()
    last = float(x.side - 1)
    boxes = np.array([[0, 0, last, last], [0, 1, last - 1, last]], np.float32)
    if op == "MaxRoiPool":
        boxes = np.concatenate([np.zeros((2, 1), np.float32), boxes], 1)
        name = g.emit(op, x.name, g.store(boxes), pooled_shape=[x.side, x.side])
    elif op == "RoiAlign":
        inputs = [x.name, g.store(boxes), g.ints(0, 0)]
        name = g.emit(op, *inputs, output_height=x.side, output_width=x.side, mode=g.choose("avg", "max"))
    else:
        size = g.store(np.array([x.side, x.side], np.int32))
        name = g.emit(op, x.name, g.store(boxes / last), g.store(np.zeros(2, np.int32)), size)
    g.add(g.emit("Add", x.name, g.mean(name, 0)), x.width, x.side)


@PIECES.add("com.microsoft:UnfoldTensor")
def windows(g: Composer, op: str) -> None:
    """Windows of two rows; their mean is padded to the old size."""
    x = g.pick()
    name = g.mean(g.emit(op, x.name, dim=2, size=2, step=1), -1, keepdims=0)
    g.add(g.emit("Pad", name, g.ints(0, 0, 0, 0, 0, 0, 1, 0)), x.width, x.side)


@PIECES.add("DFT", since=17)
def spectrum(g: Composer, op: str) -> None:
    x = g.pick()
    axis = g.choose(1, 2, 3)
    complex_ = g.unsqueeze(x.name, 4)
    inputs, options = (["", g.number(axis, np.int64)], {}) if g.opset >= 20 else ([], {"axis": axis})
    found = g.emit(op, complex_, *inputs, **options)
    name = g.squeeze(g.sliced(found, 4, 0, 1), 4)
    g.add(g.emit("Mul", name, g.number(0.25)), x.width, x.side)


@PIECES.add("STFT", since=17)
def frames(g: Composer, op: str) -> None:
    """Every channel is a signal of its pixels; the mean over frames and frequencies comes back."""
    x = g.pick()
    signal = g.emit("Reshape", x.name, g.ints(-1, x.side**2, 1))
    found = g.emit(op, signal, g.number(4, np.int64), g.weight(8, positive=True))
    mean = g.mean(found, 1, 2, 3, keepdims=0)
    name = g.reshape(mean, g.batch or -1, x.width, 1, 1)
    g.add(g.emit("Add", x.name, name), x.width, x.side)
