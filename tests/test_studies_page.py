"""The list of studies: what is said of each, that broken ones break nothing, and that a row opens its study."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dashboard.views.studies import listed, newest_first, row, shown_images, told
from store.attempt import Attempt
from store.manifest import Manifest
from store.paths import manifest_path
from store.study import list_studies
from tests.browsing import needs_chromium, playwright, served, sound_page
from tests.fake_desk import a_job
from tests.studies import tiny_study, write_tiny_study

FINISHED = 1767225602  # tests.studies.RUN["finished"], in seconds since 1970
DAY = 86_400


def begin(study: Path, units: int) -> None:
    """An attempt of six units, of which some are done."""
    tiny = tiny_study(images=12)
    start = tiny.written("start")
    with Attempt.start(study, tiny.plan, tiny.sizes, tiny.attrs, start, tiny.of_units(), tiny.unit_images) as attempt:
        for unit in range(units):
            attempt.write_unit(unit, tiny.unit(attempt.units[unit]), {})


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study of every kind, and two things that are none."""
    folder = tmp_path_factory.mktemp("data") / "studies"
    write_tiny_study(folder / "whole", images=9, labelled=9)
    write_tiny_study(folder / "unlabelled", classes=0, labelled=0, images=2)
    for name in ("cut-short", "no-metadata", "newer"):
        shutil.copytree(folder / "unlabelled", folder / name)
    manifest_path(folder / "cut-short").write_text("{")
    (folder / "no-metadata" / "attempt-1" / "zarr.json").unlink()
    newer = replace(Manifest.load(folder / "newer"), schema_version=2, headscope="9.0")
    manifest_path(folder / "newer").write_bytes(newer.to_bytes())
    begin(folder / "half-done", units=2)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no study")
    return folder


def test_every_study_is_listed_with_its_state_and_what_is_none_is_not(studies: Path):
    found = {each.name: each for each in listed(list_studies(studies), [])}
    assert {name: each.state for name, each in found.items()} == {
        "whole": "published",
        "unlabelled": "published",
        "cut-short": "damaged",
        "no-metadata": "damaged",
        "newer": "newer",
        "half-done": "interrupted",
    }
    assert "MANIFEST.json cannot be read" in found["cut-short"].said
    assert "zarr.json is missing; compute it again" in found["no-metadata"].said
    assert "made by Headscope 9.0" in found["newer"].said
    assert found["half-done"].said.startswith("2 of 6 units")
    assert found["half-done"].share == pytest.approx(1 / 3)


def test_a_study_says_what_it_is_of_and_how_right_the_model_was(studies: Path):
    known = told(next(entry for entry in list_studies(studies) if entry.name == "whole"))
    assert (known.model, known.heads, known.images, known.unreadable) == ("vit_tiny_test", "2 × 2", 9, 1)
    assert known.top1 == 0.5
    assert known.published == FINISHED
    assert [label for label, _ in known.doubts] == ["weights: RANDOM"]
    without = told(next(entry for entry in list_studies(studies) if entry.name == "unlabelled"))
    assert without.top1 is None


def test_nothing_of_a_study_is_read_but_its_manifest_and_its_attributes(studies: Path, tmp_path: Path):
    shutil.copytree(studies / "whole", tmp_path / "bare")
    for array in (tmp_path / "bare" / "attempt-1").iterdir():
        if array.is_dir():
            shutil.rmtree(array)
    assert listed(list_studies(tmp_path), [])[0].told is not None


def test_jobs_are_told_of_studies_that_they_make(studies: Path):
    half = a_job(id="a", kind="study", title="half-done", state="running", stage="images 4 to 5")
    half = replace(half, units_done=2, units_total=6, workers=1)
    jobs = [
        half,
        a_job(id="b", kind="study", title="to-come", state="queued", place=1),
        a_job(id="c", kind="study", title="whole", state="running", stage="plan", workers=1),
        a_job(id="d", kind="study", title="unlabelled", state="done"),
    ]
    found = {each.name: each for each in listed(list_studies(studies), jobs)}
    assert (found["half-done"].state, found["half-done"].said) == ("computing", "units 2 of 6 · images")
    assert (found["to-come"].state, found["to-come"].said) == ("waiting", "1 before")
    assert (found["whole"].state, found["whole"].job) == ("published", "c")
    assert found["unlabelled"].job is None
    assert row(found["half-done"], 0.0)["job"] == "/jobs?job=a"


