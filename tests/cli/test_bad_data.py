from __future__ import annotations

import gc

import cli_models
import numpy as np
import onnx
import pytest

IMAGES = cli_models.images()

# numpy.load leaves a file that begins like a zip and is none open until it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collect_files():
    yield
    gc.collect()


def _nan() -> np.ndarray:
    array = IMAGES.copy()
    array[11, 0, 0, 0] = np.nan
    return array


def _infinite() -> np.ndarray:
    array = IMAGES.copy()
    array[0, 0, 0, 0] = np.inf
    return array


@pytest.mark.parametrize(
    ("arrays", "says", "hint"),
    [
        ({"x": IMAGES.astype(np.float64)}, "'x' wants float32, the data are float64", "data.astype(np.float32)"),
        ({"x": IMAGES[:, :2]}, "'x' wants shape (n, 3, 8, 8), the data", "axis order"),
        ({"x": IMAGES[:, 0]}, "'x' wants shape (n, 3, 8, 8), the data", "axis order"),
        ({"x": np.float32(3)}, "'x' wants shape (n, 3, 8, 8), the data", "axis order"),
        ({"x": IMAGES[:0]}, "there are no samples", "give at least one"),
        ({}, "has no array for input 'x'; it has nothing", "name arrays like inputs"),
        ({"p": IMAGES, "q": IMAGES}, "has no array for input 'x'; it has p, q", "name arrays like inputs"),
        ({f"p{n}": IMAGES for n in range(11)}, "it has p0, p1, p10, p2, p3, p4, p5, p6 and 3 more", "name arrays like"),
        ({"x": _nan()}, "'x' has NaN or infinite values", "clean the data"),
        ({"x": _infinite()}, "'x' has NaN or infinite values", "clean the data"),
        ({"x": np.array([{}, {}], object)}, "cannot be read as .npz or .npy", "numpy.savez"),
    ],
    ids=["dtype", "shape", "rank", "scalar", "no samples", "no arrays", "names", "many names", "nan", "inf", "objects"],
)
def test_data_that_do_not_fit(folder, refuse, arrays, says, hint):
    np.savez(folder / "bad.npz", **arrays)
    found = refuse("in.onnx", "out.onnx", "--calib-data", "bad.npz")
    assert found.error.startswith("bad.npz")
    assert says in found.error
    assert hint in found.hint


@pytest.mark.parametrize(
    ("arrays", "says", "hint"),
    [
        ({"a": (8, 5)}, "has no array for input 'b'; it has a", "name arrays like inputs"),
        ({"a": (8, 5), "bb": (8, 4)}, "has no array for input 'b'; it has a, bb", "rename 'bb' to 'b'"),
        ({"a": (8, 5), "b": (7, 4)}, "different numbers of samples: a has 8, b has 7", "same samples"),
    ],
    ids=["missing", "misspelt", "unequal"],
)
def test_data_of_several_inputs(folder, refuse, arrays, says, hint):
    onnx.save(cli_models.build(cli_models.TWO_INPUTS, cli_models.TWO_SHAPES), folder / "two.onnx")
    np.savez(folder / "bad.npz", **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    found = refuse("two.onnx", "out.onnx", "--calib-data", "bad.npz")
    assert found.error.startswith("bad.npz")
    assert says in found.error
    assert hint in found.hint


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04garbage"], ids=["empty", "text", "zip"])
def test_files_that_hold_no_arrays(folder, refuse, content):
    (folder / "bad.npz").write_bytes(content)
    found = refuse("in.onnx", "out.onnx", "--calib-data", "bad.npz")
    assert found.error.startswith("bad.npz cannot be read as .npz or .npy: ")
    assert "allow_pickle" not in found.error
    assert "numpy.savez" in found.hint


def test_a_truncated_archive_and_a_truncated_array(folder, refuse):
    whole = (folder / "data.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refuse("in.onnx", "out.onnx", "--calib-data", "cut.npz").error
    np.save(folder / "cut.npy", IMAGES)
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:500])
    assert "cannot be read" in refuse("in.onnx", "out.onnx", "--calib-data", "cut.npy").error


def test_data_that_are_not_there(folder, refuse):
    (folder / "empty").mkdir()
    assert refuse("in.onnx", "out.onnx", "--calib-data", "no.npz").error == "no.npz does not exist"
    assert refuse("in.onnx", "out.onnx", "--calib-data", "empty").error.startswith("empty has no samples: no images")
