"""The live view in a real browser: it follows a search without being loaded again."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from hwnas.report.live.server import LiveServer
from hwnas.runs import record_error
from tests.report.example import Example, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Dialog, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

_PATIENCE_MS = 180_000
NASTY = "</script><img src=x onerror=alert(1)>"
UNFINISHED = Example(space="autoformer-micro", count=40, finished=False, label=NASTY)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", UNFINISHED)


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[LiveServer]:
    with LiveServer([run]) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(server: LiveServer, messages: list[str]) -> Iterator["Page"]:
    def dismiss(dialog: "Dialog") -> None:
        messages.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=_PATIENCE_MS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("dialog", dismiss)
        page.on("request", lambda request: messages.append(f"request: {request.url}"))
        page.goto(server.url)
        page.wait_for_selector("#plot-0-front .scatterlayer .trace")
        yield page
        browser.close()


def points(page: "Page", name: str) -> int:
    count = "(name) => document.getElementById('plot-0-front').data.find((one) => one.name === name)?.x.length ?? 0"
    return int(page.evaluate(count, name))


def test_front_and_progress_of_an_unfinished_search_are_shown(page: "Page") -> None:
    assert page.inner_text("h2").startswith("search-a")
    assert page.inner_text(".verdict").startswith("The search has not finished. So far it explored 40 networks")
    assert points(page, "front") > 2
    assert page.locator("progress").get_attribute("value") == "1"
    assert page.is_hidden(".banner.warning >> nth=0")


def test_what_is_written_meanwhile_appears_without_loading_the_page_again(page: "Page", run: Path) -> None:
    page.evaluate("window.same = true")
    with pytest.raises(RuntimeError), record_error(run):
        raise RuntimeError(NASTY)
    page.wait_for_selector("pre:has-text('onerror')")
    assert "Last error (RuntimeError)" in page.inner_text(".live .banner")
    other = make_run(run.parent / "search-b", replace(UNFINISHED, finished=True))
    for name in ("study.sqlite", "search.json"):
        (other / name).replace(run / name)
    page.wait_for_selector("section[data-status='finished']")
    assert points(page, "front, measured") > 2
    assert page.evaluate("window.same") is True
    assert page.locator("img").count() == 0


def test_the_whole_report_is_one_click_away(page: "Page") -> None:
    page.click("#report a")
    page.wait_for_selector("#front-plot .scatterlayer .trace")
    assert page.locator("img").count() == 0
    page.go_back()
    page.wait_for_selector("#plot-0-front .scatterlayer .trace")


def test_nothing_was_said_and_nothing_was_asked_elsewhere(
    page: "Page", server: LiveServer, messages: list[str]
) -> None:
    asked = [text for text in messages if text.startswith("request: ")]
    assert [text for text in asked if not text.startswith((f"request: {server.url}", "request: data:"))] == []
    assert [text for text in messages if not text.startswith("request: ")] == []


def test_a_server_that_ended_is_said(page: "Page", server: LiveServer) -> None:
    page.route("**/state.json", lambda route: route.abort())
    assert page.wait_for_selector("#lost:not([hidden])") is not None
