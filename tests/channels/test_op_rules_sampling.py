"""One row per case of the ops that sample, transform and resize, and of the forms that old opsets had."""

from __future__ import annotations

import pytest
from support.rows import Row, check_row

SAMPLE = [
    Row("grid", "d = GridSample(c, g)", 8, weights="float[1,3,3,2] g", fixed={"g": "GridSample 'd' samples by it"}),
    Row(
        "grid, channels of its own batch",
        "t = Transpose<perm=[1,0,2,3]>(c)\nu = Transpose<perm=[1,0,2,3]>(e)\n"
        "s = Conv(u, w2)\nr = Transpose<perm=[0,2,3,1]>(s)\n"
        "m = GridSample(t, r)\nd = Transpose<perm=[1,0,2,3]>(m)",
        8,
        weights="float[2,1,1,1] w2",
        fixed={"w2": "GridSample 'm'"},
    ),
    Row(
        "regions",
        "d = RoiAlign<output_height=2, output_width=2>(c, r, b)",
        8,
        weights="float[3,4] r = {0.0,0.0,3.0,3.0, 1.0,1.0,4.0,4.0, 0.0,2.0,5.0,5.0}, int64[3] b = {0,0,0}",
        fixed={"r": "RoiAlign 'd' samples regions of it"},
    ),
    Row(
        "regions, largest",
        "d = MaxRoiPool<pooled_shape=[2,2]>(c, r)",
        8,
        weights="float[2,5] r = {0.0,0.0,0.0,3.0,3.0, 0.0,1.0,1.0,4.0,4.0}",
        fixed={"r": "MaxRoiPool 'd' samples"},
    ),
    Row(
        "unpool",
        "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)\nd = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, i)",
        0,
        fixed={"w_in": "MaxPool 'p' numbers the pixels"},
    ),
    Row(
        "deformable convolution",
        "d = DeformConv(c, w, o, b, m)",
        6,
        1,
        "float[6,8,3,3] w, float[1,18,4,4] o, float[6] b, float[1,9,4,4] m",
        {
            "w_in": "DeformConv 'd' samples it",
            "w": "DeformConv 'd' filters with it",
            "o": "DeformConv 'd'",
            "m": "DeformConv 'd'",
        },
        opset=19,
    ),
    Row(
        "deformable convolution, grouped",
        "d = DeformConv<group=2>(c, w, o)",
        3,
        1,
        "float[6,4,3,3] w, float[1,18,4,4] o",
        {"w_in": "DeformConv 'd' samples it", "w": "DeformConv 'd' filters with it", "o": "DeformConv 'd'"},
        opset=19,
    ),
]
TRANSFORM = [
    Row(
        "spectrum, opset 17",
        "u = Unsqueeze(c, k)\nf = DFT<axis=3>(u)\nr = Slice(f, b, g, k)\nd = Squeeze(r, k)",
        8,
        weights="int64[1] k = {4}, int64[1] b = {0}, int64[1] g = {1}",
    ),
    Row(
        "spectrum, one side, opset 20",
        "u = Unsqueeze(c, k)\nf = DFT<onesided=1>(u)\nr = Slice(f, b, g, k)\nd = Squeeze(r, k)",
        8,
        weights="int64[1] k = {4}, int64[1] b = {0}, int64[1] g = {1}",
        opset=20,
    ),
    Row(
        "spectrum of channels",
        "u = Unsqueeze(c, k)\nf = DFT(u, , a)\nr = Slice(f, b, g, k)\nd = Squeeze(r, k)",
        0,
        weights="int64[1] k = {4}, int64[1] b = {0}, int64[1] g = {1}, int64 a = {1}",
        opset=20,
        fixed={"w_in": "DFT 'f' transforms it"},
    ),
    Row(
        "frames of samples",
        "s = Reshape(c, h)\nf = STFT(s, n, w)\nr = Slice(f, b, g, k)\nq = Squeeze(r, k)\nd = Unsqueeze(q, z)",
        8,
        weights="int64[2] h = {8,36}, int64 n = {4}, float[16] w, int64[1] k = {3}, "
        "int64[1] b = {0}, int64[1] g = {1}, int64[1] z = {0}",
    ),
    Row("determinants", "m = Det(c)\nd = Unsqueeze(m, k)", 8, weights="int64[2] k = {2, 3}"),
]
RESIZE = [
    Row("crop and pad space", "d = CenterCropPad(c, k)", 8, weights="int64[4] k = {1,8,4,9}", opset=18),
    Row("crop one axis", "d = CenterCropPad<axes=[-1]>(c, k)", 8, weights="int64[1] k = {4}", opset=18),
    Row(
        "crop channels",
        "d = CenterCropPad<axes=[1]>(c, k)",
        0,
        weights="int64[1] k = {6}",
        opset=18,
        fixed={"w_in": "CenterCropPad 'd' crops or pads it"},
    ),
    Row(
        "columns to image",
        "f = Reshape(c, h)\nd = Col2Im(f, s, b)",
        2,
        1,
        "int64[3] h = {1,8,36}, int64[2] s = {7,7}, int64[2] b = {2,2}",
        opset=18,
    ),
    Row(
        "a scale that rounding hides",
        'd = Resize<mode="linear">(c, , k)',
        0,
        weights="float[4] k = {1.0, 1.1, 1.0, 1.0}",
        fixed={"w_in": "Resize 'd' resizes it"},
    ),
    Row(
        "upsample that rounding hides",
        'd = Upsample<mode="nearest", scales=[1.0, 1.1, 2.0, 2.0]>(c)',
        0,
        opset=7,
        fixed={"w_in": "Upsample 'd' resizes it"},
    ),
    Row(
        "crop and resize, channels whole",
        'd = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(c, r, k)',
        8,
        weights="float[8] r = {0.0,0.0,0.1,0.2,1.0,1.0,0.9,0.8}, float[4] k = {1.0,1.0,1.0,1.0}",
    ),
    Row(
        "aspect ratio kept",
        'd = Resize<axes=[2,3], keep_aspect_ratio_policy="not_larger">(c, , , k)',
        8,
        weights="int64[2] k = {9, 12}",
        opset=18,
    ),
    Row("negative axes", "d = Resize<axes=[-1,-3]>(c, , , k)", 8, weights="int64[2] k = {9, 8}", opset=18),
    Row("scales of two axes", "d = Resize<axes=[3,1]>(c, , k)", 8, weights="float[2] k = {2.0, 1.0}", opset=18),
    Row("cubic", 'd = Resize<mode="cubic">(c, , k)', 8, weights="float[4] k = {1.0,1.0,2.0,2.0}", opset=13),
    Row("antialias", 'd = Resize<mode="linear", antialias=1>(c, , , k)', 8, weights="int64[4] k = {1,8,3,3}", opset=18),
    Row(
        "sizes that are computed",
        "s = Shape(c)\nt = Slice(s, b, f)\nk = Concat<axis=0>(t, o)\nd = Resize(c, , , k)",
        8,
        weights="int64[1] b = {0}, int64[1] f = {2}, int64[2] o = {9, 9}",
    ),
    Row(
        "scales that are computed",
        "s = Shape(c)\nf = Cast<to=1>(s)\nt = Slice(f, b, g)\nu = Div(t, t)\nw = Mul(u, q)\nk = Concat<axis=0>(o, w)\n"
        "d = Resize(c, , k)",
        8,
        weights="int64[1] b = {2}, int64[1] g = {4}, float q = {2.0}, float[2] o = {1.0, 1.0}",
    ),
    Row(
        "expand to what is known at run time",
        "s = Shape(e)\nf = Cast<to=1>(s)\nr = Relu(f)\nk = Cast<to=7>(r)\np = GlobalAveragePool(c)\nd = Expand(p, k)",
        0,
        fixed={"w_in": "Expand 'd' depends on 'k'", "w_e": "no Conv"},
    ),
]
NORMALIZED = [
    Row(
        "batch norm of every pixel, opset 7",
        "d = BatchNormalization<spatial=0>(c, s, b, m, v)",
        8,
        weights="float[8,6,6] s, float[8,6,6] b, float[8,6,6] m, float[8,6,6] v",
        fixed=dict.fromkeys("sbmv", "BatchNormalization 'd' joins it with an axis that stays"),
        opset=7,
    ),
    Row("response over channels", "d = LRN<size=3>(c)", 0, fixed={"w_in": "LRN 'd' normalizes over it"}),
    Row("mean and variance", "d = MeanVarianceNormalization(c)", 8),
    Row(
        "mean and variance of channels",
        "d = MeanVarianceNormalization<axes=[1,2,3]>(c)",
        0,
        fixed={"w_in": "MeanVarianceNormalization 'd' normalizes over it"},
    ),
    Row("root mean square", "d = RMSNormalization<axis=2>(c, s)", 8, 1, "float[6,6] s", {"s": "RMSN"}, opset=23),
    Row("lp of rows", "d = LpNormalization<axis=2>(c)", 8),
    Row("lp of channels", "d = LpNormalization<axis=1>(c)", 0, fixed={"w_in": "LpNormalization 'd' mixes"}),
]
OLD = [
    Row(
        "batch norm, opset 7",
        "d = BatchNormalization(c, s, b, m, v)",
        8,
        weights="float[8] s, float[8] b, float[8] m, float[8] v",
        opset=7,
    ),
    Row("dropout, opset 7", "d = Dropout<ratio=0.5>(c)", 8, opset=7),
    Row(
        "dropout, opset 12, its mask too",
        "p, m = Dropout(c, r, t)\nf = Cast<to=1>(m)\nd = Mul(p, f)",
        8,
        weights="float r = {0.5}, bool t = {0}",
        opset=12,
    ),
    Row("clip, opset 6", "d = Clip<min=-1.0, max=1.0>(c)", 8, opset=7),
    Row("add, opset 7", "d = Add(c, k)", 8, weights="float[8,1,1] k", opset=7),
    Row("squeeze and unsqueeze, opset 7", "u = Unsqueeze<axes=[0, 5]>(c)\nd = Squeeze<axes=[0, 5]>(u)", 8, opset=7),
    Row("pad, opset 7", "d = Pad<pads=[0,1,0,0,0,0,0,0]>(c)", 9, 2, opset=7),
    Row("top k, opset 7", "d, i = TopK<axis=2, k=3>(c)", 8, opset=7),
    Row("reduce, opset 7", "d = ReduceSum<axes=[2,3]>(c)", 8, opset=7),
    Row(
        "reduce by an empty list of axes",
        "d = ReduceSum<noop_with_empty_axes=1>(c, k)",
        8,
        weights="int64[0] k",
        opset=13,
    ),
    Row("slice without axes, opset 7", "d = Slice<starts=[0,0,1], ends=[1,99,-1]>(c)", 8, opset=7),
    Row(
        "average pool, opset 7",
        "d = AveragePool<kernel_shape=[2,2], count_include_pad=1, pads=[1,1,1,1]>(c)",
        8,
        opset=7,
    ),
    Row("bits seen otherwise", "i = BitCast<to=6>(c)\nd = BitCast<to=1>(i)", 8, opset=26),
    Row("upsample, opset 9", 'd = Upsample<mode="linear">(c, k)', 8, weights="float[4] k = {1.0,1.0,2.0,2.0}", opset=9),
    Row("reduce by a negative axis, opset 11", "d = ReduceMax<axes=[-1]>(c)", 8, opset=11),
    Row("hardmax, opset 11", "d = Hardmax<axis=3>(c)", 8, opset=11),
    Row("max pool, opset 7", "d = MaxPool<kernel_shape=[2,2]>(c)", 8, opset=7),
    Row("slope, opset 7", "d = PRelu(c, s)", 8, weights="float[8,1,1] s", opset=7),
    Row("least of one, opset 8", "d = Min(c)", 8, opset=8),
]


@pytest.mark.parametrize("row", SAMPLE, ids=str)
def test_sample(row):
    check_row(row)


@pytest.mark.parametrize("row", TRANSFORM, ids=str)
def test_transform(row):
    check_row(row)


@pytest.mark.parametrize("row", RESIZE, ids=str)
def test_resize(row):
    check_row(row)


@pytest.mark.parametrize("row", NORMALIZED, ids=str)
def test_normalization(row):
    check_row(row)


@pytest.mark.parametrize("row", OLD, ids=str)
def test_old_opsets(row):
    check_row(row)
