"""The latency benchmark reads, tunes, pairs and shows as it says."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxpfp.runtime.session import open_session

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")
CASE = {"network": "resnet56", "batch": 1, "threads": 1, "machine": "a machine"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def test_repeated_classes_count_once_unless_a_blank_parts_them(load: Any) -> None:
    decode = load("benchmarks.latency.recogniser").decode
    classes = np.array([[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 0, 0, 0, 0, 0, 0], [0] * 8])
    assert decode(classes, ["", "l", "o", "x"]) == ["llo", "x", ""]


def test_an_input_is_blue_first_and_padded_with_zeros(load: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    text_lines = load("benchmarks.latency.text_lines")
    x = text_lines.as_input(image.new("RGB", (40, 24), (255, 0, 255)))
    assert x.shape == (3, text_lines.HEIGHT, text_lines.WIDTH)
    np.testing.assert_array_equal(x[:, :, :80], np.broadcast_to(np.float32([1, -1, 1])[:, None, None], (3, 48, 80)))
    assert not x[:, :, 80:].any()
    np.testing.assert_array_equal(text_lines.as_input(image.new("RGB", (40, 24), (255, 0, 0)))[:, 0, 0], [-1, -1, 1])


def test_calibration_and_test_lines_have_other_words(load: Any) -> None:
    text_lines = load("benchmarks.latency.text_lines")
    calibration, test = (set(text_lines._words(part)) for part in ("calibration", "test"))
    assert min(len(calibration), len(test)) > 200
    assert not calibration & test


def test_absent_fonts_are_named(load: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"DejaVuSans\.ttf.*fonts-liberation"):
        load("benchmarks.latency.text_lines").draw_lines("test", 1, tmp_path)


def test_only_files_that_no_other_beats_count(load: Any) -> None:
    front = load("benchmarks.latency.equal_accuracy").front
    spots = [(90.0, 0.5), (95.0, 1.0), (94.0, 0.9), (85.0, 0.6), (90.0, 0.7), (80.0, 0.4)]
    assert front(spots) == [(95.0, 1.0), (94.0, 0.9), (90.0, 0.5), (80.0, 0.4)]


def test_latency_at_an_accuracy_lies_between_the_files(load: Any) -> None:
    latency_at = load("benchmarks.latency.equal_accuracy").latency_at
    spots = [(95.0, 1.0), (85.0, 0.5), (90.0, 0.9)]
    assert latency_at(spots, 95.0) == 1.0
    assert latency_at(spots, 92.5) == pytest.approx(0.95)
    assert latency_at(spots, 86.0) == pytest.approx(0.58)
    assert latency_at(spots, 84.9) is None
    assert latency_at(spots, 95.1) is None


@pytest.mark.parametrize("power", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("goal", [0.4, 0.7, 0.9])
def test_a_share_is_tuned_to_a_latency(load: Any, power: float, goal: float) -> None:
    by_hand = load("benchmarks.latency.by_hand")

    def attempt(share: float) -> float:
        return 0.1 + 0.9 * share**power

    tried = by_hand.tuned(attempt, goal)
    assert len(tried) <= by_hand.MOST
    assert abs(attempt(tried[-1]) / goal - 1) < 0.1
    assert len(set(tried)) == len(tried)


def test_a_share_that_is_out_of_reach_bounds_the_next(load: Any) -> None:
    tried = load("benchmarks.latency.by_hand").tuned(lambda share: None if share < 0.6 else 0.2 + share / 2, 0.55)
    assert tried[0] < 0.6
    assert tried[-1] == pytest.approx(0.7, abs=0.03)


def test_pairs_are_of_the_original_and_every_file(load: Any, tmp_path: Path) -> None:
    subnormals, turns = load("benchmarks.latency.subnormals"), load("benchmarks.latency.turns")
    file = tmp_path / "network.onnx"
    onnx.save(subnormals.decayed_network(), file)
    x = np.ones((1, subnormals.CHANNELS, subnormals.SIDE, subnormals.SIDE), np.float32)
    seen = turns.in_turns(file, [file, file], turns.feed_of(file, x), seconds=0)
    assert [each.pairs for each in seen] == [turns.FEWEST] * 2
    assert all(each.ratios == tuple(sorted(each.ratios)) and each.before_ms > 0 for each in seen)


def test_the_decayed_filter_is_cleared_and_nothing_else(load: Any, tmp_path: Path) -> None:
    subnormals = load("benchmarks.latency.subnormals")
    places = load("benchmarks.latency.subjects").Places(NOWHERE, tmp_path, NOWHERE, NOWHERE)
    (row,) = subnormals.cleaned(None, places)
    assert row.weights == row.zeroed == subnormals.CHANNELS * 9
    assert row.equal == row.outputs > 0
    assert row.largest == 0


def test_the_transformer_runs_and_its_channels_can_be_pruned(load: Any, tmp_path: Path) -> None:
    vit = load("benchmarks.latency.vit")
    session = open_session(vit.vit_small().SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 3, vit.SIDE, vit.SIDE), dtype=np.float32)
    (scores,) = session.run({session.inputs[0]: x}).values()
    assert scores.shape == (2, vit.CLASSES)
    assert 0.1 < scores.std() < 10


def test_every_job_is_known_by_rows_that_it_makes(load: Any) -> None:
    plan, kinds = load("benchmarks.latency.plan"), load("benchmarks.latency.rows").KINDS
    networks = [*load("benchmarks.latency.subjects").SUBJECTS, load("benchmarks.latency.subnormals").DECAYED]
    everything = plan.jobs(list(plan.PARTS), networks, plan.TARGETS, plan.BATCHES, plan.THREADS)
    found = [key for job in everything for key in plan.keys(job)]
    assert len(set(found)) == len(found) > 50
    assert {key[0] for key in found} == set(kinds)


def rows_of(load: Any) -> list[Any]:
    rows = load("benchmarks.latency.rows")
    ours = rows.Targeted(
        **CASE,
        target=0.7,
        ratios=(0.69, 0.71, 0.72),
        pairs=50,
        before_ms=10.0,
        after_ms=7.1,
        promised=0.698,
        reported=0.705,
        macs=0.6,
        before=94.0,
        after=93.0,
        model_seconds=4.0,
        pass_seconds=2.0,
        seconds=80.0,
    )
    point = rows.Point(
        **CASE, tool="onnxpfp 1", method="onnxpfp", setting=0.7, before=94.0, ratios=(0.7, 0.71, 0.72), after=93.0
    )
    return [
        ours,
        replace(ours, threads=2, ratios=(0.7, 0.8, 0.9)),
        rows.Targeted(**CASE, target=0.1, refused="out of reach"),
        replace(ours, table_threads=1, ratios=(0.6, 0.65, 0.7)),
        rows.ByHand(
            **CASE,
            target=0.7,
            rounding=8,
            goal=0.71,
            tried=3,
            seconds=99.0,
            keep_macs=0.65,
            ratios=(0.7, 0.712, 0.72),
            after=92.0,
        ),
        point,
        replace(point, tool="peer 2", method="a peer", setting=0.1, ratios=(0.8, 0.8, 0.8), after=92.0),
        replace(point, tool="peer 2", method="a peer", setting=0.9, ratios=None, after=None, refused="it failed"),
        rows.Subnormals(
            **(CASE | {"network": "decayed"}),
            weights=576,
            zeroed=576,
            ratios=(0.5, 0.5, 0.5),
            before_ms=2.0,
            after_ms=1.0,
            outputs=100,
            equal=100,
            largest=0.0,
        ),
    ]


def test_rows_come_back_and_the_last_counts(load: Any, tmp_path: Path) -> None:
    rows, file, made = load("benchmarks.latency.rows"), tmp_path / "latency.jsonl", rows_of(load)
    rows.append(file, made)
    rows.append(file, [replace(made[0], macs=0.5)])
    found = list(rows.read(file).values())
    assert set(map(repr, found)) == {repr(replace(made[0], macs=0.5)), *map(repr, made[1:])}
    rows.compact(file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(made)
    assert set(map(repr, rows.read(file).values())) == set(map(repr, found))


def test_the_page_judges_targets_and_pairs_peers_at_equal_accuracy(load: Any) -> None:
    text = load("benchmarks.latency.page").page(rows_of(load))
    assert "1 of 2 files are within 5 % of their target; 1 were refused." in text
    assert "| ResNet-56 | 1 | 1 | 0.7 | 0.710 (0.690..0.720) | 0.698 | 0.705 | 10.00 → 7.10 | 0.600 |" in text
    assert "| 94.0 → 93.0 | 4.0 | 2.0 | 80 |" in text
    assert "| ResNet-56 | 0.7 | 0.710 | 93.0 | multiples of 8 | 0.650 | 0.712 (0.700..0.720) | 92.0 | 3 | 99 |" in text
    # Halfway between the original (94 %, 1) and the peer's file (92 %, 0.8).
    assert "| 93.0 | 0.710 | 0.900 | 0.900 |" in text
    assert "| peer 2 | a peer | 0.9 | it failed | – |" in text
    assert "| ResNet-56 | 0.7 | 0.698 | 1 thread | 1 thread | 0.650 (0.600..0.700) | 4.0 |" in text
    assert "100 of 100" in text
