"""One row per case of MatMulNBits: inputs go in whole blocks, outputs one by one."""

from __future__ import annotations

import pytest
from support.rows import ROWS, Row, check_row


def few_bits(name, weights, channels, groups=3, inputs="w, s", width=64, bits=4, fixed=None, **more):
    """A row of MatMulNBits behind a layer that is wide enough for several blocks of 16."""
    size = f"N=6, K={width}, bits={bits}, block_size=16{more.pop('options', '')}"
    body = f"h = MatMul(c, u)\nd = com.microsoft.MatMulNBits<{size}>(h, {inputs})"
    declared = f"float[8,{width}] u, {weights}"
    return Row(
        name,
        body,
        channels,
        groups,
        declared,
        x=ROWS,
        fixed={"w": "packs the inputs of a block in it", **(fixed or {})},
        **more,
    )


ORDER = ", ".join(str(place // 16) for place in range(64))
NBITS = [
    few_bits("scales of blocks", "uint8[6,4,8] w, float[6,4] s", 18),
    few_bits("with a bias", "uint8[6,4,8] w, float[6,4] s, float[6] b", 18, inputs="w, s, , , b"),
    few_bits("last block not full", "uint8[6,4,8] w, float[6,4] s", 18, 4, width=56),
    few_bits("8 bits", "uint8[6,4,16] w, float[6,4] s, uint8[6,4] z", 18, bits=8, inputs="w, s, z"),
    few_bits("zero points that share a byte", "uint8[6,4,8] w, float[6,4] s, uint8[6,2] z", 16, inputs="w, s, z"),
    few_bits("an odd count of them", "uint8[6,3,8] w, float[6,3] s, uint8[6,2] z", 16, 4, inputs="w, s, z", width=48),
    few_bits("zero points as floats", "uint8[6,4,8] w, float[6,4] s, float[6,4] z", 18, inputs="w, s, z"),
    few_bits("quantized sums", "uint8[6,4,8] w, float[6,4] s", 18, options=", accuracy_level=4"),
    few_bits(
        "flat scales",
        "uint8[6,4,8] w, float[24] s",
        14,
        2,
        fixed={"u": "MatMulNBits 'd' keeps numbers of its blocks in one flat tensor"},
    ),
    few_bits(
        "order of its own",
        f"uint8[6,4,8] w, float[6,4] s, int32[64] g = {{{ORDER}}}",
        14,
        2,
        inputs="w, s, , g",
        fixed={"u": "MatMulNBits 'd' orders it in blocks of its own", "s": "MatMulNBits 'd'"},
    ),
]


@pytest.mark.parametrize("row", NBITS, ids=str)
def test_matmul_of_few_bits(row):
    check_row(row)
