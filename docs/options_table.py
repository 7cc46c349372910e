"""Write the table of options into `docs/options.md`, from their declarations in `onnxpfp.options`.

python docs/options_table.py [--check]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import click

from onnxpfp.cli.main import main
from onnxpfp.options.declaration import Option, declared
from onnxpfp.options.verbs import VERB_OPTIONS

PAGE = Path(__file__).parent / "options.md"
COMMAND = "python docs/options_table.py"
MARKED = re.compile(r"(<!-- options -->\n).*?(\n<!-- /options -->)", re.DOTALL)
SECTIONS = ("target", "choice", "data", "runtime")
ON_FILES = ("FILE", "SRC")
"""How the metavars of options begin that the command line alone has, for they name files."""


def verbs(name: str, option: Option) -> str:
    """Return the verbs that take an option; one may mean something else in another verb."""
    takers = [verb for verb, kind in VERB_OPTIONS.items() if dict(declared(kind)).get(name) == option]
    return "all" if len(takers) == len(main.commands) else ", ".join(takers)


def row(name: str, option: Option) -> tuple[str, str, str]:
    """Return the cells of one option."""
    value = ("|".join(option.choices) or option.metavar).replace("|", "\\|")
    if len(option.choices) > 5:
        value = "NAME"
    names = f" One of {', '.join(option.choices)}." if value == "NAME" else ""
    repeated = " Repeatable." if option.repeated else ""
    default = f" Default: {option.default_text}." if option.default_text else ""
    meaning = f"{option.help}{names}{repeated}{default}"
    return f"`{option.flag_of(name)}{' ' + value if value else ''}`", meaning, verbs(name, option)


def rows_on_files() -> Iterator[tuple[str, str, str]]:
    """Yield the cells of the options that the command line alone has and that name files."""
    takers_of: dict[tuple[str, str, str], list[str]] = {}
    options = {option.flag_of(name) for kind in VERB_OPTIONS.values() for name, option in declared(kind)}
    for verb, command in main.commands.items():
        for option in command.params:
            if not isinstance(option, click.Option) or option.opts[0] in options:
                continue
            if (option.metavar or "").startswith(ON_FILES):
                takers_of.setdefault((option.opts[0], str(option.metavar), str(option.help)), []).append(verb)
    for (flag, metavar, help_text), takers in takers_of.items():
        value = metavar.replace("|", "\\|")
        yield f"`{flag} {value}`", help_text, "all" if len(takers) == len(main.commands) else ", ".join(takers)


def table() -> str:
    """Return the table as Markdown."""
    options = [(name, option) for kind in VERB_OPTIONS.values() for name, option in declared(kind)]
    different = [each for number, each in enumerate(options) if each not in options[:number]]
    order = sorted(different, key=lambda each: SECTIONS.index(each[1].section))
    rows = [*(row(name, option) for name, option in order), *rows_on_files()]
    head = ["| option | meaning | commands |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in rows)])


def update() -> int:
    """Write the table, or with --check only compare it; returns 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the page has another table")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    new = MARKED.sub(lambda match: match.group(1) + table() + match.group(2), text)
    if check and new != text:
        print(f"docs/options.md: the table of options is not up to date: {COMMAND}")
        return 1
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(update())
