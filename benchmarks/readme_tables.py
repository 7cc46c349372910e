"""Copy the benchmark tables from the results files into the README, between their markers.

python benchmarks/readme_tables.py [--check]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER_LINES = 2


def cifar10(results: str) -> str:
    """Pick the header and the rows of the exports with BatchNormalization folded, as the peers had them."""
    rows = [line for line in results.splitlines() if line.startswith("|")]
    return "\n".join([*rows[:HEADER_LINES], *(r for r in rows[HEADER_LINES:] if "_folded" in r)])


def filled(readme: str, results: str) -> str:
    """Return the README with the table between the markers."""
    block = f"<!-- cifar10 -->\n{cifar10(results)}\n<!-- /cifar10 -->"
    return re.sub(r"<!-- cifar10 -->.*?<!-- /cifar10 -->", lambda _: block, readme, flags=re.DOTALL)


def main() -> int:
    """Write the README, or only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = filled(old, (ROOT / "benchmarks" / "results" / "cifar10.md").read_text())
    if parser.parse_args().check:
        return int(old != new)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
