"""`--max-drift` and `--min-agreement`: what they print, and what they refuse."""

from __future__ import annotations

import json
import re

import cli_models
import numpy as np
import onnx
import pytest
from PIL import Image

DATA = ("--calib-data", "data.npz", "--threads", "1", "--score", "l2", "--compensate", "none")


def test_the_report_says_what_was_reached(folder, prune):
    np.savez("data.npz", x=cli_models.images(512))
    result = prune("in.onnx", "out.onnx", *DATA, "--allocate", "uniform", "--max-drift", "0.7", "--confidence", "0.9")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stdout.split())
    assert "as few MACs as a mean relative output error of 0.7 allows" in printed
    found = re.search(
        r"reached (\S+) % of the MACs: with a confidence of 90 %, the relative output error of one input, counted as 1 "
        r"where it is more, is at most 0\.7 in the mean over inputs \(by betting, (\S+) on (\d+) held-out samples\); "
        r"\d+ trials on tuning samples \(80 % good, .*\), then \d+ shares tested on the held-out ones \(\d+ % passed, ",
        printed,
    )
    assert found
    assert float(found[1]) < 80
    assert float(found[2]) < 0.7
    assert f"against the original on {found[3]} held-out samples, which tested how much may go" in printed


def test_of_noise_nothing_is_promised_of_inputs(folder, prune):
    result = prune("in.onnx", "out.onnx", "--calib-data", "random", "--threads", "1", "--max-drift", "0.7")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stdout.split())
    assert "is at most 0.7 in the mean over inputs of such noise (by betting, " in printed
    assert " promised " not in printed


def test_the_report_as_json(folder, prune):
    np.savez("data.npz", x=cli_models.images(512))
    result = prune("in.onnx", "out.onnx", *DATA, "--max-drift", "0.7", "--json", "-", "-q")
    document = json.loads(result.stdout)
    assert document["target"] == {"max_drift": 0.7}
    assert document["confidence"] == 0.95
    last = [test for test in document["tests"] if test["passed"]][-1]
    certified = document["certified"]
    assert (last["observed"], last["bound"]) == (certified["observed"], certified["bound"])
    assert certified["bound"] <= 0.7
    assert document["after"]["macs"] <= last["share"] * document["before"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--max-drift", "0"), "--max-drift 0 is outside (0, 1): an error counts as 1 where it is more"),
        (("--max-drift", "nan"), "--max-drift nan is outside (0, 1): an error counts as 1 where it is more"),
        (("--max-drift", "1"), "--max-drift 1 is outside (0, 1): an error counts as 1 where it is more"),
        (("--min-agreement", "0"), "--min-agreement 0 is outside (0, 1)"),
        (("--min-agreement", "1.1"), "--min-agreement 1.1 is outside (0, 1)"),
        (("--min-agreement", "1"), "--min-agreement 1 cannot be promised by any number of samples"),
        (("--min-agreement", "0.9", "--confidence", "1"), "--confidence 1 is outside (0, 1)"),
        (
            ("--min-agreement", "0.9", "--confidence", "0.05"),
            "--confidence 0.05 is less than even: it is a confidence, not an error probability",
        ),
        (("--max-drift", "0.1", "--keep-macs", "0.5"), "give one target: --keep-macs or --max-drift, not both"),
        (
            ("--max-drift", "0.1", "--min-agreement", "0.5"),
            "give one target: --max-drift or --min-agreement, not both",
        ),
        (
            ("--max-drift", "0.1", "--from-plan", "p"),
            "--from-plan says what stays, so --max-drift has no meaning with it",
        ),
    ],
)
def test_targets_that_cannot_be_meant(refuse, arguments, says):
    assert refuse("in.onnx", "out.onnx", *DATA, *arguments, code=2).error == says


def test_without_data(refuse):
    found = refuse("in.onnx", "out.onnx", "--max-drift", "0.1", code=2)
    assert found.error == "--max-drift measures the data, and none are given"


def test_an_output_that_does_not_look_like_class_scores(refuse):
    found = refuse("in.onnx", "out.onnx", *DATA, "--min-agreement", "0.9", code=2)
    assert found.error.startswith("in.onnx: --min-agreement compares the largest class of every sample, and no output")
    assert found.hint == "--max-drift X bounds the relative output error in its place"


def test_too_few_samples_for_the_promise(folder, refuse):
    onnx.save(classes(), folder / "classes.onnx")
    np.savez(folder / "data.npz", x=cli_models.images(64))
    found = refuse("classes.onnx", "new.onnx", *DATA, "--min-agreement", "0.95")
    assert re.fullmatch(
        r"data\.npz: --min-agreement 0\.95 with a confidence of 95 % takes 59 held-out samples that all keep their "
        r"class \(93 with one that does not, 124 with two\); of 64 given, (8|16) are held out",
        found.error,
    )
    assert re.fullmatch(
        r"give more samples; or give --certify-data; these can promise --min-agreement 0\.\d+ at the most", found.hint
    )


def test_a_folder_has_more_images_than_are_read(folder, prune):
    """What is asked for may be promised by more of them."""
    onnx.save(classes(), folder / "classes.onnx")
    (folder / "photos").mkdir()
    for number, image in enumerate(cli_models.images(72)):
        levels = np.clip(128 + 40 * image.transpose(1, 2, 0), 0, 255).astype(np.uint8)
        Image.fromarray(levels).save(folder / "photos" / f"{number}.png")
    asked = ("--calib-data", "photos", "--preprocess", "0-1", "--min-agreement", "0.95")
    some = prune("classes.onnx", "new.onnx", *asked, "--calib-samples", "64").stderr
    assert (
        "of 64 given, 16 are held out\nHint: --calib-samples N takes more of the 72 images, of which one in 4 is"
        in some
    )
    every = prune("classes.onnx", "new.onnx", *asked).stderr
    assert "of 72 given, 18 are held out\nHint: give more samples; or give --certify-data; these can promise" in every


def test_a_bound_that_cannot_be_met(folder, refuse):
    np.savez(folder / "data.npz", x=cli_models.images(512))
    found = refuse("in.onnx", "new.onnx", *DATA, "--max-drift", "0.06", code=3)
    asked = "nothing can be pruned within --max-drift 0.06 with a confidence of 95 %"
    assert found.error.startswith(f"in.onnx: {asked}: with 99 % of the MACs the mean")
    assert re.fullmatch(r"ask for --max-drift 0\.\d+ and let other samples test it, or give more", found.hint)


def classes():
    return cli_models.build(
        "g (float[N,3,8,8] x) => (float[N,5] y) "
        "{ a = Conv(x, w1) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c) y = MatMul(d, w2) }",
        {"w1": (12, 3, 3, 3), "w2": (12, 5)},
    )


def test_class_scores(folder, prune):
    onnx.save(classes(), folder / "classes.onnx")
    np.savez(folder / "data.npz", x=cli_models.images(512))
    result = prune("classes.onnx", "new.onnx", *DATA, "--min-agreement", "0.5")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stdout.split())
    assert "as few MACs as a top-1 agreement of 50 % allows" in printed
    found = re.search(
        r"at least 50 % of inputs keep their class \(exact binomial, (\d+) of (\d+) held-out samples do\)", printed
    )
    assert found
    assert int(found[1]) > int(found[2]) / 2
