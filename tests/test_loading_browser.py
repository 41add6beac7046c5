"""A script or a style sheet that does not arrive: the page says so, and loads again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browsing import PATIENCE, needs_chromium, playwright, served, settled
from tests.studies import write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_chromium
expect = playwright.expect
# A script that is not the page's own, as of an extension, and does not load either.
SOMEBODYS = """() => new Promise(then => {
    const elsewhere = {src: "http://127.0.0.2:9/x.js", onerror: then};
    document.head.append(Object.assign(document.createElement("script"), elsewhere));
})"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    write_tiny_study(data / "studies" / "first")
    with served(data) as found:
        yield found


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    """A page that has nothing in its cache, and on which something may fail."""
    context = browser.new_context()
    made = context.new_page()
    made.set_default_timeout(PATIENCE)
    yield made
    context.close()


# Ours in the head; Dash's; one that Dash fetches once a graph is to be drawn, as the last; and a style sheet.
@pytest.mark.parametrize("lost", ["headscope.js", "dash_renderer", "async-graph", "strength.css"])
def test_what_does_not_arrive_is_said_and_the_page_loads_again(page: "Page", address: str, lost: str):
    page.route(f"**/*{lost}*", lambda route: route.abort("connectionreset"))
    page.goto(address, wait_until="commit")
    said = page.get_by_role("alert")
    expect(said).to_contain_text("A part of this page did not arrive")
    expect(said).to_have_count(1)
    page.unroute_all()
    said.get_by_role("button", name="Load the page again").click()
    if lost == "async-graph":
        settled(page)
        page.evaluate(SOMEBODYS)
    expect(said).to_have_count(0)


def test_a_server_that_is_away_for_a_moment_is_said_too(page: "Page", address: str):
    page.route("**/assets/page.js*", lambda route: route.fulfill(status=503, body="starting"))
    page.goto(address, wait_until="commit")
    expect(page.get_by_role("alert")).to_be_visible()
