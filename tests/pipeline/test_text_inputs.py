"""Inputs of text: strings of any kind as data, made-up ones without, in every source and verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from support.graphs import build

import onnxpfp
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError

COUNT = 24
CITIES = np.array(["oslo", "rome", "lima", "?"])[np.random.default_rng(0).integers(0, 4, (COUNT, 1))]
NUMBERS = np.random.default_rng(1).integers(0, 9, (COUNT, 4)).astype(str)
ML = "ai.onnx.ml"


def _model(text: str, domain: int = 2) -> ModelProto:
    """Build a model whose ops of the traditional domain are of one version."""
    model = build(text)
    for entry in model.opset_import:
        if entry.domain == ML:
            entry.version = domain
    return model


EMBEDDED = """g (string[batch,1] city, float[batch,6] x) => (y) <float[4,8] e, float[14,12] w, float[12,5] z,
    int64[2] rows = {-1, 8}> {
    i = ai.onnx.ml.LabelEncoder <keys_strings = ["oslo", "rome", "lima"], values_int64s = [0, 1, 2], default_int64 = 3>
    (city)  g0 = Gather(e, i)  g1 = Reshape(g0, rows)  c = Concat <axis = 1> (g1, x)  a = MatMul(c, w)  b = Relu(a)
    y = MatMul(b, z) }"""
PARSED = """g (string[batch,4] numbers) => (y) <float[4,12] w, float[12,5] z> {
    x = Cast <to = 1> (numbers)  a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z) }"""
COUNTED = """g (string[batch,4] words) => (y) <float[3,12] w, float[12,5] z> {
    n = TfIdfVectorizer <max_gram_length = 1, max_skip_count = 0, min_gram_length = 1, mode = "TF", ngram_counts = [0],
    ngram_indexes = [0, 1, 2], pool_strings = ["1", "2", "3"]> (words)
    a = MatMul(n, w)  b = Relu(a)  y = MatMul(b, z) }"""
ONE_HOT = """g (string[batch,1] city) => (y) <float[3,12] w, float[12,5] z, int64[2] rows = {-1, 3}> {
    h = ai.onnx.ml.OneHotEncoder <cats_strings = ["oslo", "rome", "lima"], zeros = 1> (city)  r = Reshape(h, rows)
    a = MatMul(r, w)  b = Relu(a)  y = MatMul(b, z) }"""
TEXT_OUT = """g (string[batch,1] city, float[batch,6] x) => (y, string[batch,1] same) <float[6,12] w, float[12,5] z> {
    a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, z)  same = Identity(city) }"""
FOR_ALL = """g (string city, float[batch,6] x) => (y) <float[6,12] w, float[12,5] z> {
    i = ai.onnx.ml.LabelEncoder <keys_strings = ["oslo"], values_int64s = [2], default_int64 = 1> (city)
    f = Cast <to = 1> (i)  a = MatMul(x, w)  b = Relu(a)  c = Mul(b, f)  y = MatMul(c, z) }"""
X = np.random.default_rng(2).standard_normal((COUNT, 6)).astype(np.float32)
TEXTS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "an embedding of a column": (EMBEDDED, {"city": CITIES, "x": X}),
    "numbers that are written": (PARSED, {"numbers": NUMBERS}),
    "words that are counted": (COUNTED, {"words": NUMBERS}),
    "one of three": (ONE_HOT, {"city": CITIES}),
    "an output of text": (TEXT_OUT, {"city": CITIES, "x": X}),
    "one word for all": (FOR_ALL, {"city": np.array("oslo"), "x": X}),
}


def model_of(name: str) -> ModelProto:
    return _model(TEXTS[name][0])


def prune(model: ModelProto, data: Any, **options: Any) -> onnxpfp.Report:
    return onnxpfp.prune(model, calibration=data, keep_macs=0.7, threads=1, **options).report


@pytest.mark.parametrize("name", TEXTS)
def test_every_verb_takes_text(name: str) -> None:
    model, data = model_of(name), TEXTS[name][1]
    report = prune(model, data)
    assert report.drift is not None
    assert report.drift.samples == COUNT // 8
    assert report.after.macs < report.before.macs
    assert not [note for note in report.notes if "one by one" in note]
    for options in ({"score": "thinet"}, {"compensate": "bias", "allocate": "bound"}, {"workspace": 1_000_000}):
        prune(model, data, **options)
    assert onnxpfp.prunability(model, calibration=data).samples_network == COUNT // 8
    assert onnxpfp.inspect(model).reachable.params


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_made_up_where_there_are_no_data(name: str) -> None:
    report = onnxpfp.prune(model_of(name), keep_macs=0.7, threads=1).report
    assert report.after.macs < report.before.macs
    assert report.oracle.runs >= 2
    assert prune(model_of(name), "random", samples=24).drift.samples == 3


def _npz(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


class Reader:
    """A CalibrationDataReader of one sample at a time."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.feeds = iter([{name: array[i : i + 1] for name, array in arrays.items()} for i in range(COUNT)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


