"""Folders of images: what is guessed from the input, how images get its size, and what their pixels become."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import onnxpfp
from onnxpfp.data import images as reading
from onnxpfp.data.images import ImageReader
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.samples import ArraySamples
from onnxpfp.data.source_reader import MOST_IMAGES
from onnxpfp.data.sources import DataForm, load_samples
from onnxpfp.data.stored_statistics import StoredStatistics
from onnxpfp.errors import CalibrationError, ModelError, OptionError
from onnxpfp.options.data import DataOptions

F32, U8 = np.dtype(np.float32), np.dtype(np.uint8)
RGB = (InputSpec("x", F32, (None, 3, 8, 8)),)


def pixels(height: int = 8, width: int = 8, seed: int = 0, channels: tuple[int, ...] = (3,)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def folder_of(path: Path, *arrays: np.ndarray) -> Path:
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(path / f"{number}.png")
    return path


def read(
    source: Path, specs: tuple[InputSpec, ...] = RGB, most: int | None = None, every: bool = False, **asked: Any
) -> Any:
    return load_samples(source, specs, form=DataForm(ImageReader(DataOptions(**asked)), most=most, every=every))


def only(samples: Any) -> np.ndarray:
    (feed,) = samples.batches(64)
    return feed["x"]


def test_an_image_of_the_inputs_size_is_its_pixels(tmp_path: Path) -> None:
    arrays = [pixels(seed=seed) for seed in range(3)]
    fed = only(read(folder_of(tmp_path, *arrays), preprocess="0-1"))
    assert (fed.dtype, fed.shape) == (np.float32, (3, 3, 8, 8))
    np.testing.assert_array_equal(fed, np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALED = {
    "imagenet": lambda p: (p / 255 - MEAN) / STD,
    "0-1": lambda p: p / 255,
    "-1-1": lambda p: p / 127.5 - 1,
    "none": lambda p: p,
    "mean=0.5,std=0.25": lambda p: (p / 255 - 0.5) / 0.25,
    "mean=0.1,0.2,0.3,std=1,2,4": lambda p: (p / 255 - np.array([0.1, 0.2, 0.3])) / np.array([1, 2, 4]),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_pixels_become(name: str, layout: str, tmp_path: Path) -> None:
    array = pixels()
    shape = (None, 3, 8, 8) if layout == "NCHW" else (None, 8, 8, 3)
    fed = only(read(folder_of(tmp_path, array), (InputSpec("x", F32, shape),), preprocess=name))[0]
    wanted = SCALED[name](array.astype(np.float64))
    np.testing.assert_allclose(fed, wanted.transpose(2, 0, 1) if layout == "NCHW" else wanted, rtol=1e-5, atol=1e-5)


def test_blue_first_turns_the_means_of_imagenet_too(tmp_path: Path) -> None:
    source = folder_of(tmp_path, pixels())
    red = only(read(source, preprocess="imagenet"))
    blue = only(read(source, preprocess="imagenet", color="BGR"))
    np.testing.assert_array_equal(blue, red[:, ::-1])
    given = only(read(source, preprocess="mean=0.1,0.2,0.3,std=1,1,1", color="BGR"))
    np.testing.assert_allclose(given[0, 0], pixels()[:, :, 2] / 255 - 0.1, rtol=1e-5, atol=1e-6)


def test_grey_inputs_and_images(tmp_path: Path) -> None:
    one, three = tmp_path / "one", tmp_path / "three"
    one.mkdir()
    three.mkdir()
    gray = pixels(channels=())
    fed = only(read(folder_of(one, gray), (InputSpec("x", F32, (None, 1, 8, 8)),), preprocess="none"))
    np.testing.assert_array_equal(fed[0, 0], gray)
    np.testing.assert_array_equal(only(read(one, preprocess="none"))[0], np.stack([gray] * 3))
    colored = only(read(folder_of(three, pixels()), preprocess="none", color="gray"))[0]
    np.testing.assert_array_equal(colored[0], np.asarray(Image.fromarray(pixels()).convert("L")))
    np.testing.assert_array_equal(colored[0], colored[2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64])
def test_element_types(dtype: Any, tmp_path: Path) -> None:
    fed = only(read(folder_of(tmp_path, pixels()), (InputSpec("x", np.dtype(dtype), (None, 8, 8, 3)),)))
    assert fed.dtype == dtype
    if np.dtype(dtype).kind in "iu":
        np.testing.assert_array_equal(fed[0], pixels())
    else:
        np.testing.assert_allclose(fed[0], pixels() / 255, atol=1e-3)


def test_ways_to_resize(tmp_path: Path) -> None:
    array = pixels(16, 32)
    image, source = Image.fromarray(array), folder_of(tmp_path, array)

    def fed(**asked: Any) -> np.ndarray:
        return only(read(source, preprocess="none", layout="NCHW", **asked))[0].transpose(1, 2, 0)

    bilinear = Image.Resampling.BILINEAR
    cover = np.asarray(image.resize((16, 8), bilinear))[:, 4:12]
    np.testing.assert_array_equal(fed(), cover)
    np.testing.assert_array_equal(fed(resize="crop"), cover)
    np.testing.assert_array_equal(fed(resize="crop,8x8"), cover)
    np.testing.assert_array_equal(fed(resize="stretch"), np.asarray(image.resize((8, 8), bilinear)))
    # torchvision: Resize(11), CenterCrop(8).
    np.testing.assert_array_equal(fed(resize="11"), np.asarray(image.resize((22, 11), bilinear))[2:10, 7:15])
    padded = fed(resize="pad")
    np.testing.assert_array_equal(padded[2:6], np.asarray(image.resize((8, 4), bilinear)))
    assert (padded[[0, 1, 6, 7]] == reading.GREY).all()
    with pytest.raises(CalibrationError, match=r"has 4x8 pixels after --resize 4, less than 8x8"):
        fed(resize="4")
    with pytest.raises(CalibrationError, match=r"has 16x32 pixels, and input 'x' is \(\?, 3, 8, 8\)"):
        fed(resize="none")
    with pytest.raises(OptionError, match="--resize asks for 9x9, and input 'x' is"):
        fed(resize="9x9")


def test_a_size_at_which_the_network_does_not_run_is_told_with_the_option(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    w = numpy_helper.from_array(np.ones((5, 6, 1, 1), np.float32), "w")
    # Two halves that are as high as each other only where the height is even.
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], kernel_shape=[2, 1], strides=[2, 1]),
        helper.make_node("MaxPool", ["x"], ["b"], kernel_shape=[2, 1], strides=[2, 1], ceil_mode=1),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Conv", ["c", "w"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [w]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    with pytest.raises(ModelError, match="cannot run the model") as caught:
        onnxpfp.prune(model, calibration=folder_of(tmp_path, *[pixels(9, 8)] * 2), resize="9x8")
    assert caught.value.hint == "resize sets the size of the images; many networks take multiples of 32 only"


def test_colors_for_a_gray_input_are_refused_with_what_helps(tmp_path: Path) -> None:
    source = folder_of(tmp_path, pixels())
    with pytest.raises(CalibrationError, match="with 1 channel as NCHW, and images are RGB") as caught:
        read(source, (InputSpec("x", F32, (None, 1, 8, 8)),), color="RGB")
    assert caught.value.hint == "leave --color out, or write --color gray"
    with pytest.raises(CalibrationError, match="with 8 channels as NHWC") as caught:
        read(source, (InputSpec("x", F32, (None, 3, 8, 8)),), layout="NHWC")
    assert caught.value.hint.startswith("--layout NCHW reads it the other way")


FREE = (InputSpec("x", F32, (None, 3, None, None)),)
LINES = (InputSpec("x", F32, (None, 3, 8, None)),)


def test_sizes_that_the_input_leaves_free(tmp_path: Path) -> None:
    source = folder_of(tmp_path, pixels(16, 32), pixels(8, 24), pixels(8, 16, seed=3))
    with pytest.raises(OptionError, match="of what size images are to be is not known") as caught:
        read(source, FREE)
    for size in ("pad,640x640", "48x", "none"):
        assert f"--resize {size}" in caught.value.hint
    assert only(read(source, FREE, resize="6x10")).shape == (3, 3, 6, 10)
    form = DataForm(ImageReader(DataOptions(), {"x": (1, 3, 8, 12)}))
    assert only(load_samples(source, FREE, form=form)).shape == (3, 3, 8, 12)
    own = read(source, FREE, resize="none", preprocess="none")
    assert [feed["x"].shape for feed in own.batches(8)] == [(1, 3, 16, 32), (1, 3, 8, 24), (1, 3, 8, 16)]
    np.testing.assert_array_equal([*own.batches(8)][1]["x"][0].transpose(1, 2, 0), pixels(8, 24))
    # One side is free: the aspect ratio sets it, and images of one shape run together.
    lines = read(source, LINES)
    assert [(feed["x"].shape, count) for feed, count in lines.runs(8)] == [((2, 3, 8, 16), 2), ((1, 3, 8, 24), 1)]


def shapes(samples: Any) -> list[tuple[tuple[int, ...], int]]:
    return [(feed["x"].shape, count) for feed, count in samples.runs(8)]


def test_one_side_is_said_and_the_aspect_ratio_sets_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path, pixels(16, 32), pixels(8, 24), pixels(8, 16, seed=3))
    with caplog.at_level(logging.WARNING):
        assert shapes(read(source, FREE, resize="8x")) == [((2, 3, 8, 16), 2), ((1, 3, 8, 24), 1)]
    assert "scaled to 8xany in their aspect ratio; " in caplog.text
    assert shapes(read(source, FREE, resize="x48")) == [((2, 3, 24, 48), 2), ((1, 3, 16, 48), 1)]
    # Of an input with one free side the other one is its own.
    assert shapes(read(source, LINES, resize="8x")) == shapes(read(source, FREE, resize="8x"))
    assert shapes(read(source, LINES, resize="x20")) == [((3, 3, 8, 20), 3)]
    with pytest.raises(OptionError, match="--resize asks for 9x, and input 'x' is float32"):
        read(source, LINES, resize="9x")
    with pytest.raises(
        OptionError, match="--resize 8x leaves a side to the aspect ratio, and input 'x' takes 8x8"
    ) as caught:
        read(source, RGB, resize="8x")
    assert "cropped around the middle; --resize pad adds grey" in caught.value.hint


@pytest.mark.parametrize(("spec", "resize"), [(FREE, "pad,8x"), (LINES, "pad,8x"), (LINES, "pad")])
def test_padding_a_free_side_makes_images_alike(
    spec: Any, resize: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = [pixels(8, 64), pixels(8, 20), pixels(16, 48), pixels(8, 65)]
    source = folder_of(tmp_path, *arrays)
    with caplog.at_level(logging.WARNING):
        samples = read(source, spec, resize=resize, preprocess="none")
    assert "scaled to 8xany in their aspect ratio, grey to the next multiple of 32 in width; " in caplog.text
    assert shapes(samples) == [((1, 3, 8, 64), 1), ((2, 3, 8, 32), 2), ((1, 3, 8, 96), 1)]
    fed = [feed["x"][0].transpose(1, 2, 0) for feed in samples.batches(1)]
    np.testing.assert_array_equal(fed[0], arrays[0])
    np.testing.assert_array_equal(fed[1][:, 6:26], arrays[1])
    assert (fed[1][:, [*range(6), *range(26, 32)]] == reading.GREY).all()


def test_a_shorter_side_is_no_size_of_a_free_input(tmp_path: Path) -> None:
    """Lines of text would be cropped to squares."""
    source = folder_of(tmp_path, pixels(16, 64))
    with pytest.raises(
        OptionError, match=r"--resize 48 says how long the shorter side .* not to what they are"
    ) as caught:
        read(source, FREE, resize="48")
    for way in ("--resize 48x48 crops", "pad,48x48", "--resize 48x makes images 48 pixels high", "x48 as wide"):
        assert way in caught.value.hint
    with pytest.raises(OptionError, match=r"--resize 48 says how long the shorter side") as caught:
        read(source, LINES, resize="48")
    assert caught.value.hint == "leave it out, and the aspect ratio sets the side that is free"
    assert only(read(source, FREE, resize="pad,48")).shape == (1, 3, 48, 48)


def test_images_of_different_sizes_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "memory_limit", lambda: 16_000)
    with pytest.raises(CalibrationError, match=r"3 images of different sizes take more than 4\.0 kB") as caught:
        read(folder_of(tmp_path, *[pixels(8, 16)] * 4), LINES)
    assert "--calib-samples" in caught.value.hint


@pytest.mark.parametrize(
    ("shape", "asked", "layout"),
    [
        ((None, 3, 8, 8), {}, "NCHW"),
        ((None, 8, 8, 3), {}, "NHWC"),
        ((1, 1, 8, 8), {}, "NCHW"),
        ((4, 3, 3, 3), {}, "NCHW"),
        ((None, 3, 3, 3), {"layout": "NHWC"}, "NHWC"),
        ((None, None, 8, 8), {"layout": "NCHW"}, "NCHW"),
        ((None, None, None, 3), {"resize": "8x8"}, "NHWC"),
    ],
)
def test_the_layout(shape: Any, asked: Any, layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path, *[pixels()] * 4)
    with caplog.at_level(logging.WARNING):
        fed = next(read(source, (InputSpec("x", F32, shape),), **asked).batches(4))["x"]
    assert fed.shape[1 if layout == "NCHW" else 3] in (1, 3)
    assert f"--layout {layout}" in caplog.text
    assert ("guessed: layout" in caplog.text) == ("layout" not in asked)


REFUSED: dict[str, tuple[InputSpec, dict[str, Any], type[Exception], str]] = {
    "no channels": (InputSpec("x", F32, (None, 16, 8, 8)), {}, CalibrationError, "no axis has the 1 or 3 channels"),
    "axes": (InputSpec("x", F32, (None, 64)), {}, CalibrationError, r"'x' is float32 \(\?, 64\), which is no batch of"),
    "unknown": (InputSpec("x", F32, (None, None, 8, 8)), {}, OptionError, "which axis has the channels"),
    "said otherwise": (RGB[0], {"layout": "NHWC"}, CalibrationError, "with 8 channels as NHWC"),
    "one channel": (InputSpec("x", F32, (None, 1, 8, 8)), {"color": "RGB"}, CalibrationError, "images are RGB"),
    "bytes with signs": (InputSpec("x", np.dtype(np.int8), (None, 3, 8, 8)), {}, CalibrationError, "does not hold"),
    "fractions": (InputSpec("x", U8, (None, 3, 8, 8)), {"preprocess": "0-1"}, OptionError, "makes fractions"),
    "means": (RGB[0], {"preprocess": "mean=0,0,std=1,1"}, OptionError, "is of 2 channels, and the input has 3"),
    "words": (InputSpec("x", np.dtype(object), (None, 3, 8, 8)), {}, CalibrationError, "no batch of images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_inputs_that_take_no_images(name: str, tmp_path: Path) -> None:
    spec, asked, kind, says = REFUSED[name]
    with pytest.raises(kind, match=says) as caught:
        read(folder_of(tmp_path, pixels()), (spec,), **asked)
    assert caught.value.hint  # type: ignore[attr-defined]


def test_images_fit_one_input(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="images fit a model with one input, this one has 2: x, size"):
        read(folder_of(tmp_path, pixels()), (*RGB, InputSpec("size", F32, (2,))))


def test_what_is_no_image(tmp_path: Path) -> None:
    folder_of(tmp_path, pixels())
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "2.jpg").write_text("text")
    samples = read(tmp_path, preprocess="0-1")
    assert len(samples) == 3
    with pytest.raises(CalibrationError, match=r"1\.png cannot be read as an image: "):
        only(samples)
    with pytest.raises(CalibrationError, match=r"2\.jpg cannot be read as an image: cannot identify"):
        only(read(tmp_path / "2.jpg", preprocess="0-1"))


def test_deep_and_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(CalibrationError, match=r"0\.png has I;16 pixels, not bytes"):
        only(read(tmp_path, preprocess="0-1"))
    folder_of(tmp_path, pixels())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(CalibrationError, match=r"0\.png cannot be read as an image: Image size \(64 pixels\)"):
        only(read(tmp_path, preprocess="0-1"))


def test_palettes_transparency_and_turned_photos(tmp_path: Path) -> None:
    array = pixels(4, 8)
    image = Image.fromarray(array)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, each in {"0": image.convert("P"), "1": image.convert("RGBA"), "2": image}.items():
        each.save(tmp_path / f"{name}.png", **({"exif": turned} if name == "2" else {}))
    spec = (InputSpec("x", F32, (None, 3, 4, 8)),)
    fed = [only(read(tmp_path / f"{n}.png", spec, preprocess="none"))[0].transpose(1, 2, 0) for n in range(2)]
    np.testing.assert_array_equal(fed[0], np.asarray(image.convert("P").convert("RGB")))
    np.testing.assert_array_equal(fed[1], array)
    upright = only(read(tmp_path / "2.png", (InputSpec("x", F32, (None, 3, 8, 4)),), preprocess="none"))[0]
    np.testing.assert_array_equal(upright.transpose(1, 2, 0), np.rot90(array, -1))


def test_as_many_images_as_are_wanted_evenly_spread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        sub = tmp_path / f"class{number % 2}"
        sub.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(sub / f"image{number}.png")
    (tmp_path / ".hidden.png").write_text("none")
    with caplog.at_level(logging.WARNING):
        fed = only(read(tmp_path, most=4, preprocess="none"))
    # Subfolders in turn, numbers by their value: 0 2 4 6 8 10, 1 3 5 7 9 11.
    assert fed[:, 0, 0, 0].tolist() == [0, 6, 1, 7]
    assert "images: 4 of 12, scaled to cover 8x8" in caplog.text
    assert only(read(tmp_path, preprocess="none"))[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


def test_not_all_images_of_a_large_folder_unless_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.fromarray(pixels())
    for number in range(MOST_IMAGES + 2):
        image.save(tmp_path / f"{number}.bmp")
    assert len(read(tmp_path)) == MOST_IMAGES
    assert f"images: {MOST_IMAGES} of {MOST_IMAGES + 2} (--calib-samples takes more), scaled" in caplog.text
    assert len(read(tmp_path, every=True)) == MOST_IMAGES + 2
    assert len(read(tmp_path, most=MOST_IMAGES + 1)) == MOST_IMAGES + 1


def test_images_are_decoded_once_where_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    plain = Image.open

    def counted(path: Path) -> Any:
        opened.append(Path(path).name)
        return plain(path)

    monkeypatch.setattr(Image, "open", counted)
    samples = read(folder_of(tmp_path, *[pixels(seed=seed) for seed in range(4)]), preprocess="none")
    assert isinstance(samples, ArraySamples)
    assert opened == []
    first = only(samples)
    np.testing.assert_array_equal(only(samples), first)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "3.png"]
    monkeypatch.setattr("onnxpfp.data.rows.memory_limit", lambda: 8 * 2 * 8 * 8 * 3)
    samples, opened[:] = read(tmp_path, preprocess="none"), []
    only(samples)
    np.testing.assert_array_equal(only(samples), first)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "2.png", "3.png", "3.png"]


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, pixels())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CalibrationError, match="Pillow, which is not installed") as caught:
        read(tmp_path)
    # That holds wherever onnxpfp was installed from.
    assert caught.value.hint == "pip install pillow, which the extra 'images' of onnxpfp brings, too"


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_what_pixels_become_is_guessed_by_the_statistics_of_the_file(name: str, tmp_path: Path) -> None:
    """The three were trained on (p / 255 - 0.286) / 0.353: of what is tried, p / 127.5 - 1 comes closest."""
    import onnx

    photos = np.rint((nets.fmnist("calibration", 32)[:, 0] * 0.353 + 0.286) * 255)
    folder_of(tmp_path, *photos.clip(0, 255).astype(np.uint8))
    spec = (InputSpec("images", F32, (None, 1, 28, 28)),)
    statistics = StoredStatistics.of(onnx.load(nets.network(name)))
    assert statistics is not None
    reader = ImageReader(DataOptions(), {}, lambda: statistics)
    samples = load_samples(tmp_path, spec, form=DataForm(reader))
    assert "--preprocess -1-1; guessed: layout, color, preprocess, closest to the" in reader.lines[0]
    (feed,) = samples.batches(64)
    np.testing.assert_allclose(feed["images"][:, 0], photos.clip(0, 255) / 127.5 - 1, atol=1e-6)
    # What is certified by is read alike, though it is another folder.
    other = tmp_path / "one"
    other.mkdir()
    load_samples(folder_of(other, photos[0].clip(0, 255).astype(np.uint8)), spec, form=DataForm(reader))
    assert "--preprocess -1-1; guessed: layout, color" in reader.lines[1]
    inverted = tmp_path / "inverted"
    inverted.mkdir()
    folder_of(inverted, *np.full((9, 28, 28), 3, np.uint8))
    plain = ImageReader(DataOptions(), {}, lambda: statistics)
    load_samples(inverted, spec, form=DataForm(plain))
    assert "--preprocess 0-1; guessed: layout, color, preprocess, which nothing in the file tells" in plain.lines[0]


class Symmetric:
    """Statistics of a network that was trained on -1 to 1."""

    tried = 0

    def distance(self, feeds: Any) -> tuple[float, str]:
        self.tried += 1
        values = np.concatenate([feed["x"].ravel() for feed in feeds])
        return (0.0 if -1 <= values.min() < 0 and values.max() <= 1 else 9.0), "bn"


def test_what_pixels_become_is_guessed_for_different_sizes_too(tmp_path: Path) -> None:
    source = folder_of(tmp_path, *[pixels(8, 16 + 8 * (seed % 3), seed) for seed in range(9)])
    statistics = Symmetric()
    reader = ImageReader(DataOptions(), {}, lambda: statistics)  # type: ignore[arg-type, return-value]
    load_samples(source, LINES, form=DataForm(reader))
    assert "--preprocess -1-1; guessed: layout, color, preprocess, closest to the" in reader.lines[0]
    # Photographs as they are may be large, and few images tell nothing.
    assert statistics.tried == 4
    for asked, count, why in (({"resize": "none"}, None, "for images of any size are not tried"), ({}, 7, "so few")):
        reader = ImageReader(DataOptions(**asked), {}, lambda: statistics)  # type: ignore[arg-type, return-value]
        load_samples(source, LINES if count else FREE, form=DataForm(reader, most=count))
        assert "--preprocess 0-1; guessed: layout, color, preprocess, the most common, " in reader.lines[0]
        assert why in reader.lines[0]
    assert statistics.tried == 4
