"""`--config` and `--save-config`: files of options, for every verb alike."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main

Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a verb in the folder, with a file of options called a.toml."""

    def call(verb: str, *arguments: str, config: str = "") -> Result:
        (folder / "a.toml").write_text(config, encoding="utf-8")
        files = ["in.onnx", "in.onnx"] if verb == "verify" else ["in.onnx"]
        files += ["new.onnx"] if verb in {"prune", "factorize", "sparsify"} else []
        return CliRunner().invoke(main, [verb, *files, "--config", "a.toml", *arguments])

    return call


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_options_of_a_file_are_as_if_they_were_typed(folder: Path, run: Run) -> None:
    config = """
        calib-data = "data.npz"
        keep-macs = 0.5
        round-to = 1
        score = "l1"
        include = ["node_*", "w1"]
        calib-samples = 12
        no-latency = true
        strict-providers = false
    """
    assert run("prune", config=config).exit_code == 0
    by_file = (folder / "new.onnx").read_bytes()
    typed = [
        *("prune", "in.onnx", "new.onnx", "--calib-data", "data.npz", "--keep-macs", "0.5", "--round-to", "1"),
        *("--score", "l1", "--include", "node_*", "--include", "w1", "--calib-samples", "12", "--no-latency"),
    ]
    (folder / "new.onnx").unlink()
    assert CliRunner().invoke(main, typed).exit_code == 0
    assert (folder / "new.onnx").read_bytes() == by_file
    # The notes in the file have all of them, so every one was taken.
    options = {entry.key: entry.value for entry in onnx.load(folder / "new.onnx").metadata_props}["onnxpfp.options"]
    assert json.loads(options) == {"calib-samples": 12, "include": ["node_*", "w1"], "round-to": 1, "score": "l1"}


def test_what_is_typed_wins_then_the_table_then_the_top(run: Run) -> None:
    config = 'score = "l1"\nround-to = 1\nno-latency = true\n[prune]\nscore = "l2"\nkeep-macs = 0.5\n'
    assert report(run("prune", "--json", "-", config=config))["method"] == "l2"
    assert report(run("prune", "--json", "-", "--score", "fpgm", config=config))["method"] == "fpgm"
    top = config.replace("[prune]\n", "[prunability]\n").replace("keep-macs = 0.5\n", "")
    assert report(run("prune", "--json", "-", config=top))["method"] == "l1"


@pytest.mark.parametrize(
    ("typed", "target"),
    [
        (("--keep-params", "0.6"), {"params": 0.6}),
        (("--keep-size", "0.9"), {"size": 0.9}),
        (("--keep-macs", "0.8"), {"macs": 0.8}),
        ((), {"macs": 0.5}),
    ],
)
def test_a_typed_target_takes_the_place_of_that_of_the_file(
    run: Run, typed: tuple[str, ...], target: dict[str, float]
) -> None:
    result = run("prune", "--json", "-", "--no-latency", "--round-to", "1", *typed, config="keep-macs = 0.5")
    assert report(result)["target"] == target


def test_a_plan_takes_the_place_of_a_target(folder: Path, run: Run) -> None:
    config = "[prune]\nkeep-macs = 0.5\nround-to = 1\nno-latency = true"
    assert run("prune", "--plan", "plan.json", config=config).exit_code == 0
    assert report(run("prune", "--from-plan", "plan.json", "--json", "-", config=config))["method"] == "plan"


def test_limits_of_verify_stand_side_by_side(run: Run) -> None:
    config = '[verify]\nmax-drift = 1e-9\ncalib-data = "data.npz"\nno-latency = true'
    result = run("verify", "--min-agreement", "0.5", config=config)
    # The model has no classes, which the typed limit asks for; that of the file holds.
    assert result.exit_code == 2
    assert "--min-agreement asks for class scores" in result.stderr
    assert run("verify", config=config).exit_code == 0


def test_options_that_a_verb_has_not_are_for_others(run: Run) -> None:
    config = 'keep-macs = 0.5\nthreads = 1\n[prune]\nscore = "l1"\n[sweep]\nkeep-macs = [0.9, 0.5]\noutput = "models"'
    assert run("inspect", config=config).exit_code == 0


