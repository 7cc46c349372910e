"""--calib-data and --certify-data in every form, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import cli_models
import nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

IMAGES = cli_models.images()
RECURRENT = """g (float[N,6] x, float[N,12] h) => (float[N,5] y, float[N,12] hn) {
    a = MatMul(x, w)  b = Add(a, h)  hn = Tanh(b)  c = MatMul(hn, v)  r = Relu(c)  y = MatMul(r, z) }"""


@pytest.fixture
def forms(folder):
    """The same samples in all forms, in the folder of the model."""
    rng = np.random.default_rng(0)
    for number in range(32):
        place = folder / "photos" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(place / f"{number}.jpg")
    (folder / "arrays").mkdir()
    for number, image in enumerate(IMAGES):
        np.save(folder / "arrays" / f"{number}.npy", image)
        data_set = folder / "zoo" / f"test_data_set_{number}"
        data_set.mkdir(parents=True)
        (data_set / "input_0.pb").write_bytes(numpy_helper.from_array(image[None], "x").SerializeToString())
    text = "import numpy as np\n\ndef load():\n    for x in np.load('data.npz')['x']:\n        yield {'x': x[None]}\n"
    (folder / "script.py").write_text(text)
    return folder


def report_of(prune, *arguments):
    result = prune("in.onnx", "out.onnx", "--force", "--keep-macs", "0.6", "--json", "-", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("source", ["arrays", "zoo", "script.py:load"])
def test_the_form_of_the_data_does_not_matter(forms, prune, source):
    plain, _ = report_of(prune, "--calib-data", "data.npz")
    one = onnx.load(forms / "out.onnx")
    report, _ = report_of(prune, "--calib-data", source)
    assert [group["kept"] for group in report["groups"]] == [group["kept"] for group in plain["groups"]]
    assert report["samples"] == plain["samples"]
    other = onnx.load(forms / "out.onnx")
    for name, array in nets.weights(one).items():
        np.testing.assert_allclose(nets.weights(other)[name], array, rtol=1e-5, atol=1e-5)


def test_a_folder_of_images(forms, prune):
    report, told = report_of(prune, "--calib-data", "photos", "--calib-samples", "24")
    line = (
        "images: 24 of 32, scaled to cover 8x8 and cropped around the middle; --layout NCHW --color RGB --preprocess "
        "0-1; guessed: layout, color, preprocess, which nothing in the file tells"
    )
    assert told.count(line) == 1
    assert line in report["notes"]
    said = ("--preprocess", "-1-1", "--layout", "NCHW", "--color", "BGR", "--resize", "pad")
    report, told = report_of(prune, "--calib-data", "photos", *said)
    assert "images: 32, scaled to fit into 8x8, the rest grey; --layout NCHW --color BGR --preprocess -1-1\n" in told
    mean = ("--preprocess", "mean=0.4,0.5,0.6,std=0.2,0.2,0.2")
    assert "--preprocess mean=0.4,0.5,0.6,std=0.2,0.2,0.2;" in report_of(prune, "--calib-data", "photos", *mean)[1]


def test_certification_samples_in_another_form(forms, prune):
    np.save(forms / "other.npy", nets.noise(8, 3, 8, 8, seed=77))
    report, _ = report_of(prune, "--calib-data", "arrays", "--certify-data", "other.npy")
    assert report["drift"]["samples"] == 8
    again = prune("in.onnx", "out.onnx", "--force", "--calib-data", "arrays", "--certify-data", "data.npz")
    assert again.exit_code == 1
    assert "samples are in --calib-data too" in again.stderr


def test_states_are_recorded(folder, prune):
    onnx.save(nets.build(RECURRENT, {"w": (6, 12), "v": (12, 12), "z": (12, 5)}), folder / "in.onnx")
    np.savez(folder / "steps.npz", x=nets.noise(64, 6))
    report, told = report_of(prune, "--calib-data", "steps.npz", "--carry", "hn:h")
    line = "states were recorded while the original ran over 64 samples in their order: 'h' from 'hn'; samples of one"
    assert line in told
    assert any(note.startswith(line) for note in report["notes"])
    assert report["drift"]["samples"] == 8
    result = prune("in.onnx", "out.onnx", "--force", "--calib-data", "steps.npz")
    assert result.exit_code == 1
    assert "steps.npz has no array for input 'h'; it has x" in result.stderr


def test_every_verb_takes_every_form(forms):
    from click.testing import CliRunner

    from onnxpfp.cli.main import main

    said = ("--calib-data", "photos", "--preprocess", "none", "--layout", "NCHW", "--json", "-")
    for verb, files in {
        "factorize": ["in.onnx", "out.onnx", "--force"],
        "sparsify": ["in.onnx", "out.onnx", "--force"],
        "prunability": ["in.onnx"],
        "verify": ["in.onnx", "in.onnx"],
        "latency": ["in.onnx"],
    }.items():
        result = CliRunner().invoke(main, [verb, *files, *said])
        assert result.exit_code == 0, (verb, result.stderr)
        line = (
            "images: 32, scaled to cover 8x8 and cropped around the middle; --layout NCHW --color RGB --preprocess none"
        )
        assert result.stderr.count(line) == 1, verb
        assert any(note.startswith(line) for note in json.loads(result.stdout)["notes"]), verb


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["nowhere"], 1, "nowhere does not exist", "check the path"),
        (["empty"], 1, "empty has no samples: no images, .npy or .npz files, nor", "images are .bmp"),
        (["script.py:other"], 1, "script.py has no function 'other'; it has load", "--calib-data script.py:load"),
        (["photos", "--resize", "9x9"], 2, "--resize asks for 9x9, and input 'x' is float32 (?, 3, 8, 8)", "leave"),
        (["photos", "--preprocess", "0-255"], 2, "--preprocess '0-255' says nothing of pixels", "imagenet"),
        (["photos", "--layout", "NHWC"], 1, "photos: input 'x' is float32 (?, 3, 8, 8), with 8 channels as NHWC", ""),
        (["data.npz", "--carry", "y:z"], 2, "--carry y:z: 'z' is no input of the model", "the inputs are: x"),
        (["data.npz", "--color", "BGR", "--resize", "pad"], 2, "--resize and --color: that is of images", "a folder"),
        (["random", "--preprocess", "0-1"], 2, "--preprocess: that is of images, and there are none", "scale the data"),
        (["mixed"], 1, "mixed has 1 image and 1 array", "name a folder of one kind"),
    ],
)
def test_what_does_not_fit(forms, refuse, arguments, code, error, hint):
    (forms / "empty").mkdir()
    (forms / "mixed").mkdir()
    np.save(forms / "mixed" / "a.npy", IMAGES)
    Image.new("RGB", (8, 8)).save(forms / "mixed" / "a.png")
    found = refuse("in.onnx", "new.onnx", "--calib-data", *arguments, code=code)
    assert error in found.error
    assert hint in found.hint


def test_a_number_of_samples_without_any(forms, refuse):
    found = refuse("in.onnx", "new.onnx", "--calib-samples", "8", "--keep-macs", "0.6", code=2)
    assert found.error == "--calib-samples says how many samples are used, and no data are given"
    assert found.hint == "give --calib-data, or leave it out"


def test_data_that_are_scaled_otherwise(folder, prune):
    model = nets.network("resnet")
    pixels = (nets.fmnist("calibration", 64) * 0.353 + 0.286) * 255
    np.save(folder / "pixels.npy", pixels.astype(np.float32))
    result = prune(model, "out.onnx", "--force", "--calib-data", "pixels.npy", "--no-latency")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("the data look unlike those of training, as if they were scaled otherwise") == 1
    assert "--calib-samples asks" not in result.stderr
    np.save(folder / "right.npy", nets.fmnist("calibration", 64))
    right = prune(model, "out.onnx", "--force", "--calib-data", "right.npy", "--calib-samples", "200", "--no-latency")
    assert "the data look" not in right.stderr
    assert "64 samples were given, and --calib-samples asks for 200" in right.stderr
    few = prune(model, "out.onnx", "--force", "--calib-data", "right.npy", "--calib-samples", "7", "--no-latency")
    assert "7 samples are so few that the same ones decide and measure the result" in few.stderr
    one = prune(model, "out.onnx", "--force", "--calib-data", "right.npy", "--calib-samples", "1", "--no-latency")
    assert "S: 1 sample; " in one.stderr
    assert "1 used for the scores, and the same ones for all else" in " ".join(one.stdout.split())
    assert "the largest of the 1 sample seen" in " ".join(one.stdout.split())


def test_samples_in_whole_runs_are_not_said_to_be_all_that_are_given(folder, prune):
    model = nets.chain()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, folder / "fours.onnx")
    np.save(folder / "calib.npy", nets.noise(64, 3, 8, 8))
    some = prune("fours.onnx", "out.onnx", "--calib-data", "calib.npy", "--calib-samples", "35", "--no-latency")
    assert some.exit_code == 0, some.stderr
    note = "32 samples are used, in runs of the 4 that the model takes at once; --calib-samples asks for 35"
    assert note in some.stderr


def test_a_script_runs_in_the_watched_process_too(forms):
    (forms / "script.py").write_text(
        "import numpy as np\nprint('loading')\n\ndef load():\n    "
        "yield from ({'x': x[None]} for x in np.load('data.npz')['x'])\n"
    )
    code = "from onnxpfp.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "verify",
        "in.onnx",
        "in.onnx",
        "--calib-data",
        "script.py:load",
        "--json",
        "-",
    ]
    ran = subprocess.run(
        [*command, "--no-latency"], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(nets.ROOT)}
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["drift"]["samples"] == len(IMAGES)
    assert "loading" in ran.stderr
