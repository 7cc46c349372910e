"""`onnxpfp.latency`: tables that are measured, and forms for other devices. No test asks how long anything took."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nets
import onnx
import pytest
from support.bodies import IFS, LOOPS, build_bodies, samples

import onnxpfp
from onnxpfp import errors
from onnxpfp.model import load as load_module
from onnxpfp.pipeline.latency.table import LatencyTable

FEED = {"x": nets.noise(1, 3, 8, 8)}
IF = "weights around it too"


@pytest.fixture(scope="module")
def measured() -> onnxpfp.LatencyReport:
    """Two groups of 8 and 10 channels, measured here."""
    return onnxpfp.latency(nets.chain(), threads=1)


@pytest.fixture(scope="module")
def branched() -> onnxpfp.LatencyReport:
    """A network with channels in its main graph and in both branches of an If."""
    return onnxpfp.latency(build_bodies(IFS[IF][0]), calibration=samples(IF), threads=1)


def test_the_points_of_a_table(measured: onnxpfp.LatencyReport) -> None:
    part = measured.table.parts[""]
    assert part.groups == {"w1": 8, "w2": 10}
    whole, *narrowed = part.points
    assert (whole.multiple, whole.widths, whole.model) == (0, {}, "")
    assert [point.multiple for point in narrowed[:15]] == 3 * [1, 4, 8, 16, 32]
    assert len(narrowed) == 22
    # The last are in turns in the multiples that are in question.
    assert {point.multiple for point in narrowed[15:]} <= {1, 4, 8, 16, 32}
    for point in narrowed:
        assert all(width % point.multiple == 0 and width < part.groups[name] for name, width in point.widths.items())
    nodes = {node.name for node in nets.chain().graph.node}
    assert nodes & set(whole.ops)
    assert all(point.ms > 0 for point in part.points)
    assert (measured.table.threads, measured.table.batch) == (1, 1)
    assert measured.table.providers == measured.providers == ("CPUExecutionProvider",)


def test_what_is_said_of_it_adds_up(measured: onnxpfp.LatencyReport) -> None:
    found = measured.found
    assert found is not None
    assert found.ms == measured.table.ms
    (main,) = found.parts
    assert [point.ms for point in main.points] == [point.ms for point in measured.table.parts[""].points]
    assert sum(op.ms for op in found.ops) == pytest.approx(main.points[0].fitted_ms, rel=1e-6)
    assert sum(op.least_ms for op in found.ops) == pytest.approx(found.least * main.points[0].fitted_ms, rel=1e-6)
    assert [op.ms for op in found.ops] == sorted((op.ms for op in found.ops), reverse=True)
    assert 0 < found.least <= 1
    assert list(main.slower) == [1, 4, 8, 16, 32]
    assert min(main.slower.values()) == 0
    fitted = [point for point in main.points if point.multiple % main.alignment.finest == 0]
    if len(fitted) >= 4:
        assert max(abs(p.fitted_ms / p.ms - 1) for p in fitted) == pytest.approx(main.error, rel=1e-3, abs=1e-6)


def test_a_table_comes_back_as_it_was(measured: onnxpfp.LatencyReport, tmp_path: Path) -> None:
    measured.table.save(tmp_path / "table.json")
    assert LatencyTable.read(tmp_path / "table.json") == measured.table


def test_multiples_that_are_asked_for() -> None:
    found = onnxpfp.latency(nets.chain(), threads=1, round_to=4)
    points = found.table.parts[""].points
    assert [point.multiple for point in points] == [0, *[4] * 7]
    assert found.found is not None
    (main,) = found.found.parts
    assert (main.alignment.step, dict(main.slower)) == (4, {})


def test_bodies_are_parts(branched: onnxpfp.LatencyReport) -> None:
    groups = {place: set(part.groups.values()) for place, part in branched.table.parts.items()}
    assert groups == {"": {12, 9}, "e/then_branch": {16}, "e/else_branch": {24}}
    assert branched.found is not None
    assert {part.place for part in branched.found.parts} == set(groups)
    assert {op.place for op in branched.found.ops} == set(groups)


@pytest.mark.parametrize("name", [IF, next(iter(LOOPS))])
def test_the_models_of_a_form_have_its_widths(name: str, tmp_path: Path) -> None:
    model = build_bodies((IFS | LOOPS)[name][0])
    form = onnxpfp.latency(model, calibration=samples(name), models=tmp_path / "points")
    assert form.found is None
    files = [point.model for part in form.table.parts.values() for point in part.points]
    assert sorted(path.name for path in (tmp_path / "points").iterdir()) == files == sorted(set(files))
    for part in form.table.parts.values():
        whole, *narrowed = part.points
        full = nets.count_params(onnx.load(tmp_path / "points" / whole.model))
        for point in narrowed:
            smaller = onnx.load(tmp_path / "points" / point.model)
            onnx.checker.check_model(smaller)
            nets.session(smaller)
            assert (nets.count_params(smaller) < full) == bool(point.widths)


def test_a_form_must_be_filled_in(tmp_path: Path) -> None:
    form = onnxpfp.latency(nets.chain(), models=tmp_path, seed=3)
    whole, *narrowed = form.table.parts[""].points
    assert nets.count_macs(onnx.load(tmp_path / whole.model), FEED) == nets.count_macs(nets.chain(), FEED)
    assert [point.multiple for point in narrowed] == [*3 * [1, 4, 8, 16, 32], *7 * [16]]
    for point in narrowed:
        stored = nets.weights(onnx.load(tmp_path / point.model))
        assert {"w1": stored["w1"].shape[0], "w2": stored["w2"].shape[0]} == {"w1": 8, "w2": 10} | dict(point.widths)
    form.table.save(tmp_path / "form.json")
    document = json.loads((tmp_path / "form.json").read_text())
    assert {point["ms"] for point in document["parts"][""]["points"]} == {None}
    with pytest.raises(
        errors.LatencyTableError, match=r"'ms' of point 0 of the main graph \(00\.onnx\) is not filled in"
    ):
        LatencyTable.read(tmp_path / "form.json")


def test_equal_seeds_draw_equal_widths(measured: onnxpfp.LatencyReport, tmp_path: Path) -> None:
    form = onnxpfp.latency(nets.chain(), models=tmp_path)
    other = onnxpfp.latency(nets.chain(), models=tmp_path, seed=1)
    drawn = [point.widths for point in form.table.parts[""].points]
    assert drawn[:16] == [point.widths for point in measured.table.parts[""].points[:16]]
    assert drawn != [point.widths for point in other.table.parts[""].points]


def test_nothing_to_prune() -> None:
    model = nets.build("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    found = onnxpfp.latency(model, threads=1)
    assert [len(part.points) for part in found.table.parts.values()] == [1]
    assert found.found is not None
    assert found.found.least == 1
    assert any(note.startswith("nothing in it can be pruned") for note in found.notes)
    titles = [row for element in found.page(full=True, wide=True) for row in getattr(element, "rows", ())]
    assert "least" not in titles


def test_weights_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 0)
    onnx.save(nets.chain(), tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    with pytest.raises(errors.LatencyTableError, match="cannot be measured where weights lie in other files"):
        onnxpfp.latency(tmp_path / "in.onnx", threads=1)
    form = onnxpfp.latency(tmp_path / "in.onnx", models=tmp_path / "points")
    whole = onnx.load(tmp_path / "points" / form.table.parts[""].points[0].model)
    assert nets.count_params(whole) == nets.count_params(nets.chain())


def test_the_model_is_not_changed() -> None:
    model = nets.chain()
    before = model.SerializeToString(deterministic=True)
    onnxpfp.latency(model, threads=1, round_to=8)
    assert model.SerializeToString(deterministic=True) == before


def test_too_few_samples_for_a_run() -> None:
    with pytest.raises(errors.CalibrationError, match="latency_batch 5 measures runs of 5 samples, and there are 4"):
        onnxpfp.latency(nets.chain(), calibration=nets.noise(4, 3, 8, 8), latency_batch=5)


def _chain_of(samples: int) -> onnx.ModelProto:
    """A network that takes so many samples at once, and no others."""
    model = nets.chain()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = samples
    return model


def test_a_fixed_batch_is_what_a_run_takes(tmp_path: Path) -> None:
    """It counts, whether or not it is asked for; another one is refused, with what to leave out."""
    form = onnxpfp.latency(_chain_of(8), models=tmp_path)
    assert (form.samples, form.table.batch) == (8, 8)
    assert onnxpfp.latency(_chain_of(8), models=tmp_path, latency_batch=8).samples == 8
    result = onnxpfp.prune(_chain_of(8), threads=1)
    assert result.report.latency.samples == 8
    with pytest.raises(errors.CalibrationError, match="the model runs 8 samples at once") as caught:
        onnxpfp.latency(_chain_of(8), threads=1, latency_batch=4)
    assert caught.value.hint == "leave it out"


@pytest.mark.parametrize(
    ("model", "options", "hint"),
    [(_chain_of(1), {}, "leave it out"), (nets.chain(), {"batch_size": 1}, "leave out batch_size 1")],
    ids=["fixed", "asked for"],
)
def test_what_runs_one_by_one_has_no_batch(model: onnx.ModelProto, options: dict[str, int], hint: str) -> None:
    with pytest.raises(errors.CalibrationError, match="runs of 4 samples, and they run one by one") as caught:
        onnxpfp.latency(model, threads=1, latency_batch=4, **options)
    assert caught.value.hint == hint


def test_the_json_form(measured: onnxpfp.LatencyReport, branched: onnxpfp.LatencyReport, tmp_path: Path) -> None:
    form = onnxpfp.latency(nets.chain(), models=tmp_path)
    page = (nets.ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z0-9_]+)`", page.split("## The report as JSON")[1]))
    for report in (measured, branched, form):
        document = report.to_dict()
        assert document == json.loads(json.dumps(document, allow_nan=False))
        assert (document["format"], document["version"]) == ("onnxpfp-latency", 1)
        found = document["latency"] or {"ops": [], "parts": []}
        inner = [*found["ops"], *found["parts"], *(point for part in found["parts"] for point in part["points"])]
        inner += [part["alignment"] for part in found["parts"]]
        assert set(document).union(found, *inner) - described == set()
    assert form.to_dict()["latency"] is None
    assert measured.to_dict()["models"] is None


def test_every_field_of_a_table_is_documented(measured: onnxpfp.LatencyReport, tmp_path: Path) -> None:
    form = onnxpfp.latency(nets.chain(), models=tmp_path)
    text = (nets.ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
    page = text.split("## The table")[1].split("\n## ")[0]
    described = set(re.findall(r"`([a-z0-9_]+)`", page))
    for table in (measured.table, form.table):
        document = json.loads(table.to_json())
        part = document["parts"][""]
        assert set(document).union(part, *part["points"]) - described == set()
