"""The page at `/` in a real browser, headless: typing, settings, keys, hostile texts, bad servers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneIndex, FastLaneModel
from tests.serve.conftest import Served

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
expect = playwright.expect
HOSTILE = (
    "<script>document.title = 'gone'</script> sort <img src=x onerror=\"document.title='gone'\">"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test if its script does, or if it asks any other server."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: (
            errors.append(request.url)
            if not re.match(r"http://127\.0\.0\.1:|data:", request.url)
            else None
        ),
    )
    yield page
    context.close()
    assert errors == []


def test_results_come_as_one_types(page: Any, serve: Callable[..., Served]) -> None:
    served = serve()
    page.goto(served.url)
    expect(page.locator("#query")).to_be_focused()
    expect(page.locator("#about")).to_have_text(f"{len(served.index)} documents")
    page.keyboard.type("sort a list")
    expected = served.index.search("sort a list", num_routes=1)
    expect(page.locator("#hits .id")).to_have_text([str(hit.id) for hit in expected])
    expect(page.locator("#hits .score").first).to_have_text(f"{expected[0].score:.3f}")
    expect(page.locator("#status")).to_contain_text("comparisons · encoding")
    assert page.locator("#hits mark").count() > 0
    expect(page.locator("#query-marked")).to_have_text("sort a list")
    assert page.url.endswith("?q=sort%20a%20list")
    page.reload()  # the address holds the question
    expect(page.locator("#hits .id").first).to_have_text(str(expected[0].id))
    page.locator("#query").fill("")
    expect(page.locator("#hits li")).to_have_count(0)


def test_slider_and_switch_change_the_ranking(page: Any, serve: Callable[..., Served]) -> None:
    served = serve()
    page.goto(f"{served.url}/?q=how+to+sort+a+list")
    ids = page.locator("#hits .id")
    index = served.index
    query = "how to sort a list"
    expect(ids).to_have_text([str(hit.id) for hit in index.search(query, num_routes=1)])
    slider = page.locator("#routes")
    slider.focus()
    for name, num_routes in (("2", 2), ("4", 4), ("all", None)):
        page.keyboard.press("ArrowRight")
        expect(page.locator("#routes-shown")).to_have_text(name)
        found = index.search(query, num_routes=num_routes)
        expect(ids).to_have_text([str(hit.id) for hit in found])
        expect(page.locator("#hits .score").first).to_have_text(f"{found[0].score:.3f}")
    expect(page.locator("#rerank")).to_be_disabled()
    page.keyboard.press("Home")
    expect(page.locator("#routes-shown")).to_have_text("1")
    page.locator("#rerank").check()
    found = index.search(query, num_routes=1, rerank=100)
    expect(ids).to_have_text([str(hit.id) for hit in found])
    expect(page.locator("#hits .score").first).to_have_text(f"{found[0].score:.3f}")


def test_it_asks_for_no_more_than_the_server_allows(
    page: Any, serve: Callable[..., Served]
) -> None:
    """Few hits, and few documents to rank again: neither search nor switch fails."""
    served = serve(max_top_k=3)
    page.goto(f"{served.url}/?q=how+to+sort+a+list")
    ids = page.locator("#hits .id")
    query = "how to sort a list"
    found = served.index.search(query, 3, num_routes=1)
    expect(ids).to_have_text([str(hit.id) for hit in found])
    page.locator("#rerank").check()
    found = served.index.search(query, 3, num_routes=1, rerank=3)
    expect(page.locator("#hits .score").first).to_have_text(f"{found[0].score:.3f}")
    expect(ids).to_have_text([str(hit.id) for hit in found])
    expect(page.locator("#problem")).to_be_hidden()


def test_how_a_document_moved_is_shown(page: Any, serve: Callable[..., Served]) -> None:
    served = serve()

    def answer(route: Any) -> None:
        ids = ["a", "b", "c"] if '"num_routes":1' in route.request.post_data else ["c", "a", "d"]
        hit = {"score": 1.0, "text": "text", "metadata": {}, "span": None, "matches": []}
        took = {"encode_ms": 1, "search_ms": 1}
        result = {"query": "q", "hits": [{**hit, "id": id} for id in ids], "comparisons": 3}
        route.fulfill(json={"results": [result], "took": took})

    page.route("**/search", answer)
    page.goto(f"{served.url}/?q=q")
    moved = page.locator("#hits .moved")
    expect(moved).to_have_text(["", "", ""])
    page.keyboard.press("Alt+2")
    expect(moved).to_have_text(["▲ 2", "▼ 1", "new"])


def test_the_keyboard_is_enough(page: Any, serve: Callable[..., Served]) -> None:
    page.goto(serve().url)
    page.keyboard.type("read a file")
    expect(page.locator("#hits li").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#hits li").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#hits li").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#hits li").nth(1)).to_have_class("is-open")
    page.keyboard.press("Enter")
    expect(page.locator("#hits li").nth(1)).not_to_have_class("is-open")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.press("Alt+4")
    expect(page.locator("#routes-shown")).to_have_text("4")
    page.keyboard.press("Alt+0")
    expect(page.locator("#routes-shown")).to_have_text("all")
    page.keyboard.press("Alt+1")
    page.keyboard.press("Alt+r")
    expect(page.locator("#rerank")).to_be_checked()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()


@pytest.fixture
def hostile(folder: Path, model: FastLaneModel) -> None:
    """A document whose text, id and metadata are HTML; its letters lie beyond 16 bits, too."""
    index = FastLaneIndex.load(folder, model)
    index.add([f"😀 {HOSTILE} list"], ["<b>id</b>"], metadata=[{"<i>field": "<u>value"}])
    index.save(folder)


def test_texts_stay_texts(page: Any, hostile: None, serve: Callable[..., Served]) -> None:
    served = serve()
    page.goto(served.url)
    page.locator("#query").fill(HOSTILE)
    expect(page.locator("#query-marked")).to_have_text(HOSTILE)
    page.locator("#query").fill("sort list")
    item = page.locator("#hits li", has_text="<b>id</b>")
    expect(item).to_be_visible()
    item.click()
    expect(item.locator(".text")).to_have_text(f"😀 {HOSTILE} list")
    expect(item.locator(".metadata")).to_have_text("<i>field: <u>value")
    [hit] = [hit for hit in served.index.search("sort list", num_routes=1) if hit.id == "<b>id</b>"]
    [explanation] = served.index.explain("sort list", [hit])
    spans = sorted({one.document_span for one in explanation.strong if one.document_span})
    expect(item.locator("mark")).to_have_text([hit.text[slice(*span)] for span in spans])
    assert page.title() == "FastLane search"
    assert page.locator("#hits img, #hits script, #hits b, #query-marked img").count() == 0


def test_a_slow_answer_does_not_overtake_a_newer_one(
    page: Any, serve: Callable[..., Served]
) -> None:
    served = serve()
    waiting: list[Any] = []

    def hold_first(route: Any) -> None:
        if '"query":"read"' in route.request.post_data:
            waiting.append(route)
        else:
            route.continue_()

    page.route("**/search", hold_first)
    page.goto(served.url)
    page.locator("#query").fill("read")
    expect(page.locator("#status")).to_have_class("is-waiting")
    page.locator("#query").fill("sort a list")
    expect(page.locator("#query-marked")).to_have_text("sort a list")
    for route in waiting:
        with suppress(playwright.Error):  # the page has given it up
            route.fulfill(json={"results": [], "took": {}})
    expect(page.locator("#query-marked")).to_have_text("sort a list")
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            {"status": 500, "json": {"error": {"message": "the server failed", "field": None}}},
            "failed",
        ),
        ({"status": 200, "body": "<html>", "content_type": "text/html"}, "The search failed"),
        (None, "The search failed"),
    ],
)
def test_a_broken_server_is_said_and_can_be_asked_again(
    page: Any, serve: Callable[..., Served], answer: Any, said: str
) -> None:
    served = serve()
    page.goto(served.url)
    page.route("**/search", lambda route: route.fulfill(**answer) if answer else route.abort())
    page.keyboard.type("sort")
    expect(page.locator("#problem")).to_contain_text(said)
    page.unroute("**/search")
    page.keyboard.press("Enter")
    expect(page.locator("#hits li").first).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


def test_the_key_is_asked_for_once(browser: Any, serve: Callable[..., Served]) -> None:
    served = serve(api_key="a-key-of-some-length")
    context = browser.new_context(
        http_credentials={"username": "any", "password": "a-key-of-some-length"}
    )
    page = context.new_page()
    page.goto(f"{served.url}/?q=sort")
    expect(page.locator("#hits li").first).to_be_visible()
    context.close()
    stranger = browser.new_context()
    assert stranger.request.get(served.url).status == 401
    stranger.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_fits_a_phone_in_both_schemes(
    browser: Any, serve: Callable[..., Served], scheme: str
) -> None:
    served = serve()
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{served.url}/?q=sort")
    expect(page.locator("#hits li").first).to_be_visible()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
    context.close()
