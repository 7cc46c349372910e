"""Observers see what linear ops read in all samples, in the runs that measure the linear ops."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from support.graphs import build

import onnxpfp.calibrate.collect as collect_module
from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.ops import LinearOp, Window
from onnxpfp.runtime.session import open_session

COUNT = 14
NET = """g (float[N,3,6,6] x) => (y) <float[4,3,3,3] u, float[5,4,3,3] v, float[5,4] w> {
    a = Conv <pads = [1,1,1,1]> (x, u)  b = Relu(a)  c = Conv(b, v)  p = GlobalAveragePool(c)  f = Flatten(p)
    t = Transpose <perm = [1,0]> (f)  y = Gemm <transA = 1> (t, w) }"""
PADS = Window(pads=(1, 1, 1, 1))


@dataclass(slots=True, eq=False)
class Recorder(Observer):
    """Keeps copies of what it sees."""

    op: LinearOp
    batches: list[np.ndarray] = field(default_factory=list)
    seen: list[Batch] = field(default_factory=list)

    @property
    def needs(self) -> dict[str, Shape]:
        return self.op.reads

    @property
    def work(self) -> int:
        return 1

    def see(self, tensors: Arrays, batch: Batch) -> None:
        self.batches.append(self.op.numbers(tensors).copy())
        self.seen.append(batch)

    def statistics(self) -> dict[str, Any]:
        return {}

    def whole(self, axis: int = 0) -> np.ndarray:
        return np.concatenate(self.batches, axis)


def readers_of(model: ModelProto) -> list[LinearOp]:
    u, v, w = (np.frombuffer(t.raw_data, np.float32).reshape(t.dims) for t in model.graph.initializer)
    return [
        LinearOp("u", "conv", "x", (1, 3, 6, 6), 1, np.arange(1, 4), u, (1, 4, 6, 6), attributes=PADS),
        LinearOp("v", "conv", "b", (1, 4, 6, 6), 1, np.arange(4, 8), v, (1, 5, 4, 4)),
        LinearOp("w", "matmul", "t", (5, 1), 0, np.arange(8, 13), w, (1, 4)),
    ]


def case() -> tuple[ModelProto, list[LinearOp], np.ndarray]:
    model = build(NET)
    return model, readers_of(model), np.random.default_rng(1).standard_normal((COUNT, 3, 6, 6)).astype(np.float32)


def shown(model: ModelProto, data: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    whole = ModelProto()
    whole.CopyFrom(model)
    for name in names:
        whole.graph.output.add(name=name)
    return open_session(whole, threads=1).run({"x": data})


def samples_of(model: ModelProto, data: Any) -> Samples:
    return load_samples(data, input_specs(model))


def equal(found: Any, wanted: Any) -> None:
    assert list(found) == list(wanted)
    for name in found:
        for key in ("sensitivity", "patch_sum", "square_sum"):
            np.testing.assert_array_equal(getattr(found[name], key), getattr(wanted[name], key))
        assert (found[name].samples, found[name].patches) == (wanted[name].samples, wanted[name].patches)


@pytest.mark.parametrize("method", ["screened", "plain"])
@pytest.mark.parametrize("batch", [1, 4, 7, COUNT])
def test_observers_see_all_samples_in_the_runs_that_measure(method: Any, batch: int) -> None:
    model, ops, data = case()
    samples, options = samples_of(model, data), {"method": method, "batch_size": batch, "threads": 3}
    observers = [Recorder(op) for op in ops]
    told: list[tuple[int, int]] = []
    found = calibrate(model, ops[:2], samples, observers=observers, progress=lambda *news: told.append(news), **options)
    equal(found, calibrate(model, ops[:2], samples, **options))
    wanted = shown(model, data, ["b", "t"])
    np.testing.assert_array_equal(observers[0].whole(), data)
    np.testing.assert_allclose(observers[1].whole(), wanted["b"], rtol=1e-5, atol=1e-5)
    # Its samples do not lie along the first axis.
    np.testing.assert_allclose(observers[2].whole(axis=1), wanted["t"], rtol=1e-5, atol=1e-5)
    ends = [*range(0, COUNT, batch), COUNT]
    for each in observers:
        assert each.seen == [Batch(first, last - first) for first, last in pairwise(ends)]
    assert told == [(done, COUNT) for done in ends[1:]]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_tensors_of_unknown_type_come_out_beside_what_the_graph_measures(dtype: int) -> None:
    model, ops, data = case()
    del model.graph.value_info[:]
    cast = helper.make_node("Cast", ["p"], ["h"], to=dtype)
    model.graph.node.insert(4, cast)
    observer = Recorder(replace(ops[1], data="h", data_shape=(1, 5, 1, 1), channels=np.arange(1, 6)))
    calibrate(model, ops[:2], samples_of(model, data), observers=[observer], method="plain", batch_size=4)
    assert observer.batches[0].dtype == helper.tensor_dtype_to_np_dtype(dtype)
    wanted = shown(model, data, ["p"])["p"]
    np.testing.assert_allclose(observer.whole(), wanted, rtol=1e-2, atol=1e-2)


def test_the_network_runs_once_over_the_samples_however_many_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ops, data = case()
    fed: list[int] = []
    runs = ArraySamples.runs

    def counted(self: ArraySamples, batch_size: int = 1) -> Any:
        for feed, count in runs(self, batch_size):
            fed.append(count)
            yield feed, count

    monkeypatch.setattr(ArraySamples, "runs", counted)
    calibrate(model, ops, samples_of(model, data), observers=[Recorder(r) for r in ops * 3], batch_size=4)
    assert fed == [4, 4, 4, 2]


def test_without_observers_the_given_samples_are_run_and_no_other() -> None:
    model, ops, data = case()
    data[9:] = np.nan
    told: list[tuple[int, int]] = []
    samples = samples_of(model, data).take(9)
    found = calibrate(model, ops, samples, batch_size=4, progress=lambda *news: told.append(news))
    assert {found[name].samples for name in found} == {9}
    assert told == [(4, 9), (8, 9), (9, 9)]


def test_observers_go_with_the_first_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ops, data = case()
    samples = samples_of(model, data)
    wanted = calibrate(model, ops, samples, batch_size=4)
    monkeypatch.setattr(collect_module, "shard_families", lambda families, limit: ((family,) for family in families))
    observer, told = Recorder(ops[1]), list[tuple[int, int]]()
    found = calibrate(model, ops, samples, observers=[observer], progress=lambda *news: told.append(news), batch_size=4)
    assert len(observer.whole()) == COUNT
    assert told[-1] == (3 * COUNT, 3 * COUNT)
    equal(found, wanted)


def test_observers_alone() -> None:
    model, ops, data = case()
    observer = Recorder(ops[1])
    found = calibrate(model, [], samples_of(model, data), observers=[observer], batch_size=5)
    assert not len(found)
    np.testing.assert_allclose(observer.whole(), shown(model, data, ["b"])["b"], rtol=1e-5, atol=1e-5)


def test_a_fixed_batch_is_not_cut() -> None:
    model, ops, data = case()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    samples, observer = samples_of(model, data), Recorder(ops[0])
    found = calibrate(model, ops[:1], samples, observers=[observer])
    assert found["u"].samples == COUNT // 3 * 3
    assert [len(batch) for batch in observer.batches] == [3] * 4


def test_feeds_count_whole() -> None:
    model, ops, data = case()
    samples = samples_of(model, [{"x": data[:5]}, {"x": data[5:7]}, {"x": data[7:]}])
    observer = Recorder(ops[0])
    found = calibrate(model, ops[:1], samples, observers=[observer])
    assert found["u"].samples == COUNT
    assert observer.seen == [Batch(0, 5), Batch(5, 2), Batch(7, 7)]


def test_what_is_not_finite_is_refused_only_where_it_is_measured() -> None:
    model = build("g (float[N,4] x) => (y) <float[4,2] w> { a = Log(x)  y = MatMul(a, w) }")
    weight = np.frombuffer(model.graph.initializer[0].raw_data, np.float32).reshape(4, 2)
    op = LinearOp("w", "matmul", "a", (1, 4), 1, np.arange(1, 5), weight, (1, 2))
    data = np.ones((8, 4), np.float32)
    data[5] = -1
    observer = Recorder(op)
    calibrate(model, [], samples_of(model, data), observers=[observer])
    assert np.isnan(observer.whole()).any(1).tolist() == [False] * 5 + [True] + [False] * 2
    assert calibrate(model, [op], samples_of(model, data).take(5))["w"].samples == 5
    with pytest.raises(CalibrationError, match="NaN or infinity at 'a'"):
        calibrate(model, [op], samples_of(model, data), observers=[observer])


def test_where_a_batch_fails_the_samples_go_on_one_by_one() -> None:
    """A promised batch axis: four samples at once do not run, and one does."""
    model = build(
        """g (float[N,2,3] x) => (y) <int64[2] s = {1, 6}, float[6,3] w> { y = Reshape(x, s)  z = MatMul(y, w) }"""
    )
    op = LinearOp("w", "matmul", "y", (1, 6), 1, np.arange(1, 7), np.eye(6, 3, dtype=np.float32), (1, 3))
    observer, data = Recorder(op), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    found = calibrate(model, [op], samples_of(model, data), observers=[observer])
    assert found["w"].samples == 4
    assert observer.seen == [Batch(number, 1) for number in range(4)]
    np.testing.assert_array_equal(observer.whole(), data.reshape(4, 6))


def test_watched_tensors_count_when_a_batch_is_chosen() -> None:
    model, ops, data = case()
    observers = [Recorder(op) for op in ops]
    one = 4 * (3 * 36 + 4 * 36 + 5)
    calibrate(model, [], samples_of(model, data), observers=observers, workspace_bytes=2 * one * 3 + 4)
    assert [len(batch) for batch in observers[0].batches] == [3, 3, 3, 3, 2]


def test_families_share_memory_that_goes_when_they_have_measured() -> None:
    model, ops, data = case()

    def held() -> list[ScratchArrays]:
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, ScratchArrays)]

    class Counter(Recorder):
        def see(self, tensors: Arrays, batch: Batch) -> None:
            counts.append(len(held()))

    counts: list[int] = []
    before = len(held())
    calibrate(model, ops, samples_of(model, data), observers=[Counter(ops[0])], batch_size=4, threads=1)
    assert (max(counts), len(held())) == (before + 1, before)
