"""A hook of MkDocs: what pages link to outside of `docs/` is on the site too, and all links lead there.

In the repository a link goes to the file itself, `../benchmarks/results/accuracy.md`. On the site that page stands
under `benchmarks/results/accuracy/`, for the site has the files of `docs/` at its root and the others by their place in
the repository.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
START = "README.md"
"""Has a name of its own on the site, where `README.md` and `index.md` would be the same page."""
START_ON_SITE = "start.md"
REST = "How-tos"


def site_path(path: str) -> str:
    """Return the place on the site of a file, by its path in the repository."""
    return START_ON_SITE if path == START else path.removeprefix("docs/")


def repository_path(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    if uri == START_ON_SITE:
        return START
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri


def linked(path: str) -> dict[str, str]:
    """Return the files of the repository that a page links to, by the links as they are written."""
    folder = posixpath.dirname(path)
    links = LINK.findall((ROOT / path).read_text(encoding="utf-8"))
    found = {link: posixpath.normpath(posixpath.join(folder, link)) for link in links}
    return {link: target for link, target in found.items() if (ROOT / target).is_file()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name under How-tos."""
    sections: list[dict[str, list[Any]]] = config.nav or []
    entries = [entry for section in sections for pages in section.values() for entry in pages]
    named = {page for entry in entries for page in (entry.values() if isinstance(entry, dict) else [entry])}
    pages = (path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
    for section in sections:
        if REST in section:
            section[REST] += [page for page in pages if page not in named]
    for entry in entries:
        if isinstance(entry, dict):
            entry |= {title: START_ON_SITE for title, page in entry.items() if page == START}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add whatever pages link to outside of `docs/`, and what these link to."""
    waiting = [START, *(repository_path(file.src_uri) for file in files.documentation_pages())]
    known = set(waiting) - {START}
    while waiting:
        path = waiting.pop()
        if path not in known and not path.startswith("docs/"):
            files.append(
                File.generated(
                    config, site_path(path), abs_src_path=os.fspath(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV
                )
            )
        known.add(path)
        if path.endswith(".md"):
            waiting += set(linked(path).values()) - known
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the places on the site."""
    path = repository_path(page.file.src_uri)
    targets, folder = linked(path), posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = targets.get(link[1])
        return link[1] if target is None else posixpath.relpath(site_path(target), folder or ".")

    return LINK.sub(moved, markdown)
