"""The page in a browser: what is picked in one view is picked in all; nothing is asked of another server."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from dashboard.app import create_app
from dashboard.views.pattern_map import DENSITY, HEADS, OWN, RING
from store.settings import Settings
from tests.studies import CLS_PATTERNS, write_tiny_study

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser tests")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install Debian's package chromium, or set CHROMIUM to its path"
)

# WebGL, which the image overview draws with, has no GPU here.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
FLAGS += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SCREEN = {"width": 1440, "height": 900}
IMAGES, LAYERS, HEADS_A_LAYER, ROWS, COLUMNS = 12, 3, 4, 4, 4


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    size = {"images": IMAGES, "layers": LAYERS, "heads": HEADS_A_LAYER, "grid": (ROWS, COLUMNS)}
    write_tiny_study(data / "studies" / "first", **size, labelled=IMAGES, unit_images=IMAGES)
    write_tiny_study(data / "studies" / "second", images=2, labelled=0, classes=0)
    yield from served(data)


@pytest.fixture(scope="module")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from served(tmp_path_factory.mktemp("nothing"))


def served(data: Path) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, create_app(Settings(data=data)).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def context() -> Iterator["playwright.BrowserContext"]:
    """One browser with one cache: Plotly's script is large."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        shared = browser.new_context(viewport=SCREEN, color_scheme="light")
        shared.set_default_timeout(15_000)
        yield shared
        browser.close()


