"""Reports as HTML: everything is there, nothing is loaded, and names out of files are text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from rich.console import Console

import onnxpfp
from onnxpfp.report.charts import Bars, Curve, Plot, Profile, Series, Tile, Tiles
from onnxpfp.report.formats import FORMATS
from onnxpfp.report.html_page import render_html
from onnxpfp.report.html_size import LEVELS, LIMIT
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, ReportView, Table, Title, number
from onnxpfp.report.text import as_text

EVIL = "<script>alert(1)</script>"
WORSE = "</script><script>alert(2)</script><!--\"'&"


@dataclass(frozen=True)
class Page:
    """A report of given elements."""

    elements: Sequence[Element]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        return {}

    def page(self, *, full: bool, wide: bool) -> Sequence[Element]:
        return self.elements


class Tags(HTMLParser):
    """The tags of a page, and what stands in its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        last = self.tags[-1][0] if self.tags else ""
        (self.inside[last] if last in self.inside and data.strip() else self.texts).append(data)


def rendered(report: Any, command: str = "", **names: str) -> str:
    return render_html(report, ReportView(Console(), names=dict(names), command=command))


def charts_of(page: str) -> list[dict[str, Any]]:
    (block,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(block)


def hostile_model() -> onnx.ModelProto:
    """A chain whose weights, nodes and input have the worst names."""
    model = nets.chain()
    names = {"w1": EVIL, "w2": WORSE, "x": EVIL + "x"}
    for node in model.graph.node:
        node.name = f"{node.name}{WORSE}"
        node.input[:] = [names.get(name, name) for name in node.input]
    for tensor in (*model.graph.initializer, *model.graph.input):
        tensor.name = names.get(tensor.name, tensor.name)
    return model


@pytest.fixture(scope="module")
def pruned() -> onnxpfp.Result:
    images = np.random.default_rng(0).standard_normal((160, 3, 8, 8)).astype(np.float32)
    return onnxpfp.prune(hostile_model(), calibration={EVIL + "x": images}, keep_macs=0.5, no_latency=True)


def test_names_out_of_files_are_text(pruned: onnxpfp.Result) -> None:
    for report in (pruned.report, onnxpfp.inspect(hostile_model())):
        page = rendered(report, command=f"onnxpfp prune {WORSE}", input=EVIL, output=WORSE)
        tags = Tags(page)
        assert "alert(1)" in " ".join(tags.texts)
        assert not [text for text in tags.inside["script"] if text.strip().startswith("alert")]
        assert len(tags.inside["script"]) == 5
        labels = [label for chart in charts_of(page) for label in chart["labels"]]
        assert {EVIL, WORSE} <= set(labels)


def test_the_page_loads_nothing(pruned: onnxpfp.Result) -> None:
    page = rendered(pruned.report)
    for tag, attributes in Tags(page).tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"}
        assert not {"src", "srcset", "action", "data", "style", "background"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|sourceMappingURL", page)


def test_the_policy_allows_just_the_scripts_and_the_style_of_the_page() -> None:
    page = rendered(Page([Title("t")]))
    tags = Tags(page)
    (policy,) = [attributes["content"] for tag, attributes in tags.tags if "http-equiv" in attributes]
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    hashes = [
        [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
        for texts in (scripts, styles)
    ]
    assert [rules["script-src"], rules["style-src"]] == hashes
    assert len(scripts) == 4


def test_every_element_is_there() -> None:
    elements: list[Element] = [
        Title("the title"),
        Tiles([Tile("Parameters", "60.0 %", "10 -> 6", 0.6)]),
        Facts({"verified": "0 of 1"}),
        Heading("Groups & layers"),
        Bars("Bars", ["a", "b"], [Series("kept", [1, None])], axis="channels"),
        Table((Column("group"), number("MACs\nkept")), [("a", "1.5 k")], of="groups"),
        Line("a line"),
        Profile("Scores", [0.1, None, 0.3], [0], axis="score"),
        Plot("Plot", "x", "y", [Curve("c", [(0.0, 1.0), (1.0, float("inf"))])], limit=float("inf")),
    ]
    page = rendered(Page(elements, ["RANDOM data", "a note"]), command="onnxpfp prune 'a b.onnx'")
    text = " ".join(" ".join(Tags(page).texts).split())
    for part in ("the title", "60.0 %", "verified 0 of 1", "Groups & layers", "MACs kept", "1.5 k", "a line", "a note"):
        assert part in text, part
    assert "onnxpfp prune 'a b.onnx'" in text
    assert '<td class="n" data-v="1500">1.5 k</td>' in page
    assert '<li class="grave">RANDOM data</li>' in page
    # What is told before the first heading follows the pictures.
    assert text.index("60.0 %") < text.index("1.5 k") < text.index("In detail") < text.index("verified 0 of 1")
    bars, profile, plot = charts_of(page)
    assert bars["series"][0]["values"] == [1, None]
    assert profile["gone"] == [0]
    assert plot["curves"][0]["points"] == [[0.0, 1.0]]
    assert plot["limit"] is None


def test_of_many_notes_some_are_folded_and_all_are_there() -> None:
    notes = [f"note number {number}" for number in range(6)]
    page = rendered(Page([Title("t")], notes))
    assert page.count("<li>note number") == 3
    assert "<summary>3 more</summary>" in page
    assert all(note in page for note in notes)
    assert "more</summary>" not in rendered(Page([Title("t")], notes[:3]))


def test_text_has_no_pictures_and_the_page_has_tiles_in_the_place_of_their_table(pruned: onnxpfp.Result) -> None:
    view = ReportView(Console(width=200), full=True)
    assert "Channels kept of every group" not in as_text(pruned.report, view)
    assert "file, bytes" in as_text(pruned.report, view)
    page = rendered(pruned.report)
    assert "Channels kept of every group" in page
    assert "file, bytes" not in page


def test_a_pruning_shows_what_ranked_the_channels_and_what_narrowing_costs(pruned: onnxpfp.Result) -> None:
    chart = next(chart for chart in charts_of(rendered(pruned.report)) if chart["of"] == "group")
    for group in pruned.report.groups:
        *profiles, plot = chart["details"][group.name]
        assert [profile["axis"] for profile in profiles] == ["sensitivity", *["score"] * (group.ranked_by == "energy")]
        for profile in profiles:
            assert len(profile["values"]) == group.channels
            assert len(profile["gone"]) == group.channels - group.kept
        assert group.curve is not None
        assert plot["curves"][0]["points"][-1] == [group.channels, 0.0]
        written = next(each for each in pruned.report.to_dict()["groups"] if each["name"] == group.name)
        assert written["scores"] == [*group.scores]
        assert len(written["sensitivities"]) == group.channels
        assert written["curve"]["widths"][-1] == group.channels


def test_by_one_sum_the_channels_with_the_smallest_scores_go() -> None:
    options: dict[str, Any] = {"score": "l1", "select": "deterministic", "allocate": "uniform", "compensate": "none"}
    report = onnxpfp.prune(nets.chain(), keep_macs=0.5, no_latency=True, **options).report
    for group in report.groups:
        assert group.sensitivities is None
        scores = np.array(group.scores, np.float64)
        stays = np.setdiff1d(np.arange(group.channels), group.gone)
        assert 0 < len(group.gone) < group.channels
        assert scores[[*group.gone]].max() <= scores[stays].min()
        assert group.curve is None


def _large(groups: int, channels: int, name: str = "layer.{}.weight") -> Page:
    rng = np.random.default_rng(0)
    names = [name.format(group) for group in range(groups)]
    details = {each: [Profile("Scores", rng.random(channels).tolist(), [*range(9)], "score")] for each in names}
    kept = [Series("stay", [channels] * groups), Series("go", [9] * groups, faint=True)]
    bars = Bars("Channels", names, kept, axis="channels", details=details, of="group")
    rows = [(each, f"{channels}/{channels}", "0.25", "mixed, by pfp") for each in names]
    columns = (Column("group"), number("kept"), number("eps"), Column("selection"))
    return Page([Heading("Groups"), bars, Table(columns, rows, of="groups")])


@pytest.mark.parametrize(
    ("groups", "channels", "said"),
    [
        (53, 512, None),
        (300, 900, "numbers of three digits"),
        (1000, 1000, "the charts of single groups are left out"),
        (20_000, 2, "first 2,000 rows"),
    ],
)
def test_a_page_stays_below_its_limit_and_says_what_it_lacks(groups: int, channels: int, said: str | None) -> None:
    page = rendered(_large(groups, channels))
    assert len(page.encode()) <= LIMIT
    text = " ".join(" ".join(Tags(page).texts).split())
    if said is None:
        assert "This page has at most" not in text
        assert text.count("mixed, by pfp") == groups
    else:
        assert f"This page has at most 2 MB, so {said}" in text.replace("the charts draw numbers", "numbers").replace(
            "tables and charts have their first", "first"
        )


def test_even_long_names_fit() -> None:
    page = rendered(_large(3000, 2, "x" * 400 + "{}"))
    assert len(page.encode()) <= LIMIT
    assert any(level.left_out in page for level in LEVELS[3:])


def test_the_licence_of_the_library_is_in_the_page() -> None:
    page = rendered(Page([Title("t")]))
    assert "Chart.js v4.6.1" in page
    assert "Copyright (c) 2014-2024 Chart.js Contributors" in page
    assert "Permission is hereby granted" in page
    notice = Path(onnxpfp.__file__).parent / "report" / "assets" / "NOTICE.txt"
    assert "Chart.js 4.6.1" in notice.read_text(encoding="utf-8")


def test_a_program_saves_a_page(pruned: onnxpfp.Result, tmp_path: Path) -> None:
    onnxpfp.save_report(pruned.report, tmp_path / "r.html", model="net.onnx")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page == rendered(pruned.report, input="net.onnx")
    assert "<h1>net.onnx</h1>" in page
    assert "command" not in " ".join(str(attributes) for _, attributes in Tags(page).tags)
    with pytest.raises(onnxpfp.errors.OutputError, match="the directory"):
        onnxpfp.save_report(pruned.report, tmp_path / "no" / "r.html")


def test_the_format_takes_its_package() -> None:
    assert FORMATS["report"].package == "jinja2"
