"""Write `supported-ops.md` beside this file: what the rule of every op does to its axes.

python docs/supported_ops.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

import onnx.defs

from onnxpfp.channels.ops import RULES, STAYS

PAGE = Path(__file__).with_name("supported-ops.md")
COMMAND = "python docs/supported_ops.py"
STANDARD = "ai.onnx"
INTRODUCTION = """\
Every index of every axis has a label ([how it works](design.md)); the rule of an op says what becomes of the labels.
Labels that *pass* come out again, so the axis can be pruned across the op; an axis that *stays* keeps all its indices,
and `onnxpfp inspect` names the node for which it does. Ops on shapes (Shape, Gather, Concat ... of a few integers) are
computed instead, and the numbers that count channels are rewritten. An op that is not listed, of whatever domain, keeps
what it touches: the model is pruned around it. What onnxruntime lacks it cannot run: then the model is pruned up to
there, or `--custom-ops LIBRARY` registers the op."""


def schema_versions() -> dict[str, dict[str, list[int]]]:
    """Return the versions of every op that the installed onnx knows, by domain and op."""
    found: dict[str, dict[str, list[int]]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        versions = found.setdefault(schema.domain or STANDARD, {}).setdefault(schema.name, [])
        versions.append(schema.since_version)
    return {domain: {op: sorted(versions) for op, versions in ops.items()} for domain, ops in found.items()}


def rules_by_domain() -> dict[str, dict[str, str]]:
    """Return what every op with a rule does, by domain and op."""
    found: dict[str, dict[str, str]] = {}
    for key, rule in RULES.items():
        domain, _, op = key.rpartition(":")
        what = f"stays: {STAYS[key]}" if key in STAYS else (inspect.getdoc(rule) or "").splitlines()[0]
        found.setdefault(domain or STANDARD, {})[op] = what
    return found


def without_rule() -> list[str]:
    """Return the ops of the standard that have no rule."""
    ruled = rules_by_domain()[STANDARD]
    return sorted(op for op in schema_versions()[STANDARD] if op not in ruled)


def without_subject(what: str, op: str) -> str:
    """Leave out the ops that a sentence begins with, where the row's op is among them."""
    subject, colon, rest = what.partition(": ")
    named = re.split(", | and ", re.sub(r" \([^)]*\)", "", subject))
    return rest if colon and op in named else what


def table(rules: dict[str, str], versions: dict[str, list[int]]) -> list[str]:
    """Write the rows of a domain; one that onnx has no schemas of has no column of versions."""
    title, rule = ("versions | ", "---|") if versions else ("", "")
    lines = [f"| op | {title}what happens to its axes |", f"|---|{rule}---|"]
    for op, what in sorted(rules.items()):
        numbers = f"{', '.join(map(str, versions.get(op, []))) or '-'} | " if versions else ""
        text = without_subject(what, op).replace("|", "\\|")
        lines.append(f"| {op} | {numbers}{text[0].upper()}{text[1:]} |")
    return lines


def page() -> str:
    """Write the whole page."""
    versions, rules, missing = schema_versions(), rules_by_domain(), without_rule()
    newest = max(max(numbers) for numbers in versions[STANDARD].values())
    lines = [
        "# Supported ops",
        "",
        f"<!-- Made by `{COMMAND}`; do not edit. -->",
        "",
        *INTRODUCTION.splitlines(),
        "",
        f"The versions are those of the schemas that onnx has up to opset {newest}.",
    ]
    for domain in sorted(rules, key=lambda name: (name != STANDARD, name)):
        lines += ["", f"## {domain}", "", *table(rules[domain], versions.get(domain, {}))]
        if domain == STANDARD:
            none = "No op of the standard is without a rule."
            lines += ["", f"Without a rule, so they keep what they touch: {', '.join(missing)}." if missing else none]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    new = page()
    if parser.parse_args().check:
        if PAGE.read_text(encoding="utf-8") == new:
            return 0
        print(f"docs/{PAGE.name} is not up to date: run {COMMAND}")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
