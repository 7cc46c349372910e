from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.overlap import require_apart
from onnxpfp.data.sources import SampleSource, load_samples
from onnxpfp.errors import CalibrationError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = (InputSpec("x", F32, (None, 3, 4)),)
TWO = (InputSpec("ids", I64, (None, 5)), InputSpec("mask", np.dtype(bool), (None, 5)))
TIME_FIRST = (InputSpec("x", F32, (4, None, 3)),)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def common(specs: tuple[InputSpec, ...], held_out: SampleSource, samples: SampleSource) -> str:
    """What is said of samples in common; nothing where there are none."""
    try:
        require_apart(load_samples(held_out, specs), load_samples(samples, specs))
    except CalibrationError as error:
        return re.sub("samples (is|are) in --calib-data too: the first is sample", "common:", str(error))
    return ""


def test_the_same_bytes_are_the_same_sample() -> None:
    one, two = noise(9, 3, 4), noise(7, 3, 4, seed=1)
    assert common(IMAGE, one, two) == ""
    two[[4, 6]] = one[[8, 2]]
    assert common(IMAGE, one, two) == "2 of its 9 common: 2, and sample 6 there"
    assert common(IMAGE, two, one) == "2 of its 7 common: 4, and sample 8 there"
    two[6, 0, 0] += 1e-6
    assert common(IMAGE, one, two) == "1 of its 9 common: 8, and sample 4 there"


def test_a_sample_is_all_its_inputs() -> None:
    ids, mask = np.arange(40).reshape(8, 5), np.ones((8, 5), bool)
    assert common(TWO, {"ids": ids, "mask": mask}, {"ids": ids, "mask": ~mask}) == ""
    some = mask.copy()
    some[:6] = False
    assert (
        common(TWO, {"ids": ids, "mask": mask}, {"ids": ids, "mask": some})
        == "2 of its 8 common: 6, and sample 6 there"
    )


def test_the_form_of_the_source_does_not_matter(tmp_path: Path) -> None:
    array = noise(6, 3, 4)
    np.save(tmp_path / "one.npy", array)
    np.savez(tmp_path / "two.npz", x=array[3:])
    assert common(IMAGE, tmp_path / "one.npy", tmp_path / "two.npz") == "3 of its 6 common: 3, and sample 0 there"
    # Whole feeds of one sample are what slices of one give.
    assert common(IMAGE, array[:, None], array[5:]) == "1 of its 6 common: 5, and sample 0 there"
    sequences = noise(4, 6, 3)
    assert common(TIME_FIRST, sequences, sequences[:, 2:3]) == "1 of its 6 common: 2, and sample 0 there"


def test_words_are_compared_as_words() -> None:
    spec = (InputSpec("x", np.dtype(object), (None, 2)),)
    words = np.array([["ab", "c"], ["a", "bc"], ["d", ""]])
    assert common(spec, words, words[1:].astype("S")) == "2 of its 3 common: 1, and sample 0 there"
    assert common(spec, words[:1], words[1:]) == ""


def test_feeds_are_not_compared() -> None:
    array = noise(6, 3, 4)
    assert common(IMAGE, [{"x": array}], array) == ""


def test_a_mapped_file_need_not_fit_into_memory(tmp_path: Path) -> None:
    array = noise(512, 64, 128)
    spec = (InputSpec("x", F32, (None, 64, 128)),)
    np.save(tmp_path / "one.npy", array)
    np.save(tmp_path / "two.npy", noise(512, 64, 128, seed=1))
    samples = [load_samples(tmp_path / name, spec) for name in ("one.npy", "two.npy")]
    tracemalloc.start()
    require_apart(*samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 20
    with pytest.raises(CalibrationError, match="512 of its 512 samples"):
        require_apart(samples[0], samples[0])
