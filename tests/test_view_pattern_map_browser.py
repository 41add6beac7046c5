"""The pattern map in a browser: clicks pick head and image, the pointer tells which, zoom refines the density."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from dashboard.views import pattern_map
from store.settings import Settings
from tests.browsing import STILL, click, expect_address, needs_chromium, opened, playwright, point_of, served, settled
from tests.fake_desk import FakeDesk
from tests.studies import CLS_PATTERNS, write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium
expect = playwright.expect
IMAGES, LAYERS, HEADS = 12, 3, 4
EACH = LAYERS * HEADS
PANEL, GRAPH = ".panel.pattern-map", "pattern-map-graph"
PLOT = f"document.querySelector('#{GRAPH} .js-plotly-plot')"
MARKS = f"{PANEL} circle.mark"
START = "?study=first&image=set/photo%20003.png&layer=0&head=1"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    size = {"images": IMAGES, "layers": LAYERS, "heads": HEADS, "grid": (4, 4)}
    write_tiny_study(data / "studies" / "first", **size, labelled=IMAGES, unit_images=IMAGES)
    write_tiny_study(data / "studies" / "no-maps", maps=False)
    with served(data, desk=FakeDesk(Settings(data=data))) as address:
        yield address


def point(page: "Page", place: int) -> tuple[float, float]:
    """Where on the screen a head on an image is."""
    x, y = page.evaluate(f"place => [{PLOT}._fullData[0].x[place], {PLOT}._fullData[0].y[place]]", place)
    return point_of(page, GRAPH, x, y)


def lonely(page: "Page", image: int) -> int:
    """Place of the head on an image that is farthest from all other points: it can be hit."""
    script = f"""([image, each]) => {{
        const {{x, y}} = {PLOT}._fullData[0], every = [...x.keys()];
        const apart = (a, b) => a === b ? 9 : Math.hypot(x[a] - x[b], y[a] - y[b]);
        const room = place => Math.min(...every.map(it => apart(it, place)));
        return Array.from({{length: each}}, (_, i) => image * each + i).reduce((a, b) => room(a) > room(b) ? a : b);
    }}"""
    return page.evaluate(script, [image, EACH])


def tooltip(page: "Page", line: str):
    """A line of the tooltip that is seen."""
    return page.locator(f".thumbnail-tooltip .{line}:visible")


def ranges(page: "Page") -> list[float]:
    return page.evaluate(f"[...{PLOT}._fullLayout.xaxis.range, ...{PLOT}._fullLayout.yaxis.range]")


def zoom(page: "Page") -> None:
    box = page.locator(f"#{GRAPH}").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.2)
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"{PLOT}._fullLayout.xaxis.range[0] > 0")


def test_a_click_on_a_point_picks_head_and_image_and_again_releases_the_image(page: "Page", address: str):
    opened(page, address + START)
    place = lonely(page, 7)
    image, rank = divmod(place, EACH)
    layer, head = divmod(rank, HEADS)
    x, y = point(page, place)
    click(page, x, y)
    expect_address(page, "image=set/photo 007.png", f"layer={layer}&head={head}")
    page.wait_for_function(f"headscope.index === {image}")
    click(page, x, y)  # on its mark by now
    expect_address(page, "image=&")


def test_the_images_heads_are_marked_and_the_selected_one_is_ringed(page: "Page", address: str):
    opened(page, address + START)
    page.wait_for_function(f"document.querySelectorAll('{MARKS}').length === {EACH}")
    ring = page.locator(f"{PANEL} circle.ring").bounding_box()
    x, y = point(page, 3 * EACH + 1)
    assert ring["x"] + ring["width"] / 2 == pytest.approx(x, abs=1)
    assert ring["y"] + ring["height"] / 2 == pytest.approx(y, abs=1)
    page.locator(MARKS).nth(6).dispatch_event("click")
    expect_address(page, "image=set/photo 003.png", "layer=1&head=2")
    page.wait_for_function("headscope.selection.layer === 1")
    settled(page)
    page.locator(MARKS).nth(6).dispatch_event("click")
    expect_address(page, "image=&")
    page.wait_for_function(f"document.querySelectorAll('{MARKS}.head').length === {IMAGES}")


def test_picking_an_image_or_a_head_draws_no_point_anew(page: "Page", address: str):
    opened(page, address + START)
    page.locator(f"{PANEL} .density img.outline").wait_for(state="attached")
    page.evaluate(f"window.drawings = 0; {PLOT}.on('plotly_afterplot', () => window.drawings++)")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("ArrowRight")
    page.wait_for_function("headscope.selection.head === 2")
    page.keyboard.press("]")
    page.wait_for_function("headscope.index === 4")
    settled(page)
    x, y = point(page, 4 * EACH + 2)
    ring = f"document.querySelector('{PANEL} circle.ring').getBoundingClientRect()"
    page.wait_for_function(
        f"([x, y]) => Math.hypot({ring}.x + {ring}.width / 2 - x, {ring}.y + {ring}.height / 2 - y) < 2", arg=[x, y]
    )
    assert page.evaluate("window.drawings") == 0
    assert not [url for url in asked if "density.png" in url]


def test_the_pointer_tells_head_and_image_on_points_and_on_marks(page: "Page", address: str):
    opened(page, address + START)
    place = lonely(page, 8)
    layer, head = divmod(place % EACH, HEADS)
    x, y = point(page, place)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    expect(tooltip(page, "name")).to_contain_text(f"L{layer}·H{head} · ")
    expect(tooltip(page, "id")).to_have_text("set/photo 008.png")
    mark = page.locator(MARKS).nth(EACH - 1).bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    expect(tooltip(page, "id")).to_have_text("set/photo 003.png")
    page.mouse.move(5, 5)
    expect(tooltip(page, "id")).to_have_count(0)


def test_zoom_asks_for_the_density_of_what_is_seen_and_outlives_a_new_drawing(page: "Page", address: str):
    opened(page, address + START + "&map_as=density")
    picture = f"document.querySelector('{PANEL} .density img.density')"
    page.wait_for_function(f"{picture}?.complete")
    assert page.evaluate(f"new URL({picture}.src).searchParams.get('x0')") == "0"
    zoom(page)
    near = ranges(page)
    page.wait_for_function(f"x0 => Math.abs(new URL({picture}.src).searchParams.get('x0') - x0) < 1e-5", arg=near[0])
    box, plot = (
        page.evaluate(f"(r => [r.x, r.y, r.width, r.height])({each}.getBoundingClientRect())")
        for each in (picture, PLOT)
    )
    assert box == pytest.approx(plot, abs=1.5)
    page.locator(PANEL).get_by_role("button", name="pattern", exact=True).click()
    page.locator("#pattern-map-legend", has_text="mixed").wait_for()
    settled(page)
    assert ranges(page) == pytest.approx(near)
    page.locator(PANEL).get_by_role("button", name="CLS", exact=True).click()
    page.wait_for_function(f"{PLOT}._fullLayout.xaxis.range[0] === 0")  # another map is seen whole


def test_the_map_is_switched_and_coloured(page: "Page", address: str):
    opened(page, address + START)
    before = page.evaluate(f"{PLOT}._fullData[0].x[60]")
    page.locator(PANEL).get_by_role("button", name="CLS", exact=True).click()
    expect_address(page, "map=cls", "image=set/photo 003.png")
    page.wait_for_function(f"before => Math.abs({PLOT}._fullData[0].x[60] - before) > 1e-3", arg=before)
    page.locator(PANEL).get_by_role("button", name="pattern", exact=True).click()
    page.locator("#pattern-map-legend", has_text=CLS_PATTERNS[0]).wait_for()
    page.locator(PANEL).get_by_role("button", name="importance", exact=True).click()
    page.locator("#pattern-map-legend", has_text="drop of P(target)").wait_for()
    page.locator(PANEL).get_by_role("button", name="density", exact=True).click()
    expect_address(page, "map_as=density")
    page.wait_for_function(f"{PLOT}._fullData.length === 0")


def test_an_entry_of_the_legend_shows_its_heads_alone_while_it_is_pointed_at_or_once_it_is_clicked(
    page: "Page", address: str
):
    opened(page, address + START)
    away = f"document.querySelectorAll('{MARKS}.away').length"
    entry = page.locator("#pattern-map-legend [data-part='layer=1']")
    entry.hover()
    page.wait_for_function(f"{away} === {EACH - HEADS}")
    page.locator(f"{PANEL} .density img.part").wait_for(state="attached")
    page.mouse.move(5, 5)
    page.wait_for_function(f"{away} === 0 && !document.querySelector('{PANEL} .density img.part')")
    entry.click()
    page.mouse.move(5, 5)
    page.wait_for_function(f"{away} === {EACH - HEADS}")
    assert entry.get_attribute("aria-pressed") == "true"


def test_a_set_has_its_own_points_and_the_rest_is_an_outline(page: "Page", address: str):
    opened(page, address + START + "&images=id:photo%2000")
    assert page.evaluate(f"{PLOT}._fullData[0].x.length") == 10 * EACH
    page.locator("#pattern-map-legend", has_text="120 heads of 10 images, of 12").wait_for()
    page.locator(f"{PANEL} .density img.outline").wait_for(state="attached")
    x, y = point(page, 6 * EACH + 5)
    box = page.locator(PANEL).bounding_box()
    assert box["x"] < x < box["x"] + box["width"]
    assert box["y"] < y < box["y"] + box["height"]


def test_a_study_without_maps_says_how_to_get_them(page: "Page", address: str):
    opened(page, address + "?study=no-maps")
    page.locator("#pattern-map-absent", has_text="headscope precompute").wait_for()
    assert page.locator(MARKS).count() == 0
    assert page.locator(PANEL).get_by_role("button", name="density", exact=True).is_disabled()


def test_the_map_fills_the_stage_when_it_is_enlarged(page: "Page", address: str):
    opened(page, address + START)
    before = page.evaluate(f"{PLOT}._fullLayout.width")
    page.evaluate("headscope.gesture('large', 'pattern-map')")
    page.wait_for_function(f"before => {PLOT}._fullLayout.width > 2 * before", arg=before)
    settled(page)
    page.evaluate(STILL)
    panel, stage = page.locator(PANEL).bounding_box(), page.locator("#stage").bounding_box()
    assert panel["width"] > 0.95 * stage["width"] and panel["height"] > 0.95 * stage["height"]
    ring = page.locator(f"{PANEL} circle.ring").bounding_box()
    middle = ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2
    assert middle == pytest.approx(point(page, 3 * EACH + 1), abs=2)


def test_of_too_many_heads_the_density_is_drawn_and_the_button_of_points_says_why(
    page: "Page", address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pattern_map, "MOST_POINTS", 10 * EACH)
    points, density = (
        page.locator(PANEL).get_by_role("button", name=name, exact=True) for name in ("points", "density")
    )
    opened(page, address + START + "&images=id:photo%200")
    why = "144 heads are too many for points: up to 120"
    for _ in range(3):  # each key selects another head, and the buttons are pressed anew
        expect(points).to_be_disabled()
        expect(points).to_have_attribute("title", why)
        expect(points).to_have_attribute("aria-pressed", "false")
        expect(density).to_have_attribute("aria-pressed", "true")
        expect(density).to_be_enabled()
        page.keyboard.press("ArrowRight")
        settled(page)
    page.locator(f"{PANEL} .density img.density").wait_for(state="attached")
    opened(page, address + START + "&images=id:photo%2000")
    expect(points).to_be_enabled()
    expect(points).to_have_attribute("title", "")
    expect(points).to_have_attribute("aria-pressed", "true")
    expect(density).to_have_attribute("aria-pressed", "false")