def test_first_comes_what_is_being_made_then_the_newest_and_last_what_does_not_open(studies: Path):
    jobs = [a_job(kind="study", title=name, state=state) for name, state in (("z", "queued"), ("half-done", "running"))]
    found = listed(list_studies(studies), jobs)
    later = [
        replace(each, told=replace(each.told, published=each.told.published + DAY)) if each.name == "whole" else each
        for each in found
    ]
    names = [each.name for each in newest_first(later)]
    assert names == ["half-done", "z", "whole", "unlabelled", "cut-short", "newer", "no-metadata"]


def test_the_images_that_stand_for_a_study_are_evenly_spaced():
    assert shown_images(51) == [0, 10, 20, 30, 40, 50]
    assert shown_images(6) == [0, 1, 2, 3, 4, 5]
    assert shown_images(1) == [0]


def test_a_row_is_plain_json_in_words(studies: Path):
    found = {each.name: row(each, FINISHED + 3.5 * DAY) for each in listed(list_studies(studies), [])}
    whole = json.loads(json.dumps(found["whole"]))
    assert whole["href"] == "/?study=whole"
    assert (whole["images"], whole["unreadable"], whole["top1"]) == ("9", "1 unreadable", "50.0\u202f%")
    assert whole["published"] == "3 d 12 h ago"
    assert [address.rsplit("/", 1)[1] for address in whole["pictures"]] == [f"{i}.webp" for i in (0, 2, 3, 5, 6, 8)]
    assert found["unlabelled"]["top1"] == "–"
    assert "href" not in found["cut-short"]
    old = row(next(each for each in listed(list_studies(studies), []) if each.told), FINISHED + 400 * DAY)
    assert old["published"] == old["at"].split(",")[0]


# --- in a browser ---


def names(page: "playwright.Page") -> list[str]:
    return page.locator(".study .name").all_inner_texts()


@needs_chromium
def test_a_row_opens_its_study_and_back_comes_back(context: "playwright.BrowserContext", studies: Path):
    with served(studies.parent) as address, sound_page(context) as page:
        page.goto(address + "/studies")
        playwright.expect(page.locator("#studies-counted")).to_have_text("6 studies")
        assert names(page)[:2] == ["unlabelled", "whole"]
        page.wait_for_function("[...document.querySelectorAll('.study img')].every(img => img.naturalWidth > 0)")
        assert page.locator(".study", has_text="whole").locator("img").count() == 6
        playwright.expect(page.locator(".study.damaged")).to_have_count(2)
        page.get_by_text("by name").click()
        assert names(page)[0] == "cut-short"
        box = page.locator(".study", has=page.get_by_role("link", name="whole")).bounding_box()
        page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 10)  # anywhere in its row
        page.wait_for_function("location.pathname === '/' && location.search.includes('study=whole')")
        page.go_back()
        playwright.expect(page.locator(".studies-page")).to_be_visible()
        page.locator("a.name", has_text="whole").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("location.pathname === '/' && location.search.includes('study=whole')")


@needs_chromium
def test_without_a_study_the_page_says_how_to_make_one(context: "playwright.BrowserContext", tmp_path: Path):
    with served(tmp_path) as address, sound_page(context) as page:
        page.goto(address + "/studies")
        playwright.expect(page.locator("#studies-empty")).to_contain_text("headscope demo")
        page.locator("#studies-empty").get_by_role("link", name="New study").click()
        page.wait_for_function("location.pathname === '/new'")
        write_tiny_study(tmp_path / "studies" / "fresh")
        page.go_back()
        playwright.expect(page.locator(".study .name")).to_have_text("fresh")
        playwright.expect(page.locator("#studies-empty")).to_be_hidden()


@needs_chromium
def test_pictures_far_below_the_window_are_not_asked_for(
    context: "playwright.BrowserContext", studies: Path, tmp_path: Path
):
    for number in range(60):
        shutil.copytree(studies / "unlabelled", tmp_path / "studies" / f"study-{number:02}")
    asked: list[str] = []
    with served(tmp_path) as address, sound_page(context) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + "/studies")
        playwright.expect(page.locator(".study")).to_have_count(60)
        page.wait_for_function("document.querySelector('.study img').naturalWidth > 0")
        assert not any("study-59/" in url for url in asked)
        with page.expect_request("**/studies/study-59/**"):
            page.locator(".study").last.scroll_into_view_if_needed()
