"""The page in a real browser, with the network off: what it draws, and what its controls do."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwnas.pipeline.report import write_report
from hwnas.report.data import RunData
from hwnas.report.gather import gather
from hwnas.report.verdict import standing
from tests.report.example import LATENCY, THROUGHPUT, Example, add_training, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

_PATIENCE_MS = 180_000
"""A busy machine takes long to read plotly."""
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=_PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    example = Example(count=100, label=NASTY, space="autoformer-micro")
    path = make_run(tmp_path_factory.mktemp("runs") / "search-a", example)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def data(run: Path) -> RunData:
    return gather(run)


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(browser: "Browser", run: Path, messages: list[str]) -> Iterator["Page"]:
    def dismiss(dialog: "Dialog") -> None:
        messages.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_offline(True)
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.on("dialog", dismiss)
    page.on("request", lambda request: messages.append(f"request: {request.url[:60]}"))
    page.goto((run / "report.html").as_uri())
    yield page
    context.close()


def test_the_page_says_nothing_and_asks_for_nothing(page: "Page", run: Path, messages: list[str]) -> None:
    page.wait_for_selector("#front-plot .scatterlayer .trace")
    asked = [message for message in messages if message.startswith("request: ") and "data:" not in message]
    assert asked == [f"request: {(run / 'report.html').as_uri()[:60]}"]
    assert [message for message in messages if not message.startswith("request: ")] == []


def test_texts_of_others_are_texts(page: "Page") -> None:
    assert page.locator("img").count() == 0
    assert NASTY in page.locator("#again pre.shell").inner_text()


def best_within(data: RunData, limit: float) -> str:
    able = [member for member in standing(data) if (member.value(LATENCY) or 0) <= limit]
    return max(able, key=lambda member: member.value("accuracy") or 0).arch_id


def test_the_slider_picks_the_best_network_within_the_budget(page: "Page", data: RunData) -> None:
    limits = sorted({member.value(LATENCY) or 0 for member in standing(data)})
    assert page.get_attribute("#budget", "max") == str(len(limits) - 1)
    for place in (0, len(limits) // 2, len(limits) - 1):
        page.locator("#budget").fill(str(place))
        arch_id = best_within(data, limits[place])
        assert page.inner_text("#choice .id") == f"network {arch_id}"
        assert f"search-a --arch {arch_id} --format onnx" in page.inner_text("#command")
        assert page.get_attribute(f"#rows tr[data-id='{arch_id}']", "aria-selected") == "true"
        assert page.inner_text("#budget-text").startswith("latency ≤ ")


def test_the_slider_moves_by_keys(page: "Page") -> None:
    page.locator("#budget").fill("0")
    before = page.inner_text("#budget-text")
    page.locator("#budget").focus()
    page.keyboard.press("ArrowRight")
    assert page.input_value("#budget") == "1"
    assert page.inner_text("#budget-text") != before


def test_a_click_on_a_point_gives_its_export_command(page: "Page", data: RunData) -> None:
    hover(page, "front, measured")
    page.mouse.down()
    page.mouse.up()
    member = next(member for member in data.front if member.measured)
    assert page.inner_text("#choice .id") == f"network {member.arch_id}"
    assert f"search-a --arch {member.arch_id} --format onnx" in page.inner_text("#command")
    page.mouse.move(2, 2)


def test_the_command_that_fine_tunes_a_network_is_there_where_one_can(page: "Page", data: RunData) -> None:
    member = next(member for member in data.front if member.stands)
    page.click(f"#rows tr[data-id='{member.arch_id}']")
    assert page.locator("#finetuning").is_hidden()  # the run has no supernet
    place, words = data.front.index(member), f"hwnas train --arch {member.arch_id} --supernet runs/a"
    page.evaluate(f"RUNS[0].finetuning[{place}] = {json.dumps(words)}; CHOICE.run = RUNS[0]; drawChoice()")
    assert page.locator("#finetuning").is_visible()
    assert page.inner_text("#finetuning-command") == words
    page.evaluate(f"RUNS[0].finetuning[{place}] = ''; drawChoice()")
    assert page.locator("#finetuning").is_hidden()


def test_a_row_of_a_network_that_measuring_took_from_the_front_says_so(page: "Page", data: RunData) -> None:
    fallen = next(member for member in data.front if not member.stands and member.failure is None)
    page.click(f"#rows tr[data-id='{fallen.arch_id}']")
    assert "Not on the measured front" in page.inner_text("#choice")
    assert f"--arch {fallen.arch_id} " in page.inner_text("#command")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_download_is_the_file_beside_the_page(page: "Page", run: Path, tmp_path: Path, kind: str) -> None:
    with page.expect_download() as found:
        page.click(f"button[data-file='{kind}']")
    found.value.save_as(tmp_path / "file")
    assert found.value.suggested_filename == f"front.{kind}"
    assert (tmp_path / "file").read_bytes() == (run / f"front.{kind}").read_bytes()


def hover(page: "Page", name: str) -> str:
    """What is shown over the first point of a trace."""
    page.locator("#front-plot").scroll_into_view_if_needed()
    place = page.evaluate(
        """(name) => {
          const plot = document.getElementById("front-plot"), box = plot.getBoundingClientRect();
          const layout = plot._fullLayout;
          const trace = plot.data.find((one) => one.name === name);
          return [box.left + layout.xaxis._offset + layout.xaxis.l2p(trace.x[0]),
                  box.top + layout.yaxis._offset + layout.yaxis.l2p(trace.y[0]), trace.customdata[0]];
        }""",
        name,
    )
    page.mouse.move(place[0] - 40, place[1] - 25)
    page.mouse.move(place[0], place[1], steps=4)
    page.wait_for_selector("#tip:not([hidden])")
    return page.inner_text("#tip")


def test_a_point_shows_the_whole_network(page: "Page", data: RunData) -> None:
    text = hover(page, "front, measured")
    member = next(member for member in data.front if member.measured)
    assert member.arch_id in text
    for name in ("accuracy", "MACs", "latency", "measured", "predicted"):
        assert name in text
    heads = " ".join(str(block["num_heads"]) for block in member.arch["blocks"])
    assert "num_heads" in text
    assert heads in text
    page.mouse.move(2, 2)


def test_the_axes_are_picked(page: "Page", data: RunData) -> None:
    title = "document.getElementById('front-plot').layout.{}.{}"
    assert page.evaluate(title.format("xaxis", "title.text")) == "latency, ms – lower is better"
    page.select_option("#axis-x", "params")
    page.check("#log-x")
    assert page.evaluate(title.format("xaxis", "title.text")) == "parameters – lower is better"
    assert page.evaluate(title.format("xaxis", "type")) == "log"
    drawn = page.evaluate("document.getElementById('front-plot').data.find((one) => one.name === 'front').x")
    assert sorted(drawn) == sorted(member.params for member in data.front)
    page.uncheck("#log-x")
    page.select_option("#axis-x", "latency_ms")


def test_dominated_networks_are_hidden(page: "Page") -> None:
    names = "document.getElementById('front-plot').data.map((one) => one.name)"
    assert "dominated" in page.evaluate(names)
    page.uncheck("#show-dominated")
    assert "dominated" not in page.evaluate(names)
    page.check("#show-dominated")


def ids(page: "Page") -> list[Any]:
    return list(page.eval_on_selector_all("#rows tr[data-id]", "(rows) => rows.map((row) => row.dataset.id)"))


def test_a_heading_sorts(page: "Page", data: RunData) -> None:
    assert ids(page) == [member.arch_id for member in data.front]
    page.click("#rows th button:has-text('parameters') >> nth=0")
    assert ids(page) == [member.arch_id for member in sorted(data.front, key=lambda member: member.params)]
    assert page.get_attribute("#rows th:has-text('parameters') >> nth=0", "aria-sort") == "ascending"
    page.click("#rows th button:has-text('accuracy') >> nth=0")  # the first click puts the best first
    assert page.get_attribute("#rows th:has-text('accuracy') >> nth=0", "aria-sort") == "descending"
    assert ids(page)[0] == max(data.front, key=lambda member: member.value("accuracy") or 0).arch_id
    page.click("#rows th button:has-text('accuracy') >> nth=0")
    assert ids(page)[-1] == max(data.front, key=lambda member: member.value("accuracy") or 0).arch_id


def test_rows_are_used_by_keys(page: "Page") -> None:
    row = page.locator("#rows tbody tr[data-id]").nth(1)
    row.focus()
    page.keyboard.press("Enter")
    assert row.get_attribute("aria-selected") == "true"
    assert page.locator(".network.selected").count() == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.rowIndex") == 3


def test_the_first_tab_stop_skips_to_the_front(page: "Page") -> None:
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.evaluate("getSelection().removeAllRanges()")
    focusable = page.evaluate("document.querySelector('a, button, input, select, [tabindex]').className")
    assert focusable == "skip"


def test_unstable_measurements_are_marked_where_they_are_read(page: "Page", data: RunData) -> None:
    unstable = [member for member in data.front if any(check.stable is False for check in member.metrics.values())]
    assert unstable
    for member in data.front:
        text = page.inner_text(f"#rows tr[data-id='{member.arch_id}']")
        assert ("unstable" in text) == (member in unstable)
    assert "unstable: the runs spread by 6.1 %" in page.evaluate(
        "(id) => { const member = RUNS[0].members.find((one) => one.id === id);"
        " return tipOf(member.run, member.at, member).map((part) => part.textContent ?? part).join(' '); }",
        unstable[0].arch_id,
    )


def test_what_takes_larger_pictures_is_no_measure_of_these(page: "Page") -> None:
    note = "Nothing is compared with DeiT-Ti and DeiT-S, which take images of 224 pixels, these networks of 32."
    assert page.inner_text("#baseline-note") == note
    assert page.is_hidden("#references-label")
    assert "DeiT" not in page.inner_text("#rows")
    assert "DeiT" not in page.inner_text("#choice")


@pytest.mark.parametrize(
    ("value", "text"), [(999_950, "1.00 M"), (1_258_229_760, "1.26 G"), (412, "412"), (999.96e6, "1.00 G")]
)
def test_counts_are_read_with_a_prefix(page: "Page", value: float, text: str) -> None:
    assert page.evaluate("counted", value) == text


@pytest.mark.parametrize(("value", "text"), [(0.00012, "0.000120"), (0, "0.000"), (0.25, "0.250"), (8.314, "8.31")])
def test_small_values_keep_their_digits(page: "Page", value: float, text: str) -> None:
    assert page.evaluate("digits", value) == text


def test_paper_has_the_headings_and_nothing_beside_it(page: "Page") -> None:
    page.set_viewport_size({"width": 700, "height": 980})
    page.emulate_media(media="print")
    assert page.locator("#rows th button").first.is_visible()
    assert not page.locator("#copy").is_visible()
    assert page.evaluate("document.querySelector('.card').scrollWidth <= document.querySelector('.card').clientWidth")
    page.emulate_media(media="screen")


def test_a_phone_needs_no_scrolling_sideways(page: "Page") -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_was_said_meanwhile(page: "Page", messages: list[str]) -> None:
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    assert [message for message in messages if not message.startswith("request: ")] == []


@pytest.mark.slow
def test_the_slider_of_a_maximised_metric_and_the_loss_of_the_training_are_drawn(
    browser: "Browser", tmp_path: Path
) -> None:
    run = make_run(tmp_path / "fast", Example(count=60, space="autoformer-micro", objectives=("accuracy", THROUGHPUT)))
    add_training(run, losses=[2.5, 2.0, 1.5])
    write_report(run)
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto((run / "report.html").as_uri())
    last = int(page.get_attribute("#budget", "max") or 0)
    limits = []
    for place in (0, last):
        page.locator("#budget").fill(str(place))
        limits.append(float(page.inner_text("#budget-text").split("≥ ")[1].split()[0].replace(",", "")))
    assert limits[0] < limits[1]
    assert page.evaluate("document.getElementById('training-plot').data[0].y") == [2.5, 2.0, 1.5]
    page.close()


@pytest.mark.slow
def test_two_metrics_of_one_name_are_told_apart(browser: "Browser", tmp_path: Path) -> None:
    example = Example(count=60, space="autoformer-micro", objectives=("accuracy", LATENCY, f"{LATENCY}6"))
    write_report(make_run(tmp_path / "two", example))
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto((tmp_path / "two" / "report.html").as_uri())
    assert page.inner_text("#budget-text").startswith("latency (batch 1) ≤ ")
    assert "latency (batch 16), measured" in page.inner_text("#choice")
    page.close()


@pytest.mark.slow
def test_known_networks_of_several_runs_are_told_apart_where_they_differ(browser: "Browser", tmp_path: Path) -> None:
    same = [make_run(tmp_path / name, Example(count=40, seed=seed)) for seed, name in enumerate(("one", "two"))]
    other = make_run(tmp_path / "three", Example(count=40, verified=False))  # there they are predicted
    known = "knownNetworks().map((one) => [one.name, one.run.index])"
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    for runs, told in (
        (same, [["DeiT-Ti", 0], ["DeiT-S", 0]]),
        (
            [same[0], other],
            [["DeiT-Ti (one)", 0], ["DeiT-S (one)", 0], ["DeiT-Ti (three)", 1], ["DeiT-S (three)", 1]],
        ),
    ):
        write_report(runs, out=tmp_path / "page")
        page.goto((tmp_path / "page" / "report.html").as_uri())
        page.wait_for_selector("#front-plot .scatterlayer .trace")
        assert page.evaluate(known) == told
    assert page.locator("#rows tr", has_text="three").first.is_visible()
    page.close()
