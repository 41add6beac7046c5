"""The pruned head in a browser: pick it, pick its parts, by mouse and by keyboard; what waits, and what failed."""

import logging
import re
import threading
from collections.abc import Iterator

import pytest
from werkzeug.serving import make_server

from dashboard.app import create_app
from store.settings import Settings
from tests import test_dashboard_browser as browser
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

playwright, expect_address = browser.playwright, browser.expect_address
pytestmark, context, page = browser.pytestmark, browser.context, browser.page
playwright.expect.set_options(timeout=15_000)

IMAGES, LAYERS, HEADS = 6, 3, 4
BARS = ".mode .well .bar"


@pytest.fixture(scope="module")
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, desk: FakeDesk) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    write_tiny_study(data / "studies" / "first", images=IMAGES, layers=LAYERS, heads=HEADS, labelled=IMAGES)
    desk.settings = Settings(data=data)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, create_app(desk.settings, desk).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def at_once(desk: FakeDesk) -> None:
    """A desk that answers at once, and has not been asked."""
    desk.answers = True
    desk.asked.clear()


def opened(page: "playwright.Page", address: str) -> "playwright.Page":
    page.goto(address)
    playwright.expect(page.locator("#head-card-label")).not_to_be_empty(timeout=20_000)
    page.wait_for_function("!document.querySelector('[data-dash-is-loading=true]')")
    return page


def expect_bars(page: "playwright.Page", number: int = 6) -> None:
    playwright.expect(page.locator(BARS)).to_have_count(number)


def test_the_card_changes_to_the_pruned_head_and_back(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&layer=1&head=2")
    playwright.expect(page.locator("#pruning")).to_be_hidden()
    page.get_by_role("button", name="pruning").click()
    expect_address(page, "card=pruning", "layer=1&head=2")
    expect_bars(page)
    playwright.expect(page.locator("#head-card-table table")).to_have_count(0)
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("dashed")
    assert page.locator(".compared ol").count() == 2
    page.get_by_role("button", name="numbers").click()
    playwright.expect(page.locator("#head-card-table table")).to_be_visible()
    playwright.expect(page.locator("#pruning")).to_be_hidden()
    page.go_back()
    expect_address(page, "card=pruning")
    playwright.expect(page.locator("#pruning")).to_be_visible()


def test_a_part_is_picked_by_mouse_and_by_keyboard(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&card=pruning")
    expect_bars(page)
    page.get_by_title("CLS→CLS pruned").click()
    page.wait_for_function("location.search.endsWith('part=cls')")
    playwright.expect(page.locator(".compared > span").nth(1)).to_have_text("CLS→CLS pruned")
    playwright.expect(page.locator(".mode.on")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_address(page, "part=crossing")
    playwright.expect(page.locator(".mode.on")).to_have_attribute("title", re.compile("^CLS↔patches pruned: "))
    label = page.locator("#head-card-label")
    before = label.inner_text()
    page.keyboard.press("ArrowUp" if before.startswith("L2") else "ArrowDown")  # still moves the head
    playwright.expect(label).not_to_have_text(before)


def test_the_selected_metric_is_drawn(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&card=pruning")
    playwright.expect(page.locator(".mode .reference")).to_have_count(6)
    page.get_by_role("button", name="JSD").click()
    playwright.expect(page.locator(".mode .reference")).to_have_count(0)
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("moves the prediction")


def test_old_bars_stay_until_new_ones_are_there(page: "playwright.Page", address: str, desk: FakeDesk):
    opened(page, address + "?study=first&card=pruning&layer=0&head=0")
    expect_bars(page)
    value = page.locator(".mode .value").first
    before = value.inner_text()
    desk.answers = False
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("waiting")
    expect_bars(page)
    assert value.inner_text() == before
    assert "stale" in page.get_attribute("#pruning", "class")
    job = next(reversed(desk.ledger.all))
    desk.set(job, place=3)
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("3 jobs before it")
    desk.finish(job)
    playwright.expect(value).not_to_have_text(before)
    assert page.get_attribute("#pruning", "class") == "pruning"


def test_a_failure_is_told_and_can_be_tried_again(page: "playwright.Page", address: str, desk: FakeDesk):
    desk.answers = False
    opened(page, address + "?study=first&card=pruning&layer=2&head=3")
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("waiting")
    desk.set(next(reversed(desk.ledger.all)), state="failed", cause="weights <i>not</i> here")
    playwright.expect(page.locator("#pruning-top")).to_have_text("weights <i>not</i> here.")
    expect_bars(page, 0)
    desk.answers = True
    page.click("#pruning-run")
    expect_bars(page)
    playwright.expect(page.locator("#pruning-run")).to_be_hidden()


def test_all_images_are_pruned_on_a_press(page: "playwright.Page", address: str, desk: FakeDesk):
    opened(page, address + "?study=first&card=pruning&layer=2&head=1&image=")
    run = page.locator("#pruning-run")
    playwright.expect(run).to_have_text(f"prune over all {IMAGES} images")
    assert desk.asked == []
    run.click()
    expect_bars(page)
    playwright.expect(page.locator(".mode .spread")).to_have_count(6)
    playwright.expect(page.locator("#pruning-top")).to_contain_text("Top-1 accuracy")
    assert len(desk.asked[0].images) == IMAGES


def test_a_key_held_down_asks_for_the_head_where_it_stops(page: "playwright.Page", address: str, desk: FakeDesk):
    opened(page, address + "?study=first&card=pruning&layer=0&head=1&metric=jsd")
    expect_bars(page)
    desk.asked.clear()
    for _ in range(8):
        page.keyboard.down("ArrowRight")
    playwright.expect(page.locator("#head-card-label")).to_have_text("L2·H1")
    page.keyboard.up("ArrowRight")
    playwright.expect(page.locator("#pruning-reading")).to_contain_text("moves")
    page.wait_for_function("!document.querySelector('#pruning.stale')")
    last = desk.asked[-1].heads if desk.asked else ((2, 1),)  # another test may have pruned it
    assert last == ((2, 1),)
    assert len(desk.asked) <= 2  # the first press is answered at once, as it may be the only one
