"""Stage by stage a network gives what it gives as a whole."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from nets import noise, run, session, values
from onnx import ModelProto, TensorProto, ValueInfoProto
from support.graphs import build, weights_as_inputs

from onnxpfp.arrays import Arrays
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import concrete_shapes, default_input_shapes
from onnxpfp.refit.cache import SpillCache, rest
from onnxpfp.refit.stages import ActivationCache, Runner, Stages
from onnxpfp.runtime import resolve_providers
from onnxpfp.runtime.session import Session
from onnxpfp.runtime.workers import ALONE, workers

GRAPHS = {
    "chain": """g (float[N,3,8,8] x) => (y) <float[4,3,3,3] w, float[5,4,1,1] v, float[2,5] u> {
        a = Conv <pads = [1,1,1,1]> (x, w)  b = Relu(a)  c = Conv(b, v)  d = GlobalAveragePool(c)  e = Flatten(d)
        y = Gemm <transB = 1> (e, u) }""",
    "residual": """g (float[N,4,6,6] x) => (y) <float[4,4,3,3] w, float[4,4,3,3] v> {
        a = Conv <pads = [1,1,1,1]> (x, w)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, v)  d = Add(c, x)
        y = Relu(d) }""",
    "branches of unequal depth": """g (float[N,4,6,6] x) => (y) <float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u> {
        a = Conv(x, w)  b = Conv(a, v)  c = Conv(x, u)  d = Concat <axis = 1> (b, c)  y = Relu(d) }""",
    "attention": """g (float[N,5,8] x) => (y) <float[8,8] q, float[8,8] k, float[8,8] v, float[8,8] o> {
        a = MatMul(x, q)  b = MatMul(x, k)  c = MatMul(x, v)  t = Transpose <perm = [0,2,1]> (b)
        d = MatMul(a, t)  e = Softmax(d)  f = MatMul(e, c)  h = MatMul(f, o)  y = Add(h, x) }""",
    "lstm": """g (float[7,N,3] x) => (y) <float[1,16,3] w, float[1,16,4] r, float[4,5] v> {
        axes = Constant <value = int64[1] {1}> ()  a, h, c = LSTM <hidden_size = 4> (x, w, r)
        p = Squeeze(a, axes)  y = MatMul(p, v) }""",
    "several outputs": """g (float[N,4] x) => (y, z) <float[4,6] w, float[6,3] v> {
        y = MatMul(x, w)  b = Relu(y)  z = MatMul(b, v) }""",
    "an input shown": """g (float[N,4] x) => (y, z) <float[4,6] w> { y = MatMul(x, w)  z = Identity(x) }""",
    "computed constants": """g (float[N,4] x) => (y) <float[6,4] w, float[6,3] v> {
        t = Transpose <perm = [1,0]> (w)  a = MatMul(x, t)  b = Relu(a)  y = MatMul(b, v) }""",
    "computed shapes": """g (float[N,4,3] x) => (y) <float[3,6] w, float[24,2] v> {
        zero = Constant <value = int64[1] {0}> ()  one = Constant <value = int64[1] {1}> ()
        rest = Constant <value = int64[1] {24}> ()  n = Shape(x)  f = Slice(n, zero, one)
        s = Concat <axis = 0> (f, rest)
        a = MatMul(x, w)  r = Reshape(a, s)  y = MatMul(r, v) }""",
    "a sequence": """g (float[N,4] x) => (y) <float[4,4] w, float[4,4] v, float[8,2] u> {
        two = Constant <value = int64 {2}> ()  none = Constant <value = int64 {0}> ()
        a = MatMul(x, w)  s = SequenceConstruct(x, a)  b = MatMul(a, v)  t = SequenceInsert(s, b)
        c = SequenceAt(t, two)  e = SequenceAt(t, none)  f = Concat <axis = 1> (c, e)  y = MatMul(f, u) }""",
    "no linear op": "g (float[N,4] x) => (y) { y = Relu(x) }",
    "an unread branch": """g (float[N,4] x) => (y) <float[4,6] w, float[4,3] v> {
        unread = MatMul(x, w)  y = MatMul(x, v) }""",
}


def graph(name: str) -> ModelProto:
    return build(GRAPHS[name], opset=17)


def linear_ops(model: ModelProto) -> set[str]:
    stored = {tensor.name for tensor in model.graph.initializer} | {"t"}
    ops = ("Conv", "MatMul", "Gemm", "ConvTranspose")
    return {n.output[0] for n in model.graph.node if n.op_type in ops and n.input[1] in stored}


def dtypes_of(model: ModelProto) -> dict[str, int]:
    shapes = concrete_shapes(model, default_input_shapes(model, {}))
    return {name: kind for name, kind in shapes.dtype.items() if kind != TensorProto.STRING}


def feeds_of(model: ModelProto, batches: int = 2) -> list[dict[str, np.ndarray]]:
    info = model.graph.input[0]
    size = [dim.dim_value or 3 for dim in info.type.tensor_type.shape.dim]
    return [{info.name: noise(*size, seed=seed)} for seed in range(batches)]


def by_stages(model: ModelProto, feeds: list, wanted: set[str], limit: int = 1 << 30) -> list[dict[str, np.ndarray]]:
    stages = Stages.of(model, linear_ops(model), dtypes_of(model))
    runner = Runner.start(stages, feeds, limit, resolve_providers("cpu"), 1)
    found: list[dict[str, np.ndarray]] = [{} for _ in feeds]
    for _ in stages.stages:
        opened, _ = runner.open(sorted(wanted))
        for batch in range(len(feeds)):
            shown = runner.run(opened, batch)
            found[batch] |= {name: np.array(shown[name]) for name in wanted & shown.keys()}
        runner.advance()
    assert all(not values for values in runner.cache.batches)
    return found


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("limit", [1 << 30, 200, 0])
def test_stage_by_stage_is_the_whole(name: str, limit: int) -> None:
    model, feeds = graph(name), feeds_of(graph(name))
    dtype = dtypes_of(model)
    outputs = {o for node in model.graph.node for o in node.output if o in dtype}
    found = by_stages(model, feeds, outputs, limit)
    for feed, one in zip(feeds, found, strict=True):
        whole = dict(zip(sorted(outputs), _all(model, feed, sorted(outputs)), strict=True))
        activations = {o for o in outputs if not _constant(model, o)}
        assert one.keys() >= activations
        for output in activations:
            np.testing.assert_allclose(one[output], whole[output], atol=1e-5)


def _all(model: ModelProto, feed: dict, names: list[str]) -> list[np.ndarray]:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return session(copy).run(names, feed)


def _constant(model: ModelProto, name: str) -> bool:
    return name in Constants.of(model).names


@pytest.mark.parametrize("name", ["chain", "residual", "attention"])
def test_the_tail_of_a_network_gives_its_outputs(name: str) -> None:
    model = graph(name)
    feed = feeds_of(model)[0]
    stages = Stages.of(model, linear_ops(model), dtypes_of(model))
    everything = values(model, feed) | feed
    for depth in range(len(stages.stages)):
        tail = stages.part(depth, len(stages.stages) - 1, ["y"])
        given = {info.name: everything[info.name] for info in tail.graph.input}
        np.testing.assert_allclose(session(tail).run(["y"], given)[0], run(model, feed), atol=1e-5)


def test_the_linear_ops_of_a_stage_read_only_what_earlier_stages_gave() -> None:
    model = graph("branches of unequal depth")
    stages = Stages.of(model, linear_ops(model), dtypes_of(model))
    assert {name: stages.depth[name] for name in "abcdy"} == {"a": 1, "b": 2, "c": 1, "d": 2, "y": 2}
    made = [model.graph.node[index].output[0] for stage in stages.stages for index in stage.nodes]
    assert sorted(made) == sorted("abcdy")


def test_what_no_later_stage_reads_is_forgotten() -> None:
    model = graph("chain")
    stages = Stages.of(model, linear_ops(model), dtypes_of(model))
    assert [stage.reads for stage in stages.stages] == [(), ("x",), ("b",), ("e",)]
    assert [stage.gives for stage in stages.stages] == [(), ("b",), ("e",), ()]


def test_what_is_kept_holds_none_of_the_memory_of_a_session() -> None:
    model = graph("residual")
    feeds, stages = feeds_of(model), Stages.of(model, linear_ops(model), dtypes_of(model))
    runner = Runner.start(stages, feeds, 1 << 30, resolve_providers("cpu"), 1)
    kept = 0
    for _ in stages.stages:
        opened, _ = runner.open()
        runner.run_all(opened, ALONE, 1)
        arrays = [array for values in runner.cache.batches for name, array in values.items() if name != "x"]
        assert all(array.base is not None and array.base.dtype == np.uint8 for array in arrays)
        kept += len(arrays)
        runner.advance()
    assert kept == len(feeds), "what the first convolution makes is there after its stage, until the next has read it"


def test_two_threads_keep_what_they_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, meet = graph("chain"), threading.Barrier(2, timeout=60)
    stages, feeds = Stages.of(model, linear_ops(model), dtypes_of(model)), feeds_of(model, 4)
    alone, beside = (Runner.start(stages, feeds, 1 << 30, resolve_providers("cpu"), 1) for _ in range(2))
    real = ActivationCache.put

    def put(self: ActivationCache, batch: int, kept: Arrays) -> None:
        if self is beside.cache:
            meet.wait()
        real(self, batch, kept)

    monkeypatch.setattr(ActivationCache, "put", put)
    for _ in stages.stages[:2]:
        alone.run_all(alone.open()[0], ALONE, 4)
        with workers(2) as helpers:
            beside.run_all(beside.open()[0], helpers, 4)
        for one, other in zip(alone.cache.batches, beside.cache.batches, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        alone.advance()
        beside.advance()


def test_a_batch_is_gone_when_the_next_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph("chain")
    runner = Runner.start(
        Stages.of(model, linear_ops(model), dtypes_of(model)), feeds_of(model, 3), 0, resolve_providers("cpu"), 1
    )
    runner.run_all(runner.open()[0], ALONE, 1)
    runner.advance()
    opened, made = runner.open()[0], list[weakref.ref[np.ndarray]]()
    real = Runner.compute

    def compute(self: Runner, opened: Session | None, batch: int) -> Arrays:
        assert not [each for each in made if each() is not None]
        outputs = real(self, opened, batch)
        made.extend(map(weakref.ref, outputs.values()))
        return outputs

    monkeypatch.setattr(Runner, "compute", compute)
    runner.run_all(opened, ALONE, 1)
    assert len(made) == 3


def test_what_was_fed_makes_no_room_and_keeps_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(100))
    fed = np.load(tmp_path / "x.npy", mmap_mode="r")
    cache = ActivationCache([{"x": fed, "k": np.ones(100)}], frozenset({"x", "k"}), SpillCache(1000))
    cache.drop(0, ["x", "k"])
    cache.put(0, {"a": np.ones(100), "b": np.ones(100)})
    assert not isinstance(cache.batches[0]["a"], np.memmap)
    assert isinstance(cache.batches[0]["b"], np.memmap)
    assert (tmp_path / "x.npy").is_file()


def test_weights_among_the_inputs_are_no_activations() -> None:
    model = weights_as_inputs(graph("chain"))
    feeds = feeds_of(model)
    for feed, one in zip(feeds, by_stages(model, feeds, {"y"}), strict=True):
        np.testing.assert_allclose(one["y"], run(graph("chain"), feed), atol=1e-5)


def test_numbers_that_are_drawn_are_drawn_once() -> None:
    model = build(
        """g (float[N,4] x) => (y) <float[4,4] w, float[4,4] v> {
        r = RandomNormal <shape = [1,4]> ()  a = MatMul(x, w)  b = Add(a, r)  c = MatMul(b, v)  d = Sub(c, r)
        y = Sub(d, r) }"""
    )
    found = by_stages(model, feeds_of(model), {"r", "b", "a", "y", "c"})[0]
    np.testing.assert_allclose(found["b"] - found["a"], np.broadcast_to(found["r"], (3, 4)), atol=1e-6)
    np.testing.assert_allclose(found["c"] - found["y"], np.broadcast_to(2 * found["r"], (3, 4)), atol=1e-6)


def test_a_subgraph_reads_what_it_captures() -> None:
    model = build(
        """g (float[N,4] x) => (y) <float[4,4] w, float[4,4] v> {
        a = MatMul(x, w)  b = MatMul(a, v)  s = ReduceSum <keepdims = 0> (b)  z = Sub(s, s)  c = Greater(s, z)
        y = If (c) <then_branch = g1 () => (float[N,4] p) { p = Add(a, b) },
                    else_branch = g2 () => (float[N,4] q) { q = Sub(a, b) }> }"""
    )
    feeds = feeds_of(model)
    for feed, one in zip(feeds, by_stages(model, feeds, {"y"}), strict=True):
        np.testing.assert_allclose(one["y"], run(model, feed), atol=1e-5)


def test_a_shelf_puts_into_files_what_does_not_fit() -> None:
    spill = SpillCache(100)
    small, large = noise(10), noise(50)
    kept, moved = spill.put(small), spill.put(large)
    assert kept is small
    assert isinstance(moved, np.memmap)
    np.testing.assert_array_equal(moved, large)
    spill.forget(kept)
    spill.forget(moved)
    again = noise(25)
    assert spill.put(again) is again


def test_a_shelf_leaves_no_files_behind() -> None:
    spill = SpillCache(0)
    folder = Path(str(spill.put(noise(9)).filename)).parent
    assert folder.is_dir()
    del spill
    assert not folder.exists()


def test_what_lies_in_a_file_is_the_same_after_its_pages_went() -> None:
    spill = SpillCache(0)
    array = noise(9)
    moved = spill.put(array)
    rest(moved)
    rest(array)
    np.testing.assert_array_equal(moved, array)


def test_copies_lie_in_memory_that_is_used_again() -> None:
    spill = SpillCache(1024)
    arrays = [noise(4, 16), noise(64, seed=2), noise(64, seed=3), noise(64, seed=4)]
    kept = [spill.copy(array) for array in arrays]
    assert not any(isinstance(array, np.memmap) for array in kept)
    assert isinstance(spill.copy(noise(1)), np.memmap)
    spill.forget(kept[0])
    spill.forget(kept[1])
    again = spill.copy(noise(120))
    assert np.shares_memory(again, kept[0])
    assert np.shares_memory(again, kept[1])
    for array, wanted in [(again, noise(120)), (kept[2], arrays[2]), (kept[3], arrays[3])]:
        np.testing.assert_array_equal(array, wanted)
    assert spill.copy(np.zeros((0, 3))).shape == (0, 3)


def test_what_is_lent_stays_until_the_loan_is_over() -> None:
    cache = ActivationCache([{}], frozenset(), SpillCache(1 << 20))
    cache.put(0, {"a": np.full(64, 1.0), "b": np.full(64, 2.0)})
    first = cache.lend()
    cache.drop(0, ["a"])
    second = cache.lend()
    cache.drop(0, ["b"])
    # Were the memory of either free, this would take it.
    cache.put(0, {"c": np.full(64, 3.0), "d": np.full(64, 4.0)})
    assert (first.batches[0]["a"] == 1.0).all()
    assert (second.batches[0]["b"] == 2.0).all()
    lent = [first.batches[0]["a"], second.batches[0]["b"]]
    second.over = True
    cache.put(0, {"e": np.full(64, 5.0)})
    cache.lend().over = True
    assert (lent[1] == 2.0).all()
    first.over = True
    cache.lend()
    cache.put(0, {"f": np.full(64, 6.0), "g": np.full(64, 7.0)})
    assert sorted(float(array[0]) for array in lent) == [6.0, 7.0]
