"""Attention and what stands around it in transformers, as exporters write it, with the sizes of the groups to expect.

e has 16 features; the heads are 4, each 3 wide, unless said otherwise.
"""

from __future__ import annotations

from support.idioms import Idiom, longs

TOKENS = "float[N,4,6] x"
IN = "e = MatMul(x, wi)\n"
OUT = "h = MatMul(om, wo)\ny = MatMul(h, w)"
WEIGHTS = "wi 6,16;wq 16,12;wk 16,12;wv 16,12;bq 12;bk 12;bv 12;wo 12,10;w 10,5"
PACKED = "wi 6,16;wp 16,36;bp 36;wo 12,10;w 10,5"
PROJECT = "".join(f"{p}0 = MatMul(e, w{p})\n{p}b = Add(b{p}, {p}0)\n" for p in "qkv")
PRODUCT = "qk = MatMul(q, k)\nat = Softmax<axis=-1>(qk)\nav = MatMul(at, v)\n"
MERGE = "ot = Transpose<perm=[0,2,1,3]>(av)\nom = Reshape(ot, merged)\n"


def split(source: str, target: str, shape: str, perm: str = "0,2,1,3") -> str:
    """Reshape into heads and transpose."""
    return f"{target}r = Reshape({source}, {shape})\n{target} = Transpose<perm=[{perm}]>({target}r)\n"


def normalized(name: str) -> str:
    """Normalize the width as torch.nn.functional.normalize is traced."""
    return (
        f"{name}l = ReduceL2<axes=[-1]>({name})\n{name}c = Clip({name}l, tiny)\n{name}sh = Shape({name})\n"
        f"{name}x = Expand({name}c, {name}sh)\n{name}n = Div({name}, {name}x)\n"
    )


SEPARATE = split("qb", "q", "heads") + split("kb", "k", "heads", "0,2,3,1") + split("vb", "v", "heads")
NUMBERS = longs(heads=[0, 4, 4, 3], merged=[0, 4, 12])

# torch.onnx.export of nn.Module.forward by tracing: every size is taken from a Shape, and so is the scale.
TRACED = (
    "sh = Shape(e)\nb0 = Gather<axis=0>(sh, i0)\nt0 = Gather<axis=0>(sh, i1)\nc0 = Gather<axis=0>(sh, i2)\n"
    "b1 = Unsqueeze(b0, ax0)\nt1 = Unsqueeze(t0, ax0)\n"
    "to4 = Concat<axis=0>(b1, t1, four, three)\n"
    + "".join(split(f"{p}b", p, "to4") for p in "qv")
    + "kr = Reshape(kb, to4)\nk2 = Transpose<perm=[0,2,1,3]>(kr)\nk3 = Transpose<perm=[0,1,3,2]>(k2)\n"
    "qs = Shape(q)\nqw = Slice(qs, last, big, ax0)\nqf = Cast<to=1>(qw)\nroot = Sqrt(qf)\ninv = Div(one, root)\n"
    "half = Sqrt(inv)\nq5 = Mul(q, half)\nk5 = Mul(k3, half)\n"
    "qk = MatMul(q5, k5)\nat = Softmax<axis=-1>(qk)\nav = MatMul(at, v)\not = Transpose<perm=[0,2,1,3]>(av)\n"
    "c1 = Mul(four, three)\nto3 = Concat<axis=0>(b1, t1, c1)\nom = Reshape(ot, to3)\n"
)

# The same through paddle2onnx: int32 in between, and a transposed product.
PADDLE = (
    "sh = Shape(e)\nn0 = Slice(sh, c0, c1, ax0)\nt0 = Slice(sh, c1, c2, ax0)\n"
    "n1 = Cast<to=6>(n0)\nt1 = Cast<to=6>(t0)\n"
    "l4 = Concat<axis=0>(n1, t1, four, three)\nto4 = Cast<to=7>(l4)\n"
    + "".join(split(f"{p}b", p, "to4") for p in "qkv")
    + "kt = Transpose<perm=[0,1,3,2]>(k)\nqk = MatMul(q, kt)\nat = Softmax<axis=-1>(qk)\nav = MatMul(at, v)\n"
    "ot = Transpose<perm=[0,2,1,3]>(av)\nl3 = Concat<axis=0>(n1, t1, twelve)\nto3 = Cast<to=7>(l3)\n"
    "om = Reshape(ot, to3)\n"
)
SCALARS = ", ".join(f"int64 i{n} = {{{n}}}" for n in range(3))

