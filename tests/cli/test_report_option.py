"""`--report FILE.html`: every verb writes its page, which tells the command, or refuses before the work."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main
from onnxpfp.report import formats

DATA = ("--calib-data", "data.npz")
CALLS = {
    "prune": ("in.onnx", "new.onnx", *DATA, "--no-latency"),
    "factorize": ("in.onnx", "new.onnx", *DATA, "--no-latency"),
    "sparsify": ("in.onnx", "new.onnx", *DATA, "--keep-weights", "0.5"),
    "inspect": ("in.onnx",),
    "prunability": ("in.onnx", *DATA),
    "verify": ("in.onnx", "in.onnx", *DATA, "--no-latency"),
    "latency": ("in.onnx", "-o", "table.json"),
}


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("verb", CALLS)
def test_every_verb_writes_a_page_with_the_command(folder: Path, verb: str) -> None:
    arguments = (verb, *CALLS[verb], "--report", "a b.html", "-q")
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    page = (folder / "a b.html").read_text(encoding="utf-8")
    (command,) = re.findall(r'<pre class="command"><code>(.*?)</code>', page)
    quoted = " ".join("'a b.html'" if each == "a b.html" else each for each in arguments)
    assert unescape(command) == f"onnxpfp {quoted}"
    assert f'<p class="kicker">onnxpfp {verb}</p>' in page
    assert '<ul class="tiles">' in page


@pytest.mark.parametrize("verb", main.commands)
def test_every_verb_has_the_flag(verb: str) -> None:
    assert "--report FILE.html|-" in " ".join(_run(verb, "--help").output.split())


def test_text_stays_on_the_console_beside_a_page(folder: Path, inspect: Callable[..., Result]) -> None:
    assert inspect("in.onnx", "--report", "r.html").stdout == inspect("in.onnx").stdout
    assert inspect("in.onnx", "--report", "-").stdout.startswith("<!DOCTYPE html>")
    assert not (folder / "-").exists()


def test_without_its_package_it_refuses_before_the_work(
    refuse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr("onnxpfp.api.prune.prune_with", lambda *_, **__: pytest.fail("it has begun"))
    found = refuse("in.onnx", "out.onnx", "--report", "r.html")
    assert found.error == "--report needs the package jinja2, which is not installed"
    assert found.hint == "pip install jinja2, which the extra 'report' of onnxpfp brings, too"


def test_a_page_overwrites_nothing_that_is_read(refuse: Callable[..., Any]) -> None:
    assert refuse("in.onnx", "out.onnx", "--report", "in.onnx").error == "in.onnx: --report and IN are the same file"
    assert refuse("in.onnx", "out.onnx", "--report", "no/r.html").error == "no/r.html: the directory no does not exist"


def test_two_formats_do_not_share_stdout(refuse: Callable[..., Any]) -> None:
    found = refuse("in.onnx", "out.onnx", "--json", "-", "--report", "-")
    assert found.error == "--json and --report would be one after the other on stdout"
    assert found.hint == "name a file for one"
