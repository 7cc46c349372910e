"""Pieces that contract the channels: convolutions, products and Einsum."""

from __future__ import annotations

from support.composer_graph import BATCH, WIDEST, WIDTHS, Composer, Pieces

PIECES = Pieces()


@PIECES.add("Conv", "com.microsoft:FusedConv", since=7)
def conv(g: Composer, op: str) -> None:
    x = g.pick()
    if g.whole(0, 3) == 0:
        times = g.choose(1, 2) if 2 * x.width <= WIDEST else 1
        out, group = times * x.width, x.width
    else:
        out = g.choose(*WIDTHS)
        group = g.choose(*(k for k in (1, 1, 2) if x.width % k == 0 and out % k == 0))
    kernel = g.choose(1, 3)
    w = g.weight(out, x.width // group, kernel, kernel)
    if g.whole(0, 4) == 0:
        # Weight standardization.
        w = g.emit("Sub", w, g.mean(w, 1, 2, 3))
    inputs = [x.name, w, *([g.weight(out)] if g.flip() else [])]
    options: dict[str, object] = {"group": group, "pads": [kernel // 2] * 4}
    if op != "Conv":
        options["activation"] = g.choose("Relu", "Tanh", "Sigmoid")
        if out == x.width and len(inputs) == 3 and g.flip():
            inputs.append(x.name)
    g.add(g.emit(op, *inputs, **options), out, x.side)


@PIECES.add("ConvTranspose", since=7)
def transposed(g: Composer, op: str) -> None:
    x = g.pick()
    if g.whole(0, 3) == 0:
        times = g.choose(1, 2) if 2 * x.width <= WIDEST else 1
        out, group = times * x.width, x.width
    else:
        out, group = g.choose(*WIDTHS), g.choose(1, 2) if x.width % 2 == 0 else 1
    inputs = [x.name, g.weight(x.width, out // group, 3, 3)]
    inputs += [g.weight(out)] if g.flip() else []
    g.add(g.emit(op, *inputs, group=group, pads=[1] * 4), out, x.side)


@PIECES.add("DeformConv", since=19)
def deformed(g: Composer, op: str) -> None:
    """The offsets are stored (for one sample, stretched over the batch) or computed."""
    x, out = g.pick(), g.choose(4, 6)
    group = g.choose(1, 2) if x.width % 2 == 0 else 1
    w = g.weight(out, x.width // group, 3, 3)
    places = g.emit("Conv", x.name, g.weight(18, x.width, 1, 1))
    offset = g.emit("Tanh", g.emit("Mul", places, g.number(0.1)))
    inputs = [x.name, w, offset, g.weight(out) if g.flip() else ""]
    inputs += [g.emit("Sigmoid", g.emit("Conv", x.name, g.weight(9, x.width, 1, 1)))] if g.flip() else []
    g.add(g.emit(op, *inputs, group=group, pads=[1] * 4), out, x.side)


@PIECES.add("Gemm", "com.microsoft:FusedGemm", since=11)
def gemm(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    rows = g.rows(x)
    options: dict[str, object] = {"transA": int(g.flip()), "transB": int(g.flip())}
    a = g.transpose(rows, 1, 0) if options["transA"] else rows
    if g.flip():
        b, inner = g.weight(*((out, x.width) if options["transB"] else (x.width, out))), True
    else:
        # Two activations: what is contracted is the batch.
        options, inner, out = {"transA": 1, "transB": 0}, False, x.width
        a, b = rows, g.emit("Tanh", rows)
    inputs = [a, b]
    inputs += [g.weight(*g.choose((out,), (1, out), (1,)))] if g.flip() else []
    options |= {"activation": g.choose("Relu", "Sigmoid")} if op != "Gemm" else {}
    name = g.emit(op, *inputs, alpha=0.5, **options)
    g.gate(name if inner else g.emit("MatMul", rows, name), out, x)


@PIECES.add("MatMul", "com.microsoft:FusedMatMul", "com.microsoft:TransposeMatMul", since=9)
def matmul(g: Composer, op: str) -> None:
    """By a stored matrix from either side, or of two activations."""
    x, out = g.pick(), g.choose(*WIDTHS)
    kind = g.choose("right", "left", "inner", "outer")
    tokens = g.tokens(x)
    if kind == "right":
        g.untoken(g.emit(op, tokens, g.weight(x.width, out)), out, x.side)
    elif kind == "left":
        name = g.emit(op, g.weight(out, x.width), g.transpose(tokens, 0, 2, 1))
        g.add(g.reshape(name, BATCH, out, x.side, x.side), out, x.side)
    elif kind == "inner":
        scores = _flipped(g, op, tokens, g.emit("Tanh", tokens))
        g.untoken(g.emit("MatMul", g.emit("Softmax", scores, axis=-1), tokens), x.width, x.side)
    else:
        gram = g.emit(op, g.transpose(tokens, 0, 2, 1), g.emit("Tanh", tokens))
        g.untoken(g.emit("MatMul", tokens, g.emit("Mul", gram, g.number(0.1))), x.width, x.side)


def _flipped(g: Composer, op: str, a: str, b: str) -> str:
    """Multiply a by b transposed."""
    return g.emit(op, a, g.transpose(b, 0, 2, 1)) if op == "MatMul" else g.emit(op, a, b, transB=1)


EQUATIONS = (
    "btc,cd->btd",
    "btc,dc->btd",
    "btc,bsc,bsc->btc",
    "btc,bsc->bts",
    "btc,bsd->bcd",
    "btc,btc->btc",
    "btc->bct",
    "btc->bt",
)


@PIECES.add("Einsum")
def einsum(g: Composer, op: str) -> None:
    x, out, equation = g.pick(), g.choose(*WIDTHS), g.choose(*EQUATIONS)
    tokens = g.tokens(x)
    other = g.emit("Tanh", tokens)
    if equation in {"btc,cd->btd", "btc,dc->btd"}:
        w = g.weight(*((x.width, out) if equation[4:6] == "cd" else (out, x.width)))
        g.untoken(g.emit(op, tokens, w, equation=equation), out, x.side)
    elif equation == "btc,bsc->bts":
        scores = g.emit("Softmax", g.emit(op, tokens, other, equation=equation), axis=-1)
        g.untoken(g.emit(op, scores, tokens, equation="bts,bsd->btd"), x.width, x.side)
    elif equation == "btc,bsd->bcd":
        gram = g.emit("Mul", g.emit(op, tokens, other, equation=equation), g.number(0.1))
        g.untoken(g.emit("MatMul", tokens, gram), x.width, x.side)
    elif equation == "btc->bt":
        sums = g.unsqueeze(g.emit(op, tokens, equation=equation), 2)
        g.untoken(g.emit("Add", tokens, sums), x.width, x.side)
    elif equation == "btc->bct":
        name = g.emit(op, tokens, equation=equation)
        g.add(g.reshape(name, BATCH, x.width, x.side, x.side), x.width, x.side)
    else:
        others = [other] * (equation.count(",") - 1) + [tokens]
        g.untoken(g.emit(op, g.emit("Mul", tokens, g.number(0.1)), *others, equation=equation), x.width, x.side)


@PIECES.add("com.microsoft:CDist")
def distances(g: Composer, op: str) -> None:
    x, out = g.pick(), g.choose(*WIDTHS)
    name = g.emit(op, g.rows(x), g.weight(out, x.width), metric=g.choose("euclidean", "sqeuclidean"))
    g.gate(name, out, x)