# Keras through tf2onnx: an einsum becomes a Gemm and Reshapes to what Shape says of a constant kept for that alone.
TF = (
    "flat = Reshape(e, rows)\nes = Shape(e)\nbt = Gather<axis=0>(es, first2)\n"
    + "".join(
        f"{p}0 = Gemm<transB=1>(flat, {p}w2)\n{p}s = Shape({p}kernel)\n{p}h = Gather<axis=0>({p}s, last2)\n"
        f"{p}to = Concat<axis=0>(bt, {p}h)\n{p}r = Reshape({p}0, {p}to)\n{p}b = Add({p}r, {p}bias)\n"
        for p in "qkv"
    )
    + "q = Transpose<perm=[0,2,1,3]>(qb)\nk = Transpose<perm=[0,2,3,1]>(kb)\nv = Transpose<perm=[0,2,1,3]>(vb)\n"
    + PRODUCT
    + "ot = Transpose<perm=[0,2,1,3]>(av)\nos = Shape(okernel)\nohw = Gather<axis=0>(os, first2)\n"
    "width = ReduceProd<keepdims=1>(ohw)\nback = Concat<axis=0>(minus, width)\n"
    "om2 = Reshape(ot, back)\now = Reshape(okernel, okto)\nh2 = Gemm(om2, ow)\n"
    "hs = Concat<axis=0>(bt, ten)\nh = Reshape(h2, hs)\ny = MatMul(h, w)"
)

SWIN_ROLL = (
    "r1 = Slice(e4, two, big, ax1)\nr2 = Slice(e4, zero, two, ax1)\nr3 = Concat<axis=1>(r1, r2)\n"
    "r4 = Slice(r3, two, big, ax2)\nr5 = Slice(r3, zero, two, ax2)\nrolled = Concat<axis=2>(r4, r5)\n"
)
SWIN_UNROLL = (
    "u1 = Slice(m4, minus2, big, ax1)\nu2 = Slice(m4, zero, minus2, ax1)\nu3 = Concat<axis=1>(u1, u2)\n"
    "u4 = Slice(u3, minus2, big, ax2)\nu5 = Slice(u3, zero, minus2, ax2)\nz4 = Concat<axis=2>(u4, u5)\n"
)
BIAS_TABLE = (
    "picked = Gather<axis=0>(table, index)\ncube = Reshape(picked, square)\nper_head = Transpose<perm=[2,0,1]>(cube)\n"
    "bias4 = Unsqueeze(per_head, ax0)\n"
)
# An image of 8x8 tokens in windows of 4x4, rolled by 2.
SWIN = (
    "e3 = MatMul(x, wi)\ne4 = Reshape(e3, image)\n" + SWIN_ROLL + "w6 = Reshape(rolled, windows)\n"
    "wt = Transpose<perm=[0,1,3,2,4,5]>(w6)\ntk = Reshape(wt, tokens)\n"
    "p = MatMul(tk, wp)\npr = Reshape(p, packed)\npt = Transpose<perm=[2,0,3,1,4]>(pr)\n"
    "q = Gather<axis=0>(pt, i0)\nk0 = Gather<axis=0>(pt, i1)\nv = Gather<axis=0>(pt, i2)\n"
    "k = Transpose<perm=[0,1,3,2]>(k0)\nqk0 = MatMul(q, k)\n" + BIAS_TABLE + "qk = Add(qk0, bias4)\n"
    "at = Softmax<axis=-1>(qk)\nav = MatMul(at, v)\not = Transpose<perm=[0,2,1,3]>(av)\nom = Reshape(ot, merged)\n"
    "h = MatMul(om, wo)\nh6 = Reshape(h, windowed)\nht = Transpose<perm=[0,1,3,2,4,5]>(h6)\nm4 = Reshape(ht, image)\n"
    + SWIN_UNROLL
    + "z = Add(z4, e4)\nzs = Reshape(z, sequence)\ny = MatMul(zs, w)"
)


