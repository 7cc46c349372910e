"""Folders of arrays and of ONNX test data, and what is said of folders that are neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

from onnxpfp.data import folders
from onnxpfp.data.axes import SampleAxes
from onnxpfp.data.buckets import BucketedSamples
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.samples import ArraySamples
from onnxpfp.data.sources import DataForm, load_samples
from onnxpfp.errors import CalibrationError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = (InputSpec("x", F32, (None, 3, 4)),)
TEXT = (InputSpec("ids", I64, (None, None), ("batch", "seq")), InputSpec("mask", I64, (None, None), ("batch", "seq")))
STEPS = (InputSpec("x", F32, (4, None, 3)), InputSpec("rate", I64, ()))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def feeds_of(samples: Any, batch: int = 64) -> list[dict[str, np.ndarray]]:
    return [*samples.batches(batch)]


def write(folder: Path, *arrays: Any) -> Path:
    for number, array in enumerate(arrays):
        if isinstance(array, dict):
            np.savez(folder / f"{number}.npz", **array)
        else:
            np.save(folder / f"{number}.npy", array)
    return folder


def test_every_file_is_a_sample(tmp_path: Path) -> None:
    array = numbers(12, 3, 4)
    samples = load_samples(write(tmp_path, *array), IMAGE)
    assert isinstance(samples, ArraySamples)
    np.testing.assert_array_equal(feeds_of(samples)[0]["x"], array)


def test_a_file_may_be_a_batch_or_several_feeds(tmp_path: Path) -> None:
    array = numbers(7, 3, 4)
    samples = load_samples(write(tmp_path, array[:3], array[3], array[4:5], array[5:, None]), IMAGE)
    np.testing.assert_array_equal(feeds_of(samples)[0]["x"], array)


def test_archives_by_name_and_what_is_the_same_in_all(tmp_path: Path) -> None:
    array, rate = numbers(4, 6, 3), np.int64(16000)
    source = write(tmp_path, *[{"x": array[:, number], "rate": rate} for number in range(6)])
    samples = load_samples(source, STEPS)
    (feed,) = feeds_of(samples)
    np.testing.assert_array_equal(feed["x"], array)
    assert feed["rate"].shape == ()
    assert samples.notes == ("samples of 'x' lie along axis 1", "the same for all samples: 'rate'")


def test_sequences_of_different_lengths(tmp_path: Path) -> None:
    lengths = (5, 7, 5, 7, 7, 3)
    arrays = [{"ids": np.arange(n) + 10 * at, "mask": np.ones(n, np.int64)} for at, n in enumerate(lengths)]
    samples = load_samples(write(tmp_path, *arrays), TEXT)
    assert isinstance(samples, BucketedSamples)
    assert [feed["ids"].shape for feed in feeds_of(samples)] == [(2, 5), (3, 7), (1, 3)]
    np.testing.assert_array_equal(feeds_of(samples)[0]["ids"][1], arrays[2]["ids"])


def test_files_that_are_called_like_the_inputs_have_all_samples_of_one(tmp_path: Path) -> None:
    ids = np.arange(40).reshape(8, 5)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "mask.npy", ids % 2)
    samples: Any = load_samples(tmp_path, TEXT)
    assert isinstance(samples.arrays["ids"], np.memmap)
    np.testing.assert_array_equal(feeds_of(samples)[0]["mask"], ids % 2)
    (tmp_path / "one").mkdir()
    np.save(tmp_path / "one" / "x.npy", numbers(5, 3, 4))
    assert len(load_samples(tmp_path / "one", IMAGE)) == 5


def test_so_many_files_evenly_spread_in_the_order_of_numbers(tmp_path: Path) -> None:
    write(tmp_path, *[np.full((3, 4), number, np.float32) for number in range(12)])
    every, some = load_samples(tmp_path, IMAGE), load_samples(tmp_path, IMAGE, form=DataForm(most=5))
    assert feeds_of(every)[0]["x"][:, 0, 0].tolist() == [*range(12)]
    assert feeds_of(some)[0]["x"][:, 0, 0].tolist() == [0, 2, 4, 7, 9]


def refusal(source: Path, specs: tuple[InputSpec, ...] = IMAGE, axes: SampleAxes | None = None) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        load_samples(source, specs, axes=axes)
    return caught.value


def test_folders_that_have_no_samples_or_two_kinds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    assert str(refusal(tmp_path)).startswith(f"{tmp_path} has no samples: no images, .npy or .npz files, nor test_data")
    write(tmp_path, numbers(3, 4))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.JPG")
    assert str(refusal(tmp_path)) == f"{tmp_path} has 1 image and 1 array: which are the samples is not known"


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write(tmp_path, numbers(3, 4), numbers(4, 3))
    error = refusal(tmp_path)
    assert f"input 'x' wants shape (?, 3, 4), {tmp_path / '1.npy'} has (1, 4, 3)" in str(error)
    assert "data.transpose(0, 2, 1) has shape (1, 3, 4)" in error.hint
    (tmp_path / "text").mkdir()
    error = refusal(write(tmp_path / "text", {"ids": np.arange(3), "attention_mask": np.arange(3)}), TEXT)
    assert str(error).endswith("0.npz has no array for input 'mask'; it has attention_mask, ids")
    assert error.hint == "rename 'attention_mask' to 'mask'"
    assert "0.npy with one array fits a model with one input, this one has 2" in str(refusal(tmp_path, TEXT))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.npy").write_text("text")
    assert "0.npy cannot be read as .npz or .npy" in str(refusal(tmp_path / "broken"))


def test_more_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "memory_limit", lambda: 400)
    error = refusal(write(tmp_path, *numbers(9, 3, 4)))
    assert str(error) == "3 feeds take more than 100 bytes"
    assert "--calib-samples" in error.hint


def write_tensor(path: Path, array: np.ndarray, name: str = "") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())


def test_onnx_test_data(tmp_path: Path) -> None:
    ids, mask = np.arange(60).reshape(12, 1, 5), np.arange(60).reshape(12, 1, 5) % 2
    for number in range(12):
        folder = tmp_path / f"test_data_set_{number}"
        # By its name where that is one of an input, else by its number.
        write_tensor(folder / "input_0.pb", mask[number], "mask")
        write_tensor(folder / "input_1.pb", ids[number], "ids")
        write_tensor(folder / "output_0.pb", mask[number], "y")
    samples = load_samples(tmp_path, TEXT)
    (feed,) = feeds_of(samples)
    np.testing.assert_array_equal(feed["ids"], ids[:, 0])
    np.testing.assert_array_equal(feed["mask"], mask[:, 0])
    assert len(load_samples(tmp_path / "test_data_set_3", TEXT)) == 1
    spread = load_samples(tmp_path, TEXT, form=DataForm(most=3))
    np.testing.assert_array_equal(feeds_of(spread)[0]["ids"], ids[[0, 4, 8], 0])
    for number in range(2):
        write_tensor(tmp_path / "unnamed" / f"input_{number}.pb", (ids, mask)[number][0])
    np.testing.assert_array_equal(feeds_of(load_samples(tmp_path / "unnamed", TEXT))[0]["mask"], mask[0])


def test_onnx_test_data_that_do_not_fit(tmp_path: Path) -> None:
    write_tensor(tmp_path / "input_0.pb", numbers(1, 3, 4))
    write_tensor(tmp_path / "input_1.pb", numbers(1, 3, 4), "z")
    error = refusal(tmp_path)
    assert str(error).endswith("input_1.pb is for no input: it is called 'z', and the inputs are x")
    (tmp_path / "input_1.pb").unlink()
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff no tensor")
    assert "input_0.pb is no ONNX tensor" in str(refusal(tmp_path))
    elsewhere = TensorProto(data_type=1, dims=[1, 3, 4], data_location=TensorProto.EXTERNAL)
    (tmp_path / "input_0.pb").write_bytes(elsewhere.SerializeToString())
    assert "input_0.pb is no ONNX tensor with numbers" in str(refusal(tmp_path))
    short = TensorProto(data_type=1, dims=[1, 3, 4], raw_data=bytes(7))
    (tmp_path / "input_0.pb").write_bytes(short.SerializeToString())
    assert "input_0.pb is no ONNX tensor: " in str(refusal(tmp_path))
