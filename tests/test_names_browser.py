"""Names that JavaScript has for its own, wherever a name can be: every view is drawn and can be used."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from jobs import uploads
from jobs.requests import StudyRequest, UploadRequest, to_json
from jobs.uploads import Contents
from jobs.work import WorkerSeen
from store.settings import Settings
from tests.browsing import expect_address, needs_chromium, opened, playwright, served, settled
from tests.fake_desk import FakeDesk, a_job
from tests.studies import compute, tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium
expect = playwright.expect

NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "a __proto__ b"]
STUDY = "constructor"  # the one of them that is a name of a study
# Of each graph that has nothing drawn, its id.
EMPTY = """() => [...document.querySelectorAll(".stage .js-plotly-plot")]
    .filter(each => !each._fullData.length).map(each => each.parentNode.id)"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which every name that can be is one of them."""
    folder = tmp_path_factory.mktemp("data")
    tiny = tiny_study(images=12, labelled=12, classes=len(NAMES), layers=2, heads=2, unit_images=12)
    tiny.arrays["class"] = np.array(NAMES)
    tiny.arrays["image"] = np.array([*NAMES, *(f"{each}/{each}.png" for each in NAMES)])
    tiny.attrs["model"] |= {"name": NAMES[0]}
    compute(folder / "studies" / STUDY, tiny)
    for name in NAMES:
        (folder / "images" / name / name).mkdir(parents=True)
        (folder / "images" / name / name / f"{name}.png").write_bytes(b"")
        (folder / "models").mkdir(exist_ok=True)
        for file in (f"images/{name}.csv", f"images/{name}.txt", f"models/{name}.pth"):
            (folder / file).write_text("")
        sent = uploads.begin(folder / "uploads", name, name, 10)
        (sent.folder / "x.csv").write_text("path,label,id\n")
        uploads.publish(sent, Contents("x.csv", 1, 1, 0, 0, 10))
    return folder


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    desk = FakeDesk(Settings(data=data), answers=False)
    desk.ledger.seen = [WorkerSeen(name, "bulk", name, 0.0) for name in NAMES]
    desk.ledger.kept = lambda name: NAMES
    states = ("failed", "running", "queued", "done", "cancelled", "done")
    for number, (name, state) in enumerate(zip(NAMES, states, strict=True)):
        texts = dict.fromkeys(("title", "who", "cause", "note", "stage"), name)
        for kind, asked in {
            "study": StudyRequest(name, Path(name), name=name),
            "upload": UploadRequest(name, name),
        }.items():
            desk.ledger.all[f"{kind}{number}"] = a_job(
                id=f"{kind}{number}", kind=kind, request=to_json(asked), state=state, **texts,
                submitted=0.0, started=1.0, finished=2.0, beat=1.0, stage_total=2,
            )  # fmt: skip
    with served(data, desk) as found:
        yield found


def pick(page: "Page", dropdown: str, name: str) -> None:
    """Pick the option of a dropdown that is found by its name."""
    page.locator(dropdown).click()
    page.locator(".dash-dropdown-search").fill(name)
    option = page.locator(".dash-dropdown-content [role=option]", has_text=name).first
    expect(option).to_be_visible()
    option.click()


def test_every_view_is_drawn_and_follows_a_class_and_an_image_of_any_name(page: "Page", address: str):
    opened(page, f"{address}/?study={STUDY}")
    assert page.evaluate(EMPTY) == []
    page.locator("header.top details.filter summary").click()
    for index, name in enumerate(NAMES):
        pick(page, "#image-set-class", name)
        expect_address(page, f"images=class:{','.join(map(str, range(index + 1)))}&")
    expect(page.locator("#image-set-chips")).to_have_text(f"{NAMES[0]}, {NAMES[1]} + {len(NAMES) - 2} classes✕")
    page.keyboard.press("Escape")
    for name in NAMES[:2]:
        page.fill("#search", name)
        page.press("#search", "Enter")
        page.wait_for_function("name => headscope.selection.image === name", arg=name)
    settled(page)
    expect(page.locator("#image-card-reading")).to_contain_text(NAMES[1])
    assert page.evaluate(EMPTY) == []


def test_the_other_pages_list_any_name_and_the_form_takes_it(page: "Page", address: str):
    page.goto(f"{address}/jobs")
    page.locator("#jobs-shown").get_by_text("All").click()
    for name in NAMES:
        expect(page.locator(".job th", has_text=name).first).to_be_visible()
    page.locator(".job", has_text="__proto__").first.click()
    expect(page.locator("#jobs-detail")).to_contain_text("Asked for")
    page.evaluate("dash_clientside.page.go('/studies')")
    expect(page.locator("#studies-list")).to_contain_text("__proto__")
    page.evaluate("dash_clientside.page.go('/new')")
    expect(page.locator("#new-study-model-hint")).to_contain_text("6 models of timm")
    expect(page.locator("#new-study-uploads li")).to_have_count(len(NAMES))
    page.get_by_text("a checkpoint").click()
    for details in page.locator("#new-study-form details:not([open]) > summary").all():
        details.click()
    # Each list has all names, and is asked for one of them.
    for field, name in zip(("model", "checkpoint", "images", "masks", "classes", "label-map"), NAMES, strict=True):
        pick(page, f"#new-study-{field}", name)
        expect(page.locator(f"#new-study-{field}-value")).to_contain_text(name)
    page.locator("#study").select_option(STUDY)
    settled(page)
    assert page.evaluate("location.pathname") == "/"
    assert page.evaluate(EMPTY) == []
