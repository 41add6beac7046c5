"""The image overview in a browser: what the pointer does on it, and that a selection never draws its points anew."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashboard.views.image_overview import GRAPH
from tests.browsing import (
    STILL,
    expect_address,
    needs_chromium,
    opened,
    point_of,
    served,
    settled,
)
from tests.studies import compute, tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium

IMAGES, SIDE = 100, 10  # on a lattice, so that pictures have room
MANY = 20  # classes, more than there are colours
PLOT = f"document.querySelector('#{GRAPH} .js-plotly-plot')"
OVERLAY = f"#{GRAPH} .overlay"
PICTURES = f"{OVERLAY} image"
LASSO = "#image-overview-lasso"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    for name, classes in (("few", 5), ("many", MANY)):
        tiny = tiny_study(images=IMAGES, layers=2, heads=3, classes=classes, labelled=IMAGES, unit_images=IMAGES)
        tiny.arrays["image_layout"][:] = lattice()
        compute(data / "studies" / name, tiny)
    with served(data) as at:
        yield at


def lattice() -> np.ndarray:
    return np.stack(np.divmod(np.arange(IMAGES), SIDE), axis=1).astype(np.float32)


def at(page: "Page", image: int) -> tuple[float, float]:
    x, y = lattice()[image].tolist()
    return point_of(page, GRAPH, x, y)


def count_drawings(page: "Page") -> None:
    """From when the graph has found its size on: a second without a drawing."""
    page.wait_for_load_state("networkidle")
    page.evaluate(STILL)
    page.evaluate(
        f"""() => {{
            window.drawings = 0;
            window.drawnAt = performance.now();
            {PLOT}.on("plotly_afterplot", () => {{ window.drawings++; window.drawnAt = performance.now(); }});
        }}"""
    )
    page.wait_for_function("performance.now() - window.drawnAt > 1000")
    page.evaluate("window.drawings = 0")


def zoom(page: "Page", image: int, steps: int) -> None:
    """Turn the wheel over an image, and wait until Plotly has drawn what is left."""
    page.mouse.move(*at(page, image))
    before = page.evaluate(f"{PLOT}._fullLayout.xaxis.range[0]")
    for _ in range(steps):
        page.mouse.wheel(0, -200)
    page.wait_for_function(f"before => {PLOT}._fullLayout.xaxis.range[0] > before", arg=before)
    page.wait_for_timeout(300)  # until the wheel is still


def draw_around(page: "Page", images: list[int]) -> None:
    """Drag along a square around images, a little outside of them."""
    x, y = lattice()[images].T
    corners = [
        point_of(page, GRAPH, float(left), float(top))
        for left, top in [
            (x.min() - 0.4, y.min() - 0.4),
            (x.max() + 0.4, y.min() - 0.4),
            (x.max() + 0.4, y.max() + 0.4),
            (x.min() - 0.4, y.max() + 0.4),
        ]
    ]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=10)


def in_set(page: "Page") -> set[int]:
    return set(page.evaluate(f"{PLOT}._fullData.slice(1).flatMap(trace => [...(trace.customdata ?? [])])"))


def ring(page: "Page") -> list[float]:
    """Where the ring of the selected image is, from the top left of the plot area."""
    return page.evaluate(
        f"""() => {{
            const accent = headscope.colour("--accent");
            const rings = [...document.querySelectorAll("{OVERLAY} circle")];
            const ring = rings.find(each => each.getAttribute("stroke") === accent);
            return ring && ["cx", "cy"].map(name => Number(ring.getAttribute(name)));
        }}"""
    )


def corner(page: "Page") -> tuple[float, float]:
    box: Any = page.locator(OVERLAY).bounding_box()
    return box["x"], box["y"]


def test_selecting_images_and_heads_moves_the_ring_and_draws_no_point_anew(page: "Page", address: str):
    opened(page, address + "?study=many&colour=class&image=")
    count_drawings(page)
    assert ring(page) is None
    for image in (57, 23):
        page.mouse.move(*at(page, image))
        page.mouse.click(*at(page, image))
        expect_address(page, f"image=set/photo {image:03}.png")
        settled(page)
        np.testing.assert_allclose(np.add(ring(page), corner(page)), at(page, image), atol=1.5)
        page.wait_for_timeout(400)  # or two clicks are a double click, which shows all
    for key in ("ArrowRight", "ArrowDown", "]"):
        page.keyboard.press(key)
        settled(page)
    np.testing.assert_allclose(np.add(ring(page), corner(page)), at(page, 24), atol=1.5)
    assert page.evaluate("window.drawings") == 0
    page.mouse.click(*at(page, 24))
    expect_address(page, "image=&")
    settled(page)
    assert ring(page) is None


def test_the_class_of_the_selected_image_is_coloured_among_many_without_drawing_points(page: "Page", address: str):
    opened(page, address + "?study=many&colour=class&image=")
    count_drawings(page)
    page.mouse.click(*at(page, 3))
    page.locator("#image-overview-legend button", has_text="class 3").wait_for()
    settled(page)
    path = page.locator(f"{OVERLAY} path").first
    assert path.get_attribute("d").count("M") == IMAGES // MANY
    assert page.evaluate("window.drawings") == 0


def test_a_lasso_makes_the_images_within_it_the_set_and_its_outline_stays(page: "Page", address: str):
    opened(page, address + "?study=few&image=")
    wanted = [22, 23, 24, 32, 33, 34]
    page.keyboard.down("Shift")
    draw_around(page, wanted)
    page.mouse.up()
    page.keyboard.up("Shift")
    expect_address(page, "images=lasso:pruned_probability:")
    settled(page)
    assert in_set(page) == set(wanted)
    assert page.locator("#image-overview-reading").inner_text().startswith(f"{len(wanted)} of {IMAGES} images.")
    assert page.evaluate(f"{PLOT}.layout.shapes.length") == 1
    assert page.evaluate("new URLSearchParams(location.search).get('image')") == ""
    page.get_by_role("button", name="Patch distance").click()
    expect_address(page, "metric=patch_distance")
    settled(page)
    assert in_set(page) == set(wanted)
    assert page.evaluate(f"({PLOT}.layout.shapes ?? []).length") == 0


def test_the_lasso_can_be_taken_from_its_button_and_escape_leaves_it(page: "Page", address: str):
    opened(page, address + "?study=few&image=set/photo%20055.png")
    button = page.locator(LASSO)
    before = page.evaluate(f"{PLOT}._fullLayout.xaxis.range")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    draw_around(page, [11, 22])
    page.keyboard.press("Escape")
    page.mouse.up()
    assert button.get_attribute("aria-pressed") == "false"
    settled(page)
    assert "images=lasso" not in page.url
    assert page.evaluate("headscope.index") == 55  # Escape meant the lasso, not the image
    assert page.evaluate(f"{PLOT}._fullLayout.xaxis.range") == pytest.approx(before)
    button.click()
    draw_around(page, [11, 22])
    page.mouse.up()
    expect_address(page, "images=lasso:")
    settled(page)
    assert in_set(page) == {11, 12, 21, 22}
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate(f"{PLOT}._fullLayout.xaxis.range") == pytest.approx(before)


def test_an_entry_of_the_legend_filters_and_again_releases(page: "Page", address: str):
    opened(page, address + "?study=few&colour=class&image=")
    entry = page.locator("#image-overview-legend button", has_text="class 2")
    entry.click()
    expect_address(page, "images=class:2")
    settled(page)
    assert entry.get_attribute("aria-pressed") == "true"
    assert in_set(page) == set(range(2, IMAGES, 5))
    entry.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("!location.search.includes('class:2')")
    settled(page)
    assert entry.get_attribute("aria-pressed") == "false"
    assert in_set(page) == set(range(IMAGES))
    page.locator("#image-overview-legend button", has_text="wrong").click()
    expect_address(page, "images=prediction:wrong")


def test_pictures_come_when_there_is_room_and_are_clicked_as_points_are(page: "Page", address: str):
    opened(page, address + "?study=few&image=")
    assert page.locator(PICTURES).count() == 0
    zoom(page, 44, 8)
    page.locator(PICTURES).first.wait_for(state="attached")
    addresses = page.eval_on_selector_all(PICTURES, "all => all.map(each => each.getAttribute('href'))")
    assert any(each.endswith("/thumbnail/44.webp") for each in addresses)
    x, y = at(page, 44)
    page.mouse.move(x + 11, y + 11)  # on the picture, off the point
    page.locator(".thumbnail-tooltip", has_text="set/photo 044.png").wait_for()
    page.mouse.click(x + 11, y + 11)
    expect_address(page, "image=set/photo 044.png")
    settled(page)
    page.mouse.move(x + 60, y + 30)
    page.mouse.down()
    page.mouse.move(x + 75, y + 40, steps=4)
    moved = page.locator(f"{PICTURES}[href$='/44.webp']").bounding_box()
    page.mouse.up()
    assert moved is not None
    assert moved["x"] + moved["width"] / 2 == pytest.approx(x + 15, abs=4)


def test_a_double_click_beside_the_points_shows_all_and_on_one_opens_its_card(page: "Page", address: str):
    opened(page, address + "?study=few&image=")
    whole = page.evaluate(f"{PLOT}._fullLayout.xaxis.range")
    zoom(page, 44, 2)
    left, top = point_of(page, GRAPH, 4.5, 4.5)
    page.mouse.dblclick(left, top)
    page.wait_for_function(f"whole => Math.abs({PLOT}._fullLayout.xaxis.range[0] - whole) < 1e-6", arg=whole[0])
    assert "image=&" in page.url
    page.mouse.dblclick(*at(page, 71))
    expect_address(page, "image=set/photo 071.png", "large=image-card")


def test_in_importance_another_head_recolours_the_same_points(page: "Page", address: str):
    opened(page, address + "?study=few&colour=importance&metric=jsd&layer=0&head=0&image=")
    colours = f"[...{PLOT}._fullData[1].marker.color]"
    before = page.evaluate(colours)
    x = page.evaluate(f"{PLOT}._fullData[1].x.length")
    page.keyboard.press("ArrowRight")
    expect_address(page, "head=1")
    page.wait_for_function(f"before => JSON.stringify({colours}) !== before", arg=str(before).replace(" ", ""))
    settled(page)
    assert page.evaluate(f"{PLOT}._fullData[1].x.length") == x
    shown = page.evaluate(colours)
    page.reload()
    settled(page)
    assert page.evaluate(colours) == shown
    assert "L0·H1" in page.locator("#image-overview-legend").inner_text()
