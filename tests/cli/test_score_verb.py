"""`onnxpfp score`, `onnxpfp merge` and `onnxpfp prune --scores`: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main
from onnxpfp.pipeline.scores.file import ScoresFile

ALONE = ("--allocate", "bound", "--compensate", "bias")
Verb = Callable[..., Result]


@pytest.fixture
def run(folder: Path) -> Verb:
    """Run a verb in the folder, on one thread if it measures."""

    def run(*arguments: str | Path) -> Result:
        threads = () if arguments[0] == "merge" else ("--threads", "1")
        return CliRunner().invoke(main, [*map(str, arguments), *threads])

    return run


@pytest.fixture
def scored(run: Verb) -> Result:
    return run("score", "in.onnx", "--calib-data", "data.npz", "--save", "scores.npz")


def test_scores_are_written_and_shown(folder: Path, scored: Result) -> None:
    assert scored.exit_code == 0, scored.output
    shown = " ".join(scored.stdout.split())
    assert shown.startswith("in.onnx: the scores of ")
    assert "--kernel sum, --seed 0; shapes " in shown
    assert "most sensitive" in shown
    assert ScoresFile.read(folder / "scores.npz").parts[""].ops


def test_one_file_serves_several_targets(folder: Path, run: Verb, scored: Result) -> None:
    for keep in ("0.8", "0.6"):
        for options in ((), ALONE):
            asked = ("--keep-macs", keep, *options, "--no-metadata")
            plain = run("prune", "in.onnx", "plain.onnx", "--calib-data", "data.npz", *asked)
            by_file = run("prune", "in.onnx", "out.onnx", "--calib-data", "data.npz", "--scores", "scores.npz", *asked)
            assert (plain.exit_code, by_file.exit_code) == (0, 0), by_file.output
            assert (folder / "plain.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
        alone = run(
            *("prune", "in.onnx", "alone.onnx", "--scores", "scores.npz", "--keep-macs", keep),
            *("--compensate", "bias", "--no-metadata"),
        )
        assert alone.exit_code == 0, alone.output
        assert (folder / "plain.onnx").read_bytes() == (folder / "alone.onnx").read_bytes()
        assert "Note: no data but the scores in scores.npz: nothing was refitted" in alone.stderr
        fitted = run("prune", "in.onnx", "alone.onnx", "--scores", "scores.npz", "--keep-macs", keep)
        assert "fitted by least squares, each to its own output in the original" in " ".join(fitted.stdout.split())


def test_four_shards_merge_to_one_run(folder: Path, run: Verb) -> None:
    each = ("--calib-data", "data.npz", "--batch-size", "4")
    assert run("score", "in.onnx", *each, "--save", "one.npz").exit_code == 0
    for number in range(1, 5):
        result = run("score", "in.onnx", *each, "--save", f"{number}.npz", "--shard", f"{number}/4")
        assert result.exit_code == 0, result.output
        assert f"shards {number}/4" in " ".join(result.stdout.split())
    merged = run("merge", "3.npz", "1.npz", "4.npz", "2.npz", "-o", "merged.npz")
    assert merged.exit_code == 0, merged.output
    assert "shards 1/4, 2/4, 3/4, 4/4" in " ".join(merged.stdout.split())
    one, two = (ScoresFile.read(folder / name) for name in ("one.npz", "merged.npz"))
    np.testing.assert_array_equal(one.parts[""].sensitivities(), two.parts[""].sensitivities())
    assert one.parts[""].samples == two.parts[""].samples
    for name, sums in one.parts[""].grams.items():
        found = two.parts[""].grams[name]
        assert found.count == sums.count
        np.testing.assert_allclose(found.uu, sums.uu, rtol=1e-6, atol=1e-6 * float(np.abs(sums.uu).max(initial=0)))
    result = run("prune", "in.onnx", "out.onnx", "--scores", "merged.npz")
    assert result.exit_code == 0, result.output


def test_a_merge_without_a_shard_says_so(run: Verb) -> None:
    for number in (1, 3):
        run("score", "in.onnx", "--calib-data", "data.npz", "--save", f"{number}.npz", "--shard", f"{number}/4")
    merged = run("merge", "1.npz", "3.npz", "-o", "merged.npz")
    assert merged.exit_code == 0, merged.output
    assert "still to be merged in before a pruning can use them: 2/4, 4/4" in merged.stderr
    result = run("prune", "in.onnx", "out.onnx", "--scores", "merged.npz")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: merged.npz lacks shards of its samples: 2/4, 4/4")


def test_the_reports_as_json(run: Verb, scored: Result) -> None:
    document = json.loads(
        run("score", "in.onnx", "--calib-data", "data.npz", "--save", "a.npz", "--json", "-", "--shard", "1/2").stdout
    )
    assert (document["format"], document["version"]) == ("onnxpfp-scores-report", 1)
    assert (document["file"], document["scores"]) == ("in.onnx", "a.npz")
    assert document["samples"][0]["shards"] == [[1, 2]]
    assert document["missing"] == "2/2"
    pruned = json.loads(
        run("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--json", "-", "--keep-macs", "0.6").stdout
    )
    for group in pruned["groups"]:
        assert len(group["sensitivities"]) == group["channels"]
        known = [value for value in group["sensitivities"] if value is not None]
        assert all(0 <= value <= 1 for value in known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "in.onnx", "--save", "a.npz"), "scores are measured on data, and none are given"),
        (("score", "in.onnx", "--calib-data", "random", "--save", "a.npz"), "--calib-data random is noise"),
        (
            ("score", "in.onnx", "--calib-data", "data.npz", "--save", "data.npz"),
            "--save and --calib-data are the same",
        ),
        (("score", "in.onnx", "--calib-data", "data.npz", "--save", "a.npz", "--shard", "5/4"), "a shard is I/N"),
        (("score", "in.onnx", "--calib-data", "data.npz", "--save", "a.npz", "--shard", "0/4"), "a shard is I/N"),
        (("score", "in.onnx", "--calib-data", "data.npz", "--save", "a.npz", "--shard", "x"), "a shard is I/N"),
        (("merge", "scores.npz", "-o", "scores.npz"), "--output and scores.npz are the same file"),
        (("merge", "scores.npz", "scores.npz", "-o", "a.npz"), "scores.npz and scores.npz have shard 1/1 in common"),
        (("merge", "data.npz", "-o", "a.npz"), "data.npz: is a file of arrays, not a file of scores"),
        (("merge", "none.npz", "-o", "a.npz"), "none.npz: there is no such file"),
        (
            ("prune", "in.onnx", "out.onnx", "--scores", "data.npz"),
            "data.npz: is a file of arrays, not a file of scores",
        ),
        (("prune", "in.onnx", "out.onnx", "--scores", "none.npz"), "none.npz does not exist"),
        (("prune", "in.onnx", "scores.npz", "--scores", "scores.npz"), "OUT and --scores are the same file"),
        (("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--seed", "1"), "scored with --seed 0"),
        (("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--allocate", "measured"), "measures the data"),
        (
            ("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--score", "chip"),
            "chip is not in files of scores",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, run: Verb, scored: Result, arguments: tuple[str, ...], message: str
) -> None:
    before = {path.name for path in folder.iterdir()}
    result = run(*arguments)
    assert result.exit_code in {1, 2}, result.output
    error, *more = result.stderr.splitlines()
    assert message in error
    assert error.startswith("Error: ")
    assert all(line.startswith("Hint: ") for line in more)
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "in.onnx", "--calib-data", "steps", "--save", "steps/more.npz"),
        ("score", "in.onnx", "--calib-data", "steps", "--save", "a.npz", "--report", "steps/0.npy"),
        ("prune", "in.onnx", "out.onnx", "--calib-data", "steps", "--json", "steps/0.npy"),
    ],
)
def test_nothing_is_written_among_the_samples(folder: Path, run: Verb, arguments: tuple[str, ...]) -> None:
    """The next run would take it for one of them."""
    (folder / "steps").mkdir()
    for number in range(4):
        np.save(folder / "steps" / f"{number}.npy", np.zeros((1, 8, 8), np.float32))
    before = (folder / "steps" / "0.npy").read_bytes()
    result = run(*arguments)
    assert result.exit_code == 1
    assert "would lie among the samples of --calib-data steps" in result.stderr
    assert (folder / "steps" / "0.npy").read_bytes() == before
    assert len([*(folder / "steps").iterdir()]) == 4


def test_a_plan_and_scores_are_one_too_many(run: Verb, scored: Result) -> None:
    run("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--plan", "plan.json")
    result = run("prune", "in.onnx", "out.onnx", "--scores", "scores.npz", "--from-plan", "plan.json")
    assert result.exit_code == 2
    assert "--scores goes with no --from-plan" in result.stderr
