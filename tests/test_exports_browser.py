"""Menus, cards and pictures in a browser: every view leaves as SVG and PNG, by mouse and by keys."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from dashboard.theme import LIGHT
from dashboard.workspace import VIEWS
from store.settings import Settings
from tests.browsing import needs_chromium, opened, playwright, served, sound_page
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

pytestmark = needs_chromium
SVG = "{http://www.w3.org/2000/svg}"
SHAPES = ("path", "line", "rect", "circle", "image")
MENU = "#export-menu"
DOTS = "[data-menu=head-importance]"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    size = {"images": 8, "labelled": 8, "layers": 3, "heads": 4, "grid": (4, 4), "unit_images": 8}
    write_tiny_study(data / "studies" / "first", **size)
    with served(data, FakeDesk(Settings(data=data))) as found:
        yield f"{found}/?study=first"


@pytest.fixture(scope="module")
def page(context: "playwright.BrowserContext", address: str) -> Iterator["playwright.Page"]:
    """The workspace, once for all: what leaves does not change it."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    with sound_page(context, "404 (Not Found)") as opened_page:  # that one of the tests answers itself
        opened(opened_page, address)
        opened_page.wait_for_load_state("networkidle")
        yield opened_page
    context.clear_permissions()


@pytest.fixture(autouse=True)
def nothing_open(page: "playwright.Page") -> Iterator[None]:
    yield
    page.evaluate("""() => {
        document.querySelectorAll(':popover-open').forEach(each => each.hidePopover());
        document.getElementById('python-lines').close();
    }""")


def leave(page: "playwright.Page", name: str, form: str, folder: Path) -> Path:
    """The file that an export leaves as."""
    [panel] = [each["panel"] for each in exports(page) if each["name"] == name]
    page.click(f"[data-menu={panel}]")
    with page.expect_download() as download:
        page.click(f"{MENU} [data-export='{name}'][data-as={form}]")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def exports(page: "playwright.Page") -> list[dict[str, str]]:
    return page.evaluate("JSON.parse(document.getElementById('export-menu').dataset.exports)")


# --- pictures ---


@pytest.mark.parametrize("kind", ["graph:", "canvas:", "figure"])
def test_every_picture_leaves_as_true_svg_and_as_png_of_three_times_its_pixels(
    page: "playwright.Page", tmp_path: Path, kind: str
):
    names = [each["name"] for each in exports(page) if each["picture"].startswith(kind)]
    assert names
    for name in names:
        vector = ET.parse(leave(page, name, "svg", tmp_path)).getroot()
        shapes = [each for each in vector.iter() if each.tag.removeprefix(SVG) in SHAPES]
        words = [str(each.text) for each in vector.iter(SVG + "text")]
        assert len(shapes) > 1, name  # the first is the background
        assert any("study first" in each for each in words), name
        assert "study first" in str(vector.findtext(SVG + "desc")), name
        assert "var(--" not in ET.tostring(vector, encoding="unicode"), name
        outside = [each.get("href", "data:") for each in vector.iter(SVG + "image")]
        assert all(each.startswith("data:") for each in outside), name
        png = leave(page, name, "png", tmp_path).read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert (width, height) == tuple(int(3 * float(vector.attrib[side])) for side in ("width", "height")), name


def test_what_lies_over_a_graph_leaves_with_it(page: "playwright.Page", tmp_path: Path):
    text = leave(page, "head-importance", "svg", tmp_path).read_text()
    accent = tuple(int(LIGHT.accent[at : at + 2], 16) for at in (1, 3, 5))
    assert f"rgb{accent}" in text


def test_numbers_leave_under_a_name_that_tells_what_they_are(page: "playwright.Page", tmp_path: Path):
    path = leave(page, "head-importance", "csv", tmp_path)
    assert path.name.startswith("first-head-importance-L")
    assert path.suffix == ".csv"
    assert path.read_bytes().count(b"\r\n") == 1 + 3 * 4


def test_what_cannot_leave_says_why(page: "playwright.Page"):
    numbers = re.compile(r"/export/head-importance\.csv")
    page.route(numbers, lambda route: route.fulfill(status=404, body="no such luck"))
    page.click(DOTS)
    page.click(f"{MENU} [data-as=csv]")
    playwright.expect(page.locator("#export-toast")).to_have_text("Head importance: no such luck")
    page.unroute(numbers)


# --- menus by keys ---


