"""The attention of one head in a browser: masks, two axes, matrix and histogram follow pointer, keys and threshold."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from store.settings import Settings
from store.study import Study, open_published
from tests.browsing import needs_chromium, opened, playwright, served
from tests.fake_desk import FakeDesk
from tests.studies import compute, tiny_study

pytestmark = needs_chromium
ROWS, COLUMNS = 4, 6
TOKENS = 1 + ROWS * COLUMNS
HEAD = "?study=first&image=set/photo%20000.png&layer=1&head=1&top=10"
LINES, MATRIX = "#two-axes .base", "#attention-matrix .base"
LIT, CROSS = "#two-axes .lit", "#attention-matrix .lit"
PICTURE, SOURCE, TARGET = (f"#attention-masks .{kind} canvas" for kind in ("picture", "source", "target"))
READOUT = "#attention-readout"
ACCENT = (214, 24, 108)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """With one head of one image that is not finite."""
    folder = tmp_path_factory.mktemp("data") / "studies" / "first"
    tiny = tiny_study(images=4, labelled=4, unit_images=4, layers=2, heads=3, grid=(ROWS, COLUMNS))
    tiny.arrays["attention"][1, 0, 0] = np.nan
    compute(folder, tiny)
    return open_published(folder)


@pytest.fixture(scope="module")
def address(study: Study) -> Iterator[str]:
    compute(study.path.parents[1] / "mean", tiny_study(has_cls=False, prefix=1, images=2))
    with served(Path(study).parents[2], FakeDesk(Settings(data=Path(study).parents[2]))) as address:
        yield address


def shown(page: "playwright.Page", address: str) -> "playwright.Page":
    opened(page, address)
    settled(page)
    return page


def settled(page: "playwright.Page") -> None:
    """Wait until the head's attention is there, and painted."""
    page.wait_for_function(
        "document.querySelector('#attention-masks .target b')?.textContent"
        " && headscope.drawn() && !document.querySelector('.head-attention.working')"
    )


def ink(page: "playwright.Page", canvas: str, colour: tuple[int, int, int] | None = None) -> int:
    """How many pixels of a canvas are painted, or are of that colour, once the next frame is painted."""
    script = """([canvas, colour]) => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
        const {width, height} = document.querySelector(canvas);
        const {data} = document.querySelector(canvas).getContext("2d").getImageData(0, 0, width, height);
        let found = 0;
        for (let at = 0; at < data.length; at += 4) {
            found += data[at + 3] > 0 && (!colour || colour.every((part, of) => Math.abs(part - data[at + of]) < 3));
        }
        done(found);
    })))"""
    return page.evaluate(script, [canvas, colour])


def looks(page: "playwright.Page", canvas: str) -> str:
    ink(page, canvas)
    return page.evaluate(f"document.querySelector('{canvas}').toDataURL()")


def over(page: "playwright.Page", element: str, x: float, y: float) -> None:
    """Move the pointer to a place in an element, in shares of its sides."""
    box = page.locator(element).bounding_box()
    page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)


def over_patch(page: "playwright.Page", row: int, column: int, kind: str = "picture") -> None:
    over(page, f"#attention-masks .{kind} .frame", (column + 0.5) / COLUMNS, (row + 0.5) / ROWS)


def over_cell(page: "playwright.Page", query: int, key: int) -> None:
    """The pointer on a cell of the matrix, whose places attention_paint.js gives."""
    size = page.locator(MATRIX).bounding_box()["width"]
    place = f"headAttention.along({{first: 1, tokens: {TOKENS}}}, {size}).centre"
    over(page, "#attention-matrix", *(page.evaluate(f"{place}({token})") / size for token in (key, query)))


def over_token(page: "playwright.Page", token: int, axis: str) -> None:
    size = page.locator(LINES).bounding_box()["width"]
    centre = page.evaluate(f"headAttention.along({{first: 1, tokens: {TOKENS}}}, {size}).centre({token})")
    over(page, "#two-axes", centre / size, 0.02 if axis == "source" else 0.98)


def token(row: int, column: int) -> int:
    return 1 + row * COLUMNS + column


def requests_of(page: "playwright.Page") -> list[str]:
    """Which numbers or drawings the page asks the server for from now on; pictures of other views may come late."""
    asked: list[str] = []
    numbers = re.compile("_dash-update-component|/attention/")
    page.on("request", lambda request: asked.append(request.url) if numbers.search(request.url) else None)
    return asked


def threshold(page: "playwright.Page") -> "playwright.Locator":
    return page.get_by_role("slider", name="Least attention that is shown")


