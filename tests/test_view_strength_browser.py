"""Attention strength in a browser: heads are clicked, hops explained, and a brush over entropies makes an image set."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from dashboard.views.attention_strength import HEADS, HOPS, IMAGES
from store.settings import Settings
from store.study import open_published
from tests.browsing import needs_chromium, opened, playwright, served
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

pytestmark = needs_chromium
LAYERS, HEADS_A_LAYER = 3, 4
HEAD = "?study=first&layer=1&head=2"
PANEL = ".attention-strength"
RINGS = "#strength-rings"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    """Forty images, so that a head's entropies are a distribution."""
    folder = tmp_path_factory.mktemp("data") / "studies" / "first"
    size = {"images": 40, "labelled": 40, "unit_images": 40, "layers": LAYERS, "heads": HEADS_A_LAYER, "grid": (4, 6)}
    return open_published(write_tiny_study(folder, **size))


@pytest.fixture(scope="module")
def address(study) -> Iterator[str]:
    with served(study.path.parents[2], FakeDesk(Settings(data=study.path.parents[2]))) as address:
        yield address


def shown(page: "playwright.Page", address: str) -> "playwright.Page":
    opened(page, address)
    settled(page)
    return page


def settled(page: "playwright.Page") -> None:
    """Wait until all three graphs are drawn."""
    plots = f"[...document.querySelectorAll('{PANEL} .js-plotly-plot')]"
    drawn = f"{plots}.filter(plot => plot._fullData?.length).length === 3"
    page.wait_for_function(f"{drawn} && !document.querySelector('[data-dash-is-loading=true]')")


def drawn(page: "playwright.Page", graph: str, what: str) -> object:
    return page.evaluate(f"() => document.querySelector('#{graph} .js-plotly-plot').{what}")