def focused(page: "playwright.Page") -> str:
    return page.evaluate("document.activeElement.ariaLabel")


def test_a_menu_is_walked_by_keys_and_moves_no_head(page: "playwright.Page"):
    before = page.evaluate("location.search")
    page.focus(DOTS)
    page.keyboard.press("Enter")
    playwright.expect(page.locator(MENU)).to_be_visible()
    assert page.get_attribute(DOTS, "aria-expanded") == "true"
    assert focused(page) == "Enlarge Head importance"
    walked = []
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "End", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
        walked.append(focused(page).split(", ")[-1])
    top = "Enlarge Head importance"
    assert walked == ["SVG", "PNG", "CSV", "PNG", top, "Python", top, "SVG"]
    page.keyboard.press("Escape")
    playwright.expect(page.locator(MENU)).to_be_hidden()
    assert focused(page) == "Export and enlarge Head importance"
    assert page.get_attribute(DOTS, "aria-expanded") == "false"
    assert page.evaluate("location.search") == before


def test_a_menu_closes_by_its_button_by_tab_and_by_a_click_elsewhere(page: "playwright.Page"):
    menu = page.locator(MENU)
    closings = (
        lambda: page.click(DOTS),
        lambda: page.keyboard.press("Tab"),
        lambda: page.mouse.click(700, 20),
    )
    for close in closings:
        page.click(DOTS)
        playwright.expect(menu).to_be_visible()
        close()
        playwright.expect(menu).to_be_hidden()


def test_a_panel_is_enlarged_from_its_menu(page: "playwright.Page"):
    for large in ("head-importance", ""):
        page.focus(DOTS)
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        page.wait_for_function("large => headscope.selection.large === large", arg=large)
        playwright.expect(page.locator(".panel.head-importance.large")).to_have_count(1 if large else 0)
        page.wait_for_function("large => location.search.includes('large=') === Boolean(large)", arg=large)


# --- what is said ---


@pytest.mark.parametrize("panel", [view.name for view in VIEWS])
def test_a_card_explains_its_view_with_equations(page: "playwright.Page", panel: str):
    before = page.evaluate("location.search")
    page.click(f"[data-about={panel}]")
    card = page.locator("#about-card")
    playwright.expect(card).to_be_visible()
    playwright.expect(card.locator("mjx-container").first).to_be_visible()
    assert card.locator("mjx-container [data-mjx-error], mjx-container mjx-merror").count() == 0
    assert "TVCG" in card.inner_text()
    assert "$" not in card.inner_text()
    page.wait_for_function("""() => {
        const {top, bottom} = document.getElementById("about-card").getBoundingClientRect();
        return top >= 0 && bottom <= innerHeight;
    }""")  # it is placed anew when equations come late
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= 1440
    assert box["y"] + box["height"] <= 900
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    playwright.expect(card).to_be_hidden()
    assert page.evaluate("location.search") == before


def test_the_python_lines_are_shown_and_copied(page: "playwright.Page"):
    lines = page.evaluate("fetch('/export/head-importance.py' + location.search).then(answer => answer.text())")
    page.click(DOTS)
    page.click(f"{MENU} [data-as=py]")
    dialog = page.locator("#python-lines")
    playwright.expect(dialog.locator(".hljs-keyword").first).to_have_text("import")
    assert dialog.locator("pre").inner_text().strip() == lines.strip()
    page.click("#python-lines-copy")
    playwright.expect(page.locator("#python-lines-copy")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == lines
    page.keyboard.press("Escape")
    playwright.expect(dialog).to_be_hidden()


def test_escape_takes_back_lines_that_have_not_come_yet(page: "playwright.Page"):
    dialog, before = page.locator("#python-lines"), page.evaluate("location.search")
    lines = re.compile(r"/export/head-importance\.py")
    page.route(lines, lambda route: None)  # a server that does not answer
    page.click(DOTS)
    with page.expect_request(lines):
        page.click(f"{MENU} [data-as=py]")
    with page.expect_event("requestfailed", timeout=5_000):
        page.keyboard.press("Escape")
    page.unroute(lines)
    playwright.expect(page.locator("#export-toast")).to_be_empty()
    playwright.expect(dialog).to_be_hidden()
    assert page.evaluate("location.search") == before  # it was not the image that was let go
    page.click(DOTS)
    page.click(f"{MENU} [data-as=py]")
    playwright.expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    playwright.expect(dialog).to_be_hidden()
