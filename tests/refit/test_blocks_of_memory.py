"""Blocks do not overlap, and all memory is free again once they are back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.refit import blocks
from onnxpfp.refit.blocks import ALIGNED, Blocks


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_blocks_in_use_are_apart(steps: list[tuple[bool, int]], random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "PIECE", 512)
        memory, used = Blocks(2048), list[tuple[np.ndarray, int]]()
        for number, (back, size) in enumerate(steps):
            if back and used:
                array, _ = used.pop(random.randrange(len(used)))
                assert memory.give_back(array)
            elif (block := memory.take(size)) is not None:
                block[:] = number % 256
                used.append((block, number % 256))
            assert all((array == value).all() for array, value in used)
        for array, _ in used:
            assert memory.give_back(array)
        assert memory.take(1) is not None


def test_what_is_back_is_whole_again() -> None:
    memory = Blocks(3 * ALIGNED)
    parts = [memory.take(ALIGNED - 1) for _ in range(3)]
    assert memory.take(1) is None
    for part in (parts[0], parts[2], parts[1]):
        assert part is not None
        assert memory.give_back(part)
    assert memory.take(3 * ALIGNED) is not None
    assert not memory.give_back(np.zeros(4))


def test_pieces_that_nobody_uses_go() -> None:
    memory = Blocks(4 * ALIGNED)
    block = memory.take(4 * ALIGNED)
    assert block is not None
    memory.trim()
    memory.trim()
    assert memory.give_back(block)
    memory.trim()
    assert not memory.give_back(block), "its piece is gone"
    again = memory.take(2 * ALIGNED)
    assert again is not None
    assert memory.give_back(again)
    memory.trim()
    assert memory.take(4 * ALIGNED) is not None, "it served since the last call"