def place(page: "playwright.Page", graph: str, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a graph has (x, y)."""
    script = """([graph, x, y]) => {
        const plot = document.querySelector(`#${graph} .js-plotly-plot`), layout = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        return [box.x + layout._size.l + layout.xaxis.d2p(x), box.y + layout._size.t + layout.yaxis.d2p(y)];
    }"""
    return tuple(page.evaluate(script, [graph, x, y]))


def middle_of(page: "playwright.Page", graph: str) -> float:
    """Half way up a graph's plot area."""
    low, high = drawn(page, graph, "_fullLayout.yaxis.range")
    return place(page, graph, 0, (low + high) / 2)[1]


def drag(page: "playwright.Page", x0: float, x1: float) -> None:
    """From one entropy to another over the graph over images."""
    y = middle_of(page, IMAGES)
    start, end = (place(page, IMAGES, x, 0)[0] for x in (x0, x1))
    page.mouse.move(start, y)
    page.mouse.down()
    page.mouse.move((start + end) / 2, y)
    page.mouse.move(end, y)
    page.mouse.up()


def head_at(page: "playwright.Page", rank: int) -> tuple[float, float]:
    x, y = page.evaluate(
        f"rank => {{ const {{x, y}} = document.querySelector('#{HEADS} .js-plotly-plot')._fullData[0]; "
        "return [x[rank], y[rank]]; }",
        rank,
    )
    return place(page, HEADS, x, y)


def ring(page: "playwright.Page") -> tuple[float, float]:
    box = page.locator(f"{PANEL} svg.overlay[data-graph={HEADS}] circle").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def brushed(page: "playwright.Page") -> tuple[float, float]:
    """The range that the address has of L1·H2."""
    page.wait_for_function("location.search.includes('entropy:1.2:')")
    low, high = re.search(r"entropy:1\.2:([\d.]+)\.\.([\d.]+)", page.url).groups()
    return float(low), float(high)


def test_a_click_on_a_point_selects_the_head_and_leaves_that_graph_as_it_is(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    assert ring(page) == pytest.approx(head_at(page, HEADS_A_LAYER + 2), abs=1.5)
    count = f"""() => {{ const plot = document.querySelector('#{HEADS} .js-plotly-plot'); window.draws = 0;
        plot.on('plotly_afterplot', () => window.draws++); }}"""
    page.evaluate(count)
    strength = drawn(page, HOPS, "_fullData[0].y[0]")
    x, y = head_at(page, 2 * HEADS_A_LAYER + 1)
    page.mouse.move(x - 2, y)
    page.mouse.move(x, y)
    page.wait_for_timeout(150)  # Plotly clicks what was hovered
    page.mouse.click(x, y)
    page.wait_for_function("location.search.includes('layer=2&head=1')")
    page.wait_for_function(
        f"before => document.querySelector('#{HOPS} .js-plotly-plot')._fullData[0].y[0] !== before", arg=strength
    )
    settled(page)
    assert ring(page) == pytest.approx((x, y), abs=1.5)
    assert page.evaluate("window.draws") == 0


def test_the_line_marks_the_selected_image_and_goes_with_it(page: "playwright.Page", address: str, study):
    shown(page, f"{address}/{HEAD}&image={study.image_ids[7]}")
    line = page.locator(f"svg.overlay[data-graph={IMAGES}] line[stroke='var(--accent)']")
    playwright.expect(line).to_have_count(1)
    x, _ = place(page, IMAGES, float(study.read("entropy", 7, 1, 2)), 0)
    assert line.bounding_box()["x"] == pytest.approx(x, abs=1.5)
    page.keyboard.press("Escape")
    playwright.expect(line).to_have_count(0)
    playwright.expect(page.locator("#attention-strength-reading")).to_contain_text("mean ± sd of 40 images")


def test_a_brush_makes_an_image_set_that_its_handles_change_and_a_click_ends(
    page: "playwright.Page", address: str, study
):
    entropy = study.read("entropy", slice(None), 1, 2)
    first, second, third = (float(np.quantile(entropy, share)) for share in (0.25, 0.5, 0.9))
    shown(page, f"{address}/{HEAD}&image=")
    drag(page, first, second)
    low, high = brushed(page)
    room = float(np.ptp(entropy)) / 50
    assert (low, high) == pytest.approx((first, second), abs=room)
    playwright.expect(page.locator(f"{PANEL} .handle")).to_have_count(2)
    playwright.expect(page.locator("#strength-range")).to_have_css("opacity", "1")
    among = int(((entropy >= low) & (entropy <= high)).sum())
    playwright.expect(page.locator("#attention-strength-reading")).to_contain_text(re.compile(r"of \d+ image"))
    said = page.locator("#attention-strength-reading").text_content()
    assert abs(int(re.search(r"of (\d+) image", said).group(1)) - among) <= 1, "a range is kept with four figures"
    settled(page)
    drag(page, high, third)  # its upper end
    page.wait_for_function("before => !location.search.includes(before)", arg=f"..{high:g}")
    assert brushed(page) == pytest.approx((low, third), abs=room)
    settled(page)
    page.mouse.click(*place(page, IMAGES, (low + third) / 2, 0)[:1], middle_of(page, IMAGES))
    page.wait_for_function("!location.search.includes('entropy')")
    playwright.expect(page.locator(f"{PANEL} .handle")).to_have_count(0)


def test_escape_takes_back_a_brush_under_way(page: "playwright.Page", address: str, study):
    entropy = study.read("entropy", slice(None), 1, 2)
    shown(page, f"{address}/{HEAD}&image={study.image_ids[3]}")
    y, (x0, x1) = (
        middle_of(page, IMAGES),
        (place(page, IMAGES, float(each), 0)[0] for each in np.sort(entropy)[[5, 30]]),
    )
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y)
    playwright.expect(page.locator(f"{PANEL} .handle")).to_have_count(2)
    page.keyboard.press("Escape")
    playwright.expect(page.locator(f"{PANEL} .handle")).to_have_count(0)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert "entropy" not in page.url
    assert study.image_ids[3].split("/")[-1].replace(" ", "%20") in page.url, "the image stays"


def test_the_set_is_made_with_the_keyboard_too(page: "playwright.Page", address: str, study):
    shown(page, f"{address}/{HEAD}&image=")
    low = page.get_by_role("spinbutton", name="Lowest entropy of the image set")
    low.focus()
    playwright.expect(page.locator("#strength-range")).to_have_css("opacity", "1")
    middle = f"{np.median(study.read('entropy', slice(None), 1, 2)):.3f}"
    low.fill(middle)
    low.press("Enter")
    assert brushed(page)[0] == pytest.approx(float(middle))
    settled(page)
    page.get_by_role("button", name="All entropies").press("Enter")
    page.wait_for_function("!location.search.includes('entropy')")


def test_a_bar_lights_its_ring_and_a_ring_its_bar(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    readout, bar = page.locator(f"{PANEL} .hops .readout"), page.locator(f"svg.overlay[data-graph={HOPS}] rect")
    over = page.locator(f"{RINGS} .over")
    box = page.locator(RINGS).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 6, box["y"] + box["height"] / 2)  # of 6 columns
    playwright.expect(readout).to_have_text(re.compile(r"^hop 3: [\d.]+; set [\d.]+$"))
    assert bar.bounding_box()["x"] == pytest.approx(place(page, HOPS, 2.5, 0)[0], abs=1.5)
    ring_of_three = over.get_attribute("d")
    page.mouse.move(5, 5)
    playwright.expect(readout).to_be_hidden()
    playwright.expect(over).to_have_attribute("d", "")
    x, _ = place(page, HOPS, 3, 0)
    page.mouse.move(x - 3, middle_of(page, HOPS))
    page.mouse.move(x, middle_of(page, HOPS))
    playwright.expect(readout).to_have_text(re.compile("^hop 3: "))
    playwright.expect(over).to_have_attribute("d", ring_of_three)


def test_hops_are_walked_with_the_arrow_keys_which_leave_the_head(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    slider = page.get_by_role("slider", name="Hop", exact=True)
    playwright.expect(slider).to_have_attribute("aria-valuemax", "5")  # of 4 × 6 patches
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    playwright.expect(slider).to_have_attribute("aria-valuenow", "1")
    playwright.expect(slider).to_have_attribute("aria-valuetext", re.compile("^hop 1: "))
    assert "layer=1&head=2" in page.url
    slider.blur()
    playwright.expect(page.locator(f"{PANEL} .hops .readout")).to_be_hidden()


def test_the_rings_are_every_patch_once_on_a_grid_of_any_shape(page: "playwright.Page", address: str):
    """Each patch's own middle lies in the ring of its distance to the patch that the rings are about."""
    shown(page, f"{address}/{HEAD}")
    script = f"""() => {{
        const rings = [...document.querySelectorAll('{RINGS} [data-hop]')], found = [];
        for (let row = 0; row < 4; row++) {{
            for (let column = 0; column < 6; column++) {{
                const point = new DOMPoint(column + 0.5, row + 0.5);
                const inside = rings.filter(each => each.isPointInFill(point)).map(each => Number(each.dataset.hop));
                found.push([row, column, inside]);
            }}
        }}
        return found;
    }}"""
    for row, column, inside in page.evaluate(script):
        assert inside == [max(abs(row - 2), column)]
