"""The site of the documentation builds without a warning, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nets
import pytest

from docs.blocks import pages

LINK = re.compile(r'(?:href|src)="?([^"\s>]+)')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # The theme advertises its successor at every build.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=nets.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_stands_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in pages():
        path = "start.md" if page.name == "README.md" else page.relative_to(nets.ROOT / "docs").as_posix()
        address = re.sub(r"(^|/)index\.md$", r"\1", path).replace(".md", "/") or "."
        assert f'href="{address}"' in start, page


def test_links_lead_somewhere(site: Path) -> None:
    count = 0
    for page in site.rglob("*/index.html"):
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            path = unquote(link.partition("#")[0])
            if re.match("[a-z]+:|//", link) or not path:
                continue
            target = page.parent / path
            assert (target / "index.html" if path.endswith("/") else target).exists(), (page, link)
            count += 1
    assert count > 500


def test_what_lies_outside_of_docs_is_on_the_site(site: Path) -> None:
    text = (site / "methods" / "index.html").read_text(encoding="utf-8")
    assert 'href="../benchmarks/results/accuracy/"' in text
    assert (site / "benchmarks" / "results" / "accuracy.svg").is_file()
