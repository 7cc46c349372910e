from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.brute_shares import model_of

from onnxpfp.data.inputs import InputSpec, input_specs
from onnxpfp.data.sources import load_samples, random_samples
from onnxpfp.errors import CalibrationError, ModelError

F32 = np.dtype(np.float32)
IMAGE = (InputSpec("x", F32, (None, 3, 4)),)
TWO = (InputSpec("ids", np.dtype(np.int64), (None, 5)), InputSpec("mask", np.dtype(bool), (None, 5)))


def images(count: int = 7) -> np.ndarray:
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 4)


def stacked(samples: Any, batch: int = 3, name: str = "x") -> np.ndarray:
    return np.concatenate([feed[name] for feed in samples.batches(batch)])


def test_specs_leave_initializers_out() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    model = model_of([node], {"x": ("N", 3), "w": (3,)}, ["y"], {"w": np.zeros(3, np.float32)})
    assert input_specs(model) == (InputSpec("x", F32, (None, 3)),)
    half = model_of([node], {"x": ("N", 3)}, ["y"], dtype=TensorProto.FLOAT16)
    assert input_specs(half)[0].dtype == np.float16
    half.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no shape"):
        input_specs(half)


@pytest.mark.parametrize("kind", ["array", "dict", "npy", "npz", "npz_other_key", "list"])
def test_sources_of_one_input(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images())
    np.savez(tmp_path / "x.npz", x=images())
    np.savez(tmp_path / "other.npz", images=images())
    source: Any = {
        "array": images(),
        "dict": {"x": images()},
        "npy": tmp_path / "x.npy",
        "npz": str(tmp_path / "x.npz"),
        "npz_other_key": tmp_path / "other.npz",
        "list": [{"x": images()[:4]}, {"x": images()[4:]}],
    }[kind]
    samples = load_samples(source, IMAGE)
    assert len(samples) == 7
    np.testing.assert_array_equal(stacked(samples), images())
    np.testing.assert_array_equal(stacked(samples), images())
    sizes = [len(feed["x"]) for feed in samples.batches(3)]
    assert sizes == ([4, 3] if kind == "list" else [3, 3, 1])


def test_npy_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images())
    samples: Any = load_samples(tmp_path / "x.npy", IMAGE)
    assert isinstance(samples.arrays["x"], np.memmap)


def test_several_inputs_and_a_label_array_that_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids, mask = np.ones((4, 5), np.int64), np.ones((4, 5), bool)
    np.savez(tmp_path / "d.npz", ids=ids, mask=mask, labels=np.zeros(9))
    with caplog.at_level(logging.WARNING):
        samples = load_samples(tmp_path / "d.npz", TWO)
    assert "ignoring labels" in caplog.text
    assert [set(feed) for feed in samples.batches(2)] == [{"ids", "mask"}] * 2


class Reader:
    """Hands out one dict again and again, as some real readers do."""

    def __init__(self) -> None:
        self.feed: dict[str, Any] = {"x": np.zeros((1, 3, 4), np.float32)}
        self.left = 3

    def get_next(self) -> dict[str, Any] | None:
        self.left -= 1
        self.feed["x"] += 1
        return self.feed if self.left >= 0 else None


def test_a_reader_that_reuses_its_dict_gives_distinct_batches() -> None:
    samples = load_samples(Reader(), IMAGE)
    assert [feed["x"][0, 0, 0] for feed in samples.batches()] == [1, 2, 3]
    assert len(samples) == 3


def test_a_generator_can_be_split_and_read_again() -> None:
    samples = load_samples(({"x": images()[i : i + 1]} for i in range(7)), IMAGE)
    rest, held = samples.split(2, 0)
    assert (len(rest), len(held)) == (5, 2)
    assert len(list(rest.batches())) == len(list(rest.batches())) == 5


@pytest.mark.parametrize("whole", [False, True])
def test_split_is_a_seeded_partition(whole: bool) -> None:
    source: Any = [{"x": images()[i : i + 1]} for i in range(7)] if whole else images()
    samples = load_samples(source, IMAGE)
    rest, held = samples.split(3, 5)
    again, _ = samples.split(3, np.random.default_rng(5))
    np.testing.assert_array_equal(stacked(rest), stacked(again))
    together = np.concatenate([stacked(rest), stacked(held)])
    np.testing.assert_array_equal(np.sort(together, axis=0), images())
    assert len(samples.take(2)) == 2
    assert len(samples.take(99)) == 7
    for count in (0, 7, 8):
        with pytest.raises(CalibrationError, match=f"cannot hold out {count} of 7"):
            samples.split(count)


def test_a_static_batch_of_one_feeds_single_samples() -> None:
    samples = load_samples(images(), (InputSpec("x", F32, (1, 3, 4)),))
    assert samples.fixed_batch == 1
    assert [feed["x"].shape for feed in samples.batches(16)] == [(1, 3, 4)] * 7