@pytest.fixture
def page(context: "playwright.BrowserContext") -> Iterator["playwright.Page"]:
    """A page that may talk to its own server only; afterwards nothing may have gone wrong on it."""
    opened, wrong, asked = context.new_page(), [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield opened
    own = "/".join(opened.url.split("/")[:3])
    opened.evaluate("localStorage.clear()")
    opened.close()
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    assert wrong == []


def settled(page: "playwright.Page") -> None:
    """Wait until every view has drawn."""
    playwright.expect(page.locator("#head-card-table table")).to_be_visible(timeout=15_000)
    graphs = "[...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot._fullLayout)"
    page.wait_for_function(f"{graphs}.length === 4 && !document.querySelector('[data-dash-is-loading=true]')")


def opened(page: "playwright.Page", address: str) -> "playwright.Page":
    page.goto(address)
    settled(page)
    return page


def expect_address(page: "playwright.Page", *parts: str) -> None:
    for part in parts:
        page.wait_for_function("part => location.search.includes(part)", arg=part)


def drawn(page: "playwright.Page", graph: str, what: str) -> object:
    """Something of a graph's figure as Plotly has drawn it."""
    return page.evaluate(f"() => document.querySelector('#{graph} .js-plotly-plot').{what}")


def point_of(page: "playwright.Page", graph: str, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a graph has its point (x, y)."""
    script = """([graph, x, y]) => {
        const plot = document.querySelector(`#${graph} .js-plotly-plot`), layout = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        return [box.x + layout._size.l + layout.xaxis.d2p(x), box.y + layout._size.t + layout.yaxis.d2p(y)];
    }"""
    return tuple(page.evaluate(script, [graph, x, y]))


def image_point(page: "playwright.Page", image: int) -> tuple[float, float]:
    traces = "document.querySelector('#image-overview-graph .js-plotly-plot')._fullData"
    has_it = f"{traces}.find(trace => isFinite(trace.x[image]))"
    x, y = page.evaluate(f"image => {{ const own = {has_it}; return [own.x[image], own.y[image]]; }}", image)
    return point_of(page, "image-overview-graph", x, y)


def click(page: "playwright.Page", x: float, y: float) -> None:
    """Click as a hand does: Plotly clicks what was hovered for a moment, on a figure that is drawn."""
    settled(page)
    page.mouse.move(x, y)
    page.wait_for_timeout(150)
    page.mouse.click(x, y)


def test_the_first_page_is_never_empty_and_fits_the_screen(page: "playwright.Page", address: str):
    opened(page, address)
    expect_address(page, "study=first", "image=set/photo", "layer=", "head=")
    assert page.locator("#image-card-body img").count() == 1
    assert page.evaluate("document.querySelector('#attention-matrix .paint').width > 100")
    for size in (SCREEN, {"width": 1280, "height": 720}):
        page.set_viewport_size(size)
        root = "document.documentElement"
        assert page.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]") == [size["width"], size["height"]]


def test_a_click_on_a_point_selects_its_image_everywhere_and_again_releases_it(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&image=")
    click(page, *image_point(page, 7))
    expect_address(page, "image=set/photo%20007.png")
    playwright.expect(page.locator("#image-card-reading")).to_have_text("set/photo 007.png")
    playwright.expect(page.locator("#head-importance-reading")).to_contain_text("Faint: mean")
    playwright.expect(page.locator("#head-grid-reading")).to_have_text("This image.")
    settled(page)
    assert page.get_attribute("#attention-masks .picture img", "src").endswith("/image/7.png")
    click(page, *image_point(page, 7))
    expect_address(page, "image=&")
    playwright.expect(page.locator("#head-grid-reading")).to_have_text(f"Mean of {IMAGES} images.")


def test_a_click_on_curve_or_map_selects_the_head_everywhere(page: "playwright.Page", address: str):
    opened(page, address)
    x, y = point_of(page, "head-importance-graph", 7, 0)
    click(page, x, y - 40)
    playwright.expect(page.locator("#head-card-label")).to_have_text("L1·H3")
    click(page, *point_of(page, "head-grid-graph", 0, 2))
    playwright.expect(page.locator("#head-card-label")).to_have_text("L2·H0")
    playwright.expect(page.locator("#attention-label")).to_have_text("L2·H0")
    expect_address(page, "layer=2&head=0")
    settled(page)
    assert drawn(page, "head-importance-graph", "layout.annotations[0].text").startswith("<b>L2·H0</b>")


def map_point(page: "playwright.Page", trace: int, index: int) -> tuple[float, float]:
    own = f"document.querySelector('#pattern-map-graph .js-plotly-plot')._fullData[{trace}]"
    x, y = page.evaluate(f"index => [{own}.x[index], {own}.y[index]]", index)
    return point_of(page, "pattern-map-graph", x, y)


def test_the_map_of_patterns_selects_head_and_image_and_is_switched(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&image=&layer=0&head=0")
    click(page, *map_point(page, HEADS, 5 * LAYERS * HEADS_A_LAYER + HEADS_A_LAYER + 2))
    expect_address(page, "image=set/photo%20005.png", "layer=1&head=2", "map=patch")
    playwright.expect(page.locator("#head-card-label")).to_have_text("L1·H2")
    settled(page)
    x, y = map_point(page, RING, 0)
    assert (x, y) == map_point(page, OWN, HEADS_A_LAYER + 2)
    page.locator("#pattern-map-graph").hover()  # away from the point, so that Plotly sees it entered again
    page.mouse.move(*map_point(page, OWN, 0))
    tooltip = page.locator(".thumbnail-tooltip .name", has_text="L0·H0 · ")
    playwright.expect(tooltip).to_be_visible()
    page.locator(".pattern-map").get_by_role("button", name="CLS", exact=True).click()
    expect_address(page, "map=cls", "image=set/photo%20005.png", "layer=1&head=2")
    settled(page)
    assert map_point(page, RING, 0) == map_point(page, OWN, HEADS_A_LAYER + 2) != (x, y)
    page.get_by_role("button", name="pattern", exact=True).click()
    playwright.expect(page.locator("#pattern-map-legend")).to_contain_text(CLS_PATTERNS[0])
    page.select_option("#study", "second")
    expect_address(page, "study=second", "map=cls", "map_colour=pattern")


def test_the_density_follows_the_zoom(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&map_colour=density")
    cell = f"_fullData[{DENSITY}].dx"
    before = drawn(page, "pattern-map-graph", cell)
    box = page.locator("#pattern-map-graph").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    plot = "document.querySelector('#pattern-map-graph .js-plotly-plot')"
    page.wait_for_function(f"before => {plot}.{cell} < 0.95 * before", arg=before)
    left, right = drawn(page, "pattern-map-graph", "_fullLayout.xaxis.range")
    near = drawn(page, "pattern-map-graph", cell)
    columns = drawn(page, "pattern-map-graph", f"_fullData[{DENSITY}].z[0].length")
    assert near * columns == pytest.approx(right - left, rel=1e-3)
    page.keyboard.press("ArrowRight")  # only the ring moves
    settled(page)
    assert drawn(page, "pattern-map-graph", cell) == near
    page.click("#theme-toggle")  # drawn anew, where it was
    page.wait_for_function(f"{plot}._fullLayout.font.color !== '#1b2026'")
    assert drawn(page, "pattern-map-graph", cell) == pytest.approx(near)
    assert drawn(page, "pattern-map-graph", "_fullLayout.xaxis.range") == pytest.approx([left, right])


def test_keys_move_head_and_image_and_none_is_lost(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&layer=0&head=0&image=")
    for key in ["ArrowRight"] * 6 + ["ArrowDown"]:
        page.keyboard.press(key)
    playwright.expect(page.locator("#head-card-label")).to_have_text("L2·H2")
    page.keyboard.press("]")
    playwright.expect(page.locator("#image-card-reading")).to_have_text("set/photo 000.png")
    page.keyboard.press("[")
    playwright.expect(page.locator("#image-card-reading")).to_have_text(f"set/photo {IMAGES - 1:03}.png")
    page.keyboard.press("Escape")
    expect_address(page, "image=&")
    page.keyboard.press("/")
    page.keyboard.type("004")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#image-card-reading")).to_have_text("set/photo 004.png")
    expect_address(page, "layer=2&head=2")


def test_back_and_forward_walk_through_what_was_picked(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&layer=0&head=0")
    label = page.locator("#head-card-label")
    for name in ("L0·H1", "L0·H2"):
        page.keyboard.press("ArrowRight")
        playwright.expect(label).to_have_text(name)
    for go, name in ((page.go_back, "L0·H1"), (page.go_back, "L0·H0"), (page.go_forward, "L0·H1")):
        go()
        playwright.expect(label).to_have_text(name)
    page.reload()
    playwright.expect(label).to_have_text("L0·H1")


def test_following_the_pointer_asks_the_server_for_nothing(page: "playwright.Page", address: str):
    opened(page, address + "?study=first&layer=1&head=1")
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    mask = "document.querySelector('#attention-masks .target canvas').toDataURL()"
    before = page.evaluate(mask)
    frame = page.locator("#attention-masks .picture .frame").bounding_box()

    def over(row: int, column: int) -> tuple[float, float]:
        return (
            frame["x"] + frame["width"] * (column + 0.5) / COLUMNS,
            frame["y"] + frame["height"] * (row + 0.5) / ROWS,
        )

    page.mouse.move(*over(0, 0))
    page.mouse.move(*over(2, 1))
    caption = page.locator("#attention-masks .picture figcaption")
    playwright.expect(caption).to_contain_text("patch (2, 1)")
    assert page.evaluate(mask) != before
    assert asked == []
    page.mouse.click(*over(2, 1))
    expect_address(page, f"token={1 + 2 * COLUMNS + 1}")
    page.mouse.move(5, 5)
    playwright.expect(caption).to_contain_text("pinned")
    page.locator("#attention-tokens").get_by_role("button", name="CLS", exact=True).click()
    playwright.expect(caption).to_contain_text("CLS")
    expect_address(page, "colour=class")
    assert "token" not in page.url


def test_the_theme_changes_page_and_figures_and_is_kept(page: "playwright.Page", address: str):
    opened(page, address)
    lines = "_fullLayout.font.color"
    light = drawn(page, "head-importance-graph", lines)
    page.click("#theme-toggle")
    page.wait_for_function(
        f"light => document.querySelector('#head-importance-graph .js-plotly-plot').{lines} !== light",
        arg=light,
    )
    assert page.get_attribute("html", "data-bs-theme") == "dark"
    page.reload()
    settled(page)
    assert page.get_attribute("html", "data-bs-theme") == "dark"
    assert drawn(page, "head-importance-graph", lines) != light


def test_no_graph_has_a_button_that_shares_it(page: "playwright.Page", address: str):
    opened(page, address)
    page.hover("#image-overview-graph")
    titles = page.eval_on_selector_all(".modebar-btn", "buttons => buttons.map(button => button.dataset.title)")
    assert titles
    assert not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]


def test_a_metric_is_picked_for_all_views_and_an_absent_one_cannot_be(page: "playwright.Page", address: str):
    opened(page, address)
    page.get_by_role("button", name="Patch distance").click()
    expect_address(page, "metric=patch_distance")
    playwright.expect(page.locator("#image-overview-reading")).to_contain_text("Patch distance")
    page.select_option("#study", "second")
    expect_address(page, "study=second", "metric=patch_distance")
    playwright.expect(page.get_by_role("button", name="JSD")).to_be_disabled()
    playwright.expect(page.locator("#image-card-body")).to_contain_text("the model has no classifier")


def test_random_weights_are_loud_and_what_is_left_out_is_told(page: "playwright.Page", address: str):
    opened(page, address + "?study=second")
    playwright.expect(page.locator(".chip.loud")).to_have_text("weights: RANDOM")
    page.click("#caveat-left-out")
    playwright.expect(page.locator(".popover")).to_contain_text("the model has no classifier")


def test_an_address_of_nothing_says_so_and_shows_the_default(page: "playwright.Page", address: str):
    opened(page, address + "?study=gone&layer=1")
    notice = page.locator("#notice")
    playwright.expect(notice).to_have_text("there is no study gone; showing first instead")
    opened(page, address + "?study=first&layer=77&image=nobody")
    playwright.expect(notice).to_contain_text("layer '77' is not in first, which has layers 0 to 2")
    page.keyboard.press("ArrowRight")
    playwright.expect(notice).to_have_text("")


def test_without_a_study_the_page_says_how_to_make_one(page: "playwright.Page", empty_address: str):
    page.goto(empty_address)
    playwright.expect(page.locator("#empty")).to_contain_text("headscope precompute")
    playwright.expect(page.locator("#stage")).to_be_hidden()
