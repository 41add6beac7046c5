"""One picture in the browser: dropped on the workspace or picked by keyboard, followed, opened as a private study."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.client import Desk
from store.settings import Settings
from tests.browsing import expect_address, needs_chromium, opened, playwright, served, settled, sound
from tests.pictures import picture_folder
from tests.test_accessible import broken
from tests.test_image_job import compute, decoded_here
from tests.test_prune_job import loud_checkpoint
from workers import decode
from workers.runner import run_unit

pytestmark = needs_chromium
expect = playwright.expect

REFUSED = "Failed to load resource: the server responded with a status of 4"
DRAG = """([kind, name, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), carried = new DataTransfer();
    carried.items.add(new File([bytes], name));
    const place = document.querySelector(".head-importance");
    place.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""
TAKES = "getComputedStyle(document.body, '::after').content"


class Lab:
    """A data folder that is served, and its desk; the tests are its workers."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        self.desk = Desk(self.settings)
        self.address = ""
        self.pictures = data / "pictures"

    def work(self) -> None:
        """Do all that waits: the page has prunings computed too."""
        while (lease := self.desk.ledger.take("interactive", "w", "bell")) is not None:
            run_unit(self.settings, self.desk.ledger, lease)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Desk, "ring", lambda *given: None)
        patch.setattr(decode, "decode_apart", decoded_here)
        made = Lab(tmp_path_factory.mktemp("data"))
        folder = picture_folder(made.pictures, each=5, size=64)
        loud = loud_checkpoint("test_vit", made.settings.models / "test_vit.safetensors")
        options = {"image_size": (64, 64), "skip": frozenset({"patterns"})}
        compute("test_vit", folder, made.settings, name="lab", checkpoint=loud, **options)
        with served(made.settings.data, made.desk) as made.address:
            yield made


@pytest.fixture
def page(page_of_module: "playwright.Page", lab: Lab) -> Iterator["playwright.Page"]:
    with sound(page_of_module, REFUSED):
        yield opened(page_of_module, f"{lab.address}/?study=lab")


def drag(page: "playwright.Page", kind: str, file: Path, name: str = "") -> None:
    page.evaluate(DRAG, [kind, name or file.name, base64.b64encode(file.read_bytes()).decode()])


def test_a_picture_that_is_dropped_is_computed_and_opened(page: "playwright.Page", lab: Lab):
    box = page.locator(".picture-box")
    drag(page, "dragover", lab.pictures / "1/2.png")
    assert "Drop the picture" in page.evaluate(TAKES)
    drag(page, "drop", lab.pictures / "1/2.png", "my <b>bird.png")
    expect(box).to_contain_text("my <b>bird.png")
    expect(box).to_contain_text("waits for a worker")
    page.wait_for_function(f"{TAKES} === 'none'")
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.bsTheme = theme; }", theme)
        assert broken(page) == []
    lab.work()
    expect_address(page, "study=picture-", "image=my <b>bird.png")
    page.wait_for_function("headscope.index === 15")
    settled(page)
    expect(box).to_be_empty()
    expect(page.locator("#study option:checked")).to_have_text("lab + your picture my <b>bird.png")
    expect(page.locator(".caveats")).to_contain_text("private, until")
    page.get_by_role("link", name="Studies", exact=True).click()
    row = page.locator(".study", has_text="your picture")
    expect(row).to_contain_text("private, until")
    row.get_by_role("link").click()
    expect_address(page, "study=picture-")
    settled(page)


def test_a_picture_is_picked_by_keyboard_and_can_be_stopped(page: "playwright.Page", lab: Lab):
    box = page.locator(".picture-box")
    page.get_by_role("button", name="+ picture").focus()
    with page.expect_file_chooser() as chooser:
        page.evaluate("0")  # a busy page hears keys before it hears that the chooser is for the test
        page.keyboard.press("Enter")
    chooser.value.set_files(lab.pictures / "0/1.png")
    expect(box).to_contain_text("waits for a worker")
    stop = box.get_by_role("button", name="stop")
    stop.focus()
    page.wait_for_timeout(2500)  # told twice in the meantime
    expect(stop).to_be_focused()
    # Its job is cancelled before its file is removed.
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.keyboard.press("Enter")
    expect(box).to_be_empty()
    page.wait_for_function("async () => !(await (await fetch('/jobs.json')).json()).live")
    assert list(lab.settings.pictures.iterdir()) == []


def test_what_cannot_be_a_picture_or_is_none_is_said(page: "playwright.Page", lab: Lab, tmp_path: Path):
    box = page.locator(".picture-box")
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a picture")
    drag(page, "drop", wrong)
    expect(box).to_contain_text("notes.txt is no picture that can be read: send a JPEG")
    box.get_by_role("button", name="close").click()
    expect(box).to_be_empty()
    drag(page, "drop", wrong, "notes.png")
    expect(box).to_contain_text("waits for a worker")
    lab.work()
    expect(box).to_contain_text("notes.png: notes.png cannot be used: not an image (text)")
    assert page.evaluate("headscope.selection.study") == "lab"
    box.get_by_role("button", name="close").click()
