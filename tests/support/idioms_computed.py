"""Layers that exporters take to pieces, and networks whose blocks cut and join features, with the groups to expect."""

from __future__ import annotations

from support.idioms import CONV3, HEAD, Idiom, longs

TOKENS = "float[N,4,6] x"
AROUND = "wi 6,16;w2 16,12;w3 12,10;w 10,5"
TAIL = "h = MatMul(n, w2)\nk = Relu(h)\nu = MatMul(k, w3)\ny = MatMul(u, w)"

LAYER_NORM = (
    "m = ReduceMean<axes=[{axes}]>(e)\nd = Sub(e, m)\np = Pow(d, two)\nvr = ReduceMean<axes=[{axes}]>(p)\n"
    "va = Add(vr, eps)\nq = Sqrt(va)\nz = Div(d, q)\ng = Mul(z, gain)\nn = Add(g, shift)\n"
)
RMS_NORM = (
    "p = Pow(e, two)\nvr = ReduceMean<axes=[-1]>(p)\nva = Add(vr, eps)\nq = Sqrt(va)\nr = Reciprocal(q)\n"
    "z = Mul(e, r)\nn = Mul(z, gain)\n"
)
GELU_ERF = "c = Div(a, root2)\nd = Erf(c)\nf = Add(d, one)\ng = Mul(a, f)\nn = Mul(g, half)\n"
GELU_TANH = (
    "c = Pow(a, three)\nd = Mul(c, small)\nf = Add(a, d)\ng = Mul(f, root)\nt = Tanh(g)\ni = Add(t, one)\n"
    "j = Mul(a, half)\nn = Mul(j, i)\n"
)
SCALARS = "float two = {2.0}, float eps = {0.00001}"
NUMBERS = (
    "float root2 = {1.4142135}, float one = {1.0}, float half = {0.5}, float three = {3.0}, float small = {0.044715}, "
    "float root = {0.7978846}"
)
PIECES = [
    Idiom("LayerNorm", AROUND + ";gain 16;shift 16", "e = MatMul(x, wi)\n" + LAYER_NORM.format(axes=-1) + TAIL,
        (12, 10), x=TOKENS, numbers=SCALARS, reasons={"wi": "ReduceMean 'm' reduces over it"}),
    Idiom("LayerNorm over images", "w1 8,3,3,3;gain 8,1,1;shift 8,1,1;w2 6,8,1,1;w3 5,6,1,1",
        f"e = {CONV3}(x, w1)\n" + LAYER_NORM.format(axes=1) + "h = Conv(n, w2)\ny = Conv(h, w3)", (6,), numbers=SCALARS,
        reasons=dict.fromkeys(("w1", "gain", "shift"), "ReduceMean 'm' reduces over it")),
    Idiom("RMSNorm", AROUND + ";gain 16", "e = MatMul(x, wi)\n" + RMS_NORM + TAIL, (12, 10), x=TOKENS, numbers=SCALARS,
        reasons={"wi": "ReduceMean 'vr' reduces over it"}),
    Idiom("GELU by erf", AROUND, "a = MatMul(x, wi)\n" + GELU_ERF + TAIL, (16, 12, 10), x=TOKENS, numbers=NUMBERS),
    Idiom("GELU by tanh", AROUND, "a = MatMul(x, wi)\n" + GELU_TANH + TAIL, (16, 12, 10), x=TOKENS, numbers=NUMBERS),
    Idiom("SiLU and gate", "wi 6,16;wg 6,16;w2 16,12;w3 12,10;w 10,5",
        "a = MatMul(x, wi)\ns0 = Sigmoid(a)\nb = Mul(a, s0)\nc = MatMul(x, wg)\nn = Mul(b, c)\n" + TAIL, (16, 12, 10),
        x=TOKENS),
    Idiom("GRN", "wi 3,12;w2 12,6;gain 12;shift 12;w 6,5",
        "e = MatMul(x, wi)\ng = ReduceL2<axes=[1,2]>(e)\nm = ReduceMean<axes=[-1]>(g)\nma = Add(m, eps)\n"
        "r = Div(g, ma)\nt = Mul(e, r)\nu = Mul(t, gain)\no = Add(u, shift)\nn = Add(o, e)\n"
        "h = MatMul(n, w2)\ny = MatMul(h, w)", (6,), x="float[N,4,4,3] x", numbers=SCALARS,
        reasons={"wi": "ReduceMean 'm' reduces over it"}),
    Idiom("ConvNeXt block", "w1 8,3,1,1;wd 8,1,3,3;gain 8;shift 8;wu 8,16;wv 16,8;gamma 8;w 5,8;bias 5",
        "a0 = Conv(x, w1)\nc0 = Conv<group=8, pads=[1,1,1,1]>(a0, wd)\ne = Transpose<perm=[0,2,3,1]>(c0)\n"
        + LAYER_NORM.format(axes=-1) + "a1 = MatMul(n, wu)\nc1 = Relu(a1)\nh = MatMul(c1, wv)\nl = Mul(gamma, h)\n"
        "i = Transpose<perm=[0,3,1,2]>(l)\n"
        "z1 = Add(a0, i)\npo = GlobalAveragePool(z1)\nf = Flatten(po)\ny = Gemm<transB=1>(f, w, bias)", (16,),
        numbers=SCALARS, reasons={"w1": "ReduceMean 'm'", "wd": "ReduceMean 'm'", "wv": "ReduceMean 'm'"}),
]  # fmt: skip

