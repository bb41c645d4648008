"""The HTML report in a browser: it opens offline, works with and without JavaScript, and nothing in it acts."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Literal

import axe_playwright_python  # type: ignore[import-untyped]  # it ships no types
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request

from pytest_weightwatcher.report import render
from tests.browser.conftest import HOSTILE, Result

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")

Scheme = Literal["light", "dark"]


class Visit:
    """A page, and what it did that it should not have done."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note_message)
        self.page.on("pageerror", self._note_error)
        self.page.on("request", self._note_request)
        self.page.goto(address)

    def _note_message(self, message: ConsoleMessage) -> None:
        self.trouble.append(message.text)

    def _note_error(self, error: Error) -> None:
        self.trouble.append(str(error))

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)


@pytest.fixture(params=["damaged", "hostile", "large"])
def result(request: pytest.FixtureRequest) -> Result:
    found: Result = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("javascript", [True, False], ids=["js", "no js"])
def test_it_opens_without_a_request_or_a_word(
    browser: Browser, result: Result, page_of: Any, scheme: Scheme, javascript: bool
) -> None:
    address = page_of(result)
    visit = Visit(browser, address, color_scheme=scheme, java_script_enabled=javascript)
    assert visit.trouble == []
    assert visit.requests == [address]
    assert visit.page.title() == "Checkpoint gate: fail"
    n_layers = len(result["models"][0]["layers"])
    assert visit.page.locator("table.layers tbody tr").count() == n_layers
    assert visit.page.locator(".controls").is_visible() is javascript
    assert visit.page.locator("svg.chart").count() >= min(n_layers, 24)
    if javascript:
        background = visit.page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    visit.page.close()


def test_the_first_screen_says_what_failed_and_what_changed(browser: Browser, damaged: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(damaged), viewport={"width": 1280, "height": 900})
    for words in ("What was found", "What changed most since the baseline"):
        box = visit.page.get_by_role("heading", name=words).bounding_box()
        assert box is not None
        assert box["y"] < 600
    checks = damaged["models"][0]["checks"]
    failing = {check["layer"] for check in checks if check["verdict"] == "fail" and check["layer"]}
    found = visit.page.locator(".findings").first.inner_text()
    assert all(layer in found for layer in failing)
    visit.page.close()


def column(page: Page, number: int) -> list[str]:
    texts: list[str] = page.locator(f"table.layers tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()
    return [text.strip() for text in texts]


def test_sorting(browser: Browser, large: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(large))
    heading = visit.page.get_by_role("columnheader", name="alpha")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(text) for text in column(visit.page, 6) if text != "–"]
    assert values == sorted(values)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(visit.page, 6) if text != "–"] == sorted(values, reverse=True)
    visit.page.get_by_role("columnheader", name="layer", exact=True).get_by_role("button").click()
    assert column(visit.page, 2) == sorted(column(visit.page, 2), key=lambda name: name)
    visit.page.get_by_role("columnheader", name="#").get_by_role("button").click()
    assert column(visit.page, 1) == [str(number) for number in range(1, 1001)]
    assert visit.trouble == []
    visit.page.close()


def test_verdicts_sort_by_severity_and_what_has_no_number_comes_last(
    browser: Browser, several: Result, page_of: Any
) -> None:
    visit = Visit(browser, page_of(several))
    table = visit.page.locator("table.layers").first
    table.get_by_role("columnheader", name="verdict").get_by_role("button").click()
    order = ["fail", "warn", "pass"]
    verdicts = table.locator("tbody td:nth-child(3)").all_inner_texts()
    assert verdicts == sorted(verdicts, key=order.index)
    assert len(set(verdicts)) > 1
    for _ in range(2):
        table.get_by_role("columnheader", name="alpha").get_by_role("button").click()
        assert table.locator("tbody td:nth-child(6)").all_inner_texts()[-1] == "–"
    assert "▼" in visit.page.evaluate(
        "getComputedStyle(document.querySelector('[aria-sort] button'), '::after').content"
    )
    visit.page.close()


