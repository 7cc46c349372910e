"""Write the table of options into the README, from their declarations in `onnxpfp.options`.

python docs/options_table.py [--check]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from onnxpfp.options import Option, Options, PrunabilityOptions, RunOptions, ScopeOptions, declared
from onnxpfp.report.formats import FORMATS

README = Path(__file__).parents[1] / "README.md"
COMMAND = "python docs/options_table.py"
MARKED = re.compile(r"(<!-- options -->\n).*?(\n<!-- /options -->)", re.DOTALL)
SECTIONS = ("target", "choice", "data", "runtime")
OTHERS = (
    (
        "`--calib-data FILE`",
        "Unlabelled inputs, `.npz` or `.npy`; `random` is noise, for trials.",
        "prune, prunability",
    ),
    ("`--plan FILE`, `--from-plan FILE`", "Write what was kept as JSON; replay it on the same network.", "prune"),
    ("`--top N`, `--all`", "Most rows of a table; every row.", "all"),
    *((f"`--{name} FILE`", f"Write the report as {name.upper()}; `-` is stdout.", "all") for name in FORMATS),
)
"""Options of the command line alone: files, and how a verb reports."""


def verbs(name: str) -> str:
    """Return the verbs that take an option."""
    if name in dict(declared(ScopeOptions)):
        return "all"
    if name in dict(declared(RunOptions)):
        return "prune, prunability"
    return "prune" if name in dict(declared(Options)) else "prunability"


def row(name: str, option: Option) -> tuple[str, str, str]:
    """Return the cells of one option."""
    value = "\\|".join(option.choices) or option.metavar
    if len(option.choices) > 5:
        value = "NAME"
    names = f" One of {', '.join(option.choices)}." if value == "NAME" else ""
    default = f" Default: {option.default_text}." if option.default_text else ""
    return f"`{option.flag_of(name)}{' ' + value if value else ''}`", f"{option.help}{names}{default}", verbs(name)


def table() -> str:
    """Return the table as Markdown."""
    options = {name: option for kind in (Options, PrunabilityOptions) for name, option in declared(kind)}
    order = sorted(options, key=lambda name: SECTIONS.index(options[name].section))
    rows = [*(row(name, options[name]) for name in order), *OTHERS]
    return "\n".join(["| option | meaning | verbs |", "|---|---|---|", *(f"| {' | '.join(cells)} |" for cells in rows)])


def main() -> int:
    """Write the table, or with --check only compare it; returns 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the README has another table")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    new = MARKED.sub(lambda match: match.group(1) + table() + match.group(2), text)
    if check and new != text:
        print(f"README.md: the table of options is not up to date: {COMMAND}")
        return 1
    if not check:
        README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
