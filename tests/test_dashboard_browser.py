"""The page in a browser: what is picked in one view is picked in all; nothing is asked of another server."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browsing import (
    NARROW,
    SCREEN,
    expect_address,
    needs_chromium,
    opened,
    served,
    settled,
)
from tests.studies import write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser tests")
pytestmark = needs_chromium
expect = playwright.expect

IMAGES, LAYERS, HEADS, ROWS, COLUMNS = 12, 3, 4, 4, 4
PANELS = [
    *("image-overview", "head-importance", "pruning", "head-card", "image-card"),
    *("attention-strength", "pattern-map", "head-attention"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    size = {"images": IMAGES, "layers": LAYERS, "heads": HEADS, "grid": (ROWS, COLUMNS)}
    write_tiny_study(data / "studies" / "first", **size, labelled=IMAGES, unit_images=IMAGES)
    write_tiny_study(data / "studies" / "second", images=2, labelled=0, classes=0)
    with served(data) as found:
        yield found


@pytest.fixture(scope="module")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("nothing")) as found:
        yield found


def picked(page: "Page", field: str) -> object:
    return page.evaluate("field => headscope.selection[field]", field)


def expect_picked(page: "Page", **fields: object) -> None:
    for field, value in fields.items():
        page.wait_for_function("([field, value]) => headscope.selection[field] === value", arg=[field, value])
    settled(page)


def set_size(page: "Page") -> str:
    settled(page)
    return page.inner_text("#image-set")


def test_the_first_page_is_never_empty_and_fits_the_screen(page: "Page", address: str):
    opened(page, address)
    expect_address(page, "study=first", "image=set/photo", "layer=", "head=", "theme=light")
    assert page.locator("#image-card-body img").count() == 1
    for size in (SCREEN, NARROW, {"width": 2200, "height": 1200}):
        page.set_viewport_size(size)
        root = "document.documentElement"
        # Graphs follow the window a moment later.
        page.wait_for_function(f"{root}.scrollWidth === innerWidth && {root}.scrollHeight === innerHeight")
        shown = [name for name in PANELS if page.locator(f".panel.{name}").is_visible()]
        assert set(PANELS) - set(shown) == ({"attention-strength"} if size is NARROW else set())
        for name in shown:
            box = page.locator(f".panel.{name}").bounding_box()
            assert box["width"] > 200 and box["height"] > 100, (name, size)
            assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]
    page.set_viewport_size(SCREEN)


def test_on_a_narrow_screen_strength_takes_the_place_of_the_patterns(page: "Page", address: str):
    opened(page, address)
    page.set_viewport_size(NARROW)
    page.get_by_role("button", name="strength", exact=True).click()
    expect_address(page, "tab=strength")
    expect(page.locator(".panel.attention-strength")).to_be_visible()
    expect(page.locator(".panel.pattern-map")).to_be_hidden()
    page.set_viewport_size(SCREEN)


def test_keys_move_head_and_image_and_none_is_lost(page: "Page", address: str):
    opened(page, address + "?study=first&layer=0&head=0&image=")
    for key in ["ArrowRight"] * 6 + ["ArrowDown"]:
        page.keyboard.press(key)
    expect_picked(page, layer=2, head=2)
    page.keyboard.press("]")
    expect(page.locator("#image-card-reading")).to_have_text("set/photo 000.png")
    page.keyboard.press("[")
    expect(page.locator("#image-card-reading")).to_have_text(f"set/photo {IMAGES - 1:03}.png")
    page.keyboard.press("Escape")
    expect_address(page, "image=&")
    page.keyboard.press("/")
    page.keyboard.type("004")
    page.keyboard.press("Enter")
    expect(page.locator("#image-card-reading")).to_have_text("set/photo 004.png")
    expect_address(page, "layer=2&head=2")


def test_a_part_of_several_ids_makes_a_set_that_chips_and_keys_take_back(page: "Page", address: str):
    opened(page, address + "?study=first&image=")
    assert set_size(page) == f"all {IMAGES} images"
    page.fill("#search", "01")
    page.press("#search", "Enter")
    expect_address(page, "images=id:01")
    assert set_size(page) == f"3 of {IMAGES} images"
    expect(page.locator(".chips .chip")).to_have_text("id has 01✕")
    page.keyboard.press("Escape")  # leaves the field
    for image in ("001", "010", "011", "001"):
        page.keyboard.press("]")
        expect(page.locator("#image-card-reading")).to_have_text(f"set/photo {image}.png")
    page.keyboard.press("u")
    expect_picked(page, images="")
    page.go_back()
    expect_picked(page, images="id:01")
    page.locator(".chips .chip").click()
    expect_picked(page, images="")
    assert set_size(page) == f"all {IMAGES} images"


def test_the_filter_makes_sets_by_class_prediction_and_probability(page: "Page", address: str):
    opened(page, address + "?study=first")
    page.get_by_text("filter", exact=True).click()
    page.get_by_role("button", name="predicted wrong").click()
    expect_address(page, "images=prediction:wrong")
    page.locator("#image-set-class").click()
    page.locator(".dash-dropdown-option, .dash-options-list-option").first.click()
    expect_address(page, "images=prediction:wrong;class:")
    expect(page.locator(".chips .chip")).to_have_count(2)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".filters")).to_be_hidden()


def test_every_view_follows_the_set(page: "Page", address: str):
    opened(page, address + "?study=first&image=&layer=1&head=1")
    readings = "[...document.querySelectorAll('.stage .panel')].map(each => [each.dataset.panel, each.innerText])"
    graphs = """() => {
        const data = trace => [[...(trace.x ?? [])], [...(trace.y ?? [])], trace.marker?.color];
        const plots = [...document.querySelectorAll(".stage .js-plotly-plot")];
        return Object.fromEntries(plots.map(plot => [plot.parentElement.id, JSON.stringify(plot._fullData.map(data))]));
    }"""
    before, drawn = dict(page.evaluate(readings)), page.evaluate(graphs)
    page.goto(address + "?study=first&image=&layer=1&head=1&images=id:01")
    settled(page)
    after, redrawn = dict(page.evaluate(readings)), page.evaluate(graphs)
    follow = {"image-card", "head-card", "pruning"}
    assert {name for name in follow if before[name] != after[name]} == follow
    assert {name for name in drawn if drawn[name] != redrawn[name]} >= {
        "head-importance-graph",
        "image-overview-graph",
    }


def test_back_and_forward_walk_through_what_was_picked(page: "Page", address: str):
    opened(page, address + "?study=first&layer=0&head=0")
    for head in (1, 2):
        page.keyboard.press("ArrowRight")
        expect_picked(page, head=head)
    for go, head in ((page.go_back, 1), (page.go_back, 0), (page.go_forward, 1)):
        go()
        expect_picked(page, head=head)
    page.reload()
    settled(page)
    assert picked(page, "head") == 1


def test_an_address_opens_the_same_screen(page: "Page", address: str):
    search = (
        "?study=first&images=prediction:wrong&image=set/photo%20004.png&layer=2&head=3&metric=jsd&colour=probability"
        "&curve=grid&sort=importance&regions=6&basket=0.1,2.3&map=cls&map_as=density&map_colour=pattern&token=5"
        "&direction=from&top=12.5&theme=dark"
    )
    opened(page, address + search)
    held = page.evaluate("headscope.selection")
    assert page.get_attribute("html", "data-bs-theme") == "dark"
    page.goto(address + "/jobs")
    page.goto(address + search)
    settled(page)
    assert page.evaluate("headscope.selection") == held
    assert page.evaluate("decodeURIComponent(location.search)") == search.replace("%20", " ").replace("+", " ")


def test_any_panel_fills_the_screen_and_goes_back(page: "Page", address: str):
    opened(page, address)
    for name in PANELS:
        small = page.locator(f".panel.{name}").bounding_box()
        page.hover(f".panel.{name} h2")
        page.keyboard.press("f")
        expect_picked(page, large=name)
        large = page.locator(f".panel.{name}").bounding_box()
        assert large["width"] > 1400 and large["height"] > 800
        for graph in page.locator(f".panel.{name} .js-plotly-plot").all():
            assert graph.bounding_box()["x"] >= large["x"]
        page.keyboard.press("Escape")
        expect_picked(page, large="")
        assert page.locator(f".panel.{name}").bounding_box() == small
    page.dblclick(".panel.pruning h2")
    expect_picked(page, large="pruning")


def test_a_key_puts_the_head_in_the_basket(page: "Page", address: str):
    opened(page, address + "?study=first&layer=1&head=2")
    page.keyboard.press("b")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    expect_address(page, "basket=1.2,1.3")
    expect(page.locator(".panel.pruning")).to_contain_text("L1·H2")
    page.keyboard.press("b")
    expect_picked(page, basket="1.2")


def test_the_theme_changes_page_and_figures_is_kept_and_is_in_the_address(page: "Page", address: str):
    opened(page, address)
    colour = "document.querySelector('#head-importance-graph .js-plotly-plot')._fullLayout.font.color"
    light = page.evaluate(colour)
    page.click("#theme-toggle")
    page.wait_for_function(f"light => {colour} !== light", arg=light)
    assert page.get_attribute("html", "data-bs-theme") == "dark"
    expect_address(page, "theme=dark")
    page.goto(address)
    settled(page)
    assert page.get_attribute("html", "data-bs-theme") == "dark"
    assert page.evaluate(colour) != light


def test_no_graph_has_a_button_that_shares_it(page: "Page", address: str):
    opened(page, address)
    titles = page.eval_on_selector_all(".modebar-btn", "buttons => buttons.map(button => button.dataset.title)")
    assert not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]


def test_a_metric_is_picked_for_all_views_and_an_absent_one_cannot_be(page: "Page", address: str):
    opened(page, address)
    page.get_by_role("button", name="Patch distance").click()
    expect_address(page, "metric=patch_distance")
    expect(page.locator("#image-overview-reading")).to_contain_text("Patch distance")
    page.select_option("#study", "second")
    expect_address(page, "study=second", "metric=patch_distance")
    expect(page.get_by_role("button", name="JSD")).to_be_disabled()
    expect(page.locator("#image-card-body")).to_contain_text("the model has no classifier")


def test_random_weights_are_loud_and_what_is_left_out_is_told(page: "Page", address: str):
    opened(page, address + "?study=second")
    expect(page.locator(".top .chip.loud")).to_have_text("weights: RANDOM")
    page.click("#caveat-left-out")
    expect(page.locator(".popover")).to_contain_text("the model has no classifier")


def test_an_address_of_nothing_says_so_and_shows_the_default(page: "Page", address: str):
    opened(page, address + "?study=gone&layer=1")
    notice = page.locator("#notice")
    expect(notice).to_have_text("there is no study gone; showing first instead")
    opened(page, address + "?study=first&layer=77&image=nobody")
    expect(notice).to_contain_text("layer '77' is not in first, which has layers 0 to 2")
    page.keyboard.press("ArrowRight")
    expect(notice).to_have_text("")


def test_without_a_study_the_page_says_how_to_make_one(fresh_page: "Page", empty_address: str):
    fresh_page.goto(empty_address)
    expect(fresh_page.locator("#empty")).to_contain_text("headscope precompute")
    expect(fresh_page.locator("#stage")).to_be_hidden()