BROKEN = """() => {
  const found = [];
  for (const cell of document.querySelectorAll('td:not(.text):not(.cell), th:not(.text)')) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const range = document.createRange();
      range.selectNodeContents(texts.currentNode);
      if (range.getClientRects().length > 1) found.push(cell.textContent);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["damaged", "hostile", "several"])
def test_numbers_and_headings_stay_whole_and_the_page_is_not_wider_than_the_window(
    browser: Browser, name: str, request: pytest.FixtureRequest, page_of: Any, width: int
) -> None:
    visit = Visit(browser, page_of(request.getfixturevalue(name)), viewport={"width": width, "height": 900})
    assert visit.page.evaluate(BROKEN) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.close()


def test_a_count_and_its_word_stay_on_one_line(browser: Browser, damaged: Result, page_of: Any) -> None:
    result = {**damaged, "counts": {**damaged["counts"], "inconclusive": 12, "waived": 1234}}
    visit = Visit(browser, page_of(result))
    for width in range(320, 1000, 20):
        visit.page.set_viewport_size({"width": width, "height": 900})
        lines = "counts => counts.map(count => count.getClientRects().length)"
        assert set(visit.page.locator(".count").evaluate_all(lines)) == {1}, width
    visit.page.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_pictures_can_be_read_on_a_small_screen(browser: Browser, damaged: Result, page_of: Any, width: int) -> None:
    visit = Visit(browser, page_of(damaged), viewport={"width": width, "height": 900})
    heights = "texts => texts.map(text => text.getBoundingClientRect().height)"
    for texts in (".chart .label", ".chart .axis"):
        assert min(visit.page.locator(texts).evaluate_all(heights)) >= 12
    beyond = "svg => [...svg.querySelectorAll('text')].some(text => text.getBBox().x + text.getBBox().width > 960)"
    assert not visit.page.locator(".whole svg").evaluate(beyond), "nothing is cut off"
    region = visit.page.get_by_role("region", name="Alpha by depth")
    assert region.evaluate("region => region.scrollWidth > region.clientWidth") is (width == 400)
    region.focus()
    region.press("End")
    visit.page.emulate_media(media="print")
    assert region.evaluate("region => region.scrollWidth <= region.clientWidth"), "paper does not scroll"
    visit.page.close()


def test_the_worst_model_comes_first_and_what_broke_is_in_the_pictures(
    browser: Browser, several: Result, page_of: Any
) -> None:
    visit = Visit(browser, page_of(several))
    first = visit.page.get_by_role("navigation").locator("li").first
    assert first.inner_text().startswith("fail c: ")
    assert visit.page.locator("h2").first.inner_text() == "c"
    name = several["models"][2]["layers"][0]["name"]
    changed = visit.page.locator("aside").first.locator("li").first.inner_text()
    assert changed == f"{name} cannot be compared: all values are zero"
    section = visit.page.locator("main > section").first
    assert section.locator("svg .none").count() == section.locator(".charts svg").count()
    described = section.locator("svg desc").first.text_content() or ""
    assert "1 failing layers have no such number" in described
    assert "they differ in fail_on" in visit.page.locator("header").inner_text()
    assert visit.trouble == []
    visit.page.close()


def test_a_finding_leads_to_its_spectrum(browser: Browser, damaged: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(damaged))
    link = visit.page.locator(".findings a").first
    target = visit.page.locator(link.get_attribute("href") or "")
    assert target.locator("figcaption").inner_text().startswith(link.inner_text())
    assert visit.page.locator("svg .dot.fail title").first.text_content()
    visit.page.close()


def test_filtering(browser: Browser, large: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(large))
    visit.page.get_by_label("Filter by name").fill("LAYERS.12.")
    assert len(column(visit.page, 2)) == 7
    assert visit.page.get_by_role("status").inner_text() == "7 of 1000 layers"
    visit.page.get_by_label("Verdict").select_option("fail")
    assert set(column(visit.page, 3)) == {"fail"}
    visit.page.get_by_label("Filter by name").fill("no such layer")
    assert visit.page.get_by_role("status").inner_text() == "0 of 1000 layers"
    visit.page.close()


def test_expanding(browser: Browser, large: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(large))
    details = visit.page.locator("details").first
    hidden = details.locator("li").first
    assert not hidden.is_visible()
    details.locator("summary").press("Enter")
    assert hidden.is_visible()
    visit.page.close()


def test_print(browser: Browser, damaged: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(damaged), color_scheme="dark")
    visit.page.emulate_media(media="print")
    assert not visit.page.locator(".controls").is_visible()
    assert visit.page.locator("body").evaluate("body => getComputedStyle(body).color") == "rgb(0, 0, 0)"
    assert visit.page.pdf().startswith(b"%PDF")
    assert visit.page.locator("details:not([open])").count() == 0
    visit.page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
@pytest.mark.parametrize("name", ["damaged", "hostile", "large", "several"])
def test_axe_finds_nothing(
    browser: Browser, name: str, request: pytest.FixtureRequest, scheme: Scheme, width: int
) -> None:
    page = browser.new_page(color_scheme=scheme, bypass_csp=True, viewport={"width": width, "height": 900})
    page.goto(request.getfixturevalue("page_of")(request.getfixturevalue(name)))
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.add_script_tag(content=AXE)
    # On a thousand rows alike the first hundred say as much.
    page.evaluate("document.querySelectorAll('table.layers tbody tr:nth-child(n+100)').forEach(row => row.remove())")
    found = page.evaluate("axe.run()")["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
    page.close()


def test_hostile_names_do_nothing(browser: Browser, hostile: Result, page_of: Any) -> None:
    visit = Visit(browser, page_of(hostile))
    assert visit.page.title() == "Checkpoint gate: fail"
    assert visit.page.locator("img, iframe, object, embed, link, base, form").count() == 0
    assert visit.page.locator("script").count() == 1
    assert visit.page.locator("style").count() == 1
    assert visit.page.locator("body").is_visible()
    names = column(visit.page, 2)
    assert names[0] == HOSTILE[0]
    assert max(map(len, names)) <= 160
    # A row has as many cells whatever is in them.
    assert set(visit.page.locator("table.layers tr").evaluate_all("rows => rows.map(row => row.cells.length)")) == {11}
    visit.page.close()


def test_a_page_of_a_thousand_matrices_is_small(large: Result) -> None:
    assert len(render("html", large).encode("utf-8")) < 2_000_000


def test_the_policy_names_all_that_may_run(damaged: Result) -> None:
    page = html.unescape(render("html", damaged))
    assert "default-src 'none'" in page
    assert "unsafe" not in page.partition("</head>")[0].partition("<style>")[0]
    assert " style=" not in page
    assert " onclick" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_same_result_gives_the_same_bytes(damaged: Result) -> None:
    assert render("html", damaged) == render("html", damaged)
