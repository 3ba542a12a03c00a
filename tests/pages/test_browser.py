"""The pages in a real browser: they draw, answer to clicks, fit a phone and ask no network for anything."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WIDE, PHONE = {"width": 1100, "height": 800}, {"width": 390, "height": 844}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(road, tmp_path_factory: pytest.TempPathFactory, succeeded) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    data, model = ("--data", road.folder / "data"), ("--model", road.folder / "runs/model")
    written = {name: folder / f"{name}.html" for name in ("inspect", "compare")}
    succeeded("inspect", road.folder / "runs/tokenizer", *data, "--html", written["inspect"])
    options = ("--queries", "60", "--baselines", "popularity", "--no-latencies")
    succeeded("compare", *data, *model, *options, "--html", written["compare"])
    return written


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page, which must not complain and must ask for nothing but itself."""
    name, viewport = request.param
    page, wrong = browser.new_page(viewport=viewport), []

    def fetched(route: Any) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    page.route("**/*", fetched)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(pages[name].as_uri())
    page.wait_for_selector(".plot svg.main-svg")
    yield page
    assert wrong == []
    page.close()


@pytest.mark.parametrize("opened", [(n, v) for n in ("inspect", "compare") for v in (WIDE, PHONE)], indirect=True)
def test_every_figure_is_drawn_within_the_page(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    values = "[...document.querySelectorAll('.plot')].map(plot => plot._fullLayout.yaxis?.type)"
    assert set(opened.evaluate(values)) <= {"linear", "log", None}
    count = opened.locator(".plot").count()
    assert count >= 2
    for number in range(count):
        box = opened.locator(".plot").nth(number).locator("svg.main-svg").first.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 150


@pytest.mark.parametrize("opened", [("inspect", WIDE)], indirect=True)
def test_a_click_goes_into_the_tree_and_out_again(opened: Any) -> None:
    slices, corner = opened.locator(".plot").first.locator("g.slice"), {"x": 6, "y": 6}
    before = slices.count()
    drawn = "n => document.querySelectorAll('.plot')[0].querySelectorAll('g.slice').length"
    slices.nth(1).click(position=corner)
    opened.wait_for_function(f"{drawn} < n", arg=before)
    slices.first.click(position=corner)  # the bar above
    opened.wait_for_function(f"{drawn} == n", arg=before)


@pytest.mark.parametrize("opened", [("inspect", PHONE), ("compare", PHONE), ("compare", WIDE)], indirect=True)
def test_lists_open_at_a_click(opened: Any) -> None:
    closed = opened.locator("section details:not([open])").last
    entry = closed.locator("li").first
    assert not entry.is_visible()
    closed.locator("summary").click()
    opened.wait_for_function("document.querySelectorAll('section details[open]').length >= 2")
    assert opened.locator("section details[open] li").last.is_visible()


@pytest.mark.parametrize("opened", [("compare", WIDE)], indirect=True)
def test_the_navigation_leads_to_the_sections(opened: Any) -> None:
    opened.locator("nav a", has_text="Example users").click()
    opened.wait_for_function(
        "Math.abs(document.querySelector('#section-6').getBoundingClientRect().top) < innerHeight"
    )
    hits = opened.locator("li.marked")
    assert hits.count() > 0
    assert "✓" in hits.first.inner_text()


@pytest.mark.parametrize("opened", [("compare", WIDE)], indirect=True)
def test_dark_and_light_are_both_readable(opened: Any) -> None:
    ink = "getComputedStyle(document.body).color"
    light = opened.evaluate(ink)
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function(f"{ink} != '{light}'")
    colour = "document.querySelector('.plot .xtick text').style.fill"
    assert opened.evaluate(colour) == opened.evaluate(ink)