def swin_numbers() -> str:
    """Shapes of the Swin block, and the pairs of its table: a window of 16 tokens, 49 relative positions."""
    row, column = [i // 4 for i in range(16)], [i % 4 for i in range(16)]
    pairs = [(row[i] - row[j] + 3) * 7 + column[i] - column[j] + 3 for i in range(16) for j in range(16)]
    shapes = longs(
        image=[-1, 8, 8, 12], windows=[-1, 2, 4, 2, 4, 12], tokens=[-1, 16, 12], packed=[-1, 16, 3, 4, 3],
        merged=[-1, 16, 12], windowed=[-1, 2, 2, 4, 4, 12], sequence=[-1, 64, 12], square=[16, 16, 4], index=pairs,
        two=[2], zero=[0], minus2=[-2], big=[2**62], ax0=[0], ax1=[1], ax2=[2],
    )  # fmt: skip
    return f"{shapes}, {SCALARS}"


ATTENTIONS = [
    Idiom("torch, traced", WEIGHTS, IN + PROJECT + TRACED + OUT, (16, 4, 10), x=TOKENS,
        numbers=longs(ax0=[0], four=[4], three=[3], last=[-1], big=[2**62]) + f", {SCALARS}, float[1] one = {{1.0}}"),
    Idiom("torch, dynamo", WEIGHTS, IN + PROJECT + SEPARATE + "q2 = Mul(q, half)\nk2 = Mul(k, half)\n"
        + PRODUCT.replace("(q, k)", "(q2, k2)") + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=NUMBERS + ", float half = {0.7598}"),
    Idiom("packed, Split of a 3-axis", PACKED, IN + "p0 = MatMul(e, wp)\np1 = Add(bp, p0)\np2 = Reshape(p1, five)\n"
        "p = Transpose<perm=[2,0,3,1,4]>(p2)\nq1, k1, v1 = Split<axis=0>(p, parts)\nq = Squeeze(q1, ax0)\n"
        "k2 = Squeeze(k1, ax0)\nv = Squeeze(v1, ax0)\nk = Transpose<perm=[0,1,3,2]>(k2)\n" + PRODUCT + MERGE + OUT,
        (16, 4, 10), x=TOKENS, numbers=longs(five=[0, 4, 3, 4, 3], merged=[0, 4, 12], parts=[1, 1, 1], ax0=[0])),
    Idiom("packed, Slice of a 3-axis", PACKED, IN + "p0 = MatMul(e, wp)\np1 = Add(bp, p0)\np2 = Reshape(p1, five)\n"
        "p = Transpose<perm=[2,0,3,1,4]>(p2)\nq1 = Slice(p, c0, c1, ax0)\nk1 = Slice(p, c1, c2, ax0)\n"
        "v1 = Slice(p, c2, c3, ax0)\nq = Squeeze(q1, ax0)\nk2 = Squeeze(k1, ax0)\nv = Squeeze(v1, ax0)\n"
        "k = Transpose<perm=[0,1,3,2]>(k2)\n" + PRODUCT + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=longs(five=[0, 4, 3, 4, 3], merged=[0, 4, 12], c0=[0], c1=[1], c2=[2], c3=[3], ax0=[0])),
    Idiom("packed, Split of the features", PACKED, IN + "p0 = MatMul(e, wp)\np1 = Add(bp, p0)\n"
        "qb, kb, vb = Split<axis=-1>(p1, parts)\n" + SEPARATE + PRODUCT + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=NUMBERS + ", " + longs(parts=[12, 12, 12])),
    Idiom("packed per head", PACKED, IN + "p0 = MatMul(e, wp)\np1 = Add(bp, p0)\np2 = Reshape(p1, four)\n"
        "p = Transpose<perm=[0,2,1,3]>(p2)\nq, k2, v = Split<axis=-1>(p, parts)\nk = Transpose<perm=[0,1,3,2]>(k2)\n"
        + PRODUCT + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=longs(four=[0, 4, 4, 9], parts=[3, 3, 3], merged=[0, 4, 12])),
    Idiom("heads folded into the batch", WEIGHTS, IN + PROJECT + SEPARATE
        + "q3 = Reshape(q, three)\nk3 = Reshape(k, turned)\nv3 = Reshape(v, three)\nqk = MatMul(q3, k3)\n"
        "at = Softmax<axis=-1>(qk)\nav3 = MatMul(at, v3)\nav = Reshape(av3, unfolded)\n" + MERGE + OUT, (16, 4, 10),
        x="float[2,4,6] x",
        numbers=NUMBERS + ", " + longs(three=[8, 4, 3], turned=[8, 3, 4], unfolded=[2, 4, 4, 3])),
    Idiom("tf2onnx", "wi 6,16;qw2 12,16;kw2 12,16;vw2 12,16;qbias 4,3;kbias 4,3;vbias 4,3;qkernel 1,1,16,4,3;"
        "kkernel 1,1,16,4,3;vkernel 1,1,16,4,3;okernel 4,3,10;w 10,5", IN + TF, (16, 4, 10), x=TOKENS,
        numbers=longs(rows=[-1, 16], last2=[3, 4], first2=[0, 1], minus=[-1], okto=[-1, 10], ten=[10]),
        reasons={**{f"{p}bias": f"Add '{p}b' joins it" for p in "qkv"}, **{f"{p}kernel": "contracts it" for p in "qkv"},
            "okernel": "Reshape 'ow' merges it"}),
    Idiom("paddle", PACKED, IN + "p0 = MatMul(e, wp)\np1 = Add(p0, bp)\np2 = Reshape(p1, five)\n"
        "p = Transpose<perm=[2,0,3,1,4]>(p2)\nqs = Slice(p, c0, c1, ax0)\nq1 = Squeeze(qs, ax0)\n"
        "q = Mul(q1, scale)\nks = Slice(p, c1, c2, ax0)\nk1 = Squeeze(ks, ax0)\nvs = Slice(p, c2, c3, ax0)\n"
        "v = Squeeze(vs, ax0)\nk = Transpose<perm=[0,1,3,2]>(k1)\n" + PRODUCT + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=longs(five=[0, -1, 3, 4, 3], merged=[0, -1, 12], c0=[0], c1=[1], c2=[2], c3=[3], ax0=[0])
        + ", float scale = {0.577}"),
    Idiom("paddle, sizes from Shape", WEIGHTS, IN + PROJECT + PADDLE + OUT, (16, 4, 10), x=TOKENS,
        numbers=longs(c0=[0], c1=[1], c2=[2], ax0=[0])
        + ", int32[1] four = {4}, int32[1] three = {3}, int32[1] twelve = {12}"),
    Idiom("cosine attention", WEIGHTS + ";table 49,4;s_head 4,1,1",
        IN + PROJECT + SEPARATE.replace("0,2,3,1", "0,2,1,3") + normalized("q") + normalized("k")
        + "kt = Transpose<perm=[0,1,3,2]>(kn)\nqk1 = MatMul(qn, kt)\nqk2 = Mul(qk1, s_head)\n"
        "picked = Gather<axis=0>(table, index)\nper_head = Transpose<perm=[2,0,1]>(picked)\n"
        "qk = Add(qk2, per_head)\nat = Softmax<axis=-1>(qk)\nav = MatMul(at, v)\n" + MERGE + OUT, (16, 4, 10),
        x=TOKENS, numbers=NUMBERS + ", float tiny = {0.000001}, int64[4,4] index = "
        "{24,23,17,16,25,24,18,17,31,30,24,23,32,31,25,24}", reasons={"table": "Gather 'picked' picks it"}),
    Idiom("grouped queries, Expand", "wi 6,16;wq 16,12;wk 16,6;wv 16,6;wo 12,10;w 10,5",
        IN + "q0 = MatMul(e, wq)\nk0 = MatMul(e, wk)\nv0 = MatMul(e, wv)\n" + split("q0", "q", "heads")
        + split("k0", "kh", "few") + split("v0", "vh", "few")
        + "k5 = Unsqueeze(kh, ax2)\nkx = Expand(k5, wide)\nk4 = Reshape(kx, many)\nk = Transpose<perm=[0,1,3,2]>(k4)\n"
        "v5 = Unsqueeze(vh, ax2)\nvx = Expand(v5, wide)\nv = Reshape(vx, many)\n" + PRODUCT + MERGE + OUT,
        (16, 2, 10), x=TOKENS,
        numbers=NUMBERS + ", " + longs(few=[0, 4, 2, 3], ax2=[2], wide=[1, 2, 2, 4, 3], many=[-1, 4, 4, 3])),
    Idiom("grouped queries, shared by broadcasting", "wi 6,16;wq 16,12;wk 16,6;wv 16,6;wo 12,10;w 10,5",
        IN + "q0 = MatMul(e, wq)\nk0 = MatMul(e, wk)\nv0 = MatMul(e, wv)\n" + split("q0", "q", "pairs", "0,2,3,1,4")
        + split("k0", "k4", "few", "0,2,3,1") + split("v0", "v4", "few")
        + "k = Unsqueeze(k4, ax2)\nv = Unsqueeze(v4, ax2)\n" + PRODUCT
        + "ot = Transpose<perm=[0,3,1,2,4]>(av)\nom = Reshape(ot, merged)\n" + OUT, (16, 2, 10), x=TOKENS,
        numbers=longs(pairs=[0, 4, 2, 2, 3], few=[0, 4, 2, 3], ax2=[2], merged=[0, 4, 12])),
    Idiom("one key head, Expand", "wi 6,16;wq 16,12;wk 16,3;wv 16,3;wo 12,10;w 10,5",
        IN + "q0 = MatMul(e, wq)\nk0 = MatMul(e, wk)\nv0 = MatMul(e, wv)\n" + split("q0", "q", "heads")
        + "k2 = Unsqueeze(k0, ax1)\nk4 = Expand(k2, wide)\nk = Transpose<perm=[0,1,3,2]>(k4)\n"
        "v2 = Unsqueeze(v0, ax1)\nv = Expand(v2, wide)\n" + PRODUCT + MERGE + OUT, (16, 4, 10), x=TOKENS,
        numbers=NUMBERS + ", " + longs(ax1=[1], wide=[1, 4, 4, 3]),
        reasons={"wk": "MatMul 'qk' joins it", "wv": "Reshape 'om' merges it"}),
    Idiom("one key head, shared by broadcasting", "wi 6,16;wq 16,12;wk 16,3;wv 16,3;wo 12,10;w 10,5",
        IN + "q0 = MatMul(e, wq)\nk0 = MatMul(e, wk)\nv0 = MatMul(e, wv)\n" + split("q0", "q", "heads")
        + "k2 = Unsqueeze(k0, ax1)\nk = Transpose<perm=[0,1,3,2]>(k2)\nv = Unsqueeze(v0, ax1)\n" + PRODUCT + MERGE
        + OUT, (16, 3, 3, 10), x=TOKENS, numbers=NUMBERS + ", " + longs(ax1=[1])),
    Idiom("cross attention", "wi 6,16;wm 7,14;wq 16,12;wk 14,12;wv 14,12;wo 12,10;w 10,5",
        IN + "m = MatMul(memory, wm)\nq0 = MatMul(e, wq)\nk0 = MatMul(m, wk)\nv0 = MatMul(m, wv)\n"
        + split("q0", "q", "heads") + split("k0", "k", "mheads", "0,2,3,1") + split("v0", "v", "mheads")
        + PRODUCT + MERGE + OUT, (16, 14, 4, 10), x="float[N,4,6] x, float[N,5,7] memory",
        numbers=NUMBERS + ", " + longs(mheads=[0, 5, 4, 3])),
    Idiom("Swin, windows and roll", "wi 6,12;wp 12,36;wo 12,12;w 12,5;table 49,4", SWIN, (12, 4),
        x="float[N,64,6] x", numbers=swin_numbers(), reasons={"table": "Add 'qk' joins it"}),
    Idiom("LayerScale", WEIGHTS.replace("wo 12,10;w 10,5", "wo 12,16;w 16,5") + ";gamma 16",
        IN + PROJECT + SEPARATE + PRODUCT + MERGE
        + "h = MatMul(om, wo)\nhs = Mul(h, gamma)\nz = Add(e, hs)\ny = MatMul(z, w)", (16, 4),
        x=TOKENS, numbers=NUMBERS),
]  # fmt: skip
