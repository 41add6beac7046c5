"""The pages of jobs and of a new study in a browser: live, by keyboard alone, and without losing the workspace."""

import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

from analyses.pruning import PruneRequest
from dashboard.app import create_app
from jobs.client import Desk
from jobs.database import DamagedLedgerError
from jobs.requests import StudyRequest
from jobs.work import Job, Step
from store.settings import Settings
from tests.browsing import SCREEN, needs_chromium, playwright, settled, sound_page
from tests.studies import write_tiny_study

pytestmark = needs_chromium
MODELS = ["deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "vit_small_patch16_224"]
PRICE = {
    "bytes": 1.03e9,
    "attention_bytes": 6.4e8,
    "attention": "stored",
    "seconds": 840.0,
    "images": 3,
    "mapped": 36_000,
}


@dataclass
class Lab:
    """A data folder that is served, and its desk; the tests are its workers."""

    data: Path
    desk: Desk
    server: BaseWSGIServer | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.server_port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, port: int) -> None:
        app = create_app(Settings(data=self.data), self.desk)
        self.server = make_server("127.0.0.1", port, app.server, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    def ask(self, name: str) -> Job:
        return self.desk.submit(StudyRequest(MODELS[0], self.data / "images" / "pets", name=name), "ann").job

    def begin(self, name: str) -> Job:
        """A study whose first unit of three is done."""
        job = self.ask(name)
        lease = self.desk.ledger.take("bulk", "w", "bell")
        assert lease is not None and lease.job == job.id
        self.desk.ledger.plan(lease, [Step(1, n, f"images {n} to {n}", 1) for n in range(2)], {"price": PRICE})
        self.desk.ledger.finish(lease)
        return job

    def work(self, queue: str = "bulk", **result: object) -> None:
        lease = self.desk.ledger.take(queue, "w", "bell")
        assert lease is not None
        self.desk.ledger.finish(lease, result=result or ({"study": lease.key} if lease.kind == "study" else None))


@pytest.fixture(scope="module")
def port() -> int:
    """The one of all these tests: the browser has the scripts of its address already."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[Lab]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    monkeypatch.setattr(Desk, "ring", lambda *given: None)
    for picture in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        (tmp_path / "images" / "pets" / picture).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "pets" / picture).write_bytes(b"")
    made = Lab(tmp_path, Desk(Settings(data=tmp_path)))
    made.desk.ledger.keep("models", MODELS)
    for queue in ("interactive", "bulk"):
        made.desk.ledger.here(f"w:{queue}", queue, "cpu")
    made.open(port)
    yield made
    made.close()


@pytest.fixture
def page(context: "playwright.BrowserContext", lab: Lab) -> Iterator["playwright.Page"]:
    # A server that is away is told by the browser, too.
    with sound_page(context, "Failed to load resource: net::") as found:
        yield found


def row(page: "playwright.Page", text: str) -> "playwright.Locator":
    return page.locator(".job", has_text=text)


def jobs_page(page: "playwright.Page", lab: Lab, search: str = "") -> "playwright.Page":
    page.goto(f"{lab.address}/jobs{search}")
    playwright.expect(page.locator("#jobs-workers")).to_contain_text("worker")
    return page


def pick(page: "playwright.Page", field: str, text: str) -> None:
    """Pick of a list by keyboard alone: a part of the name is typed."""
    page.locator(f"#new-study-{field}").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".dash-dropdown-search")).to_be_focused()
    page.keyboard.type(text)
    playwright.expect(page.locator(".dash-dropdown-content [role=option]")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(f"#new-study-{field}")).to_contain_text(text)


def new_page(page: "playwright.Page", lab: Lab) -> "playwright.Page":
    page.goto(f"{lab.address}/new")
    playwright.expect(page.locator("#new-study-model-hint")).to_have_text("3 models of timm that Headscope takes.")
    return page


def test_jobs_change_on_the_page_as_they_change_in_the_ledger(page: "playwright.Page", lab: Lab):
    lab.begin("first")
    jobs_page(page, lab)
    playwright.expect(row(page, "first")).to_contain_text("units 1 of 3 · images")
    lab.work()
    playwright.expect(row(page, "first")).to_contain_text("units 2 of 3 · images")
    lab.ask("second")
    playwright.expect(row(page, "second")).to_contain_text("queued")
    playwright.expect(page.locator("#jobs-count")).to_have_text("2 jobs")
    lab.work()
    playwright.expect(row(page, "first").locator(".state")).to_have_text("✓done")
    playwright.expect(row(page, "first").get_by_role("link", name="open")).to_be_visible()
    playwright.expect(page.locator("#jobs-count")).to_have_text("1 job")
    playwright.expect(page.locator(".job th")).to_have_text(["second", "first"])


def test_prunings_are_shown_when_asked_for(page: "playwright.Page", lab: Lab):
    lab.ask("mine")
    lab.desk.submit(PruneRequest(study="deit", content="0" * 64, images=("a", "b"), heads=((3, 1),)), "bob")
    jobs_page(page, lab)
    playwright.expect(row(page, "mine")).to_be_visible()
    assert row(page, "L3·H1").count() == 0
    page.locator("#jobs-shown").get_by_text("Prunings").click()
    playwright.expect(row(page, "L3·H1 of deit on 2 images")).to_be_visible()
    playwright.expect(row(page, "mine")).to_have_count(0)
    page.locator("#jobs-shown").get_by_text("All").click()
    playwright.expect(page.locator(".job")).to_have_count(2)


def test_a_job_says_why_it_failed_and_a_reload_still_shows_it(page: "playwright.Page", lab: Lab):
    job = lab.begin("mine")
    lease = lab.desk.ledger.take("bulk", "w", "bell")
    assert lease is not None
    lab.desk.ledger.fail(lease, "the disk is <b>broken</b>", "a line\nthe last line", final=True)
    jobs_page(page, lab)
    row(page, "mine").locator("th").click()
    detail = page.locator("#jobs-detail")
    playwright.expect(detail).to_contain_text("the disk is <b>broken</b>")
    playwright.expect(detail.locator("pre")).to_have_text("a line\nthe last line")
    playwright.expect(detail).to_contain_text("1,030 MB, of which attention 640 MB")
    page.wait_for_function("id => location.search.includes(id)", arg=job.id)
    page.reload()
    playwright.expect(detail.locator("pre")).to_have_text("a line\nthe last line")
    playwright.expect(page.locator(".job[aria-selected=true]")).to_contain_text("mine")
    page.keyboard.press("Escape")
    playwright.expect(detail).to_be_hidden()
    assert page.evaluate("location.search") == ""


def test_cancelling_asks_once_more(page: "playwright.Page", lab: Lab):
    job = lab.begin("mine")
    jobs_page(page, lab)
    row(page, "mine").get_by_role("button", name="cancel").click()
    row(page, "mine").get_by_role("button", name="no", exact=True).click()
    assert lab.desk.ledger.job(job.id).state == "running"
    row(page, "mine").get_by_role("button", name="cancel").click()
    row(page, "mine").get_by_role("button", name="cancel for good").click()
    playwright.expect(row(page, "mine").locator(".state")).to_have_text("⊘cancelled")
    playwright.expect(page.locator("#jobs-said")).to_have_text("mine is cancelled")
    assert lab.desk.ledger.job(job.id).state == "cancelled"
    playwright.expect(row(page, "mine").get_by_role("button")).to_have_count(0)


def test_a_job_is_selected_and_cancelled_by_keyboard_alone(page: "playwright.Page", lab: Lab):
    job = lab.begin("first")
    lab.ask("second")
    jobs_page(page, lab)
    selected = page.locator(".job[aria-selected=true]")
    row(page, "first").focus()
    page.keyboard.press("Enter")
    playwright.expect(selected).to_contain_text("first")
    page.keyboard.press("ArrowDown")
    playwright.expect(row(page, "second")).to_be_focused()
    playwright.expect(selected).to_contain_text("second")
    playwright.expect(page.locator("#jobs-detail h3")).to_have_text("second")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    playwright.expect(row(page, "first").get_by_role("button", name="cancel")).to_be_focused()
    page.keyboard.press("Enter")
    playwright.expect(row(page, "first").get_by_role("button", name="no", exact=True)).to_be_focused()
    page.keyboard.press("Escape")  # leaves the question, and what is selected
    playwright.expect(row(page, "first")).to_be_focused()
    playwright.expect(row(page, "first").get_by_role("button")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    playwright.expect(row(page, "first").locator(".state")).to_have_text("⊘cancelled")
    playwright.expect(row(page, "first")).to_be_focused()  # though it stands below the other now
    playwright.expect(page.locator(".job th")).to_have_text(["second", "first"])
    assert lab.desk.ledger.job(job.id).state == "cancelled"
    playwright.expect(selected).to_contain_text("first")
    page.locator("#jobs-close").click()
    playwright.expect(selected).to_have_count(0)
    playwright.expect(row(page, "first")).to_be_focused()


def test_what_has_not_changed_is_not_drawn_again(page: "playwright.Page", lab: Lab):
    lab.begin("runs")
    for n in range(60):
        lab.ask(f"waits-{n}")
    jobs_page(page, lab)
    playwright.expect(page.locator(".job")).to_have_count(61)
    playwright.expect(row(page, "runs")).to_contain_text("units 1 of 3")
    page.evaluate(
        """() => {
            const row = document.querySelectorAll(".job")[40], rows = document.querySelector(".rows");
            window.kept = [row.cells[0].firstChild, row.cells[3].firstChild];
            rows.scrollTop = 500;
            getSelection().selectAllChildren(row.cells[0]);
            row.querySelector("button").focus({preventScroll: true});
        }"""
    )
    lab.work()
    playwright.expect(row(page, "runs")).to_contain_text("units 2 of 3")
    assert page.evaluate("window.kept.every(each => each.isConnected)")
    assert page.evaluate("document.querySelector('.rows').scrollTop") == 500
    assert page.evaluate("getSelection().toString()") == page.locator(".job th").nth(40).inner_text()
    playwright.expect(page.locator(".job").nth(40).get_by_role("button")).to_be_focused()


def test_a_job_of_the_address_is_scrolled_to(page: "playwright.Page", lab: Lab):
    asked = [lab.ask(f"waits-{n}") for n in range(60)]
    jobs_page(page, lab, f"?job={asked[50].id}")
    playwright.expect(page.locator("#jobs-detail h3")).to_have_text("waits-50")
    playwright.expect(row(page, "waits-50")).to_be_in_viewport()
    assert page.locator(".jobs-page [tabindex='0']").first.inner_text().startswith("waits-50")


def test_a_server_that_goes_away_is_said_and_the_page_goes_on_when_it_is_back(page: "playwright.Page", lab: Lab):
    lab.begin("mine")
    jobs_page(page, lab)
    playwright.expect(row(page, "mine")).to_be_visible()
    port = lab.port
    lab.close()
    playwright.expect(page.locator("#jobs-away")).to_contain_text("The server does not answer")
    playwright.expect(row(page, "mine")).to_be_visible()
    lab.work()
    lab.open(port)
    playwright.expect(page.locator("#jobs-away")).to_have_text("")
    playwright.expect(row(page, "mine")).to_contain_text("units 2 of 3")


def test_a_ledger_that_was_removed_is_said_in_its_own_words(context: "playwright.BrowserContext", lab: Lab):
    with sound_page(context, "the server responded with a status of 503") as page:
        jobs_page(page, lab)
        (lab.data / "headscope.db").unlink()
        playwright.expect(page.locator("#jobs-away")).to_have_text(DamagedLedgerError.said)


def test_a_study_that_failed_is_computed_again_by_one_press(page: "playwright.Page", lab: Lab):
    first = lab.ask("mine")
    lease = lab.desk.ledger.take("bulk", "w", "bell")
    lab.desk.ledger.fail(lease, "PyTorch was 2.14 when this job was planned and is 2.15 now", final=True)
    jobs_page(page, lab)
    row(page, "mine").get_by_role("button", name="compute again").click()
    playwright.expect(page.locator("#jobs-said")).to_contain_text("mine is computed again")
    playwright.expect(page.locator("#jobs-count")).to_have_text("1 job")
    assert [(job.state, job.key) for job in lab.desk.ledger.jobs()] == [("queued", first.key), ("failed", first.key)]


def test_without_jobs_and_workers_the_page_says_what_to_do(page: "playwright.Page", tmp_path: Path, lab: Lab):
    page.goto(f"{lab.address}/jobs")
    playwright.expect(page.locator("#jobs-none")).to_contain_text("No study has been asked for yet")
    page.locator("#jobs-none").get_by_role("link", name="New study").click()
    playwright.expect(page.locator("#new-study-model")).to_be_visible()
    assert page.evaluate("location.pathname") == "/new"


def test_a_study_is_asked_for_by_keyboard_alone_once_its_price_is_there(page: "playwright.Page", lab: Lab):
    new_page(page, lab)
    price, ask = page.locator("#new-study-price"), page.locator("#new-study-submit")
    playwright.expect(ask).to_be_disabled()
    pick(page, "model", "deit_tiny_patch")
    pick(page, "images", "pets")
    playwright.expect(page.locator("#new-study-images")).to_contain_text("3 pictures · 2 classes")
    playwright.expect(page.locator("#new-study-name")).to_have_attribute("placeholder", "deit_tiny_patch16_224-pets")
    playwright.expect(price).to_contain_text("waits for a worker")
    lab.work("interactive", **PRICE)
    playwright.expect(price).to_contain_text("1,030 MB, of which attention 640 MB · about 14 min on this worker")
    playwright.expect(ask).to_be_enabled()
    page.locator("#new-study-name").focus()
    page.keyboard.type("mine")
    playwright.expect(ask).to_be_disabled()  # that was the price of another name
    playwright.expect(price).to_contain_text("waits for a worker")
    lab.work("interactive", **PRICE)
    playwright.expect(ask).to_be_enabled()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#jobs-detail h3")).to_have_text("mine")
    playwright.expect(page.locator(".job[aria-selected=true]")).to_contain_text("mine")
    (job,) = lab.desk.ledger.jobs(kinds=["study"])
    assert job.request["images"] == str(lab.data / "images" / "pets")
    page.go_back()
    playwright.expect(page.locator("#new-study-name")).to_have_value("mine")


def test_the_form_asks_for_nothing_more_once_its_price_is_there(page: "playwright.Page", lab: Lab):
    new_page(page, lab)
    pick(page, "model", "deit_tiny_patch")
    pick(page, "images", "pets")
    playwright.expect(page.locator("#new-study-price")).to_contain_text("waits for a worker")
    lab.work("interactive", **PRICE)
    playwright.expect(page.locator("#new-study-submit")).to_be_enabled()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for _ in range(10):  # what was under way when the price came may still be answered, on a busy machine
        asked.clear()
        page.wait_for_timeout(3000)
        if len(asked) <= 1:  # the poll of a quiet page, every 8 s
            break
    assert len(asked) <= 1


def test_what_is_wrong_stands_beside_its_field(page: "playwright.Page", lab: Lab):
    new_page(page, lab)
    pick(page, "model", "deit_tiny_patch")
    pick(page, "images", "pets")
    name = page.locator("#new-study-name")
    name.fill("No Good")
    said = page.locator("#new-study-name-problem")
    playwright.expect(said).to_contain_text("use 1 to 80 of a-z")
    playwright.expect(name).to_have_attribute("aria-invalid", "true")
    playwright.expect(name).to_have_attribute("aria-describedby", "new-study-name-problem")
    assert said.get_attribute("role") == "alert"
    name.fill("")
    playwright.expect(name).to_have_attribute("aria-invalid", "false")
    playwright.expect(page.locator("#new-study-price")).to_contain_text("waits for a worker")
    lab.work("interactive", refused={"field": "label_map", "message": "no class for cats"})
    playwright.expect(page.locator("#new-study-label-map-problem")).to_have_text("no class for cats")
    playwright.expect(page.locator("#new-study-label-map-problem")).to_be_visible()  # "more" has opened
    playwright.expect(page.locator("#new-study-submit")).to_be_disabled()


def test_the_workspace_is_as_it_was_left(page: "playwright.Page", lab: Lab):
    write_tiny_study(lab.data / "studies" / "first")
    page.goto(lab.address)
    settled(page)
    before = page.locator("#head-card-label").inner_text()
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.locator("#head-card-label")).not_to_have_text(before)
    settled(page)
    label, left = page.locator("#head-card-label").inner_text(), page.evaluate("location.search")
    page.locator("#jobs-count").click()
    playwright.expect(page.locator("#jobs-page")).to_be_visible()
    playwright.expect(page.locator("#stage")).to_be_hidden()
    assert page.title() == "Jobs · Headscope"
    page.keyboard.press("ArrowRight")  # moves nothing there
    page.get_by_role("link", name="Headscope").click()
    playwright.expect(page.locator("#head-card-label")).to_have_text(label)
    assert page.evaluate("location.search") == left
    page.go_back()
    playwright.expect(page.locator("#jobs-page")).to_be_visible()
    page.reload()
    playwright.expect(page.locator("#jobs-page")).to_be_visible()
    page.select_option("#study", "first")
    settled(page)
    page.wait_for_function("() => location.pathname === '/' && location.search.includes('study=first')")


def test_a_study_that_is_published_is_offered_without_a_reload(page: "playwright.Page", lab: Lab):
    page.goto(lab.address)
    playwright.expect(page.locator("#empty").get_by_role("link", name="New study")).to_be_visible()
    write_tiny_study(lab.data / "studies" / "fresh")
    settled(page)
    playwright.expect(page.locator("#study option[value=fresh]")).to_have_count(1)
    assert page.evaluate("location.search").startswith("?study=fresh")


def test_a_page_that_nobody_looks_at_asks_for_nothing(page: "playwright.Page", lab: Lab):
    jobs_page(page, lab)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    page.wait_for_timeout(500)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert asked == []
    with page.expect_request("**/jobs.json*"):
        page.evaluate(hide, False)


def test_both_pages_follow_the_theme_and_fit_the_screen(page: "playwright.Page", lab: Lab):
    lab.begin("mine")
    jobs_page(page, lab)
    playwright.expect(row(page, "mine")).to_be_visible()
    colour = "() => getComputedStyle(document.querySelector('.rows th')).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme-toggle")
    assert page.evaluate(colour) != light
    for path in ("/jobs", "/new"):
        page.locator(f".pages a[href='{path}']").click()
        for size in ({"width": 1280, "height": 720}, SCREEN):
            page.set_viewport_size(size)
            root = "document.documentElement"
            assert page.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]") == [size["width"], size["height"]]