def test_several_values_of_one_option(folder: Path, run: Run) -> None:
    config = 'round-to = 1\nno-latency = true\n[sweep]\nkeep-macs = [0.9, 0.5]\noutput = "models"'
    assert run("sweep", config=config).exit_code == 0
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["in-macs-0.5.onnx", "in-macs-0.9.onnx"]


def test_how_a_report_looks_may_stand_there(run: Run) -> None:
    assert run("inspect", config="quiet = true").output == ""
    assert " ...\n" in run("inspect", config="verbose = 1").stderr
    assert json.loads(run("inspect", config='json = "-"').stdout)["format"] == "onnxpfp-inspection"


@pytest.mark.parametrize(
    ("config", "error", "hint"),
    [
        ("kep-macs = 0.5", "a.toml: kep-macs is no option of any command", "did you mean keep-macs or"),
        ("[prune]\nkeep_macs = 1", "a.toml: [prune] keep_macs is no option of onnxpfp prune", "did you mean keep-macs"),
        ("[prune]\ntolerance = 0.5", "a.toml: [prune] tolerance is no option of onnxpfp prune", ""),
        ("[prun]\nscore = 'l1'", "a.toml: [prun] is no command of onnxpfp", "did you mean prune?"),
        ("[sweep]\nkep-macs = 1", "a.toml: [sweep] kep-macs is no option of onnxpfp sweep", "did you mean keep-macs"),
        ("config = 'b.toml'", "a.toml: config is no option of any command", ""),
        ("threads = true", "a.toml: threads takes a value, not True", ""),
        ("no-latency = 1", "a.toml: no-latency takes true or false, not 1", ""),
        ("score = 1979-05-27", "a.toml: score takes text or numbers, not datetime.date(1979, 5, 27)", ""),
        ("include = [['a']]", "a.toml: include takes text or numbers, not ['a']", ""),
        ("score = ", "--config a.toml: is no TOML: ", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(folder: Path, run: Run, config: str, error: str, hint: str) -> None:
    result = run("prune", config=config)
    assert (result.exit_code, result.stdout) == (2, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith(f"Error: {error}")
    assert "".join(rest).startswith(f"Hint: {hint}" if hint else "")
    assert not (folder / "new.onnx").exists()


def test_a_value_that_the_option_does_not_take_is_told_as_if_it_were_typed(run: Run) -> None:
    assert (
        "Invalid value for '--threads': 'two' is not a valid integer." in run("prune", config="threads = 'two'").stderr
    )
    assert "--keep-macs 1.5 is outside (0, 1]" in run("prune", config="keep-macs = 1.5").stderr


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "large.toml").write_text("#" * (1 << 20) + "\n")
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    for name, why in (
        ("none.toml", "No such file"),
        (".", "Is a directory"),
        ("large.toml", "more than"),
        ("binary.toml", "is no TOML"),
    ):
        result = CliRunner().invoke(main, ["inspect", "in.onnx", "--config", name])
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"Error: --config {name}: ")
        assert why in result.stderr


GIVEN = {
    "prune": ["--keep-macs", "0.5", "--exclude", "node_b*", "--exclude", 'a"\\b', "--round-to", "1", "--no-latency"],
    "sweep": ["-o", "models", "--keep-params", "0.9,0.5", "--force", "--no-latency"],
    "factorize": ["--energy", "0.5", "--scheme", "channel", "--no-latency"],
    "sparsify": ["--calib-data", "data.npz", "--keep-weights", "0.6"],
    "inspect": ["--input-shape", "x:2,3,8,8", "--top", "3"],
    "prunability": ["--calib-data", "data.npz", "--measure", "weights"],
    "verify": ["--no-latency", "--max-drift", "0.5"],
    "latency": ["-o", "table.json", "--threads", "1", "--round-to", "2"],
    "score": ["--calib-data", "data.npz", "--save", "scores.npz", "--shard", "1/2"],
    "merge": ["-o", "merged.npz"],
    "doctor": ["--providers", "cpu"],
}


@pytest.mark.parametrize("verb", main.commands)
def test_every_verb_writes_what_it_was_given_and_takes_it_back(
    folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[dict[str, Any]]()
    command = main.commands[verb]
    # What a verb does is not in question here, only what it is given.
    names = {param.name for param in command.params if isinstance(param, click.Option) and param.expose_value}
    wrapped: Any = command.callback

    def note(**_: Any) -> None:
        context = click.get_current_context()
        given.append({name: context.params[name] for name in names})

    monkeypatch.setattr(command, "callback", _saving(wrapped, note))
    files = {"verify": ["in.onnx", "in.onnx"], "doctor": [], "merge": ["1.npz", "2.npz"]}.get(verb, ["in.onnx"])
    files += ["new.onnx"] if verb in {"prune", "factorize", "sparsify"} else []
    for arguments in (["--save-config", "a.toml", *GIVEN[verb]], ["--config", "a.toml", "--save-config", "b.toml"]):
        result = CliRunner().invoke(main, [verb, *files, *arguments])
        assert result.exit_code == 0, result.output
    assert given[0] == given[1]
    text = (folder / "a.toml").read_text()
    assert text == (folder / "b.toml").read_text()
    assert list(tomllib.loads(text)) == [verb]
    flags = {flag for flag in GIVEN[verb] if flag.startswith("--")}
    assert flags <= {f"--{key}" for key in tomllib.loads(text)[verb]}


def _saving(wrapped: Any, instead: Callable[..., None]) -> Callable[..., Any]:
    """Put another function in the place of a verb's own, and leave what reads and writes its options around it."""
    cells = dict(zip(wrapped.__code__.co_freevars, wrapped.__closure__, strict=True))
    before = cells["run"].cell_contents

    def call(*args: Any, **more: Any) -> Any:
        cells["run"].cell_contents = instead
        try:
            return wrapped(*args, **more)
        finally:
            cells["run"].cell_contents = before

    return call


def test_a_dry_run_saves_the_options_of_the_run_that_writes(folder: Path) -> None:
    typed = ["prune", "in.onnx", "--keep-macs", "0.9", "--no-latency", "--dry-run", "--save-config", "a.toml"]
    assert CliRunner().invoke(main, typed).exit_code == 0
    assert tomllib.loads((folder / "a.toml").read_text()) == {"prune": {"keep-macs": 0.9, "no-latency": True}}
    assert CliRunner().invoke(main, ["prune", "in.onnx", "new.onnx", "--config", "a.toml"]).exit_code == 0
    assert (folder / "new.onnx").exists()


def test_a_run_that_fails_writes_no_options(folder: Path) -> None:
    typed = ["prune", "in.onnx", "new.onnx", "--keep-macs", "0.001", "--save-config", "a.toml", "--no-latency"]
    assert CliRunner().invoke(main, typed).exit_code == 3
    assert not (folder / "a.toml").exists()


@pytest.mark.parametrize(
    ("file", "arguments", "why"),
    [
        ("in.onnx", [], "in.onnx: --save-config and IN are the same file"),
        ("new.onnx", [], "new.onnx: --save-config and [OUT] are the same file"),
        ("a.json", ["--json", "a.json"], "a.json: --save-config and --json are the same file"),
        ("none/a.toml", [], "none/a.toml: the directory none does not exist"),
    ],
)
def test_it_overwrites_nothing_else_of_the_run(folder: Path, file: str, arguments: list[str], why: str) -> None:
    before = (folder / "in.onnx").read_bytes()
    result = CliRunner().invoke(main, ["prune", "in.onnx", "new.onnx", "--save-config", file, *arguments])
    assert result.exit_code in {1, 2}
    assert result.stderr.startswith(f"Error: {why}")
    assert (folder / "in.onnx").read_bytes() == before
    assert not (folder / "new.onnx").exists()


def test_names_with_any_letters_come_back(folder: Path) -> None:
    odd = 'é"\\\t\x7f\u2028'
    typed = ["inspect", "in.onnx", "--exclude", f"re:.*|{odd}", "--save-config", "a.toml"]
    assert CliRunner().invoke(main, typed).exit_code == 0
    assert tomllib.loads((folder / "a.toml").read_text(encoding="utf-8")) == {"inspect": {"exclude": [f"re:.*|{odd}"]}}
