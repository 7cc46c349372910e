"""`script.py:function`: what it returns are samples, and what fails in it is told with its line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxpfp.data.buckets import BucketedSamples
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.script import Script, script_of
from onnxpfp.data.sources import DataForm, load_samples
from onnxpfp.errors import CalibrationError

IMAGE = (InputSpec("x", np.dtype(np.float32), (None, 3, 4)),)
HEAD = "import numpy as np\nX = np.arange(72, dtype=np.float32).reshape(6, 3, 4)\n"
FUNCTIONS = {
    "a generator": "def load():\n    for x in X:\n        yield {'x': x[None]}\n",
    "a list": "def load():\n    return [{'x': x[None]} for x in X]\n",
    "batches": "def load():\n    yield {'x': X[:4]}\n    yield {'x': X[4:]}\n",
    "an array": "def load():\n    return X\n",
    "arrays": "def load():\n    return {'x': X, 'labels': np.zeros(6)}\n",
    "a reader": (
        "class load:\n    def __init__(self):\n        self.left = list(X)\n"
        "    def get_next(self):\n        return {'x': self.left.pop(0)[None]} if self.left else None\n"
    ),
    "the default": "def load_data():\n    yield from ({'x': x[None]} for x in X)\n",
    "a neighbour": "def load():\n    import beside_it\n    return beside_it.samples(X)\n",
}


def script(folder: Path, text: str) -> Path:
    path = folder / "data script.py"
    path.write_text(HEAD + text)
    (folder / "beside_it.py").write_text("def samples(x):\n    return {'x': x}\n")
    return path


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_a_function_returns(kind: str, tmp_path: Path) -> None:
    path = script(tmp_path, FUNCTIONS[kind])
    before = [*sys.path]
    samples = load_samples(str(path) if kind == "the default" else f"{path}:load", IMAGE)
    sys.modules.pop("beside_it", None)
    stacked = np.concatenate([feed["x"] for feed in samples.batches(4)])
    np.testing.assert_array_equal(stacked, np.arange(72, dtype=np.float32).reshape(6, 3, 4))
    assert sys.path == before


def test_an_endless_generator_is_read_as_far_as_it_is_wanted(tmp_path: Path) -> None:
    path = script(tmp_path, "def load():\n    while True:\n        yield {'x': X[:1]}\n")
    samples = load_samples(f"{path}:load", IMAGE, form=DataForm(most=9))
    assert isinstance(samples, BucketedSamples)
    assert len(samples) == 9


def test_batches_stay_what_the_function_made_of_them(tmp_path: Path) -> None:
    samples = load_samples(f"{script(tmp_path, FUNCTIONS['batches'])}:load", IMAGE)
    assert isinstance(samples, FeedSamples)
    assert samples.counts == (4, 2)


def test_what_it_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, "print('module')\ndef load():\n    print('item')\n    yield {'x': X}\n")
    load_samples(f"{path}:load", IMAGE)
    assert capsys.readouterr() == ("", "module\nitem\n")


FAILING = {
    "no function": ("def other():\n    pass\n", "has no function 'load'; it has other"),
    "nothing in it": ("", "has no function 'load'; it has none"),
    "fails at once": ("def load():\n    raise KeyError('gone')\n", r"fails in line 4: KeyError: 'gone'"),
    "fails later": (
        "def load():\n    yield {'x': X}\n    yield {'x': 1 / 0}\n",
        "fails in line 5: ZeroDivisionError: division by zero",
    ),
    "is no Python": ("def load(:\n", "fails in line 3: SyntaxError: invalid syntax"),
    "takes something": ("def load(count):\n    pass\n", r"fails: TypeError: .*missing 1 required positional"),
    "imports what is not there": ("import no_such_module\n", "fails in line 3: ModuleNotFoundError: No module named"),
    "is no source": ("def load():\n    return 7\n", "a int is no source of samples"),
    "yields no dicts": ("def load():\n    yield X\n", "batch 0 is a ndarray, not a dict"),
    "another name": ("def load():\n    yield {'X': X}\n", r"batch 0 has the inputs \['X'\], the model wants \['x'\]"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_what_fails_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    text, says = FAILING[kind]
    with pytest.raises(CalibrationError, match=says) as caught:
        load_samples(f"{script(tmp_path, text)}:load", IMAGE)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_which_sources_are_scripts() -> None:
    sources: dict[Any, Any] = {
        "a.py:f": Script(Path("a.py"), "f"),
        "dir/a.py": Script(Path("dir/a.py"), "load_data"),
        Path("a.py"): Script(Path("a.py"), "load_data"),
        "a.npz": None,
        "a.py.npz": None,
        "random": None,
        7: None,
    }
    assert {source: script_of(source) for source in sources} == sources
    with pytest.raises(CalibrationError, match=r"no such\.py does not exist"):
        load_samples("no such.py:f", IMAGE)


def test_nothing_is_written_beside_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = script(tmp_path, FUNCTIONS["an array"])
    files = {*tmp_path.rglob("*")}
    load_samples(f"{path}:load", IMAGE)
    assert {*tmp_path.rglob("*")} == files
