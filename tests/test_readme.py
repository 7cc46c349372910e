"""The README does what it says, and links of it and of the pages lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from docs.blocks import pages
from onnxpfp.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
SIZES = ("parameters", "MACs, one run", "file, bytes")


def _without_numbers(text: str) -> str:
    """Put all numbers, rules and line breaks of a report alike: they depend on how numbers round.

    On a busy machine the ratio of latencies is not that of their medians, which the report says: that goes, too.
    """
    alike = " ".join(re.sub("─+", "─", re.sub(r"\d[\d.,e-]*", "0", text)).split())
    return re.sub(r"; the medians of before and after would make it .*? both runs of a pair", "", alike).replace(
        " % in pairs", " %"
    )


def test_the_first_command_prunes_a_real_model(tmp_path: Path) -> None:
    prune = shlex.split(COMMANDS[0].rsplit("&&", 1)[1])
    assert prune[0] == "onnxpfp"
    out = tmp_path / prune[3]
    command = [sys.executable, "-m", "onnxpfp", *prune[1:3], str(out), *prune[4:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = onnx.load(ROOT / prune[2]), onnx.load(out)
    assert before.graph.output == after.graph.output
    assert out.stat().st_size < (ROOT / prune[2]).stat().st_size
    assert "masked original == pruned" in done.stdout
    (sample,) = re.findall(r"begins like this.*?```\n(.*?)\n```", README, flags=re.DOTALL)
    # What is counted of the original is the same everywhere; what is measured depends on rounding.
    printed = _without_numbers(done.stdout)
    for shown in sample.split("\n  ...\n"):
        assert _without_numbers(shown) in printed
    sizes = [[re.findall(rf"{name} +([\d,]+) ", text)[0] for name in SIZES] for text in (sample, done.stdout)]
    assert sizes[0] == sizes[1]


def test_ci_runs_the_readmes_test_command() -> None:
    command = COMMANDS[1].rsplit("&&", 1)[1].strip()
    assert command == "python -m pytest -n 2"
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_option_that_is_named_exists() -> None:
    helps = {
        verb: subprocess.run(
            [sys.executable, "-m", "onnxpfp", verb, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for verb in main.commands
    }
    rows = re.findall(r"^\| `(--[a-z-]+)[^|]*\|.*\| ([a-z, ]+) \|$", OPTIONS, flags=re.MULTILINE)
    assert len(rows) > 20
    for option, verbs in rows:
        for verb in helps if verbs == "all" else verbs.split(", "):
            assert option in helps[verb], (option, verb)
    named = set(re.findall(r"`(--[a-z-]+)", README + COMMANDS_PAGE)) - {"--help"}
    assert len(named) > 10
    assert named - {option for option, _ in rows} == set()


def test_the_tables_are_those_of_the_results_files() -> None:
    results = ROOT / "benchmarks" / "results" / "accuracy.md"
    if not results.exists():
        pytest.skip("the benchmark has not been run")
    script = ROOT / "benchmarks" / "readme_tables.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?![a-z]+:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {_slug(title) for title in titles}, target


def _slug(title: str) -> str:
    """The anchor of a heading, on GitHub and on the site."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
