"""Pruned heads in a browser: regions, one head and several, by mouse and by keyboard; what waits, and what failed."""

import re
from collections.abc import Iterator

import pytest

from analyses.vocabulary import MODES, REGIONS
from dashboard.pruned import name_of
from store.settings import Settings
from tests.browsing import expect_address, needs_chromium, opened, playwright, served
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

pytestmark = needs_chromium

IMAGES, LAYERS, HEADS = 6, 3, 4
BARS = ".mode .bar:not([hidden])"
READING = "#pruning-reading"


# The seventh bar stays on a page for good: who makes one has a fresh page.


@pytest.fixture(scope="module")
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, desk: FakeDesk) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    size = {"layers": LAYERS, "heads": HEADS}
    write_tiny_study(data / "studies" / "first", **size, images=IMAGES, labelled=IMAGES)
    write_tiny_study(data / "studies" / "no-cls", **size, images=2, labelled=2, has_cls=False, prefix=0)
    desk.settings = Settings(data=data)
    with served(data, desk) as found:
        yield f"{found}/"


@pytest.fixture(autouse=True)
def at_once(desk: FakeDesk) -> None:
    """A desk that answers at once, and has not been asked."""
    desk.answers = True
    desk.asked.clear()


def expect_bars(page: "playwright.Page", number: int = 6) -> None:
    playwright.expect(page.locator(BARS)).to_have_count(number)


def expect_title(page: "playwright.Page", words: str) -> None:
    """Over the predictions after."""
    playwright.expect(page.locator(".compared > span").nth(1)).to_have_text(words)


def cell(page: "playwright.Page", name: str) -> "playwright.Locator":
    return page.get_by_role("button", name=f"prune {name}", exact=True)


def requests(page: "playwright.Page") -> list[str]:
    """What the page asks the server from now on about pruned heads."""
    asked: list[str] = []

    def note(request: "playwright.Request") -> None:
        body = request.post_data or ""
        if "_dash-update-component" in request.url and '"pruning-found"' in body:
            asked.append(body)

    page.on("request", note)
    return asked