FORMS: dict[str, Any] = {
    "npz": lambda folder, data: _npz(folder, data),
    "objects": lambda folder, data: {"city": data["city"].astype(object), "x": data["x"]},
    "bytes": lambda folder, data: {"city": np.char.encode(data["city"]), "x": data["x"]},
    "bytes as objects": lambda folder, data: {"city": np.char.encode(data["city"]).astype(object), "x": data["x"]},
    "bytes in a file": lambda folder, data: _npz(folder, {**data, "city": np.char.encode(data["city"])}),
    "lists": lambda folder, data: {"city": data["city"].tolist(), "x": data["x"]},
    "a flat list": lambda folder, data: {"city": data["city"].ravel().tolist(), "x": data["x"]},
    "feeds": lambda folder, data: [
        {"city": data["city"][i : i + 4], "x": data["x"][i : i + 4]} for i in range(0, 24, 4)
    ],
    "a reader": lambda folder, data: Reader(data),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_comes_in_any_form(form: str, tmp_path: Path) -> None:
    text, data = TEXTS["an embedding of a column"]
    source = FORMS[form](tmp_path, data)
    samples = load_samples(source, input_specs(_model(text)))
    fed = np.concatenate([feed["city"] for feed in samples.batches(5)])
    assert fed.dtype == object
    assert fed.tolist() == data["city"].tolist()
    assert {type(word) for word in fed.ravel()} == {str}


def test_a_file_of_one_text_input(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", NUMBERS)
    report = prune(model_of("words that are counted"), tmp_path / "words.npy")
    assert report.drift is not None
    assert report.drift.samples == COUNT // 8


BAD: dict[str, tuple[Any, str]] = {
    "numbers": (np.zeros((COUNT, 1), np.int64), "input 'city' wants text, the data are int64"),
    "gaps": (np.array([["oslo"], [None]] * 12, object), "wants text, the data are Python objects that are no text"),
    "floats among words": (np.array([["oslo"], [np.nan]] * 12, object), "wants text, the data are Python objects"),
    "bytes of no text": (np.array([[b"\xff\xfe"]] * COUNT), r"wants text, the data are \|S2"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_named(name: str) -> None:
    array, says = BAD[name]
    with pytest.raises(CalibrationError, match=says) as caught:
        prune(model_of("one of three"), {"city": array})
    assert "np.array(list_of_str)" in caught.value.hint


def test_objects_in_files_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", city=CITIES.astype(object))
    np.save(tmp_path / "data.npy", CITIES.astype(object))
    for name in ("data.npz", "data.npy"):
        with pytest.raises(CalibrationError, match="it holds Python objects, which are never loaded") as caught:
            prune(model_of("one of three"), tmp_path / name)
        assert "text as np.array(list_of_str), which has a dtype such as <U8" in caught.value.hint


def test_a_number_that_wants_no_text_is_told_its_type() -> None:
    with pytest.raises(CalibrationError, match="input 'x' wants float32, the data are <U4"):
        prune(model_of("an output of text"), {"city": CITIES, "x": CITIES.repeat(6, 1)})
    spec = input_specs(model_of("one of three"))[0]
    assert spec.describe() == "text (?, 1)"


def test_scalars_of_text_have_an_empty_shape() -> None:
    info = helper.make_tensor_value_info("city", TensorProto.STRING, [])
    model = model_of("one word for all")
    assert model.graph.input[0] == info
    report = onnxpfp.prune(model, keep_macs=0.7, threads=1, input_shapes={"city": (), "x": (2, 6)}).report
    assert report.inputs == {"city": (), "x": (2, 6)}
