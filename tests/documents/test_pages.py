"""Every command and Python block of the README and of `docs/` works, in the order of its page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import surroundings

from docs import blocks as documents
from onnxpfp.cli.main import main

ROOT = documents.ROOT
PAGES = {
    page.relative_to(ROOT).as_posix(): documents.blocks(page.read_text(encoding="utf-8")) for page in documents.pages()
}
RUN = {name: [block for block in blocks if not block.not_run] for name, blocks in PAGES.items()}
SENTENCES = {
    page.relative_to(ROOT).as_posix(): documents.within_sentences(page.read_text(encoding="utf-8"))
    for page in documents.pages()
}
FAST = [name for name, blocks in RUN.items() if not all(block.slow for block in blocks)]
SLOW = [name for name, blocks in RUN.items() if any(block.slow for block in blocks)]
OF_A_SHELL = frozenset("|&;<>$`*?~(){}")


@pytest.fixture(scope="session")
def pruned() -> bytes:
    return surroundings.pruned_network()


@pytest.fixture
def folder(tmp_path: Path, pruned: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages name, in which `onnxpfp` and `python` are those under test."""
    surroundings.prepare(tmp_path, pruned)
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / ".commands"
    commands.mkdir()
    for name, arguments in {"python": (), "onnxpfp": ("-m", "onnxpfp")}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def _shell(text: str, where: str) -> None:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {text}\n{done.stdout}{done.stderr}"


def _command(line: str, where: str) -> None:
    """Run a line; one that is a plain call of onnxpfp in this process, which saves its start."""
    words = shlex.split(line, comments=True)
    if words[0] != "onnxpfp" or OF_A_SHELL & set("".join(words)):
        return _shell(line, where)
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, f"{where}: {line}\n{done.output}{done.exception!r}"
    return None


def _run(page: str, blocks: list[documents.Block]) -> None:
    # Whoever reads on goes on in the same session of Python.
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        where = f"{page}:{block.line}"
        if block.given:
            _shell(block.given, where)
        for line in block.commands:
            _command(line, where)
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, f"<{page}>", "exec"), names)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", FAST)
def test_what_a_page_shows_works(page: str) -> None:
    _run(page, [block for block in RUN[page] if not block.slow])


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", SLOW)
def test_what_takes_minutes_works(page: str) -> None:
    _run(page, RUN[page])


PAGE = """
<!-- given: cp in.onnx yolo.onnx -->
```sh
onnxpfp inspect a.onnx  # what is in it
# a comment
onnxpfp prune a.onnx \\
  b.onnx
```

- in a list:

  <!-- not run: needs
  a GPU -->
  ```sh
  onnxpfp doctor
  ```

<!-- something else -->
<!-- slow -->
```python
x = 1
```

```
shown
```
"""


def test_blocks_are_read_with_what_is_said_of_them() -> None:
    first, second, third = documents.blocks(PAGE)
    assert first.commands == ("onnxpfp inspect a.onnx  # what is in it", "onnxpfp prune a.onnx    b.onnx")
    assert (first.line, first.given, first.not_run, first.slow) == (3, "cp in.onnx yolo.onnx", "", False)
    assert (second.commands, " ".join(second.not_run.split())) == (("onnxpfp doctor",), "needs a GPU")
    assert (third.language, third.text, third.slow, third.commands) == ("python", "x = 1\n", True, ())


def test_commands_within_sentences_are_those_that_name_a_file() -> None:
    text = "`onnxpfp inspect\nin.onnx` and `onnxpfp verify`, `onnxpfp prune in.onnx ... --json -`, `other in.onnx`"
    assert documents.within_sentences(text + PAGE) == ["onnxpfp inspect in.onnx"]


@pytest.mark.parametrize(
    ("page", "refused"),
    [("```bash\nls\n```\n", "line 1: a fence of 'bash'"), ("<!-- not run: -->\n```sh\nls\n```\n", "say why")],
)
def test_what_would_be_overlooked_is_refused(page: str, refused: str) -> None:
    with pytest.raises(ValueError, match=refused):
        documents.blocks(page)


def test_every_fence_of_every_page_is_seen() -> None:
    for page in documents.pages():
        text = page.read_text(encoding="utf-8")
        assert len(documents.FENCE.findall(text)) * 2 == text.count("```"), page


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [page for page, commands in SENTENCES.items() if commands])
def test_commands_within_sentences_work(page: str) -> None:
    for command in SENTENCES[page]:
        _command(command, page)


@pytest.mark.parametrize("page", PAGES)
def test_options_of_commands_within_sentences_exist(page: str) -> None:
    for text in re.findall(r"`onnxpfp ([a-z]+ [^`]+)`", (ROOT / page).read_text(encoding="utf-8")):
        verb, *words = text.split()
        flags = {flag for parameter in main.commands[verb].params for flag in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= flags | {"--help"}, text


def test_a_page_that_does_not_work_fails(folder: Path) -> None:
    page = textwrap.dedent("""\
        ```sh
        onnxpfp inspect in.onnx --no-such-option
        ```
        """)
    with pytest.raises(AssertionError, match=r"a page:1: onnxpfp inspect in\.onnx --no-such-option"):
        _run("a page", documents.blocks(page))
    with pytest.raises(AssertionError, match=r"false \| cat"):
        _run("a page", documents.blocks("```sh\nfalse | cat\n```\n"))
    with pytest.raises(ZeroDivisionError):
        _run("a page", documents.blocks("```python\n1 / 0\n```\n"))