def test_a_static_batch_drops_what_does_not_fill_it(caplog: pytest.LogCaptureFixture) -> None:
    specs = (InputSpec("x", F32, (3, 3, 4)),)
    samples = load_samples(images(), specs)
    with caplog.at_level(logging.INFO):
        assert [feed["x"].shape for feed in samples.batches(16)] == [(3, 3, 4)] * 2
    assert "1 samples do not fill a batch of 3" in caplog.text
    assert len(samples) == 6
    with pytest.raises(CalibrationError, match="takes 3 samples at a time and only 2"):
        load_samples(images(2), specs)
    whole = load_samples(np.stack([images(3), images(3) + 1]), specs)
    assert [feed["x"][0, 0, 0] for feed in whole.batches()] == [0, 1]


def test_scalar_inputs() -> None:
    specs = (InputSpec("x", F32, (1, 2)), InputSpec("t", F32, ()))
    data = {"x": np.zeros((3, 2), np.float32), "t": np.arange(3, dtype=np.float32)}
    feeds = list(load_samples(data, specs).batches(8))
    assert [float(feed["t"]) for feed in feeds] == [0, 1, 2]
    assert feeds[0]["t"].shape == ()


def test_random_data() -> None:
    specs = (*TWO, InputSpec("x", F32, (None, 3, None)), InputSpec("h", np.dtype(np.float16), (None,)))
    one = random_samples(specs, 6, input_shapes={"x": (1, 3, 8)}, rng=3)
    two = load_samples("random", specs, count=6, input_shapes={"x": (1, 3, 8)}, rng=3)
    feeds, again = next(one.batches(6)), next(two.batches(6))
    assert {name: (array.dtype, array.shape) for name, array in feeds.items()} == {
        "ids": (np.int64, (6, 5)),
        "mask": (bool, (6, 5)),
        "x": (np.float32, (6, 3, 8)),
        "h": (np.float16, (6,)),
    }
    assert set(np.unique(feeds["ids"])) == {0, 1}
    for name in feeds:
        np.testing.assert_array_equal(feeds[name], again[name])
    with pytest.raises(CalibrationError, match="axis 2 of input 'x' is dynamic"):
        random_samples(specs, 6)
    assert len(random_samples((InputSpec("x", F32, (4, 2)),), 6)) == 8


BAD: dict[str, tuple[Any, str]] = {
    "rank": (np.zeros((7, 12), np.float32), r"'x' wants shape \(n, 3, 4\), the data has \(7, 12\)"),
    "size": (np.zeros((7, 4, 3), np.float32), r"wants shape \(n, 3, 4\), the data has \(7, 4, 3\)"),
    "dtype": (np.zeros((7, 3, 4)), "'x' wants float32, the data are float64"),
    "empty": (np.zeros((0, 3, 4), np.float32), "there are no samples"),
    "no_feeds": ([], "there are no samples"),
    "feed_key": ([{"z": images()}], r"batch 0 has the inputs \['z'\], the model wants \['x'\]"),
    "feed_type": ([images()], "batch 0 is a ndarray, not a dict"),
    "feed_shape": ([{"x": np.zeros((2, 9), np.float32)}], r"wants shape \(\?, 3, 4\), batch 0"),
    "keys": ({"imagex": images(), "y": images()}, "no array for input 'x'; it has imagex, y"),
    "kind": (7, "a int is no source"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_named_in_one_line(name: str) -> None:
    source, message = BAD[name]
    with pytest.raises(CalibrationError, match=message) as caught:
        load_samples(source, IMAGE)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("as_feeds", [False, True])
def test_nan_and_infinity_are_found(value: float, as_feeds: bool) -> None:
    data = images()
    data[5, 0, 0] = value
    samples = load_samples([{"x": data}] if as_feeds else data, IMAGE)
    with pytest.raises(CalibrationError, match="'x' has NaN or infinite values in"):
        list(samples.batches(2))


def test_bad_files_are_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not numbers")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    for name in ("text.npz", "empty.npy", "object.npz"):
        with pytest.raises(CalibrationError, match=f"{name} cannot be read") as caught:
            load_samples(tmp_path / name, IMAGE)
        assert "\n" not in str(caught.value)
    with pytest.raises(CalibrationError, match=r"gone\.npz does not exist"):
        load_samples(tmp_path / "gone.npz", IMAGE)


def test_one_array_does_not_fit_two_inputs() -> None:
    with pytest.raises(CalibrationError, match="fits a model with one input, this one has 2: ids, mask"):
        load_samples(np.zeros((3, 5), np.int64), TWO)
    with pytest.raises(CalibrationError, match="different numbers of samples: ids has 3, mask has 2"):
        load_samples({"ids": np.zeros((3, 5), np.int64), "mask": np.zeros((2, 5), bool)}, TWO)
