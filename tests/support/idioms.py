"""How layers are put together in real networks, with the sizes of the groups to expect."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from support.graphs import build

IMAGE = "float[N,3,8,8] x"
BN = "float[{0}] s{1}, float[{0}] b{1}, float[{0}] m{1}, float[{0}] v{1}"


def bn(source: str, target: str, number: int) -> str:
    return f"{target} = BatchNormalization({source}, s{number}, b{number}, m{number}, v{number})\n"


@dataclass(frozen=True)
class Idiom:
    """A network: weights as `name shape` pairs, nodes, and the expected sizes of its groups."""

    name: str
    weights: str
    nodes: str
    groups: tuple[int, ...]
    x: str = IMAGE
    numbers: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return self.name

    def model(self):
        declared = [f"float[{shape}] {name}" for name, shape in re.findall(r"(\w+) ([\d,]+)(?:;|$)", self.weights)]
        return build(
            f"g ({self.x}) => (y) <{', '.join([*declared, *([self.numbers] if self.numbers else [])])}> {{\n"
            f"{self.nodes}\n}}"
        )


def longs(**lists: list[int]) -> str:
    """Declare vectors of integers."""
    return ", ".join(f"int64[{len(n)}] {name} = {{{','.join(map(str, n))}}}" for name, n in lists.items())


def norms(*sizes: int) -> str:
    return ", ".join(BN.format(size, number) for number, size in enumerate(sizes, 1))


HEAD = "p = GlobalAveragePool(z)\nf = Flatten(p)\ny = Gemm<transB=1>(f, w, bias)"
CONV3 = "Conv<pads=[1,1,1,1]>"

CONVOLUTIONAL = [
    Idiom("residual, identity", "w1 8,3,3,3;w2 6,8,3,3;w3 8,6,3,3;w 5,8;bias 5",
        f"a = {CONV3}(x, w1)\n{bn('a', 'c', 1)}r = Relu(c)\nd = {CONV3}(r, w2)\n{bn('d', 'e', 2)}g = Relu(e)\n"
        f"h = {CONV3}(g, w3)\n{bn('h', 'i', 3)}z1 = Add(i, r)\nz = Relu(z1)\n{HEAD}", (8, 6), numbers=norms(8, 6, 8)),
    Idiom("residual, projection", "w1 8,3,1,1;w2 6,8,3,3;w3 10,6,3,3;wp 10,8,1,1;w 5,10;bias 5",
        f"r = Conv(x, w1)\nd = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)\ng = Relu(d)\nh = {CONV3}(g, w3)\n"
        f"q = Conv<strides=[2,2]>(r, wp)\nz = Add(h, q)\n{HEAD}", (8, 6, 10)),
    Idiom("option-A shortcut", "w1 4,3,1,1;w2 6,4,3,3;w3 8,6,3,3;w 5,8;bias 5",
        f"r = Conv(x, w1)\nd = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)\ng = Relu(d)\nh = {CONV3}(g, w3)\n"
        "q = Slice(r, k0, big, ax, st)\nt = Pad(q, pads)\n" + f"z = Add(h, t)\n{HEAD}", (4, 6, 4),
        numbers="int64[2] k0 = {0,0}, int64[2] big = {99,99}, int64[2] ax = {2,3}, int64[2] st = {2,2}, "
        "int64[8] pads = {0,2,0,0,0,2,0,0}"),
    Idiom("DenseNet", "w1 6,3,1,1;w2 4,6,3,3;w3 4,10,3,3;w 5,14;bias 5",
        f"a = Conv(x, w1)\n{bn('a', 'a1', 1)}c = {CONV3}(a1, w2)\nd = Concat<axis=1>(a, c)\n{bn('d', 'd1', 2)}"
        f"r = Relu(d1)\ne = {CONV3}(r, w3)\ng = Concat<axis=1>(a, c, e)\n{bn('g', 'z', 3)}{HEAD}", (6, 4, 4),
        numbers=norms(6, 10, 14)),
    Idiom("SE gate", "w1 8,3,3,3;wa 2,8,1,1;wb 8,2,1,1;w 5,8;bias 5",
        f"c = {CONV3}(x, w1)\ng = GlobalAveragePool(c)\nh = Conv(g, wa)\ni = Relu(h)\nj = Conv(i, wb)\n"
        f"k = Sigmoid(j)\nz = Mul(c, k)\n{HEAD}", (8, 2)),
    Idiom("inverted residual", "w1 4,3,1,1;we 12,4,1,1;wd 12,1,3,3;wp 4,12,1,1;w 5,4;bias 5",
        "a = Conv(x, w1)\nc = Conv(a, we)\nd = Clip(c, lo, hi)\n"
        f"e = Conv<group=12, pads=[1,1,1,1]>(d, wd)\nh = Conv(e, wp)\nz = Add(h, a)\n{HEAD}", (4, 12),
        numbers="float lo = {0.0}, float hi = {6.0}"),
    Idiom("ShuffleNet v1", "w1 8,3,1,1;wa 8,4,1,1;wd 8,1,3,3;wb 8,4,1,1;w 5,8;bias 5",
        "a = Conv(x, w1)\nc = Conv<group=2>(a, wa)\nr = Reshape(c, k1)\nt = Transpose<perm=[0,2,1,3,4]>(r)\n"
        "u = Reshape(t, k2)\nd = Conv<group=8, pads=[1,1,1,1]>(u, wd)\ne = Conv<group=2>(d, wb)\nz = Add(a, e)\n"
        + HEAD,
        (4, 2), numbers="int64[5] k1 = {-1,2,4,8,8}, int64[4] k2 = {-1,8,8,8}"),
    Idiom("ShuffleNet v2", "w1 8,3,1,1;wa 4,4,1,1;wd 4,1,3,3;wb 4,4,1,1;w 5,8;bias 5",
        "a = Conv(x, w1)\nl, o = Split<axis=1>(a)\nc = Conv(o, wa)\nd = Conv<group=4, pads=[1,1,1,1]>(c, wd)\n"
        "e = Conv(d, wb)\nq = Concat<axis=1>(l, e)\nr = Reshape(q, k1)\nt = Transpose<perm=[0,2,1,3,4]>(r)\n"
        "z = Reshape(t, k2)\n" + HEAD,
        (4, 4), numbers="int64[5] k1 = {-1,2,4,8,8}, int64[4] k2 = {-1,8,8,8}"),
    Idiom("GhostNet", "w1 6,3,1,1;wg 6,1,3,3;w2 8,12,1,1;w 5,8;bias 5",
        "a = Conv(x, w1)\nc = Conv<group=6, pads=[1,1,1,1]>(a, wg)\nd = Concat<axis=1>(a, c)\nz = Conv(d, w2)\n" + HEAD,
        (6, 8)),
    Idiom("Inception", "w1 4,3,1,1;w2 6,3,3,3;w3 3,3,1,1;w 5,16;bias 5",
        f"a = Conv(x, w1)\nc = {CONV3}(x, w2)\nm = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)\nd = Conv(m, w3)\n"
        f"z = Concat<axis=1>(a, c, d, x)\n{HEAD}", (4, 6, 3)),
    Idiom("U-Net", "w1 6,3,3,3;w2 8,6,3,3;wu 8,6,2,2;w3 7,12,3,3;w4 2,7,1,1",
        f"a = {CONV3}(x, w1)\nq = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)\nc = {CONV3}(q, w2)\n"
        f"u = ConvTranspose<strides=[2,2]>(c, wu)\nd = Concat<axis=1>(a, u)\ne = {CONV3}(d, w3)\ny = Conv(e, w4)",
        (6, 8, 6, 7)),
    Idiom("PixelShuffle", "w1 8,3,3,3;w2 16,8,3,3;w3 3,4,3,3",
        f'a = {CONV3}(x, w1)\nr = Relu(a)\nc = {CONV3}(r, w2)\nd = DepthToSpace<blocksize=2, mode="CRD">(c)\n'
        f"y = {CONV3}(d, w3)", (8, 4)),
    Idiom("siamese", "w1 8,3,1,1;w2 6,8,1,1;w 5,12;bias 5",
        "xf = Neg(x)\na = Conv(x, w1)\nc = Relu(a)\nd = Conv(c, w2)\nb = Conv(xf, w1)\ne = Relu(b)\ng = Conv(e, w2)\n"
        f"z = Concat<axis=1>(d, g)\n{HEAD}", (8, 6)),
    Idiom("flatten, NCHW", "w1 8,3,1,1;w2 6,512;w 5,6", "a = Conv(x, w1)\nr = Relu(a)\nf = Flatten(r)\n"
        "h = Gemm<transB=1>(f, w2)\ni = Relu(h)\ny = Gemm<transB=1>(i, w)", (8, 6)),
    Idiom("flatten, NHWC", "w1 8,3,1,1;w2 512,6;w 6,5", "a = Conv(x, w1)\nt = Transpose<perm=[0,2,3,1]>(a)\n"
        "f = Reshape(t, k)\nh = MatMul(f, w2)\ni = Relu(h)\ny = MatMul(i, w)", (8, 6), numbers="int64[2] k = {-1,512}"),
    Idiom("ECA", "w1 8,3,1,1;wk 1,1,3;w2 6,8,1,1;w 5,6;bias 5",
        "a = Conv(x, w1)\ng = GlobalAveragePool(a)\nq = Squeeze(g, k3)\nt = Transpose<perm=[0,2,1]>(q)\n"
        "e = Conv<pads=[1,1]>(t, wk)\ni = Transpose<perm=[0,2,1]>(e)\nj = Unsqueeze(i, k3)\nh = Sigmoid(j)\n"
        f"m = Mul(a, h)\nz = Conv(m, w2)\n{HEAD}", (6,), numbers="int64[1] k3 = {3}",
        reasons={"w1": "Conv 'e' slides over it"}),
    Idiom("Keras NHWC", "w1 8,3,3,3;b1 8;w2 6,8,3,3;b2 6;w 6,5;bias 5",
        "xt = Transpose<perm=[0,3,1,2]>(x)\n"
        f"a = {CONV3}(xt, w1)\nt = Transpose<perm=[0,2,3,1]>(a)\nd = Add(t, b1)\nr = Relu(d)\n"
        f"u = Transpose<perm=[0,3,1,2]>(r)\ne = {CONV3}(u, w2)\ni = Transpose<perm=[0,2,3,1]>(e)\nj = Add(i, b2)\n"
        "m = ReduceMean<axes=[1,2], keepdims=0>(j)\nh = MatMul(m, w)\ny = Add(h, bias)", (8, 6), x="float[N,8,8,3] x"),
    Idiom("torch GroupNorm", "w1 8,3,3,3;g1 8,1,1;b1 8,1,1;w2 5,8,1,1",
        f"a = {CONV3}(x, w1)\nr = Reshape(a, k1)\nn = InstanceNormalization(r, si, bi)\nt = Shape(a)\n"
        "q = Reshape(n, t)\nd = Mul(q, g1)\ne = Add(d, b1)\ny = Conv(e, w2)", (4,),
        numbers="int64[3] k1 = {0,4,-1}, float[4] si = {1,1,1,1}, float[4] bi = {0,0,0,0}"),
    Idiom("PRelu and dropout", "w1 8,3,3,3;k 8,1,1;w2 5,8,1,1",
        f"a = {CONV3}(x, w1)\nc = PRelu(a, k)\nd, mask = Dropout(c)\ny = Conv(d, w2)", (8,)),
    Idiom("space to depth stem", "w1 8,12,3,3;w2 5,8,1,1",
        f"q = SpaceToDepth<blocksize=2>(x)\na = {CONV3}(q, w1)\ny = Conv(a, w2)", (8,)),
]  # fmt: skip

ATTENTION = (
    "q = MatMul(e, wq)\nk = MatMul(e, wk)\nv = MatMul(e, wv)\nqb = Add(q, bq)\n"
    "qr = Reshape(qb, heads)\nkr = Reshape(k, heads)\nvr = Reshape(v, heads)\n"
    "qt = Transpose<perm=[0,2,1,3]>(qr)\nkt = Transpose<perm=[0,2,3,1]>(kr)\nvt = Transpose<perm=[0,2,1,3]>(vr)\n"
    "qk = MatMul(qt, kt)\nsc = Div(qk, root)\nat = Softmax(sc)\nav = MatMul(at, vt)\n"
    "o = Transpose<perm=[0,2,1,3]>(av)\nor = Reshape(o, merged)\nh = MatMul(or, wo)\n"
)
SEQUENTIAL = [
    Idiom("attention", "wi 6,16;wq 16,24;wk 16,24;wv 16,24;wo 24,16;bq 24;w 16,5",
        f"e = MatMul(x, wi)\n{ATTENTION}z = Add(h, e)\ny = MatMul(z, w)", (16, 4), x="float[N,7,6] x",
        numbers="int64[4] heads = {0,0,4,6}, int64[3] merged = {0,0,24}, float root = {2.0}"),
    Idiom("attention, normalized", "wi 6,16;wq 16,24;wk 16,24;wv 16,24;wo 24,16;bq 24;s1 16;b1 16;w 16,5",
        "e0 = MatMul(x, wi)\ne = LayerNormalization(e0, s1, b1)\n" + ATTENTION + "z = Add(h, e)\ny = MatMul(z, w)",
        (4,), x="float[N,7,6] x", reasons={"wi": "LayerNormalization 'e'", "wo": "LayerNormalization 'e'"},
        numbers="int64[4] heads = {0,0,4,6}, int64[3] merged = {0,0,24}, float root = {2.0}"),
    Idiom("MLP with GELU", "w1 6,16;b1 16;w2 16,12;s1 12;b3 12;w3 12,10;w 10,5",
        "a = MatMul(x, w1)\nb = Add(a, b1)\nc = Div(b, r2)\nd = Erf(c)\ne = Add(d, one)\nf = Mul(b, e)\n"
        "g = Mul(f, half)\nh = MatMul(g, w2)\ni = LayerNormalization(h, s1, b3)\nj = MatMul(i, w3)\nk = Relu(j)\n"
        "y = MatMul(k, w)", (16, 10), x="float[N,7,6] x", reasons={"w2": "LayerNormalization 'i'"},
        numbers="float r2 = {1.4142}, float one = {1.0}, float half = {0.5}"),
    Idiom("text CNN", "table 30,8;w1 6,8,3;w2 4,8,5;w 10,5;bias 5",
        "e = Gather(table, x)\nt = Transpose<perm=[0,2,1]>(e)\na = Conv(t, w1)\nc = Conv(t, w2)\n"
        "p = GlobalMaxPool(a)\nq = GlobalMaxPool(c)\nd = Concat<axis=1>(p, q)\nf = Flatten(d)\ny = Gemm(f, w, bias)",
        (8, 6, 4), x="int64[N,9] x", reasons={"table": "Gather 'e' looks up"}),
    Idiom("packed attention, one matrix", "wi 6,16;wp 16,36;wo 12,16;w 16,5",
        "e = MatMul(x, wi)\np = MatMul(e, wp)\nr = Reshape(p, five)\nt = Transpose<perm=[2,0,3,1,4]>(r)\n"
        "q = Gather<axis=0>(t, k0)\nk = Gather<axis=0>(t, k1)\nv = Gather<axis=0>(t, k2)\n"
        "kt = Transpose<perm=[0,1,3,2]>(k)\nqk = MatMul(q, kt)\nat = Softmax(qk)\nav = MatMul(at, v)\n"
        "o = Transpose<perm=[0,2,1,3]>(av)\nm = Reshape(o, merged)\nh = MatMul(m, wo)\ny = MatMul(h, w)",
        (16, 4, 16), x="float[N,7,6] x",
        numbers="int64[5] five = {0,0,3,4,3}, int64[3] merged = {0,0,12}, int64 k0 = {0}, int64 k1 = {1}, "
        "int64 k2 = {2}"),
]  # fmt: skip
