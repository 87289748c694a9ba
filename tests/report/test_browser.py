"""Reports in a real Chromium: what it loads, how it lays them out, and how they are read by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TASKS = ("classification", "forecasting", "segmentation", "detection")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no Chromium: none of {', '.join(NAMES)} is on the PATH")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, reports: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open the report of a task; what the page asked for and complained of is in ``page.asked`` and ``page.said``."""
    contexts = []

    def open_page(task: str, width: int = 1280, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **settings))
        page = contexts[-1].new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(reports[task].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def scripted(page: Any, script: str) -> Any:
    return page.evaluate(script)


@pytest.mark.parametrize("task", TASKS)
def test_it_asks_for_nothing_and_complains_of_nothing(task: str, visit: Callable[..., Any]) -> None:
    page = visit(task)
    assert page.said == []
    (first, *others) = page.asked
    assert first.startswith("file:")
    assert all(url.startswith("data:") for url in others)
    shown = scripted(page, "[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(shown) >= 3
    assert all(shown)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_narrow_screens(task: str, width: int, visit: Callable[..., Any]) -> None:
    page = visit(task, width, has_touch=True)
    scripted(page, "document.querySelectorAll('details').forEach(part => part.open = true)")
    assert scripted(page, "document.documentElement.scrollWidth") == width
    wide = scripted(page, "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length")
    assert wide > 0 or width > 360, "what is wider scrolls inside its box"
    small = scripted(page, "Math.min(...[...document.querySelectorAll('p, td, th, dd, dt, li, a, summary')]"
                           ".map(e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
    assert small >= 14


def test_dark_mode_is_dark_and_keeps_pictures_on_light(visit: Callable[..., Any]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = visit("classification", color_scheme=scheme)
        style = "getComputedStyle(document.{}).backgroundColor.match(/[0-9]+/g).map(Number)"
        paper = scripted(page, style.format("documentElement"))
        card = scripted(page, style.format("querySelector('.card')"))
        ink = scripted(page, "getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
        grounds[scheme] = sum(paper)
        assert abs(sum(paper) - sum(ink)) > 450
        assert card == [255, 255, 255]
    assert grounds["dark"] < 150 < 700 < grounds["light"]


@pytest.mark.parametrize("task", TASKS)
def test_the_keyboard_reaches_everything(task: str, visit: Callable[..., Any]) -> None:
    page = visit(task, 360)
    page.keyboard.press("Tab")
    active = "document.activeElement"
    assert scripted(page, f"{active}.textContent") == "Skip to the content"
    assert scripted(page, f"{active}.getBoundingClientRect().left >= 0"), "it is seen when it has the focus"
    page.keyboard.press("Enter")
    assert scripted(page, f"{active}.id") == "content"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if scripted(page, f"{active} === document.body"):
            break
        if scripted(page, f"{active}.matches('.scroll')"):
            reached.append(scripted(page, f"{active}.getAttribute('aria-label')"))
            assert scripted(page, f"getComputedStyle({active}).outlineStyle") == "solid"
    visible = "[...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()).map(e => e.ariaLabel)"
    assert reached == scripted(page, visible)


def test_it_prints(visit: Callable[..., Any]) -> None:
    page = visit("classification", color_scheme="dark")
    page.emulate_media(media="print")
    assert scripted(page, "getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not scripted(page, "document.querySelector('nav').checkVisibility()")
    assert len(page.pdf()) > 10_000
