"""Reports as one HTML page that loads nothing: tables that sort and filter, and charts.

Names of nodes come out of files of strangers. So the template escapes all text, data for the charts stand in a block of
JSON without any `<`, scripts make elements and text only, and the browser is told to run just the scripts of this
package, by their hashes, and to load nothing (Content Security Policy, https://www.w3.org/TR/CSP3/).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import onnxpfp
from onnxpfp.errors import legible
from onnxpfp.report.charts import Bars, Plot, Profile, Tiles
from onnxpfp.report.html_charts import chart_data
from onnxpfp.report.html_size import LIMIT, Detail, fitted
from onnxpfp.report.html_tables import laid_out
from onnxpfp.report.page import Element, Facts, Heading, Line, Reportable, ReportView, Table, Title

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_html"]

SCRIPTS = ("chart.umd.min.js", "theme.js", "tables.js", "charts.js")
"""The library first."""
STYLE = "report.css"
NOTICE = "NOTICE.txt"
TEMPLATE = "report.html.j2"
# Entities, which escaping makes, have none of them.
_SEPARATOR = re.compile(r"[./:_](?=[^./:_])")
_MAP = "//# sourceMappingURL="
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(slots=True)
class _Section:
    """What stands under a heading; the first has none.

    Attributes:
        title: The heading.
        elements: What stands there, by what the template calls it.
    """

    title: str
    elements: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    @property
    def anchor(self) -> str:
        """What links to it call it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class _Asset:
    """A script or style of this package.

    Attributes:
        text: What is in it.
        source: Its hash, as the policy names it.
    """

    text: str
    source: str


def render_html(report: Reportable, view: ReportView) -> str:
    """Write a report as one page of at most `onnxpfp.report.html_size.LIMIT` bytes.

    Args:
        report: The report.
        view: Files that it is about, and the command.
    """
    elements = [*report.page(full=True, wide=True)]
    return fitted(lambda detail: _render(elements, report.notes, view, detail))


def _render(elements: Sequence[Element], notes: Iterable[str], view: ReportView, detail: Detail) -> str:
    charts: list[dict[str, Any]] = []
    sections = _pictures_first([*_sections(elements, charts, detail)])
    styles, scripts = _asset(STYLE), [_asset(name) for name in SCRIPTS]
    title = next((element.text for element in elements if isinstance(element, Title)), _files(view.names))
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=legible(title),
            kicker=" ".join(view.command.split()[:2]) or "onnxpfp",
            command=view.command,
            notes=[legible(note) for note in notes],
            sections=sections,
            data=_json(charts),
            left_out=detail.left_out,
            limit=LIMIT // 10**6,
            policy=_policy(styles, scripts),
            style=styles.text,
            scripts=[script.text for script in scripts],
            notice=_read(NOTICE),
            version=onnxpfp.__version__,
        )
    )


def _sections(elements: Iterable[Element], charts: list[dict[str, Any]], detail: Detail) -> Iterator[_Section]:
    """Put elements under their headings; the data of charts go to a list, and their number in it stays."""
    section = _Section("")
    for element in elements:
        match element:
            case Title():
                continue
            case Heading(text):
                yield section
                section = _Section(legible(text))
            case Line(text):
                section.elements.append(("line", legible(text.strip())))
            case Facts(rows):
                section.elements.append(("facts", {name: legible(text) for name, text in rows.items()}))
            case Table():
                if element.in_tiles:
                    continue
                section.elements.append(("table", laid_out(element, detail.rows)))
            case Tiles(tiles):
                section.elements.append(("tiles", tiles))
            case Bars() | Profile() | Plot():
                section.elements.append(("chart", (len(charts), element)))
                charts.append(chart_data(element, detail))
    yield section


def _pictures_first(sections: list[_Section]) -> list[_Section]:
    """Let all that is told before the first heading follow at the end, where figures begin the page."""
    first, *others = sections
    figures = [element for element in first.elements if element[0] == "tiles"]
    told = [element for element in first.elements if element[0] != "tiles"]
    if not (figures and told and others):
        return sections
    return [_Section("", figures), *others, _Section("In detail", told)]


def _files(names: Mapping[str, str | None]) -> str:
    """Name what the page is about where it has no title."""
    given = [names.get("input"), names.get("output")]
    return " → ".join(PurePath(name).name for name in given if name) or "Report"


def _json(charts: Sequence[Mapping[str, Any]]) -> str:
    """Write data that stand in a script element: nothing in them can end it."""
    text = json.dumps(charts, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for unsafe, escaped in _UNSAFE.items():
        text = text.replace(unsafe, escaped)
    return text


def _policy(style: _Asset, scripts: Iterable[_Asset]) -> str:
    """Allow these scripts and this style and nothing else."""
    sources = " ".join(script.source for script in scripts)
    return f"default-src 'none'; script-src {sources}; style-src {style.source}; base-uri 'none'; form-action 'none'"


@cache
def _asset(name: str) -> _Asset:
    text = _read(name)
    # A page that stands alone has no map beside it.
    text = "\n".join(line for line in text.splitlines() if not line.startswith(_MAP))
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _Asset(text, f"'sha256-{digest}'")


def _read(name: str) -> str:
    return (files("onnxpfp.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def breakable(text: str) -> Markup:
        """Let a long name break behind its separators."""
        return Markup(_SEPARATOR.sub(r"\g<0><wbr>", str(escape(text))))

    loader = PackageLoader("onnxpfp.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    return environment