def test_regions_are_picked_by_mouse_and_by_keyboard_and_nothing_is_asked(
    page: "playwright.Page", address: str, desk: FakeDesk
):
    opened(page, address + "?study=first")
    expect_bars(page)
    asked, before = requests(page), len(desk.asked)
    page.locator(".mode").nth(3).click()
    expect_address(page, "regions=1")
    expect_title(page, "CLS→CLS pruned")
    playwright.expect(page.locator(".mode.on")).to_have_count(1)
    playwright.expect(page.locator(".mode[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_address(page, "regions=6")
    playwright.expect(page.locator(".mode.on")).to_have_attribute("title", re.compile("^CLS↔patches pruned: "))
    page.evaluate("headscope.gesture('regions', 8)")
    expect_title(page, "patches→patches pruned")
    metric = page.evaluate("headscope.selection.metric")
    page.locator("button", has_text="JSD").first.click()
    playwright.expect(page.locator(READING)).to_contain_text("moves the prediction")
    playwright.expect(page.locator(".mode .reference:not([hidden])")).to_have_count(0)
    assert metric == "probability"
    assert (asked, len(desk.asked)) == ([], before)
    page.go_back()
    playwright.expect(page.locator(".mode .reference:not([hidden])")).to_have_count(6)


def test_bars_and_matrix_are_named_and_hatch_what_is_pruned(fresh_page: "playwright.Page", address: str):
    page = fresh_page
    opened(page, address + "?study=first&regions=5")
    expect_bars(page, 7)
    bars = page.eval_on_selector_all(
        ".mode",
        """bars => bars.map(bar => [bar.dataset.gesture, bar.dataset.value, bar.dataset.name,
            [...bar.querySelectorAll(".glyph i")].map(mark => mark.className)])""",
    )
    kinds = ["cls-cls", "cls-patches", "patches-cls", "patches-patches"]
    assert bars == [["regions", str(each), name_of(each), hatched(kinds, each)] for each in (*MODES, 5)]
    cells = page.eval_on_selector_all(
        "#pruning-matrix button",
        """cells => cells.map(
            cell => [cell.className, cell.ariaLabel, cell.dataset.bit, cell.dataset.value, cell.title])""",
    )
    looks = hatched([f"cell {kind}" for kind in kinds], 5)
    does = {True: "is pruned; click to keep it", False: "is kept; click to prune it"}
    assert cells == [
        [look, f"prune {name}", str(bit), str(5 ^ bit), f"{name} {does[bool(5 & bit)]}"]
        for look, (bit, name) in zip(looks, REGIONS.items(), strict=True)
    ]
    assert page.locator("#pruning-matrix span").all_inner_texts() == ["CLS", "patches", "CLS", "patches"]
    assert page.get_attribute("#pruning-parts", "aria-label") == "Pruned: " + page.inner_text("#pruning-heads")


def hatched(kinds: list[str], regions: int) -> list[str]:
    """Classes of the four regions."""
    return [f"{kind} off" if regions & bit else kind for kind, bit in zip(kinds, REGIONS, strict=True)]


def test_a_bar_under_the_pointer_shows_its_predictions(page: "playwright.Page", address: str):
    opened(page, address + "?study=first")
    expect_bars(page)
    expect_title(page, "whole head pruned")
    assert page.locator(".compared li.label").count() == 2
    page.locator(".mode").first.hover()
    expect_title(page, "nothing pruned")
    page.mouse.move(5, 5)
    expect_title(page, "whole head pruned")


def test_any_regions_are_switched_in_the_matrix_and_are_a_seventh_bar(
    fresh_page: "playwright.Page", address: str, desk: FakeDesk
):
    page = fresh_page
    opened(page, address + "?study=first&layer=1&head=3")
    expect_bars(page)
    playwright.expect(page.locator("#pruning-matrix [aria-pressed=true]")).to_have_count(4)
    cell(page, "CLS→CLS").click()
    expect_address(page, "regions=14")
    expect_bars(page, 7)
    playwright.expect(page.locator(".mode.on")).to_have_class("mode custom on")
    expect_title(page, "CLS→patches, patches→CLS, patches→patches pruned")
    assert [request.regions for request in desk.asked[-1:]] == [(14,)]
    cell(page, "patches→patches").focus()
    page.keyboard.press("Enter")
    expect_address(page, "regions=6")  # one of the six again; the seventh stays to be compared with
    expect_title(page, "CLS↔patches pruned")
    expect_bars(page, 7)
    cell(page, "CLS→patches").click()
    expect_address(page, "regions=4")
    expect_title(page, "patches→CLS pruned")
    expect_bars(page, 7)
    assert [request.regions for request in desk.asked[-1:]] == [(4,)]


def test_without_cls_there_are_the_regions_that_the_model_has(page: "playwright.Page", address: str):
    opened(page, address + "?study=no-cls")
    playwright.expect(page.locator(".mode:disabled")).to_have_count(3)
    playwright.expect(page.locator(".mode").nth(4)).to_have_attribute(
        "title", "CLS↔patches pruned: the model has no class token"
    )
    playwright.expect(page.locator("#pruning-matrix button:disabled")).to_have_count(3)
    patches = cell(page, "patches→patches")
    patches.click()
    expect_address(page, "regions=8")
    patches.click()
    expect_address(page, "regions=0")


def test_heads_of_the_basket_are_pruned_together_and_leave_it_by_a_click(
    page: "playwright.Page", address: str, desk: FakeDesk
):
    opened(page, address + "?study=first&layer=1&head=2")
    expect_bars(page)
    playwright.expect(page.locator("#pruning-heads")).to_have_text("L1·H2")
    for head in ([0, 1], [1, 2], [2, 0]):
        page.evaluate("head => headscope.gesture('basket', head)", head)
    expect_address(page, "basket=0.1,1.2,2.0")
    playwright.expect(page.locator("#pruning-heads .chip")).to_have_text(["L0·H1 ✕", "L1·H2 ✕", "L2·H0 ✕", "clear"])
    playwright.expect(page.locator("#pruning-heads .chip.on")).to_have_text("L1·H2 ✕")
    playwright.expect(page.locator(READING)).to_have_text(
        re.compile("^3 whole heads together: P\\(target\\) changes by −0.600; one by one they sum to ")
    )
    assert desk.asked[-1].heads == ((0, 1), (1, 2), (2, 0))
    asked = requests(page)
    page.keyboard.press("ArrowRight")  # another head is looked at: the basket's bars stay
    playwright.expect(page.locator("#pruning-heads .chip.on")).to_have_count(0)
    expect_bars(page)
    assert asked == []
    page.get_by_role("button", name="L0·H1 ✕").click()
    expect_address(page, "basket=1.2,2.0")
    playwright.expect(page.locator(READING)).to_contain_text("2 whole heads together")
    page.get_by_role("button", name="clear").click()
    playwright.expect(page.locator("#pruning-heads")).to_have_text("L1·H3")
    playwright.expect(page.locator(READING)).to_contain_text("dashed")


def test_old_bars_stay_until_new_ones_are_there(page: "playwright.Page", address: str, desk: FakeDesk):
    opened(page, address + "?study=first&image=set/photo%20005.png&layer=0&head=0")  # which no other test prunes
    expect_bars(page)
    value = page.locator(".mode .value").first
    before = value.inner_text()
    desk.answers = False
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(READING)).to_contain_text("waiting")
    expect_bars(page)
    assert value.inner_text() == before
    assert page.get_attribute("#pruning-body", "class") == "prunings stale"
    playwright.expect(page.locator(".panel.pruning")).to_have_class(re.compile("working"))
    job = next(reversed(desk.ledger.all))
    desk.set(job, place=3)
    playwright.expect(page.locator(READING)).to_contain_text("3 jobs before it")
    desk.finish(job)
    playwright.expect(value).not_to_have_text(before)
    assert page.get_attribute("#pruning-body", "class") == "prunings"
    playwright.expect(page.locator(".panel.pruning")).not_to_have_class(re.compile("working"))


def test_a_failure_is_told_and_can_be_tried_again(page: "playwright.Page", address: str, desk: FakeDesk):
    desk.answers = False
    opened(page, address + "?study=first&layer=2&head=3")
    playwright.expect(page.locator(READING)).to_contain_text("waiting")
    desk.set(next(reversed(desk.ledger.all)), state="failed", cause="weights <i>not</i> here")
    playwright.expect(page.locator("#pruning-top")).to_have_text("weights <i>not</i> here.")
    expect_bars(page, 0)
    desk.answers = True
    page.click("#pruning-run")
    expect_bars(page)
    playwright.expect(page.locator("#pruning-run")).to_be_hidden()
    playwright.expect(page.locator("#pruning-top")).to_be_hidden()


def test_the_images_of_the_set_are_pruned_on_a_press(fresh_page: "playwright.Page", address: str, desk: FakeDesk):
    page = fresh_page
    opened(page, address + "?study=first&layer=2&head=1&image=&images=p:0..1")
    run = page.locator("#pruning-run")
    playwright.expect(run).to_have_text(f"prune over the {IMAGES} images of the set")
    assert desk.asked == []
    run.click()
    expect_bars(page)
    playwright.expect(page.locator(".mode .spread:not([hidden])")).to_have_count(6)
    playwright.expect(page.locator("#pruning-predictions")).to_contain_text("Top-1")
    playwright.expect(run).to_be_hidden()
    assert [len(request.images) for request in desk.asked] == [IMAGES]
    cell(page, "CLS→CLS").click()  # other regions, over all of them, are again a matter of pressing
    playwright.expect(run).to_be_visible()
    expect_bars(page, 6)
    run.click()
    expect_bars(page, 7)
    assert [request.regions for request in desk.asked] == [MODES, (14,)]


def test_a_key_held_down_asks_for_the_head_where_it_stops(page: "playwright.Page", address: str, desk: FakeDesk):
    opened(page, address + "?study=first&layer=0&head=1&metric=jsd")
    expect_bars(page)
    desk.asked.clear()
    for _ in range(8):
        page.keyboard.down("ArrowRight")
    playwright.expect(page.locator("#pruning-heads")).to_have_text("L2·H1")
    page.keyboard.up("ArrowRight")
    playwright.expect(page.locator(READING)).to_contain_text("moves")
    page.wait_for_function("!document.querySelector('.prunings.stale')")
    last = desk.asked[-1].heads if desk.asked else ((2, 1),)  # another test may have pruned it
    assert last == ((2, 1),)
    assert len(desk.asked) <= 2  # the first press is answered at once, as it may be the only one