# torch.nn.functional.pad by tracing: the pads of the last axes are filled up with zeros and turned round.
TORCH_PADS = (
    "missing = Sub(eight, six)\nnone = ConstantOfShape<value = int64[1] {0}>(missing)\n"
    "list = Concat<axis=0>(ends, none)\npairs = Reshape(list, two_wide)\n"
    "back = Slice(pairs, last, first, ax0, last)\nrows = Transpose<perm=[1,0]>(back)\n"
    "flat = Reshape(rows, whole)\npads = Cast<to=7>(flat)\n"
)
HALVES = longs(lo=[0], hi=[1], big=[2**62], ax2=[2], ax3=[3], by2=[2])


def corners(source: str) -> str:
    """Cut the even and odd rows and columns out of an image."""
    return "".join(
        f"r{row}{column} = Slice({source}, {row}, big, ax2, by2)\n"
        f"c{row}{column} = Slice(r{row}{column}, {column}, big, ax3, by2)\n"
        for column in ("lo", "hi")
        for row in ("lo", "hi")
    )


CORNERS = "clolo, chilo, clohi, chihi"
BLOCKS = [
    Idiom("Focus", "w1 8,12,3,3;w2 6,8,3,3;w 5,6;bias 5", corners("x") + f"q = Concat<axis=1>({CORNERS})\n"
        f"a = {CONV3}(q, w1)\nz = {CONV3}(a, w2)\n{HEAD}", (8, 6), numbers=HALVES),
    Idiom("space to depth by slices", "w1 6,3,3,3;w2 8,24,1,1;w 5,8;bias 5", f"a = {CONV3}(x, w1)\n" + corners("a")
        + f"q = Concat<axis=1>({CORNERS})\nz = Conv(q, w2)\n{HEAD}", (6, 8), numbers=HALVES),
    Idiom("pixel shuffle from parts", "w1 16,3,3,3;w2 6,4,3,3;w 5,6;bias 5",
        f"a = {CONV3}(x, w1)\nb = Reshape(a, split)\nc = Transpose<perm=[0,1,4,2,5,3]>(b)\nd = Reshape(c, large)\n"
        f"z = {CONV3}(d, w2)\n{HEAD}", (4, 6), numbers=longs(split=[-1, 4, 2, 2, 8, 8], large=[-1, 4, 16, 16])),
    Idiom("grouped 1x1 chain", "w1 12,3,1,1;w2 12,6,1,1;w3 12,4,1,1;w4 12,3,1,1;w5 6,12,1,1;w 5,6;bias 5",
        "a = Conv(x, w1)\nb = Conv<group=2>(a, w2)\nc = Relu(b)\nd = Conv<group=3>(c, w3)\ne = Relu(d)\n"
        f"g = Conv<group=4>(e, w4)\nz = Conv(g, w5)\n{HEAD}", (6, 2, 1, 3, 6)),
    Idiom("C2f", "w1 8,3,1,1;wa 4,4,3,3;wb 4,4,3,3;wc 4,4,3,3;wd 4,4,3,3;w2 6,16,1,1;w 5,6;bias 5",
        "a = Conv(x, w1)\nl, r = Split<axis=1>(a, parts)\n"
        f"b = {CONV3}(r, wa)\nc = {CONV3}(b, wb)\nd = Add(r, c)\ne = {CONV3}(d, wc)\ng = {CONV3}(e, wd)\n"
        f"h = Add(d, g)\nq = Concat<axis=1>(l, r, d, h)\nz = Conv(q, w2)\n{HEAD}", (4, 4, 4, 4, 6),
        numbers=longs(parts=[4, 4])),
    Idiom("DFL", "w1 8,3,3,3;w2 16,8,1,1",
        f"a = {CONV3}(x, w1)\nb = Conv(a, w2)\nc = Reshape(b, cells)\nd = Reshape(c, sides)\n"
        "t = Transpose<perm=[0,2,1,3]>(d)\np = Softmax<axis=1>(t)\nq = Conv(p, bins)\ny = Reshape(q, boxes)", (8,),
        numbers=longs(cells=[0, 16, 64], sides=[0, 4, 4, 64], boxes=[0, 4, 64])
        + ", float[1,4,1,1] bins = {0.0, 1.0, 2.0, 3.0}",
        reasons={"w2": "Conv 'q' slides over it"}),
    Idiom("option-A shortcut, pads computed", "w1 4,3,1,1;w2 6,4,3,3;w3 8,6,3,3;w 5,8;bias 5",
        f"r = Conv(x, w1)\nd = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)\ng = Relu(d)\nh = {CONV3}(g, w3)\n"
        "q0 = Slice(r, lo, big, ax2, by2)\nq = Slice(q0, lo, big, ax3, by2)\n" + TORCH_PADS
        + f"t = Pad(q, pads)\nz = Add(h, t)\n{HEAD}", (4, 6, 4),
        numbers=HALVES + ", " + longs(eight=[8], six=[6], ends=[0, 0, 0, 0, 2, 2], two_wide=[-1, 2], last=[-1],
            first=[-(2**62)], ax0=[0], whole=[-1])),
    Idiom("CRNN", "w1 6,3,3,3;wx 1,16,24;wr 1,16,4;bb 1,32;w2 5,4,3;w3 4,5,1",
        f"a = {CONV3}(x, w1)\nb = MaxPool<kernel_shape=[2,1], strides=[2,1]>(a)\nc = Transpose<perm=[3,0,1,2]>(b)\n"
        "s = Reshape(c, steps)\nh = LSTM<hidden_size=4>(s, wx, wr, bb)\nd = Squeeze(h, ax1)\n"
        "e = Transpose<perm=[1,2,0]>(d)\ng = Conv<pads=[1,1]>(e, w2)\ny = Conv(g, w3)", (6, 4, 5),
        numbers=longs(steps=[0, 0, -1], ax1=[1])),
]  # fmt: skip
