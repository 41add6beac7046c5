"""Importance in a browser: the line is dragged, the grid clicked, the heads sorted; no head draws a graph anew."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashboard.words import number
from store.settings import Settings
from store.study import Study, open_published
from tests.browsing import (
    NARROW,
    PATIENCE,
    SCREEN,
    expect_address,
    needs_chromium,
    opened,
    point_of,
    served,
    settled,
)
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser tests")
pytestmark = needs_chromium
expect = playwright.expect
expect.set_options(timeout=PATIENCE)

LAYERS, HEADS = 3, 4
GRAPH = "head-importance-graph"
OVERLAY = f"svg.overlay[data-graph={GRAPH}]"
LINE = f"{OVERLAY} [role=slider]"
HERE = "?study=first&metric=jsd&layer=0&head=1&image="


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("data") / "studies" / "first"
    size = {"images": 12, "layers": LAYERS, "heads": HEADS, "grid": (4, 4), "labelled": 12, "unit_images": 12}
    return open_published(write_tiny_study(folder, **size))


@pytest.fixture(scope="module")
def address(study: Study) -> Iterator[str]:
    with served(study.path.parents[2], desk=FakeDesk(Settings(data=study.path.parents[2]))) as found:
        yield found


@pytest.fixture(scope="module")
def jsd(study: Study) -> np.ndarray:
    """The mean of each head, by rank."""
    return study.read("importance", 1).astype(np.float64).mean(axis=0).ravel()


def named(rank: int) -> str:
    return f"L{rank // HEADS}·H{rank % HEADS}"


def middle_of(page: "Page", place: float) -> tuple[float, float]:
    """On the screen, a place of the x axis, half-way up."""
    x, _ = point_of(page, GRAPH, place, 0)
    box = page.locator(OVERLAY).bounding_box()
    assert box is not None
    return x, box["y"] + box["height"] / 2


def count_drawings(page: "Page") -> None:
    """From when the last drawing is over."""
    script = f"""async () => {{
        const graph = document.querySelector("#{GRAPH} .js-plotly-plot");
        const frames = async count => {{ while (count--) {{ await new Promise(requestAnimationFrame); }} }};
        graph.on("plotly_afterplot", () => {{ window.drawings += 1; }});
        do {{
            window.drawings = 0;
            await frames(10);
        }} while (window.drawings);
    }}"""
    page.evaluate(script)


def drawings(page: "Page") -> Any:
    return page.evaluate("window.drawings")


def names_shown(page: "Page") -> list[str]:
    return page.locator(f"{OVERLAY} text").all_text_contents()


def test_the_line_follows_the_pointer_and_is_let_go_at_a_head(page: "Page", address: str, jsd: np.ndarray):
    opened(page, address + HERE)
    line = page.locator(LINE)
    expect(line).to_have_attribute("aria-valuetext", f"L0·H1, {number(jsd[1])}")
    expect(line).to_have_attribute("aria-valuenow", "1")
    expect(line).to_have_attribute("aria-valuemax", "11")
    count_drawings(page)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.mouse.move(*middle_of(page, 1))
    page.mouse.down()
    for place in (2.2, 4.4, 8.6):
        page.mouse.move(*middle_of(page, place))
    expect(page.locator(f"{OVERLAY} text").first).to_have_text(f"L2·H1 {number(jsd[9])}")
    expect(line).to_have_attribute("aria-valuetext", f"L2·H1, {number(jsd[9])}")
    assert asked == []
    expect(page.locator("#head-card-label")).to_have_text("L0·H1")
    page.mouse.up()
    expect(page.locator("#head-card-label")).to_have_text("L2·H1")
    expect_address(page, "layer=2&head=1")
    settled(page)
    x, _ = middle_of(page, 9)
    box = line.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] / 2 == pytest.approx(x, abs=0.6)
    assert box["width"] == pytest.approx(13, abs=0.6)
    assert drawings(page) == 0


def test_a_line_that_is_let_go_where_it_was_changes_nothing(page: "Page", address: str):
    opened(page, address + HERE)
    before = page.url
    page.mouse.move(*middle_of(page, 1))
    page.mouse.down()
    page.mouse.move(*middle_of(page, 6))
    page.mouse.move(*middle_of(page, 1))
    page.mouse.up()
    page.mouse.move(*middle_of(page, 9))  # it is not held any more
    expect(page.locator(LINE)).to_have_attribute("aria-valuenow", "1")
    assert page.url == before


def test_a_click_anywhere_selects_the_nearest_head(page: "Page", address: str):
    opened(page, address + HERE)
    count_drawings(page)
    x, y = middle_of(page, 7.3)
    page.mouse.click(x, y - 20)
    expect(page.locator("#head-card-label")).to_have_text("L1·H3")
    expect(page.locator(LINE)).to_have_attribute("aria-valuenow", "7")
    settled(page)
    assert drawings(page) == 0


def test_an_arrow_moves_one_head_with_the_focus_on_the_line_and_without(page: "Page", address: str):
    opened(page, address + HERE)
    label = page.locator("#head-card-label")
    page.keyboard.press("ArrowRight")
    expect(label).to_have_text("L0·H2")
    page.locator(LINE).focus()
    page.keyboard.press("ArrowRight")
    expect(label).to_have_text("L0·H3")
    page.keyboard.press("ArrowDown")
    expect(label).to_have_text("L1·H3")
    settled(page)
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.keyboard.press("Home")
    expect(label).to_have_text("L0·H0")
    page.keyboard.press("End")
    expect(label).to_have_text("L2·H3")


def test_by_importance_a_place_is_the_head_of_that_rank(page: "Page", address: str, jsd: np.ndarray):
    order = [int(rank) for rank in np.argsort(-jsd)]
    opened(page, address + HERE)
    page.locator(".head-importance").get_by_role("button", name="importance", exact=True).click()
    expect_address(page, "sort=importance")
    expect(page.locator("#head-importance-reading")).to_contain_text("Strip: L0")
    expect(page.locator(f"{OVERLAY} image")).to_have_count(1)
    line, label = page.locator(LINE), page.locator("#head-card-label")
    expect(line).to_have_attribute("aria-valuenow", str(order.index(1)))
    count_drawings(page)
    for place in (0, 5, 11):
        page.mouse.click(*middle_of(page, place))
        expect(label).to_have_text(named(order[place]))
        expect(line).to_have_attribute("aria-valuenow", str(place))
        expect(line).to_have_attribute("aria-valuetext", f"{named(order[place])}, {number(jsd[order[place]])}")
    page.keyboard.press("ArrowLeft")  # the line has the focus: the next place, and nothing else
    expect(label).to_have_text(named(order[10]))
    page.keyboard.press("Home")
    expect(label).to_have_text(named(order[0]))
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowDown")
    expect(label).to_have_text(named(min(order[0] + HEADS, order[0] % HEADS + (LAYERS - 1) * HEADS)))
    settled(page)
    assert drawings(page) == 0


def test_the_most_important_heads_are_named_and_no_name_covers_another(page: "Page", address: str, jsd: np.ndarray):
    best = [int(rank) for rank in np.argsort(-jsd)]
    for sort in ("model", "importance"):
        for size in (SCREEN, NARROW):
            page.set_viewport_size(size)
            opened(page, f"{address}{HERE}&sort={sort}")
            said, *others = names_shown(page)
            assert said == f"L0·H1 {number(jsd[1])}"
            assert set(others) <= {named(rank) for rank in best[:5]} - {"L0·H1"}
            assert named(next(rank for rank in best if rank != 1)) in others
            boxes = page.locator(f"{OVERLAY} text").evaluate_all(
                "all => all.map(each => each.getBBox()).map(({x, y, width, height}) => [x, y, width, height])"
            )
            for index, (x, y, width, height) in enumerate(boxes):
                for left, top, wide, tall in boxes[index + 1 :]:
                    apart_x = max(x, left) >= min(x + width, left + wide) - 1
                    apart_y = max(y, top) >= min(y + height, top + tall) - 4  # a line's height, not its letters'
                    assert apart_x or apart_y


def test_of_the_pruned_probability_the_lowest_are_named(page: "Page", address: str, study: Study):
    left = study.read("pruned_probability").astype(np.float64).mean(axis=0).ravel()
    opened(page, address + HERE.replace("jsd", "probability"))
    lowest = {named(int(rank)) for rank in np.argsort(left)[:5]}
    said, *others = names_shown(page)
    assert said == f"L0·H1 {number(left[1])}"
    assert others
    assert set(others) <= lowest


def test_the_grid_is_clicked_and_its_selected_cell_outlined(page: "Page", address: str, study: Study):
    opened(page, address + HERE)
    page.locator(".head-importance").get_by_role("button", name="grid", exact=True).click()
    expect_address(page, "curve=grid")
    outline = page.locator(f"{OVERLAY} [role=img]")
    expect(outline).to_have_attribute("aria-label", f"L0·H1, {number(study.read('importance', 1)[:, 0, 1].mean())}")
    settled(page)
    count_drawings(page)
    box = page.locator(OVERLAY).bounding_box()
    assert box is not None
    for layer, head in ((2, 0), (0, 3), (1, 2)):
        x = box["x"] + box["width"] * (layer + 0.5) / LAYERS
        y = box["y"] + box["height"] * (head + 0.5) / HEADS
        page.mouse.click(x, y)
        expect(page.locator("#head-card-label")).to_have_text(f"L{layer}·H{head}")
        settled(page)
        there = outline.bounding_box()
        assert there is not None
        assert there["x"] + there["width"] / 2 == pytest.approx(x, abs=1)
        assert there["y"] + there["height"] / 2 == pytest.approx(y, abs=1)
    assert drawings(page) == 0
    expect(page.locator(".head-importance .sort")).to_be_hidden()


def test_the_pointer_is_told_the_heads_name_and_values_in_words(page: "Page", address: str, study: Study):
    opened(page, address + HERE + study.image_ids[4])
    page.mouse.move(*middle_of(page, 6))
    page.mouse.move(*middle_of(page, 6.2))
    values = study.read("importance", 1).astype(np.float64)[:, 1, 2]
    said = f"L1·H2 · this image: {number(values[4])}; mean of the set {number(values.mean())} ± {number(values.std())}"
    expect(page.locator(f"#{GRAPH} .hoverlayer")).to_contain_text(said)


def test_another_metric_or_image_draws_the_curve_and_the_line_stays_at_its_head(page: "Page", address: str):
    opened(page, address + HERE)
    count_drawings(page)
    page.locator(".head-importance").get_by_role("button", name="Patch distance").click()
    expect_address(page, "metric=patch_distance")
    expect(page.locator("#head-importance-reading")).to_contain_text("for patches")
    settled(page)
    assert drawings(page) > 0
    expect(page.locator(LINE)).to_have_attribute("aria-valuenow", "1")
    page.keyboard.press("]")
    expect(page.locator("#head-importance-reading")).to_contain_text("Faint: mean")


def test_a_head_is_put_into_the_basket_and_taken_out(page: "Page", address: str):
    opened(page, address + HERE)
    button = page.locator("#head-card-basket")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_have_text("in basket")
    expect_address(page, "basket=0.1")
    page.keyboard.press("ArrowRight")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("ArrowLeft")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")


def test_the_card_of_the_head_needs_no_scrolling(page: "Page", address: str, study: Study):
    opened(page, address + HERE + study.image_ids[0])
    for size in (SCREEN, NARROW, {"width": 2200, "height": 1200}):
        page.set_viewport_size(size)
        card = page.locator(".head-card .head-facts")
        assert card.evaluate("each => each.scrollHeight <= each.clientHeight"), size
        assert card.evaluate("each => each.scrollWidth <= each.clientWidth"), size
        assert page.locator("#head-card-table tbody tr").count() == 7
