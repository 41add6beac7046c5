"""A zip in the browser: dropped, sent in pieces under a bar, unpacked by a worker, picked in the form; and removed."""

import base64
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboard import uploads as routes
from jobs.client import Desk
from store.settings import Settings
from tests.browsing import needs_chromium, playwright, served, sound_page
from tests.test_uploads import JPEG, PNG
from tests.zips import Part, zipped
from workers import decode
from workers import upload as doer
from workers.runner import run_unit

pytestmark = needs_chromium

# Large enough for several pieces of the size that the tests send.
NOISE = random.Random(0).randbytes(300_000)
BIRDS = zipped(
    Part(b"birds/wren/1.png", PNG), Part(b"birds/crow/2.jpg", JPEG + NOISE), Part(b"birds/crow/3.jpg", b"no")
)
DROP = """([place, name, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), carried = new DataTransfer();
    window.seen = [];
    new MutationObserver(() => seen.push(place.querySelector(".upload-now").textContent))
        .observe(place, {childList: true, subtree: true});
    carried.items.add(new File([bytes], name));
    place.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""


class Lab:
    """A data folder that is served, and its desk; the tests are its workers."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        self.desk = Desk(self.settings)
        self.desk.ledger.keep("models", ["vit_small_patch16_224"])
        self.address = ""

    def work(self) -> None:
        lease = self.desk.ledger.take("bulk", "w", "bell")
        assert lease is not None
        run_unit(self.settings, self.desk.ledger, lease, doer=lambda kind: doer.do)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(Desk, "ring", lambda *given: None)
    monkeypatch.setattr(doer, "scan", lambda entries, *, apart, **other: decode.scan(entries, **other))
    monkeypatch.setattr(routes, "PIECE", 100_000)
    made = Lab(tmp_path)
    with served(tmp_path, made.desk) as made.address:
        yield made


@pytest.fixture
def page(context: "playwright.BrowserContext", lab: Lab) -> Iterator["playwright.Page"]:
    with sound_page(context, "Failed to load resource: the server responded with a status of 4") as found:
        found.goto(f"{lab.address}/new")
        playwright.expect(found.locator("#new-study-upload-hint")).to_contain_text("at most 2,000 MB")
        yield found


def drop(page: "playwright.Page", data: bytes, name: str = "birds.zip") -> None:
    place = page.locator("#new-study-uploads").element_handle()
    page.evaluate(DROP, [place, name, base64.b64encode(data).decode()])


def test_a_zip_that_is_dropped_is_sent_unpacked_and_picked(page: "playwright.Page", lab: Lab):
    now, images = page.locator(".upload-now"), page.locator("#new-study-images")
    drop(page, BIRDS)
    playwright.expect(now).to_contain_text("birds.zip waits for a worker")
    shares = page.evaluate("seen.map(said => /is sent, (\\d+)/.exec(said)?.[1]).filter(Boolean).map(Number)")
    assert shares == sorted(shares) and len(set(shares)) >= 4, shares
    assert shares[-1] == 100
    lab.work()
    playwright.expect(images).to_contain_text("upload: birds")
    playwright.expect(now).to_be_empty()
    playwright.expect(page.locator(".upload-list li")).to_contain_text("2 pictures, 2 classes, 0.3 MB")
    with page.expect_download() as left_out:
        page.get_by_role("link", name="1 left out").click()
    assert "birds" not in left_out.value.path().read_text() and "crow/3.jpg" in left_out.value.path().read_text()
    playwright.expect(page.locator("#new-study-model-hint")).to_contain_text("1 models")
    page.get_by_role("button", name="remove").click()
    page.get_by_role("button", name="remove for good").click()
    playwright.expect(page.locator(".upload-list li")).to_have_count(0)
    assert list(lab.settings.uploads.iterdir()) == []


def test_a_zip_that_is_refused_is_said_beside_the_field_and_another_can_be_sent(page: "playwright.Page", lab: Lab):
    wrong, now = page.locator("#new-study-upload-problem"), page.locator(".upload-now")
    drop(page, zipped(Part(b"../<b>evil</b>.png", PNG)), "evil.zip")
    playwright.expect(now).to_contain_text("waits for a worker")
    lab.work()
    playwright.expect(wrong).to_contain_text("evil.zip: '../<b>evil</b>.png' has an empty part, . or .. in its path")
    page.set_input_files("#new-study-upload", files=[{"name": "birds.zip", "mimeType": "", "buffer": BIRDS}])
    playwright.expect(now).to_contain_text("birds.zip waits for a worker")
    playwright.expect(wrong).to_be_empty()
    page.get_by_role("button", name="stop").click()
    playwright.expect(now).to_be_empty()
    assert list(lab.settings.uploads.iterdir()) == []
