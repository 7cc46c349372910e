"""Report pages in a browser: they sort, filter, follow clicks, change colours and fit a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets
import pytest
from rich.console import Console

import onnxpfp
from onnxpfp.report.formats import FORMATS
from onnxpfp.report.page import ReportView

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a trained network."""
    folder, network = tmp_path_factory.mktemp("pages"), nets.network("resnet")
    result = onnxpfp.prune(network, calibration=nets.fmnist("calibration"), keep_macs=0.6, no_latency=True)
    written: dict[str, Path] = {}
    for name, report in {"prune": result.report, "inspect": onnxpfp.inspect(network)}.items():
        written[name] = folder / f"{name}.html"
        text = FORMATS["report"].render(report, ReportView(Console(), names={"input": "in.onnx"}))
        written[name].write_text(text, encoding="utf-8")
    return written


class Opened:
    """A page that is open, and what it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        """The cells of a column that are seen."""
        rows = self.page.locator(f"{table} tbody tr:visible")
        return [text.strip() for text in rows.locator(f"td:nth-child({number + 1})").all_text_contents()]

    def pixel(self, selector: str) -> str:
        return self.page.locator(selector).first.evaluate("e => getComputedStyle(e).backgroundColor")

    def close(self) -> None:
        self.page.close()
        assert self.complaints == []
        assert len(self.requests) == 1, self.requests


@pytest.fixture
def pruned(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    opened = Opened(browser, pages["prune"])
    yield opened
    opened.close()


LAYERS = "#layers .table"
GROUPS = "#groups-of-channels"


def test_a_click_on_a_title_sorts_and_another_one_turns_it_round(pruned: Opened) -> None:
    title = pruned.page.locator(f"{LAYERS} th button", has_text="mean error")
    cells = pruned.column(LAYERS, 1)
    for order in ("descending", "ascending"):
        title.click()
        assert pruned.page.locator(f"{LAYERS} th[aria-sort]").get_attribute("aria-sort") == order
        numbers = [float(cell) for cell in pruned.column(LAYERS, 1) if cell != "-"]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert sorted(pruned.column(LAYERS, 1)) == sorted(cells)
    names = pruned.page.locator(f"{LAYERS} th button", has_text="layer")
    names.click()
    found = pruned.column(LAYERS, 0)
    assert found == sorted(found)
    assert pruned.page.locator(f"{LAYERS} th[aria-sort]").count() == 1


def test_words_filter_the_rows(pruned: Opened) -> None:
    every = pruned.column(LAYERS, 0)
    wanted = [name for name in every if "block2" in name and "conv" in name.lower()]
    assert 0 < len(wanted) < len(every)
    pruned.page.locator(f"{LAYERS} input").fill("Conv block2")
    assert pruned.column(LAYERS, 0) == wanted
    assert pruned.page.locator(f"{LAYERS} .count").text_content() == f"{len(wanted)} of {len(every)} layers"
    pruned.page.locator(f"{LAYERS} input").fill("no such layer")
    assert pruned.column(LAYERS, 0) == []
    pruned.page.locator(f"{LAYERS} input").fill("")
    assert pruned.column(LAYERS, 0) == every


def test_rows_and_bars_choose_a_group(pruned: Opened) -> None:
    chosen = pruned.page.locator(f"{GROUPS} .detail select")
    first = chosen.input_value()
    for row in pruned.page.locator(f"{GROUPS} tbody tr").all():
        row.click()
        name, kept = (cell.strip() for cell in row.locator("td").all_text_contents()[:2])
        assert chosen.input_value() == name
        assert pruned.page.locator(f"{GROUPS} tr.now").count() == 1
        stay, channels = kept.split("/")
        caption = pruned.page.locator(f"{GROUPS} .chosen figcaption").first.text_content() or ""
        assert caption == f"Sensitivities: {stay} of {channels} stay"
        by_energy = "energy" in row.locator("td").nth(5).text_content()
        assert pruned.page.locator(f"{GROUPS} .chosen canvas").count() == 2 + by_energy
    assert first in pruned.column(GROUPS, 0)
    # The bars lie in the order of the list, the first on top.
    names = chosen.locator("option").all_text_contents()
    bars = pruned.page.locator(f"{GROUPS} > figure > .canvas")
    bars.click(position={"x": bars.bounding_box()["width"] / 3, "y": 45})
    playwright.expect(chosen).to_have_value(names[0])
    chosen.select_option(names[-1])
    assert pruned.page.locator(f"{GROUPS} tr.now td").first.text_content().strip() == names[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_the_button_is_used(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    opened = Opened(browser, pages["prune"], scheme=scheme)
    light, dark = "rgb(255, 255, 255)", "rgb(16, 19, 24)"
    before, after = (light, dark) if scheme == "light" else (dark, light)
    assert opened.pixel("body") == before
    opened.page.locator("#theme").click()
    assert opened.pixel("body") == after
    opened.page.locator("#theme").click()
    assert opened.pixel("body") == before
    opened.close()


@pytest.mark.parametrize("name", ["prune", "inspect"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_screen(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    opened = Opened(browser, pages[name], width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = opened.page.locator("canvas").evaluate_all(
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v !== 0))"
    )
    assert drawn
    assert all(drawn)
    opened.close()
