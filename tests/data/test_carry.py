"""States that outputs feed back: recorded once, in the order of the samples, on the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from onnx import numpy_helper

from onnxpfp.data.buckets import BucketedSamples
from onnxpfp.data.carry import Carry, carry_of
from onnxpfp.data.inputs import InputSpec, input_specs
from onnxpfp.data.samples import ArraySamples
from onnxpfp.data.sources import DataForm, load_samples
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.runtime.session import open_session

RECURRENT = """g (float[N,3] x, float[2,N,4] h) => (float[N,2] y, float[2,N,4] hn) {
    a = MatMul(x, w)
    b = Add(a, h)
    hn = Tanh(b)
    s = ReduceSum <keepdims = 0> (hn, axis)
    y = MatMul(s, z)
}"""
GROWING = """g (float[batch,1,3] x, float[batch,past,3] old) => (float[batch,1,3] y, float[batch,total,3] new) {
    new = Concat <axis = 1> (old, x)
    y = ReduceMean <axes = [1], keepdims = 1> (new)
}"""
DATA = nets.noise(9, 3)


def model_of(text: str) -> Any:
    model = nets.build(text, {} if text is GROWING else {"w": (3, 4), "z": (4, 2)})
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
    return model


def loaded(source: Any, text: str = RECURRENT, pairs: tuple[str, ...] = ("hn:h",), **more: Any) -> Any:
    model = model_of(text)
    session, specs = open_session(model), input_specs(model)
    outputs = carry_of(pairs, specs, [output.name for output in model.graph.output])
    return load_samples(source, specs, form=DataForm(carry=Carry(outputs, session.run), **more))


def recorded(text: str = RECURRENT, first: np.ndarray | None = None, data: np.ndarray = DATA) -> list[np.ndarray]:
    """The states before every sample, by a loop of its own."""
    state, states = np.zeros((2, 1, 4), np.float32) if first is None else first, []
    opened = nets.session(model_of(text))
    for x in data:
        states.append(state)
        state = opened.run(["hn"], {"x": x[None], "h": state})[0]
    return states


@pytest.mark.parametrize("kind", ["array", "npy", "npz", "npz with the first state", "folder"])
def test_states_of_samples_in_arrays(kind: str, tmp_path: Path) -> None:
    first = nets.noise(2, 1, 4, seed=3)
    np.save(tmp_path / "x.npy", DATA)
    np.savez(tmp_path / "x.npz", x=DATA)
    np.savez(tmp_path / "first.npz", x=DATA, h=first)
    (tmp_path / "files").mkdir()
    for number, x in enumerate(DATA):
        np.save(tmp_path / "files" / f"{number}.npy", x)
    sources = {"array": DATA, "npy": tmp_path / "x.npy", "npz": tmp_path / "x.npz", "folder": tmp_path / "files"}
    samples = loaded(sources.get(kind, tmp_path / "first.npz"))
    assert isinstance(samples, ArraySamples)
    assert samples.fixed_batch is None
    (feed,) = samples.batches(16)
    wanted = np.concatenate(recorded(first=first if kind.endswith("state") else None), axis=1)
    np.testing.assert_allclose(feed["h"], wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(feed["x"], DATA)
    one, other = samples.split(3, 0)
    for part in (one, other):
        for each in part.batches(1):
            at = [*map(tuple, DATA)].index(tuple(each["x"][0]))
            np.testing.assert_allclose(each["h"], wanted[:, at : at + 1], rtol=1e-6, atol=1e-6)


def test_a_sequence_is_read_from_its_beginning() -> None:
    samples = loaded(DATA, most=4)
    (feed,) = samples.batches(16)
    np.testing.assert_array_equal(feed["x"], DATA[:4])
    np.testing.assert_allclose(feed["h"], np.concatenate(recorded()[:4], axis=1), rtol=1e-6, atol=1e-6)


def test_feeds_begin_a_new_sequence_where_they_have_a_state() -> None:
    first = nets.noise(2, 1, 4, seed=3)
    feeds = [{"x": x[None], **({"h": first} if at == 5 else {})} for at, x in enumerate(DATA)]
    samples = loaded(feeds)
    assert isinstance(samples, BucketedSamples)
    (feed,) = samples.batches(16)
    wanted = [*recorded(data=DATA[:5]), *recorded(first=first, data=DATA[5:])]
    np.testing.assert_allclose(feed["h"], np.concatenate(wanted, axis=1), rtol=1e-6, atol=1e-6)


def test_sequences_side_by_side() -> None:
    feeds = [{"x": DATA[at : at + 3]} for at in (0, 3, 6)]
    states = [feed["h"] for feed in loaded(feeds).batches()]
    for row in range(3):
        wanted = recorded(data=DATA[row::3])
        for state, each in zip(states, wanted, strict=True):
            np.testing.assert_allclose(state[:, row : row + 1], each, rtol=1e-6, atol=1e-6)


def test_a_cache_that_grows() -> None:
    data = nets.noise(4, 1, 3)
    samples = loaded(data, GROWING, ("new:old",))
    feeds = [*samples.batches(8)]
    assert [feed["old"].shape for feed in feeds] == [(1, length, 3) for length in range(4)]
    np.testing.assert_array_equal(feeds[3]["old"][0], data[:3, 0])


def test_noise_has_recorded_states_too() -> None:
    samples = loaded("random")
    (feed,) = samples.batches(512)
    wanted = recorded(data=feed["x"][:3])
    np.testing.assert_allclose(feed["h"][:, :3], np.concatenate(wanted, axis=1), rtol=1e-6, atol=1e-6)


def test_states_for_every_sample_are_no_beginning() -> None:
    with pytest.raises(CalibrationError, match=r"feeds 'h' back, and the data have one for every sample: \(2, 9, 4\)"):
        loaded({"x": DATA, "h": nets.noise(2, 9, 4)})
    with pytest.raises(CalibrationError, match=r"input 'h' wants shape \(2, \?, 4\), the data has \(2, 1, 5\)"):
        loaded({"x": DATA, "h": nets.noise(2, 1, 5)})


def test_a_state_that_does_not_fit_or_is_not_finite() -> None:
    with pytest.raises(CalibrationError, match=r"--carry y:h: the output is float32 \(1, 2\), and the input float32"):
        loaded(DATA, pairs=("y:h",))
    text = RECURRENT.replace("Tanh(b)", "Exp(b)")
    with pytest.raises(CalibrationError, match="the state 'h' has NaN or infinite values at sample"):
        loaded(np.abs(DATA) * 9, text)


SPECS = (InputSpec("x", np.dtype(np.float32), (None, 3)), InputSpec("state:0", np.dtype(np.float32), (None, 4)))


def test_which_output_becomes_which_input() -> None:
    assert carry_of(["new:1:state:0"], SPECS, ["y", "new:1"]) == {"state:0": "new:1"}
    assert carry_of([], SPECS, ["y"]) == {}


@pytest.mark.parametrize(
    ("texts", "says", "hint"),
    [
        (["new:1:stat"], "'stat' is no input of the model", "did you mean 'state:0'? the inputs are: x, state:0"),
        (["now:1:state:0"], "'now:1' is no output of the model", "did you mean 'new:1'? the outputs are: y, new:1"),
        (["x:y"], "--carry x:y has the input first", "--carry y:x"),
        (["y:x", "new:1:x"], "--carry feeds 'x' from 'y' and from 'new:1'", "give it one"),
        (["y:x", "new:1:state:0"], "--carry feeds every input", "leave one out"),
    ],
)
def test_names_that_there_are_not(texts: list[str], says: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        carry_of(texts, SPECS, ["y", "new:1"])
    assert says in str(caught.value)
    assert caught.value.hint == hint


def test_a_size_that_is_not_known_before_the_first_sample() -> None:
    spec = InputSpec("h", np.dtype(np.float32), (None, None), ("batch", "wide"))
    carry = Carry({"h": "y"}, lambda feed: feed)
    with pytest.raises(OptionError, match=r"the state 'h' is float32 \(\?, \?\): its size before the first") as caught:
        carry.record((SPECS[0], spec), [{"x": DATA[:1]}])
    assert caught.value.hint == "--input-shape h:1,1 says it"
    known = Carry({"h": "y"}, lambda feed: {"y": feed["h"] + 1}, {"h": (1, 6)})
    states = known.record((SPECS[0], spec), [{"x": DATA[:1]}] * 3)
    assert [(each["h"].shape, each["h"][0, 0]) for each in states] == [((1, 6), 0), ((1, 6), 1), ((1, 6), 2)]
