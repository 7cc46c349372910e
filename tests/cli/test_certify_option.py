from __future__ import annotations

import json

import cli_models
import numpy as np
import pytest

IMAGES = cli_models.images()
OTHERS = np.random.default_rng(3).standard_normal((9, *IMAGES.shape[1:])).astype(np.float32)


@pytest.fixture
def certify(folder):
    np.savez(folder / "certify.npz", x=OTHERS)
    return folder


@pytest.mark.usefixtures("certify")
def test_the_result_is_measured_on_them(prune, folder):
    np.savez(folder / "few.npz", x=OTHERS[:2])
    models = []
    for name, count in (("certify.npz", 9), ("few.npz", 2)):
        flags = ["--calib-data", "data.npz", "--certify-data", name, "--json", "r.json", "--threads", "1"]
        found = prune("in.onnx", "new.onnx", *flags)
        assert found.exit_code == 0, found.output
        report = json.loads((folder / "r.json").read_text())
        assert (report["drift"]["samples"], report["drift"]["held_out"]) == (count, True)
        models.append((folder / "new.onnx").read_bytes())
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("arrays", "says", "hint"),
    [
        ({"x": OTHERS.astype(np.float64)}, "input 'x' wants float32, the data are float64", "data.astype(np.float32)"),
        ({"x": OTHERS[:, :2]}, "input 'x' wants shape (n, 3, 8, 8), the data", "axis order"),
        (
            {"x": np.where(OTHERS > 2, np.inf, OTHERS)},
            "input 'x' has NaN or infinite values in sample",
            "clean the data",
        ),
        ({"x": OTHERS[:0]}, "there are no samples", "give at least one"),
    ],
    ids=["dtype", "shape", "infinite", "none"],
)
def test_what_is_wrong_with_them_is_said_of_their_file(folder, refuse, arrays, says, hint):
    np.savez(folder / "bad.npz", **arrays)
    found = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", "--certify-data", "bad.npz")
    assert found.error.startswith(f"--certify-data bad.npz: {says}")
    assert hint in found.hint


def test_names_and_files(folder, refuse):
    np.savez(folder / "bad.npz", p=OTHERS, q=OTHERS)
    found = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", "--certify-data", "bad.npz")
    assert found.error == "--certify-data: bad.npz has no array for input 'x'; it has p, q"
    found = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", "--certify-data", "no.npz")
    assert found.error == "--certify-data: no.npz does not exist"


def test_the_same_file_twice_and_some_of_its_samples(folder, refuse):
    flags = ("in.onnx", "out.onnx", "--calib-data", "data.npz", "--certify-data")
    count = len(IMAGES)
    assert refuse(*flags, "data.npz").error == (
        f"--certify-data data.npz: {count} of its {count} samples are in --calib-data too: "
        "the first is sample 0, and sample 0 there"
    )
    np.savez(folder / "some.npz", x=np.concatenate([OTHERS, IMAGES[4:5]]))
    found = refuse(*flags, "some.npz")
    assert found.error.startswith("--certify-data some.npz: 1 of its 10 samples is in --calib-data too: the first is ")
    assert found.error.endswith("sample 9, and sample 4 there")


@pytest.mark.usefixtures("certify")
def test_what_it_goes_with(refuse):
    alone = refuse("in.onnx", "out.onnx", "--certify-data", "certify.npz", code=2)
    assert alone.error == "--certify-data goes with --calib-data, and none are given"
    noise = refuse("in.onnx", "out.onnx", "--calib-data", "data.npz", "--certify-data", "random", code=2)
    assert noise.error == "--certify-data random is noise, which certifies nothing"
    both = refuse("in.onnx", "out.onnx", "--calib-data", "random", "--certify-data", "certify.npz", code=2)
    assert both.error == "--certify-data goes with data of yours, and --calib-data random is noise"


@pytest.mark.usefixtures("certify")
def test_too_few_of_them_for_a_target(refuse):
    flags = ("--calib-data", "data.npz", "--certify-data", "certify.npz")
    found = refuse("in.onnx", "out.onnx", *flags, "--max-drift", "0.2")
    assert found.error.startswith("--certify-data: --max-drift 0.2 with a confidence of 95 % takes ")
    assert found.error.endswith(f" held-out samples without any error, and {len(OTHERS)} are given")
    assert found.hint.startswith("give more; these can promise --max-drift 0.")


@pytest.mark.usefixtures("certify")
def test_no_output_overwrites_it(refuse):
    flags = ("--calib-data", "data.npz", "--certify-data", "certify.npz")
    found = refuse("in.onnx", "certify.npz", *flags)
    assert found.error == "certify.npz: OUT and --certify-data are the same file"
    for flag in ("--plan", "--json"):
        found = refuse("in.onnx", "out.onnx", *flags, flag, "certify.npz")
        assert found.error == f"certify.npz: {flag} and --certify-data are the same file"
