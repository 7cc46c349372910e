"""Latency tables: what is wrong with one is said in a line, and a made-up device is met by its own formula."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import made_up_latencies as device

import onnxpfp
from onnxpfp.errors import LatencyTableError, TargetUnreachableError
from onnxpfp.model import load as load_module
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.latency import points
from onnxpfp.pipeline.latency.kernel_steps import measured_alignment, slower_in_multiples
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, fit_latencies
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.pipeline.latency.target import latency_table_for, with_latencies
from onnxpfp.pipeline.parts import open_parts
from onnxpfp.runtime import profile

FEED = {"x": nets.noise(1, 3, 8, 8)}
TEXT = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(a)
    c = Conv <pads = [1,1,1,1]> (r, w2) s = Relu(c)
    d = Conv (s, w3) t = Relu(d)
    p = GlobalAveragePool(t) f = Flatten(p) y = Gemm <transB = 1> (f, w4) }"""
WEIGHTS: Mapping[str, Any] = {
    "w1": (24, 3, 3, 3),
    "b1": (24,),
    "w2": (32, 24, 3, 3),
    "w3": (16, 32, 1, 1),
    "w4": (5, 16),
}
Change = Callable[[dict[str, Any]], object]


def network() -> Any:
    """Three groups of 24, 32 and 16 channels."""
    return nets.build(TEXT, WEIGHTS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Tables of the made-up device, with the times of ops and without."""
    tables: dict[bool, Path] = {}
    for ops in (True, False):
        folder = tmp_path_factory.mktemp("device")
        form = onnxpfp.latency(network(), models=folder / "points")
        form.table.save(folder / "table.json")
        device.fill_in(folder / "table.json", folder / "points", FEED, ops=ops)
        tables[ops] = folder / "table.json"
    return tables


def _latency_of(ops: bool) -> Callable[[Any, Any], float]:
    return device.latency if ops else device.plain_latency


@pytest.mark.parametrize("ops", [True, False])
def test_the_fit_recovers_the_formula(filled: dict[bool, Path], ops: bool, tmp_path: Path) -> None:
    """At widths that it was not made of; without the times of ops the device must treat them alike."""
    network_, aim = _aimed(filled[ops])
    assert (aim.given, aim.device, network_.parts[0].context.alignment.step) == (True, "made up", 1)
    assert aim.error < 1e-6
    context = network_.parts[0].context
    cost = context.latencies.cost(context.whole)
    other = onnxpfp.latency(network(), models=tmp_path / "points", seed=7, round_to=1)
    for point, kept in zip(*_points(other.table, context), strict=True):
        model = onnx.load(tmp_path / "points" / point.model)
        assert cost.total(kept.kept) / context.latencies.units == pytest.approx(_latency_of(ops)(model, FEED), rel=1e-6)


def test_the_factors_of_an_op_are_those_of_the_device(filled: dict[bool, Path]) -> None:
    network_, _ = _aimed(filled[True])
    fitted = network_.parts[0].context.latencies.ops
    # It reads and writes channels of two groups, so all three factors show.
    for name in ("node_c", "node_d"):
        op = fitted[name]
        found = (op.constant, op.per_element, op.per_mac, op.block)
        assert found == pytest.approx((device.CALL, device.ELEMENT["Conv"], device.MAC["Conv"], 1), rel=1e-4)
    assert fitted["node_r"].per_element == pytest.approx(device.ELEMENT["Relu"], rel=1e-4)


def _aimed(table: Path) -> Any:
    options = Options(keep_latency=0.5, latency_table=str(table), threads=1)
    run = open_parts(open_run(network(), None, options, ()))
    return with_latencies(run, latency_table_for(run))


def _points(table: LatencyTable, context: Any) -> tuple[Any, list[MeasuredWidths]]:
    part = table.parts[""]
    return part.points, part.measured(context.whole.graph)


@pytest.mark.parametrize("ops", [True, False])
@pytest.mark.parametrize("share", [0.8, 0.55, 0.4])
@pytest.mark.parametrize("data", [True, False])
def test_a_pruning_meets_the_target_by_the_formula(
    filled: dict[bool, Path], ops: bool, share: float, data: bool
) -> None:
    """The oracle runs the written model and counts; it shares nothing with the fit."""
    model, time = network(), _latency_of(ops)
    options: dict[str, Any] = {"keep_latency": share, "latency_table": str(filled[ops]), "threads": 1}
    calibration = nets.noise(64, 3, 8, 8) if data else None
    result = onnxpfp.prune(model, calibration=calibration, no_latency=True, **options)
    whole, left = time(model, FEED), time(result.model, FEED)
    assert left <= share * whole * (1 + 1e-6)
    # A channel more of any group would be too much, or the widths rise together in larger steps.
    assert left >= (share - 0.1) * whole


def test_weights_in_other_files_take_a_table(
    filled: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ops are not measured, so a table that was filled in is all that is known of them."""
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    onnx.save(network(), tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    options: dict[str, Any] = {"keep_latency": 0.6, "latency_table": str(filled[True]), "threads": 1}
    left = device.latency(onnxpfp.prune(tmp_path / "in.onnx", no_latency=True, **options).model, FEED)
    assert 0.5 <= left / device.latency(network(), FEED) <= 0.6 * (1 + 1e-6)


def test_milliseconds_are_those_of_the_device(filled: dict[bool, Path]) -> None:
    model = network()
    whole = device.latency(model, FEED)
    result = onnxpfp.prune(model, latency_ms=0.7 * whole, latency_table=str(filled[True]), threads=1, no_latency=True)
    assert 0.6 * whole <= device.latency(result.model, FEED) <= 0.7 * whole * (1 + 1e-6)


@pytest.mark.parametrize("cycles", [1e-3, 1e9])
def test_a_table_may_have_other_units(filled: dict[bool, Path], tmp_path: Path, cycles: float) -> None:
    """A simulator's cycles, a hundred million in a run, give the same widths as the milliseconds of a run."""
    document = json.loads(filled[True].read_text())
    for point in document["parts"][""]["points"]:
        point["ms"] *= cycles
        point["ops"] = {name: cycles * ms for name, ms in point["ops"].items()}
    (tmp_path / "table.json").write_text(json.dumps(document))
    tables = (filled[True], tmp_path / "table.json")
    options: dict[str, Any] = {"keep_latency": 0.6, "threads": 1, "no_latency": True}
    one, two = (onnxpfp.prune(network(), latency_table=str(table), **options) for table in tables)
    assert nets.weights(one.model)["w2"].shape == nets.weights(two.model)["w2"].shape
    assert one.plan == two.plan


def test_a_point_opens_its_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = open_parts(open_run(network(), None, Options(threads=1, round_to=8), ())).parts
    opened: list[str] = []
    for module in (points, profile):
        plain = module.open_session
        monkeypatch.setattr(module, "open_session", lambda *a, plain=plain, **k: (opened.append(""), plain(*a, **k))[1])
    table = points.measure_part(part.context, lambda *_: None, prunable=True)
    # The whole network is beside all of them.
    assert len(opened) == len(table.points) + 1
    assert table.points[0].ops


def test_less_than_there_can_be_names_the_least(filled: dict[bool, Path]) -> None:
    options: dict[str, Any] = {"latency_table": str(filled[True]), "threads": 1, "no_latency": True}
    with pytest.raises(TargetUnreachableError) as caught:
        onnxpfp.prune(network(), keep_latency=0.01, **options)
    least = float(caught.value.hint.removeprefix("ask for keep_latency ").removesuffix(" or more"))
    result = onnxpfp.prune(network(), keep_latency=least, **options)
    assert device.latency(result.model, FEED) <= least * device.latency(network(), FEED)
    with pytest.raises(TargetUnreachableError):
        onnxpfp.prune(network(), keep_latency=least - 0.001, **options)


def test_what_a_profile_adds_to_every_op_does_not_count(filled: dict[bool, Path], tmp_path: Path) -> None:
    """Times of ops say where the time goes; what all of them take is what the whole network was measured to take."""
    document = json.loads(filled[True].read_text())
    for point in document["parts"][""]["points"]:
        point["ops"] = {name: ms + 5 * device.CALL for name, ms in point["ops"].items()}
    (tmp_path / "table.json").write_text(json.dumps(document))
    exact, profiled = (_aimed(table)[0].parts[0].context for table in (filled[True], tmp_path / "table.json"))
    assert profiled.latencies.error < 1e-6
    for name, op in exact.latencies.ops.items():
        assert profiled.latencies.ops[name].per_mac == pytest.approx(op.per_mac, rel=1e-4)


def test_a_kernel_in_blocks_shows(filled: dict[bool, Path]) -> None:
    """A device that computes 8 channels at once: finer steps are slower, and the fit is that of whole blocks."""
    network_, _ = _aimed(filled[True])
    whole = network_.parts[0].context.whole
    table = LatencyTable.read(filled[True]).parts[""]
    points: list[MeasuredWidths] = []
    for point in table.measured(whole.graph):
        one, two, three = (-(-width // 8) * 8 for width in _by_name(table, point.kept))
        ops = {"node_a": 1e-4 * one, "node_c": 1e-5 * one * two, "node_d": 1e-5 * two * three}
        points.append(MeasuredWidths(point.kept, sum(ops.values()), ops))
    multiples = [point.multiple for point in table.points]
    alignment = measured_alignment(slower_in_multiples(whole, points, multiples))
    assert (alignment.step, alignment.finest) == (8, 8)
    fitted = fit_latencies(whole, points, (8,))
    assert fitted.error < 1e-6
    assert {fitted.ops[name].block for name in ("node_a", "node_c", "node_d")} == {8}


def _by_name(table: Any, kept: Any) -> list[int]:
    widths = dict(zip(table.groups, kept.tolist(), strict=True))
    return [widths[name] for name in ("w1", "w2", "w3")]


def test_a_part_that_was_not_narrowed_has_no_steps() -> None:
    whole = open_run(network(), None, Options(threads=1), ()).whole
    point = MeasuredWidths(np.array([group.channels.size for group in whole.graph.groups]), 2.0, {})
    assert measured_alignment(slower_in_multiples(whole, [point], [0])).step == 1
    fitted = fit_latencies(whole, [point])
    assert fitted.cost(whole).total(point.kept) / fitted.units == pytest.approx(2, rel=1e-6)


def test_a_table_of_another_network(filled: dict[bool, Path]) -> None:
    other = nets.build(TEXT, {**WEIGHTS, "w2": (40, 24, 3, 3), "w3": (16, 40, 1, 1)})
    with pytest.raises(LatencyTableError, match="has a group 'w2' of 32 channels, the model has 40 channels there"):
        onnxpfp.prune(other, keep_latency=0.6, latency_table=str(filled[True]))


def test_names_of_models_are_kept(filled: dict[bool, Path], tmp_path: Path) -> None:
    table = LatencyTable.read(filled[True])
    assert [point.model for point in table.parts[""].points] == [f"{number:02d}.onnx" for number in range(23)]
    table.save(tmp_path / "again.json")
    assert LatencyTable.read(tmp_path / "again.json") == table
    bare = replace(table, threads=None, device="")
    bare.save(tmp_path / "bare.json")
    assert LatencyTable.read(tmp_path / "bare.json") == bare


def test_what_is_needed_at_least(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(_least()))
    table = LatencyTable.read(tmp_path / "t.json")
    assert (table.source_sha256, table.device, table.providers, table.threads, table.batch) == ("", "", (), None, 1)
    assert [(point.multiple, point.ms, point.ops) for point in table.parts[""].points][1] == (1, 2.5, {})


def _least() -> dict[str, Any]:
    points = [{"widths": {"w1": 4 * n}, "ms": 0.5 + n} for n in (6, 2, 3, 4)]
    return {"format": "onnxpfp-latency-table", "version": 1, "parts": {"": {"groups": {"w1": 24}, "points": points}}}


def _part(document: dict[str, Any]) -> dict[str, Any]:
    return document["parts"][""]


def _point(document: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return _part(document)["points"][number]


FAULTS: dict[str, tuple[Change, str]] = {
    "format": (lambda d: d.update(format="onnxpfp-plan"), "is a plan of onnxpfp, not a latency table of onnxpfp"),
    "version": (lambda d: d.update(version=2), "is a latency table of version 2, not 1"),
    "no parts": (lambda d: d.pop("parts"), "the table has no 'parts'"),
    "parts": (lambda d: d.update(parts=[]), "'parts' of the table is no object"),
    "no main graph": (lambda d: d.update(parts={}), "'parts' of the table has no main graph, whose name is empty"),
    "part": (lambda d: d["parts"].update({"": 3}), "the main graph is no object"),
    "body": (lambda d: d["parts"].update({"If_0/then_branch": {}}), "the body If_0/then_branch has no 'groups'"),
    "misspelt": (lambda d: d.update(thread=1), "the table has 'thread', which means nothing there"),
    "misspelt part": (lambda d: _part(d).update(point=[]), "the main graph has 'point', which means nothing there"),
    "misspelt point": (
        lambda d: _point(d).update(op={}),
        "point 1 of the main graph has 'op', which means nothing there",
    ),
    "no groups": (lambda d: _part(d).pop("groups"), "the main graph has no 'groups'"),
    "half a channel": (
        lambda d: _part(d)["groups"].update(w1=1.5),
        "'w1' of 'groups' of the main graph: 1.5 is no whole",
    ),
    "no channel": (lambda d: _part(d)["groups"].update(w1=0), "'w1' of 'groups' of the main graph is 0, and must be"),
    "no points": (lambda d: _part(d).pop("points"), "the main graph has no 'points'"),
    "points": (lambda d: _part(d).update(points={}), "'points' of the main graph is no list"),
    "empty": (lambda d: _part(d).update(points=[]), "the first point of the main graph is not the whole part"),
    "few": (lambda d: _part(d)["points"].pop(), "the main graph has 3 points, and it takes 4"),
    "not whole": (lambda d: _part(d)["points"].reverse(), "the first point of the main graph is not the whole part"),
    "point": (lambda d: _part(d)["points"].append(7), "point 4 of the main graph is no object"),
    "no widths": (lambda d: _point(d).pop("widths"), "point 1 of the main graph has no 'widths'"),
    "too wide": (
        lambda d: _point(d)["widths"].update(w1=25),
        "'w1' has 25 channels at point 1 of the main graph, and 24",
    ),
    "other group": (
        lambda d: _point(d)["widths"].update(w=1),
        "'w' has 1 channels at point 1 of the main graph, and 0",
    ),
    "no width": (lambda d: _point(d)["widths"].update(w1=0), "'w1' of 'widths' of point 1 of the main graph is 0, and"),
    "multiple": (
        lambda d: _point(d).update(multiple=12),
        "'w1' has 8 channels at point 1 of the main graph, no multiple",
    ),
    "multiple of 0": (
        lambda d: _point(d).update(multiple=0),
        "'w1' has 8 channels at point 1 of the main graph, no mult",
    ),
    "multiple below": (
        lambda d: _point(d).update(multiple=-1),
        "'multiple' of point 1 of the main graph is -1, and must",
    ),
    "no ms": (lambda d: _point(d).pop("ms"), "point 1 of the main graph has no 'ms'"),
    "blank": (lambda d: _point(d).update(ms=None), "'ms' of point 1 of the main graph is not filled in"),
    "a text": (lambda d: _point(d).update(ms="2.5"), "'ms' of point 1 of the main graph is '2.5', and no number"),
    "true": (lambda d: _point(d).update(ms=True), "'ms' of point 1 of the main graph is True, and no number"),
    "zero": (lambda d: _point(d).update(ms=0), "'ms' of point 1 of the main graph is 0, and no run takes nothing"),
    "negative": (lambda d: _point(d).update(ms=-1), "'ms' of point 1 of the main graph is outside [0, 1e+15)"),
    "infinite": (
        lambda d: _point(d).update(ms=float("inf")),
        "'ms' of point 1 of the main graph is outside [0, 1e+15)",
    ),
    "not a number": (lambda d: _point(d).update(ms=float("nan")), "'ms' of point 1 of the main graph is outside"),
    "huge": (lambda d: _point(d).update(ms=10**400), "'ms' of point 1 of the main graph is outside [0, 1e+15)"),
    "ops": (lambda d: _point(d).update(ops=[1]), "'ops' of point 1 of the main graph is no object"),
    "ops here": (lambda d: _point(d).update(ops={"a": 1}), "point 1 of the main graph has 'ops' and point 0 has none"),
    "an op": (lambda d: _point(d).update(ops={"a": "1"}), "'a' of 'ops' of point 1 of the main graph is '1', and no"),
    "model": (lambda d: _point(d).update(model=1), "'model' of point 1 of the main graph is no text"),
    "device": (lambda d: d.update(device=None), "'device' of the table is no text"),
    "threads": (lambda d: d.update(threads=0), "'threads' of the table is 0, and must be at least 1"),
    "batch": (lambda d: d.update(batch="1"), "'batch' of the table: '1' is no whole number"),
    "providers": (lambda d: d.update(providers="cpu"), "'providers' of the table is no list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_in_one_line(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    document = copy.deepcopy(_least())
    change(document)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LatencyTableError) as caught:
        LatencyTable.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is no JSON: "),
        (b"\xff", "is no JSON: "),
        (b"[" * 99_999, "is no JSON: "),
        (b"[]", "is no latency table"),
    ],
)
def test_what_is_no_table(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(LatencyTableError, match=message):
        LatencyTable.read(tmp_path / "t.json")


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(),
    st.text(max_size=3),
    st.just(10**400),
    st.just({}),
    st.just([]),
    st.just({"w1": {"w1": 8}}),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places of all values in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


@settings(max_examples=150)
@given(st.sampled_from(_places(_least())[1:]), _VALUES, st.booleans())
def test_any_value_anywhere_is_read_or_refused(place: tuple[Any, ...], value: Any, gone: bool) -> None:
    document = copy.deepcopy(_least())
    around = document
    for key in place[:-1]:
        around = around[key]
    if gone:
        del around[place[-1]]
    else:
        around[place[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        path.write_text(json.dumps(document))
        table, refused = None, ""
        try:
            table = LatencyTable.read(path)
        except LatencyTableError as error:
            refused = str(error)
        assert len(refused.splitlines()) == (table is None)
        assert table is None or (table.ms > 0 and (len(table.parts[""].points) >= 4 or not table.parts[""].groups))


def test_a_body_without_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(_least()))
    with pytest.raises(LatencyTableError, match="has nothing of the body If_0/then_branch"):
        LatencyTable.read(tmp_path / "t.json").part("If_0/then_branch")
