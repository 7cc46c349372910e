"""Count the commands and Python blocks of the README and of `docs/`, and list those that no test runs, with the reason.

python docs/blocks.py

A block is a fence of `sh` or `python`. What stands in a comment right above it says how it is run:

    <!-- given: cp in.onnx detector.onnx -->    shell commands that come before it
    <!-- slow -->                               it takes minutes
    <!-- not run: needs a GPU -->               it is not run at all, for that reason

Commands within sentences that name their files, such as `onnxpfp inspect in.onnx`, are run, too.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"(?P<comments>(?:^[ ]*<!--(?:(?!-->).)*-->[ ]*\n+)*)"
    r"^(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<text>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!--\s*(given|slow|not run)(?::\s*(.*?))?\s*-->", re.DOTALL)
SPAN = re.compile(r"`(onnxpfp\s[^`]*\.onnx\b[^`]*)`")
SHOWN = frozenset({"", "text", "json", "toml", "yaml"})
"""Languages of fences that show something and are not to be run."""


@dataclass(frozen=True, slots=True)
class Block:
    """Something on a page that can be run.

    Attributes:
        line: where its fence begins, from 1.
        language: "sh" or "python".
        text: what stands in the fence.
        given: shell commands that come before it, empty for none.
        slow: whether it takes minutes.
        not_run: why it is not run; empty if it is.
    """

    line: int
    language: str
    text: str
    given: str = ""
    slow: bool = False
    not_run: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands of a block of `sh`, with continued lines in one."""
        if self.language != "sh":
            return ()
        lines = self.text.replace("\\\n", " ").splitlines()
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def pages() -> list[Path]:
    """Return the README and all pages of `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """Read the blocks of a page.

    Raises:
        ValueError: A fence has a language that is neither run nor known to be shown only, or a reason is missing.
    """
    found: list[Block] = []
    for fence in FENCE.finditer(page):
        language = fence["language"].strip()
        line = page.count("\n", 0, fence.start("indent")) + 1
        if language in SHOWN:
            continue
        if language not in {"sh", "python"}:
            raise ValueError(f"line {line}: a fence of {language!r}; write sh or python for what is run")
        said = dict(COMMENT.findall(fence["comments"]))
        if said.get("not run") == "":
            raise ValueError(f"line {line}: say why it is not run")
        text = textwrap.dedent(fence["text"])
        found.append(Block(line, language, text, said.get("given", ""), "slow" in said, said.get("not run", "")))
    return found


def within_sentences(page: str) -> list[str]:
    """Return the commands in the text of a page that name a file and leave nothing out."""
    spans = SPAN.findall(FENCE.sub("", page))
    return list(dict.fromkeys(" ".join(span.split()) for span in spans if "..." not in span))


def count() -> str:
    """Return how much is run, and what is not."""
    every = [(page, block) for page in pages() for block in blocks(page.read_text(encoding="utf-8"))]
    run = [block for _, block in every if not block.not_run]
    commands, python = sum(len(block.commands) for block in run), sum(block.language == "python" for block in run)
    commands += sum(len(within_sentences(page.read_text(encoding="utf-8"))) for page in pages())
    slow = sum(block.slow for block in run)
    left = [(page, block) for page, block in every if block.not_run]
    rows = [f"  {page.relative_to(ROOT).as_posix()}:{block.line}: {block.not_run}" for page, block in left]
    head = f"{commands} commands and {python} Python blocks of {len(pages())} pages are run by the tests"
    return "\n".join([f"{head} ({slow} slow blocks); {len(left)} blocks are not:", *rows])


if __name__ == "__main__":
    print(count())
