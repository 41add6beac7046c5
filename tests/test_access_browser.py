"""Signing in and out in Chromium, and what another site's page can do there to who has signed in: nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashboard.accounts import Accounts
from store.settings import Settings
from tests.browsing import NARROW, PATIENCE, needs_chromium, playwright, served, settled, sound
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_chromium
expect = playwright.expect

NAME, PASSWORD = "ann.with-a-long-name@lab.org", "correct horse battery"
WRONG = "The name or the password is wrong."
REFUSED = "the server responded with a status of 401"  # what the console says of it


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tiny_study(folder / "studies" / "tiny")
    return folder


@pytest.fixture(scope="module")
def accounts(data: Path) -> Accounts:
    found = Accounts(Settings(data=data).ledger_url)
    found.add(NAME, "analyst", PASSWORD)
    return found


@pytest.fixture(scope="module")
def address(data: Path, accounts: Accounts) -> Iterator[str]:
    secret = "8f3a61c0d92be47715f08c6a2d94e3b1"
    with served(data, FakeDesk(Settings(data=data)), sign_in=True, secret=secret) as found:
        yield found


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    """Of a browser that has never been here."""
    context = browser.new_context(viewport=NARROW)
    found = context.new_page()
    found.set_default_timeout(PATIENCE)
    yield found
    context.close()


def sign_in(page: "Page", address: str) -> None:
    page.goto(address)
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_who_signs_in_sees_what_they_asked_for_until_they_sign_out(page: "Page", address: str):
    with sound(page, REFUSED):
        page.goto(f"{address}/?study=tiny&layer=0&head=1")
        expect(page.get_by_label("Name")).to_be_focused()
        page.keyboard.type(NAME)
        page.keyboard.press("Tab")
        page.keyboard.type("something else")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(WRONG)
        expect(page.get_by_label("Password")).to_be_focused()
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        settled(page)
        assert "layer=0&head=1" in page.url
        who = page.locator(".who")
        box = who.bounding_box()
        assert box is not None and box["x"] + box["width"] <= NARROW["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        who.locator("summary").click()
        expect(who.get_by_text("analyst")).to_be_visible()
        who.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Name")).to_be_visible()
        page.go_back()
        expect(page.get_by_label("Name")).to_be_visible()
        page.goto(f"{address}/jobs")
        expect(page.get_by_label("Name")).to_be_visible()


def test_a_page_whose_sign_in_ends_leads_there_and_back(page: "Page", address: str, accounts: Accounts):
    with sound(page, REFUSED):
        sign_in(page, f"{address}/jobs")
        expect(page.locator("#jobs-none")).to_be_visible()
        accounts.set_role(NAME, "analyst")
        expect(page.get_by_label("Password")).to_be_visible()
        page.get_by_label("Name").fill(NAME)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.locator("#jobs-none")).to_be_visible()
        assert page.url == f"{address}/jobs"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signing_in_takes_no_script_and_has_the_systems_theme(browser: "Browser", address: str, scheme: str):
    context = browser.new_context(java_script_enabled=False, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/jobs")
    colour = page.locator("main").evaluate("node => getComputedStyle(node).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 26, 31)"}[scheme]
    sign_in(page, f"{address}/jobs")
    page.wait_for_url(f"{address}/jobs")
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in context.cookies()] == [(True, "Lax")]
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_page_to_sign_in(browser: "Browser", address: str, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python brings axe-core")
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/sign-in")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(WRONG)
    assert [rule["id"] for rule in axe.Axe().run(page).response["violations"]] == []
    context.close()


# --- another site ---

# Everything that a page can make a browser send or show without asking.
EVIL = """<!DOCTYPE html><title>evil</title>
<iframe name="framed" src="ADDRESS/jobs"></iframe>
<iframe name="first"></iframe><iframe name="second"></iframe><iframe name="third"></iframe>
<form id="a" method="post" target="first" action="ADDRESS/_dash-update-component" enctype="text/plain">
  <input name='{"output": "x", "x": "' value='"}'></form>
<form id="b" method="post" target="second" action="ADDRESS/sign-out"></form>
<form id="c" method="post" target="third" action="ADDRESS/sign-in"><input name="name" value="evil"></form>
<script>
for (const id of ["a", "b", "c"]) { document.getElementById(id).submit(); }
const tried = {};
for (const mode of ["no-cors", "cors"]) {
    tried[mode] = fetch("ADDRESS/_dash-update-component", {method: "POST", mode, credentials: "include", body: "{}"})
        .then(answer => answer.type, () => "failed");
    tried[mode + " read"] = fetch("ADDRESS/jobs.json", {mode, credentials: "include"})
        .then(answer => answer.type === "opaque" ? "opaque" : answer.text(), () => "failed");
}
async function all() { const found = {}; for (const name in tried) { found[name] = await tried[name]; } return found; }
</script>"""


@contextmanager
def site(html: str) -> Iterator[str]:
    """The address of another site, which is one page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"  # to a browser another site than 127.0.0.1
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("mode", ["open", "team"])
def test_another_sites_page_sends_nothing_reads_nothing_and_shows_nothing(
    page: "Page", data: Path, address: str, mode: str
):
    with served(data, FakeDesk(Settings(data=data))) as opened:
        ours = opened if mode == "open" else address
        if mode == "team":
            sign_in(page, f"{ours}/jobs")
            page.wait_for_url(f"{ours}/jobs")
        statuses: dict[str, list[int]] = {}
        page.on("response", lambda told: statuses.setdefault(told.request.method, []).append(told.status))
        with site(EVIL.replace("ADDRESS", ours)) as evil:
            statuses.clear()
            page.goto(evil)
            assert page.evaluate("location.origin") == evil
            found = page.evaluate("all()")
            page.wait_for_timeout(500)
            framed = page.frame("framed")
            assert framed is not None
            assert "eadscope" not in framed.content()
            assert framed.url.startswith("chrome-error:")
        assert found["cors"] == found["cors read"] == "failed"
        assert found["no-cors read"] in ("opaque", "failed")  # it came, but no script sees what
        assert len(statuses["POST"]) >= 3
        assert set(statuses["POST"]) == {403}
        # The page's own requests go on as before, and who was signed in still is.
        page.goto(f"{ours}/jobs")
        expect(page.locator("#jobs-none")).to_be_visible()
        assert page.evaluate("fetch('/jobs.json').then(answer => answer.status)") == 200