def shown_cells(page: "playwright.Page") -> int:
    return int(page.inner_text(READOUT).split(" of ")[0].replace(",", ""))


def stored(study: Study) -> np.ndarray:
    return study.attention(0, 1, 1).astype(np.float16)


# --- what it is painted on ---


def test_canvases_are_as_large_as_their_place_whatever_the_window(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    fit = """() => [...document.querySelectorAll("#head-attention-views canvas")].map(
        each => [each.width, each.height, each.clientWidth, each.clientHeight])"""
    for size in ({"width": 1440, "height": 900}, {"width": 1700, "height": 1000}):
        page.set_viewport_size(size)
        assert ink(page, LINES) > 0
        found = page.evaluate(fit)
        assert len(found) == 8
        assert all((width, height) == (across, down) for width, height, across, down in found)
        assert all(ink(page, each) > 0 for each in (MATRIX, "#attention-histogram canvas", TARGET))


def test_what_can_be_moved_with_keys_is_named_and_in_order(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    names = page.eval_on_selector_all(
        "#head-attention-views :is([role=slider], input)", "all => all.map(each => [each.ariaLabel, each.tabIndex])"
    )
    assert names == [
        ["Patch of the image", 0],
        ["Source token", 0],
        ["Target token", 0],
        ["Least attention that is shown", 0],
        ["Share of all values that is shown, per cent", 0],
        ["Least attention that is shown", 0],
    ]


# --- the threshold ---


def test_dragging_the_threshold_repaints_everything_and_the_address_keeps_it(
    page: "playwright.Page", address: str, study: Study
):
    shown(page, f"{address}/{HEAD}")
    assert shown_cells(page) == int(0.1 * TOKENS**2 + 0.5)
    lines, cells, label = ink(page, LINES), ink(page, MATRIX), threshold(page).get_attribute("aria-valuetext")
    assert re.fullmatch(r"≥ 0\.\d+ · top 10\.\d %", label)
    asked = requests_of(page)
    handle = threshold(page).bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 20)
    page.mouse.down()
    page.mouse.move(handle["x"] - 40, handle["y"] + 20, steps=4)
    assert ink(page, LINES) > lines
    assert ink(page, MATRIX) > cells
    assert asked == []
    page.mouse.up()
    page.wait_for_function("!location.search.includes('top=10&') && /top=[0-9.]+/.test(location.search)")
    settled(page)
    page.mouse.move(5, 5)
    top = float(re.search(r"top=([0-9.]+)", page.url)[1])
    drawn = stored(study)
    least = np.sort(drawn, axis=None)[-int(top / 100 * drawn.size + 0.5)]
    playwright.expect(page.locator(READOUT)).to_have_text(f"{(drawn >= least).sum()} of {drawn.size} are shown")
    page.keyboard.press("ArrowLeft")  # it goes along from head to head
    page.wait_for_function("location.search.includes('head=0')")
    settled(page)
    assert f"top={top:g}" in page.url
    playwright.expect(page.locator("[name=top]")).to_have_value(re.compile(rf"^{top:.0f}"))


def test_the_threshold_is_moved_with_keys_and_typed(page: "playwright.Page", address: str, study: Study):
    shown(page, f"{address}/{HEAD}")
    before = shown_cells(page)
    threshold(page).focus()
    page.keyboard.press("ArrowRight")  # to stronger attention: less is shown
    page.wait_for_function("location.search.includes('top=9.091')")
    assert shown_cells(page) < before
    assert "head=1" in page.url
    page.keyboard.press("Home")
    playwright.expect(page.locator(READOUT)).to_contain_text(f"{TOKENS**2} of {TOKENS**2}")
    assert float(threshold(page).get_attribute("aria-valuenow")) == pytest.approx(
        float(threshold(page).get_attribute("aria-valuemin"))
    )
    page.fill("[name=top]", "20")
    page.press("[name=top]", "Enter")
    page.wait_for_function("location.search.includes('top=20')")
    assert shown_cells(page) == round(0.2 * TOKENS**2)
    strong = float(np.sort(stored(study), axis=None)[-30])
    page.fill("[name=least]", f"{strong:.6f}")
    page.press("[name=least]", "Enter")
    playwright.expect(page.locator(READOUT)).to_have_text(re.compile(r"^(29|30|31) of"))
    page.fill("[name=least]", "much")
    page.press("[name=least]", "Enter")
    playwright.expect(page.locator("[name=least]")).to_have_value(re.compile(r"^0\.\d+$"))


# --- the pointer ---


def test_a_token_of_an_axis_lights_its_lines_and_both_masks_without_a_request(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    page.wait_for_load_state("networkidle")
    asked = requests_of(page)
    masks = looks(page, SOURCE), looks(page, TARGET)
    assert ink(page, LIT, ACCENT) == 0
    over_token(page, token(1, 2), "source")
    playwright.expect(page.locator(READOUT)).to_have_text(
        re.compile(r"^patch \(1, 2\): \d+ lines? from it · \d+\s% to CLS")
    )
    assert ink(page, LIT, ACCENT) > 0
    playwright.expect(page.locator("#two-axes")).to_have_class(re.compile("faded"))
    from_it = looks(page, SOURCE), looks(page, TARGET)
    assert all(now != before for now, before in zip(from_it, masks, strict=True))
    over_token(page, token(3, 0), "target")
    playwright.expect(page.locator(READOUT)).to_have_text(re.compile(r"^patch \(3, 0\): \d+ lines? to it$"))
    over(page, "#two-axes", 0.5, 0.5)
    playwright.expect(page.locator("#two-axes")).not_to_have_class(re.compile("faded"))
    assert (looks(page, SOURCE), looks(page, TARGET)) == masks
    assert asked == []


def test_a_click_on_a_token_pins_it_and_the_same_again_releases_it(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    over_token(page, token(2, 3), "target")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(f"location.search.includes('token={token(2, 3)}&direction=to')")
    page.mouse.move(5, 5)
    playwright.expect(page.locator(READOUT)).to_contain_text("patch (2, 3)")
    page.keyboard.press("ArrowLeft")  # the next head, of the same token
    page.wait_for_function("location.search.includes('head=0')")
    settled(page)
    playwright.expect(page.locator(READOUT)).to_contain_text("patch (2, 3)")
    over_token(page, token(2, 3), "target")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("!location.search.includes('token=')")


def test_a_patch_of_any_image_shows_where_it_looks_and_who_looks_at_it(
    page: "playwright.Page", address: str, study: Study
):
    shown(page, f"{address}/{HEAD}")
    page.wait_for_load_state("networkidle")
    asked = requests_of(page)
    attn = study.attention(0, 1, 1)
    for kind in ("picture", "source", "target"):
        over_patch(page, 2, 1, kind)
        playwright.expect(page.locator("#attention-masks .picture b")).to_have_text("patch (2, 1)")
        playwright.expect(page.locator("#attention-masks .source b")).to_have_text("all → (2, 1)")
        here = token(2, 1)
        strongest = [float(page.inner_text(f"#attention-masks .{side} span")) for side in ("source", "target")]
        assert strongest == pytest.approx([attn[1:, here].max(), attn[here, 1:].max()], rel=1e-2)
        assert all(ink(page, canvas, ACCENT) > 0 for canvas in (PICTURE, SOURCE, TARGET, LIT, CROSS))
        page.mouse.move(5, 5)
        playwright.expect(page.locator("#attention-masks .picture b")).to_have_text("CLS")
    assert asked == []


def test_a_cell_lights_both_patches_and_the_line_and_says_its_value(
    page: "playwright.Page", address: str, study: Study
):
    shown(page, f"{address}/{HEAD}")
    query, key = token(3, 4), token(0, 5)
    over_cell(page, query, key)
    readout = page.locator(READOUT)
    playwright.expect(readout).to_have_text(re.compile(r"^patch \(3, 4\) → patch \(0, 5\): "))
    said = readout.inner_text().split(": ")[1].replace("\u2212", "-")
    assert float(said) == pytest.approx(float(stored(study)[query, key]), rel=0.05)
    assert ink(page, LIT, ACCENT) > 100  # the line, from axis to axis
    both = ink(page, PICTURE, ACCENT)
    assert ink(page, PICTURE, (255, 255, 255)) > 0  # the key's dashes, on white
    over_cell(page, query, query)
    playwright.expect(readout).to_contain_text("patch (3, 4) → patch (3, 4)")
    assert 0 < ink(page, PICTURE, ACCENT) < both
    over_cell(page, 0, token(1, 1))
    playwright.expect(readout).to_have_text(re.compile(r"^CLS → patch \(1, 1\): "))


def test_tokens_are_picked_with_keys_which_leave_the_head(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    for name, keys, readout, pinned in (
        (
            "Source token",
            ["ArrowRight", "ArrowRight"],
            r"^patch \(0, 1\): \d+ lines? from it",
            "token=2&direction=from",
        ),
        ("Patch of the image", ["ArrowDown", "ArrowLeft"], r"^patch \(1, 0\): \d+ lines? ·", "token=7"),
    ):
        slider = page.get_by_role("slider", name=name, exact=True)
        slider.focus()
        for key in keys:
            page.keyboard.press(key)
        playwright.expect(page.locator(READOUT)).to_have_text(re.compile(readout))
        playwright.expect(slider).to_have_attribute("aria-valuetext", re.compile("^patch"))
        page.keyboard.press("Enter")
        page.wait_for_function(f"location.search.includes('{pinned}')")
    assert "layer=1&head=1" in page.url
    page.locator("#attention-tokens").get_by_role("button", name="CLS", exact=True).click()
    page.wait_for_function("!location.search.includes('token=')")


# --- what comes from the server ---


def test_a_late_answer_of_an_old_selection_is_dropped_and_a_head_is_fetched_once(page: "playwright.Page", address: str):
    shown(page, f"{address}/{HEAD}")
    asked = requests_of(page)
    held: list[playwright.Route] = []
    page.route("**/attention/0/1/2.f16", lambda route: held.append(route))
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.search.includes('head=2')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("location.search.includes('head=1')")
    settled(page)
    before = looks(page, MATRIX)
    for route in held:
        route.continue_()
    page.wait_for_timeout(300)
    assert looks(page, MATRIX) == before
    page.unroute("**/attention/0/1/2.f16")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.search.includes('head=2')")
    settled(page)
    assert looks(page, MATRIX) != before
    assert not [url for url in asked if url.endswith("/1/1.f16")]  # it was in memory


def test_attention_that_is_not_finite_is_said_in_the_panel(browser: "playwright.Browser", address: str):
    page = browser.new_page()  # whose console tells the 404
    page.goto(f"{address}/?study=first&image=set/photo%20001.png&layer=0&head=0")
    said = page.locator("#head-attention-said")
    playwright.expect(said).to_contain_text("L0·H0 on set/photo 001.png is not finite")
    playwright.expect(page.locator("#two-axes")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    playwright.expect(said).to_have_text("")
    playwright.expect(page.locator("#two-axes")).to_be_visible()
    page.close()


def test_without_an_image_one_is_picked_from_those_on_which_the_head_matters(page: "playwright.Page", address: str):
    page.goto(f"{address}/?study=first&image=&layer=1&head=1&images=class:0,2")
    suggested = page.locator("#attention-suggested button")
    playwright.expect(suggested).to_have_count(2)
    playwright.expect(page.locator("#head-attention-reading")).to_contain_text("Pick an image to see where L1·H1 looks")
    playwright.expect(page.locator("#two-axes")).to_be_hidden()
    number = suggested.first.get_attribute("data-index")
    suggested.first.click()
    page.wait_for_function(f"location.search.includes('image=set/photo%20{int(number):03}.png')")
    settled(page)
    playwright.expect(page.locator("#two-axes")).to_be_visible()
    playwright.expect(suggested).to_have_count(0)


def test_a_model_without_cls_shows_the_mean_until_a_token_is_picked(page: "playwright.Page", address: str):
    page.goto(f"{address}/?study=mean&image=set/photo%20000.png")
    tokens = page.locator("#attention-tokens button")
    playwright.expect(tokens).to_have_text(["mean", "R1"])
    playwright.expect(page.locator("#attention-masks .target b")).to_have_text("mean → patches")
    playwright.expect(page.locator("#attention-masks .source b")).to_have_text("")
    tokens.nth(1).click()
    page.wait_for_function("location.search.includes('token=0')")
    playwright.expect(page.locator("#attention-masks .source b")).to_have_text("patches → R1")
    tokens.nth(0).click()
    page.wait_for_function("!location.search.includes('token=')")


@pytest.mark.parametrize("name", ["two-axes", "attention-matrix", "attention-histogram", "attention-masks"])
def test_what_is_on_the_screen_is_painted_for_export(page: "playwright.Page", address: str, name: str):
    shown(page, f"{address}/{HEAD}&token=5")
    painted = """name => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 600, height: 400});
        const brush = canvas.getContext("2d");
        headscope.painters[name](brush, 600, 400);
        return brush.getImageData(0, 0, 600, 400).data.filter((value, at) => at % 4 === 3 && value > 0).length;
    }"""
    assert page.evaluate(painted, name) > 600 * 400 / 100
    drawn = (
        "name => { const to = new svgcanvas.Context({width: 600, height: 400}); headscope.painters[name](to, 600, 400);"
    )
    kinds = page.evaluate(f"{drawn} return [...to.getSvg().querySelectorAll('*')].map(each => each.tagName); }}", name)
    assert {"two-axes": "path", "attention-matrix": "image"}.get(name, "text") in kinds
