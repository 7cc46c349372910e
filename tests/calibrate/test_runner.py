"""The runner: observers see every tensor that they need, against a run that shows them all."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate import runner as runner_module
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError
from onnxpfp.lossless.traces import TraceObserver
from onnxpfp.model import load as load_module
from onnxpfp.model.load import load

SHAPES: dict[str, Shape] = {"r": (1, 8, 8, 8), "c": (1, 10, 8, 8), "f": (1, 10), "y": (1, 5)}
DATA = nets.noise(7, 3, 8, 8)


@dataclass(slots=True, eq=False)
class Recorder(Observer):
    """Keeps copies of what it needs, and the sizes of all that came out."""

    needs: Mapping[str, Shape]
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)
    seen: list[Batch] = field(default_factory=list)
    there: list[dict[str, int]] = field(default_factory=list)

    @property
    def work(self) -> int:
        return 1

    def see(self, tensors: Arrays, batch: Batch) -> None:
        self.batches.append({name: tensors[name].copy() for name in self.needs})
        self.there.append({name: array.nbytes for name, array in tensors.items() if name != "x"})
        self.seen.append(batch)

    def statistics(self) -> dict[str, Any]:
        return {}

    def whole(self, name: str) -> np.ndarray:
        return np.concatenate([values[name] for values in self.batches])


def samples_of(model: ModelProto, data: np.ndarray) -> Samples:
    return load_samples(data, input_specs(model))


def record(model: ModelProto, needs: Sequence[Mapping[str, Shape]], **options: Any) -> list[Recorder]:
    observers = [Recorder(each) for each in needs]
    run_observers(model, observers, samples_of(model, DATA), **{"batch_size": 3, "threads": 1} | options)
    return observers


EACH: list[dict[str, Shape]] = [{name: shape} for name, shape in SHAPES.items()]
ALL = 4 * (512 + 640 + 10 + 5)
"""Bytes of all tensors for one sample."""


@pytest.mark.parametrize("workspace", [1, 2 * 4 * 640, 2 * ALL, 4 * ALL, 1 << 20])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_tensor_comes_once_for_every_sample(workspace: int, threads: int) -> None:
    model, told = nets.chain(), list[tuple[int, int]]()
    found = record(
        model,
        EACH,
        workspace_bytes=workspace,
        threads=threads,
        progress=lambda *news: told.append(news),
        first_sample=9,
    )
    expected = nets.values(model, {"x": DATA})
    for observer, name in zip(found, SHAPES, strict=True):
        np.testing.assert_allclose(observer.whole(name), expected[name], rtol=1e-4, atol=1e-5)
        assert [batch.first for batch in observer.seen] == np.cumsum([9, *(b.samples for b in observer.seen)])[
            :-1
        ].tolist()
    passes = {1: 4, 2 * 4 * 640: 3}.get(workspace, 1)
    assert told[-1] == (7 * passes, 7 * passes)


@pytest.mark.parametrize("workspace", [2 * 4 * 640, 2 * 4 * 1300, 2 * 4 * 2 * 1300, 1 << 20])
def test_no_more_comes_out_of_a_run_than_fits(workspace: int) -> None:
    found = record(nets.chain(), EACH, workspace_bytes=workspace)
    assert max(sum(sizes.values()) for observer in found for sizes in observer.there) <= workspace // 2


def test_batches_get_smaller_before_there_are_several_passes() -> None:
    found = record(nets.chain(), EACH, workspace_bytes=2 * 2 * ALL)
    for observer in found:
        assert [batch.samples for batch in observer.seen] == [2, 2, 2, 1]
        assert {*observer.there[0]} == {*SHAPES}


def test_what_an_observer_needs_comes_together_and_a_shared_tensor_counts_once() -> None:
    needs: list[dict[str, Shape]] = [{"r": SHAPES["r"], "c": SHAPES["c"]}, {"r": SHAPES["r"]}, {"f": SHAPES["f"]}]
    found = record(nets.chain(), needs, workspace_bytes=2 * 4 * (512 + 640))
    assert [[*observer.there[0]] for observer in found] == [["r", "c"], ["r", "c"], ["f"]]


def test_only_what_is_needed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ModelProto] = []
    original = runner_module.open_session

    def spy(make: Callable[[], ModelProto], *args: Any, **options: Any) -> Any:
        opened.append(make())
        return original(opened[-1], *args, **options)

    monkeypatch.setattr(runner_module, "open_session", spy)
    model = nets.chain()
    before = model.SerializeToString()
    record(model, [{"r": SHAPES["r"]}])
    (shown,) = opened
    assert [node.op_type for node in shown.graph.node] == ["Conv", "Relu"]
    assert {tensor.name for tensor in shown.graph.initializer} == {"w1", "b1"}
    assert model.SerializeToString() == before


def test_inputs_are_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(runner_module, "open_session")
    (observer,) = record(nets.chain(), [{"x": (1, 3, 8, 8)}])
    np.testing.assert_array_equal(observer.whole("x"), DATA)


def test_weights_in_files_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(nets.chain(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    model = load(path).model
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    (observer,) = record(model, [{"c": SHAPES["c"]}])
    np.testing.assert_allclose(observer.whole("c"), nets.values(nets.chain(), {"x": DATA})["c"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_batch_is_overwritten_before_it_was_seen(threads: int) -> None:
    model = nets.chain()
    found, alone = (record(model, EACH, batch_size=1, threads=number) for number in (threads, 1))
    for observer, one, name in zip(found, alone, SHAPES, strict=True):
        np.testing.assert_array_equal(observer.whole(name), one.whole(name))
        assert [batch.first for batch in observer.seen] == [*range(len(DATA))]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_where_batches_fail_the_samples_run_one_by_one(threads: int) -> None:
    """Those of a batch that ran before it was known, too."""
    model = nets.build(
        """g (float[N,3] x) => (float[N,2] y) <int64[2] one = {1, 3}> {
        l = Reshape(x, one)  r = Relu(l)  y = MatMul(r, w1) }""",
        {"w1": (3, 2)},
    )
    data, observer = nets.noise(40, 3), Recorder({"r": (1, 3)})
    run_observers(model, [observer], samples_of(model, data), threads=threads)
    np.testing.assert_array_equal(observer.whole("r"), np.maximum(data, 0))
    assert [(batch.first, batch.samples) for batch in observer.seen] == [(number, 1) for number in range(40)]


def test_a_fixed_batch_is_kept() -> None:
    model = nets.build(nets.CHAIN.replace("N,", "2,"), nets.CHAIN_SHAPES)
    observer = Recorder({"f": (2, 10)})
    run_observers(model, [observer], samples_of(model, DATA[:6]), batch_size=2, workspace_bytes=1)
    assert [len(values["f"]) for values in observer.batches] == [2, 2, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_not_finite_is_named(threads: int) -> None:
    model = nets.build(
        "g (float[N,3] x) => (float[N,2] y) { l = Log(x) h = MatMul(l, w1) y = Relu(h) }", {"w1": (3, 2)}
    )
    samples = samples_of(model, nets.noise(4, 3))
    with pytest.raises(CalibrationError, match="NaN or infinity at 'l'"):
        run_observers(model, [TraceObserver(("l", 1), (1, 3), 0)], samples, batch_size=2, threads=threads)


_OWN: ContextVar[str] = ContextVar("own", default="")


@dataclass(slots=True, eq=False)
class Asker(Recorder):
    """Asks in its thread what holds for the call."""

    answers: list[tuple[str, str]] = field(default_factory=list)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        self.answers.append((_OWN.get(), threading.current_thread().name))


@pytest.mark.parametrize("threads", [1, 2])
def test_what_holds_for_the_call_holds_in_its_threads(threads: int) -> None:
    """A time limit and libraries of ops are such."""
    model = nets.chain()
    askers = [Asker({"r": SHAPES["r"]}), Asker({"c": SHAPES["c"]})]
    token = _OWN.set("this call")
    try:
        run_observers(model, askers, samples_of(model, DATA), batch_size=3, threads=threads)
    finally:
        _OWN.reset(token)
    answers = [answer for asker in askers for answer in asker.answers]
    assert {own for own, _ in answers} == {"this call"}
    # Whoever asks for the run is one of its threads, and may have been faster than all others.
    if threads == 1:
        assert {thread for _, thread in answers} == {threading.current_thread().name}


@dataclass(slots=True, eq=False)
class Watcher(Recorder):
    """Counts how many of the arrays that it has seen are still there when it sees the next ones."""

    shown: list[weakref.ref[np.ndarray]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        self.alive.append(sum(ref() is not None for ref in self.shown))
        self.shown = [weakref.ref(tensors[name]) for name in self.needs]


def test_what_came_out_of_a_batch_goes_before_one_of_another_size_runs() -> None:
    model = nets.chain()
    watcher = Watcher({name: SHAPES[name] for name in ("r", "c")})
    run_observers(model, [watcher], samples_of(model, DATA), batch_size=3, threads=1)
    # Batches of one size lie in the same memory.
    assert watcher.alive == [0, 2, 0]
