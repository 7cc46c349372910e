"""Scores as files: shards merge to one run, and a pruning by a file writes what one that measures writes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto
from support.bodies import IFS, LOOPS, build_bodies, samples
from support.graphs import build

import onnxpfp
from onnxpfp.errors import OptionError, ScoresError
from onnxpfp.pipeline.scores.file import ScoresFile
from onnxpfp.runtime.blocks import Alignment

NET = """g (float[N,3,12,12] x) => (y) <float[24,3,3,3] w, float[24] b, float[20,24,3,3] u, float[20,5] v> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  c = Conv <strides = [2,2]> (r, u)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  y = MatMul(f, v) }"""
EXACT = {"channels", "sensitivity", "patches", "negative", "samples", "count"}
RUN: Mapping[str, Any] = {"threads": 1}
QUICK: Mapping[str, Any] = {"threads": 1, "no_latency": True, "keep_macs": 0.6}
DATA = nets.noise(96, 3, 12, 12)


@pytest.fixture(scope="module")
def network() -> ModelProto:
    model = build(NET)
    # One channel is dead, one is twice another one.
    for tensor in model.graph.initializer:
        array = nets.weights(model)[tensor.name].copy() if tensor.name in {"w", "b"} else None
        if array is not None:
            array[3], array[5] = (0 if tensor.name == "w" else -1), 2 * array[4]
            tensor.raw_data = array.tobytes()
    return model


@pytest.fixture(scope="module")
def whole(network: ModelProto) -> ScoresFile:
    return onnxpfp.measure_scores(network, calibration=DATA, batch_size=8, **RUN).scores


@pytest.fixture(scope="module")
def shards(network: ModelProto) -> list[ScoresFile]:
    return [shard(network, number, 4) for number in range(1, 5)]


def shard(model: ModelProto, number: int, of: int, **more: Any) -> ScoresFile:
    given: dict[str, Any] = {"calibration": DATA, "batch_size": 8, **RUN, **more}
    return onnxpfp.measure_scores(model, shard=f"{number}/{of}", **given).scores


def assert_same(one: ScoresFile, two: ScoresFile) -> None:
    assert (one.header, one.parts.keys()) == (two.header, two.parts.keys())
    assert one.known() == two.known()
    for place, part in one.parts.items():
        other = two.parts[place]
        assert (part.groups, part.lossless, part.zeroed) == (other.groups, other.lossless, other.zeroed)
        for kind in ("ops", "squares", "grams"):
            mine, theirs = getattr(part, kind), getattr(other, kind)
            assert mine.keys() == theirs.keys()
            for name, statistic in mine.items():
                for field in fields(statistic):
                    array, found = (np.asarray(getattr(each, field.name)) for each in (statistic, theirs[name]))
                    if field.name in EXACT:
                        np.testing.assert_array_equal(array, found, err_msg=f"{name} {field.name}")
                    else:
                        scale = float(np.abs(array).max(initial=0.0))
                        np.testing.assert_allclose(array, found, rtol=1e-6, atol=1e-6 * scale, err_msg=field.name)


def test_four_shards_merge_to_one_run(whole: ScoresFile, shards: list[ScoresFile]) -> None:
    assert [each.data[0].scored for each in shards] == [16, 16, 16, 24]
    merged = onnxpfp.merge_scores(shards).scores
    assert not merged.missing
    assert whole.parts[""].grams
    assert len(whole.parts[""].lossless["gone"]) == 2
    assert_same(whole, merged)


def test_the_order_of_the_files_makes_no_difference(shards: list[ScoresFile], tmp_path: Path) -> None:
    one, two, three, four = shards
    pairs = [onnxpfp.merge_scores(pair).scores for pair in ((four, two), (one, three))]
    onnxpfp.merge_scores(shards).scores.save(tmp_path / "a")
    onnxpfp.merge_scores(shards[::-1]).scores.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert_same(onnxpfp.merge_scores(shards).scores, onnxpfp.merge_scores(pairs).scores)


def test_a_shard_of_few_batches_may_be_empty(network: ModelProto, whole: ScoresFile) -> None:
    """72 samples in batches of 8 are nine runs."""
    parts = [shard(network, number, 10) for number in range(1, 11)]
    assert [each.data[0].scored for each in parts] == [0] + [8] * 9
    assert_same(whole, onnxpfp.merge_scores(parts).scores)
    report = onnxpfp.measure_scores(network, calibration=DATA, batch_size=8, shard="1/10", **RUN)
    assert any(note.startswith("shard 1/10 has no sample") for note in report.notes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allocate": "bound", "compensate": "bias"},
        {"allocate": "bound", "compensate": "none", "select": "mixed"},
        {"allocate": "uniform", "score": "reconstruction"},
        {"score": "mean-share", "steps": 2},
        {"keep_macs": 1.0},
    ],
    ids=str,
)
def test_pruning_by_a_file_with_data_is_pruning_with_data(
    network: ModelProto, whole: ScoresFile, options: dict[str, Any]
) -> None:
    asked = {**QUICK, "calibration": DATA, "batch_size": 8, **options}
    plain, by_file = onnxpfp.prune(network, **asked), onnxpfp.prune(network, scores=whole, **asked)
    assert plain.model.SerializeToString(deterministic=True) == by_file.model.SerializeToString(deterministic=True)
    told, found = (replace(each.report, seconds={}).to_dict() for each in (plain, by_file))
    assert told == found


def test_a_target_of_quality_takes_samples_apart(network: ModelProto, whole: ScoresFile) -> None:
    asked = {**QUICK, "keep_macs": None, "max_drift": 0.9, "calibration": DATA, "batch_size": 8, "scores": whole}
    with pytest.raises(ScoresError, match="samples that measure the result have been scored"):
        onnxpfp.prune(network, **asked)
    apart = onnxpfp.prune(network, certification=nets.noise(70, 3, 12, 12, seed=9), **asked)
    assert apart.report.certified is not None


@pytest.mark.parametrize("compensate", ["bias", "none"])
def test_pruning_by_a_file_alone(network: ModelProto, whole: ScoresFile, compensate: Any, tmp_path: Path) -> None:
    whole.save(tmp_path / "scores.npz")
    # They note other options: by a file alone the widths follow from the bound unasked.
    asked = {**QUICK, "batch_size": 8, "compensate": compensate, "no_metadata": True}
    plain = onnxpfp.prune(network, calibration=DATA, allocate="bound", **asked)
    by_file = onnxpfp.prune(network, scores=tmp_path / "scores.npz", **asked)
    assert plain.model.SerializeToString(deterministic=True) == by_file.model.SerializeToString(deterministic=True)
    assert by_file.report.compensation == compensate
    assert by_file.report.samples == plain.report.samples
    assert by_file.report.drift is None
    assert any("nothing was refitted" in note for note in by_file.report.notes)


def test_without_data_layers_are_fitted_to_their_own_outputs() -> None:
    """W' = W G[:, S] G[S, S]^-1 by the sums in the file, G the covariance and a hundredth of the mean of what stays."""
    text = """g (float[N,8] x) => (y) <float[8,24] w, float[24,6] v, float[6] c> {
        a = MatMul(x, w)  r = Relu(a)  y = Gemm(r, v, c) }"""
    model = build(text)
    scores = onnxpfp.measure_scores(model, calibration=nets.noise(96, 8), round_to=1, **RUN).scores
    result = onnxpfp.prune(model, scores=scores, round_to=1, **QUICK)
    assert result.report.compensation == "lstsq"
    assert result.report.fitted
    (sums,) = scores.parts[""].grams.values()
    kept, before = np.array(result.plan.initializers["v"].keep[0]), nets.weights(model)["v"].astype(np.float64)
    mean = sums.u[0] / sums.count
    covariance = sums.uu[0].astype(np.float64) / sums.count - np.outer(mean, mean)
    covariance += 1e-2 * np.diag(covariance)[kept].mean() * np.eye(24)
    wanted = np.linalg.solve(covariance[np.ix_(kept, kept)], covariance[kept] @ before)
    found = nets.weights(result.model)
    np.testing.assert_allclose(found["v"], wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(found["c"], nets.weights(model)["c"] + mean @ before - mean[kept] @ wanted, atol=1e-3)


def test_layers_without_matrices_get_means(network: ModelProto, whole: ScoresFile) -> None:
    bare = {place: replace(part, grams={}) for place, part in whole.parts.items()}
    result = onnxpfp.prune(network, scores=replace(whole, parts=bare), **QUICK)
    assert (result.report.compensation, result.report.fitted) == ("bias", ())
    assert result.report.compensated


def test_free_axes_have_the_lengths_of_what_was_scored(tmp_path: Path) -> None:
    model = build(NET.replace("12,12", "H,W"))
    scores = onnxpfp.measure_scores(model, calibration=DATA, **RUN).scores
    asked = {**QUICK, "compensate": "bias", "no_metadata": True}
    plain = onnxpfp.prune(model, calibration=DATA, allocate="bound", **asked)
    by_file = onnxpfp.prune(model, scores=scores, **asked)
    assert plain.model.SerializeToString(deterministic=True) == by_file.model.SerializeToString(deterministic=True)
    with pytest.raises(ScoresError, match="at the shapes x 1x3x12x12, and is to be used at the shapes x 1x3x16x16"):
        onnxpfp.prune(model, scores=scores, calibration=nets.noise(64, 3, 16, 16), **QUICK)


def test_the_report_has_the_sensitivity_of_every_channel(network: ModelProto, whole: ScoresFile) -> None:
    report = onnxpfp.measure_scores(network, calibration=DATA, batch_size=8, **RUN)
    pruned = onnxpfp.prune(network, calibration=DATA, batch_size=8, **QUICK).report.to_dict()
    scored = report.to_dict()
    json.dumps(scored)
    for mine, group in zip(scored["groups"], pruned["groups"], strict=True):
        assert mine["name"] == group["name"]
        assert list(mine["sensitivities"]) == list(group["sensitivities"])
        assert len(mine["sensitivities"]) == group["channels"]
    first = scored["groups"][0]["sensitivities"]
    assert [place for place, value in enumerate(first) if value is None] == [3, 4]
    assert all(0 < value <= 1 for value in first if value is not None)


@pytest.mark.parametrize("name", ["weights in both branches", "a convolution in a Loop"])
def test_bodies_are_scored_and_pruned_with_data(name: str) -> None:
    model, data = build_bodies((IFS | LOOPS)[name][0]), samples(name)
    whole = onnxpfp.measure_scores(model, calibration=data, **RUN).scores
    assert len(whole.parts) > 1
    parts = [onnxpfp.measure_scores(model, calibration=data, shard=f"{n}/3", **RUN).scores for n in (1, 2, 3)]
    assert_same(whole, onnxpfp.merge_scores(parts).scores)
    plain = onnxpfp.prune(model, calibration=data, **QUICK)
    by_file = onnxpfp.prune(model, calibration=data, scores=whole, **QUICK)
    assert plain.model.SerializeToString(deterministic=True) == by_file.model.SerializeToString(deterministic=True)
    with pytest.raises(ScoresError, match="does not say what the bodies of If, Loop and Scan are fed"):
        onnxpfp.prune(model, scores=whole, **QUICK)


def test_a_body_that_one_shard_cannot_measure_stays() -> None:
    name = "weights in both branches"
    model, data = build_bodies(IFS[name][0]), samples(name)
    one, two = (onnxpfp.measure_scores(model, calibration=data, shard=f"{n}/2", **RUN).scores for n in (1, 2))
    place = list(one.parts)[1]
    left = replace(two.parts[place], lossless={}, stays="it computes NaN", ops={}, squares={}, grams={})
    merged = onnxpfp.merge_scores([one, replace(two, parts={**two.parts, place: left})]).scores
    assert merged.parts[place].stays == "it computes NaN"
    report = onnxpfp.prune(model, calibration=data, scores=merged, **QUICK).report
    assert {body.place: body.reason for body in report.bodies}[place] == "it computes NaN"


def test_what_does_not_go_together_is_not_merged(network: ModelProto, shards: list[ScoresFile]) -> None:
    one = shards[0]
    cases = {
        "was scored with kernel": shard(network, 2, 4, kernel="max"),
        "was scored with seed": shard(network, 2, 4, seed=1),
        "was scored with exclude 'v'": shard(network, 2, 4, exclude=["v"]),
        "was scored of the model with the sha256": shard(build(NET), 2, 4),
        "have shard 1/4 in common": shards[0],
        "have 16 samples in common": shard(network, 1, 3),
        "was scored by onnxpfp": replace(shards[1], header=replace(one.header, version="0.0")),
        "other channels cost nothing": shard(network, 2, 4, calibration=nets.noise(96, 3, 12, 12, seed=4)),
    }
    for message, other in cases.items():
        other = replace(other, title="b.npz")
        with pytest.raises(ScoresError) as caught:
            onnxpfp.merge_scores([replace(one, title="a.npz"), other])
        assert message in str(caught.value)
        assert "a.npz" in str(caught.value)
        assert "b.npz" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_samples_may_be_merged_in(network: ModelProto, whole: ScoresFile) -> None:
    more = onnxpfp.measure_scores(network, calibration=nets.noise(104, 3, 12, 12, seed=3), batch_size=8, **RUN).scores
    assert more.parts[""].lossless != whole.parts[""].lossless
    both = onnxpfp.merge_scores([whole, more]).scores
    assert both.parts[""].samples == whole.parts[""].samples + more.parts[""].samples
    largest = np.maximum(whole.parts[""].sensitivities(), more.parts[""].sensitivities())
    np.testing.assert_array_equal(both.parts[""].sensitivities(), largest)
    assert onnxpfp.prune(network, scores=both, **QUICK).report.samples == both.parts[""].samples


def test_other_kernels_take_what_costs_nothing_as_it_was_found(
    network: ModelProto, whole: ScoresFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxpfp.pipeline.context.alignment_for", lambda *_: Alignment(3, "made up", "measured", 3))
    result = onnxpfp.prune(network, scores=whole, **QUICK)
    assert [each.kind for each in result.report.removed] == ["dead", "duplicate"]


def test_missing_shards_are_told(network: ModelProto, shards: list[ScoresFile]) -> None:
    some = onnxpfp.merge_scores([shards[0], shards[2]])
    assert some.scores.missing == "2/4, 4/4"
    assert any("2/4, 4/4" in note for note in some.notes)
    with pytest.raises(ScoresError, match="lacks shards of its samples: 2/4, 4/4"):
        onnxpfp.prune(network, scores=some.scores, **QUICK)


def test_samples_that_were_scored_measure_no_result(network: ModelProto, whole: ScoresFile) -> None:
    with pytest.raises(ScoresError, match=r"\d+ of the \d+ samples that measure the result have been scored"):
        onnxpfp.prune(network, scores=whole, calibration=DATA[::-1].copy(), **QUICK)


def test_a_file_is_for_its_network_and_options(network: ModelProto, whole: ScoresFile, tmp_path: Path) -> None:
    for options, message in [
        ({"seed": 1}, "was scored with seed 0, and is to be used with seed 1"),
        ({"kernel": "max"}, "was scored with kernel sum"),
        ({"exclude": ["v"]}, "was scored without exclude"),
        ({"round_to": 3}, "kept in other multiples than are asked for"),
    ]:
        with pytest.raises(ScoresError, match=message):
            onnxpfp.prune(network, scores=whole, **{**QUICK, **options})
    with pytest.raises(ScoresError, match="of the model with the sha256"):
        onnxpfp.prune(build(NET), scores=whole, **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": "random"}, "random is noise"),
        ({"structure": "channels,rank", "calibration": DATA}, "rank measures layers that files of scores do not have"),
        ({"score": "thinet"}, "thinet is not in files of scores"),
        ({"steps": 2}, "measures anew"),
        ({"max_drift": 0.5, "keep_macs": None}, "measures the data"),
        ({"keep_classes": "0,2"}, "is of a network with all of its classes"),
        ({"keep_classes": "0,2", "calibration": DATA}, "is of a network with all of its classes"),
    ],
)
def test_what_a_file_does_not_have_is_refused(
    network: ModelProto, whole: ScoresFile, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        onnxpfp.prune(network, scores=whole, **{**QUICK, **options})


def test_a_report_in_the_place_of_its_scores_is_told_in_one_line(network: ModelProto) -> None:
    report = onnxpfp.measure_scores(network, calibration=DATA, batch_size=8, **RUN)
    with pytest.raises(ScoresError, match=r"not ScoresReport") as caught:
        onnxpfp.merge_scores([report, report])  # type: ignore[list-item]
    assert "report.scores" in caught.value.hint


def test_a_target_of_latency_chooses_among_channels(network: ModelProto, whole: ScoresFile) -> None:
    """Ranks, that such targets may take by themselves, are not in files of scores."""
    options: dict[str, Any] = {"batch_size": 8, "keep_latency": 0.9, **RUN}
    report = onnxpfp.prune(network, scores=whole, calibration=DATA, **options).report
    assert report.structure == "channels"
    with pytest.raises(OptionError, match="rank measures layers that files of scores do not have"):
        onnxpfp.prune(network, scores=whole, calibration=DATA, structure="channels,rank", **options)


CELL = """g (float[N,8] x, float[N,20] s) => (float[N,5] y, float[N,20] sn)
    <float[8,20] w, float[20] b, float[20,20] u, float[20,5] v> {
    a = MatMul(x, w)  i = Add(a, b)  j = Relu(i)  k = MatMul(j, u)  m = Add(k, s)  sn = Tanh(m)  y = MatMul(sn, v) }"""


def test_scores_of_a_sequence_promise_nothing_of_others() -> None:
    model, data, carry = build(CELL), nets.noise(96, 8), ("sn:s",)
    parts = [shard(model, number, 2, calibration=data, carry=carry) for number in (1, 2)]
    scores = onnxpfp.merge_scores(parts).scores
    for more in ({}, {"calibration": data, "carry": carry}):
        report = onnxpfp.prune(model, scores=scores, **QUICK, **more).report
        assert any("no probability is known of these" in note for note in report.notes)
    with pytest.raises(OptionError, match="carry says which states samples have, and no data are given"):
        onnxpfp.prune(model, scores=scores, carry=carry, **QUICK)


def test_scores_need_data_of_yours(network: ModelProto) -> None:
    with pytest.raises(onnxpfp.errors.CalibrationError, match="none are given"):
        onnxpfp.measure_scores(network, calibration=None)
    with pytest.raises(OptionError, match="is noise"):
        onnxpfp.measure_scores(network, calibration="random")


def rewritten(path: Path, change: Any) -> None:
    """Change the arrays of a file."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def with_header(change: Any) -> Any:
    """Change the document in the header of a file."""

    def edit(arrays: dict[str, Any]) -> None:
        document = json.loads(str(arrays["header"]))
        change(document)
        arrays["header"] = np.array(json.dumps(document))

    return edit


DAMAGES: Mapping[str, Any] = {
    "no header": lambda arrays: arrays.pop("header"),
    "no text": lambda arrays: arrays.update(header=np.zeros(3)),
    "no JSON": lambda arrays: arrays.update(header=np.array("{")),
    "another format": with_header(lambda document: document.update(format="x")),
    "a later version": with_header(lambda document: document.update(file=2)),
    "no samples": with_header(lambda document: document.update(data=[])),
    "a shard beyond the last": with_header(lambda document: document["data"][0].update(shards=[[5, 4]])),
    "samples of which nothing is known": with_header(lambda document: document["data"][0].update(independent=1)),
    "a part that is a list": with_header(lambda document: document["parts"].update({"": []})),
    "an op without arrays": with_header(lambda document: document["parts"][""]["ops"].append("more")),
    "a missing array": lambda arrays: arrays.pop("0.ops.0.sensitivity"),
    "sensitivities above one": lambda arrays: arrays.update({"0.ops.0.sensitivity": arrays["0.ops.0.sensitivity"] + 1}),
    "sums that are no numbers": lambda arrays: arrays.update(
        {"0.ops.0.patch_sum": arrays["0.ops.0.patch_sum"] * np.nan}
    ),
    "text for numbers": lambda arrays: arrays.update({"0.ops.0.patch_sum": np.array([["a"]])}),
    "digests of another size": lambda arrays: arrays.update(digests=arrays["digests"][:, :3]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_in_one_line(whole: ScoresFile, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    whole.save(path)
    rewritten(path, DAMAGES[damage])
    with pytest.raises(ScoresError) as caught:
        ScoresFile.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_told_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScoresError, match=r"scores\.npz"):
        ScoresFile.read(path)


LOSSLESS: Mapping[str, Any] = {
    "no channel": lambda lossless: lossless.update(gone=[10_000]),
    "no index": lambda lossless: lossless.update(merges={"0": [[0, 99, 1.0]]}),
    "no consumer": lambda lossless: lossless.update(shifts={"9": [0.0]}),
    "nothing": lambda lossless: lossless.clear(),
    "text": lambda lossless: lossless.update(fillers="1"),
}


@pytest.mark.parametrize("damage", LOSSLESS)
def test_channels_that_cannot_be_are_refused(
    network: ModelProto, whole: ScoresFile, damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.npz"
    whole.save(path)
    rewritten(path, with_header(lambda document: LOSSLESS[damage](document["parts"][""]["lossless"])))
    with pytest.raises(ScoresError, match="what costs nothing does not fit the network"):
        onnxpfp.prune(network, scores=path, **QUICK)


def test_a_file_has_no_python_objects(whole: ScoresFile, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    whole.save(path)
    with np.load(path, allow_pickle=False) as archive, zipfile.ZipFile(path) as members:
        assert all(archive[name].dtype.kind in "Ufiub" for name in archive.files)
        assert members.testzip() is None
    assert_same(whole, ScoresFile.read(path))
