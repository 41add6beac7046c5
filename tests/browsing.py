"""The page in Chromium, for the tests that drive it: a server, one browser, and a page on which nothing may fail."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import make_server

from dashboard.app import create_app
from store.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser tests")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install Debian's package chromium, or set CHROMIUM to its path"
)

# WebGL, which the maps are drawn with, has no GPU here.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
FLAGS += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# All pages of a context in one process, whatever the port: a page's scripts are ready there once one page has run.
FLAGS += ["--process-per-site"]
SCREEN = {"width": 1440, "height": 900}
NARROW = {"width": 1280, "height": 720}
ANCHOR = "http://127.0.0.1/"  # of the site of all pages; nobody is asked for it
PATIENCE = 30_000  # ms
# Until no graph has been drawn for some frames: what follows a size that changed comes last.
STILL = """() => new Promise(then => {
    let left = 12;
    const again = () => { left = 12; };
    const graphs = [...document.querySelectorAll(".stage .js-plotly-plot")];
    graphs.forEach(graph => graph.on("plotly_afterplot", again));
    const frame = () => {
        if (left--) {
            return requestAnimationFrame(frame);
        }
        graphs.forEach(graph => graph.removeListener("plotly_afterplot", again));
        then();
    };
    frame();
})"""
GO = """path => {
    document.documentElement.dataset.bsTheme = "light"; // as a browser without a choice has it
    dash_clientside.set_props("theme", {data: "light"});
    document.activeElement?.blur();
    dash_clientside.page.go(path);
}"""


@contextmanager
def served(data: Path, desk: Any = None, **options: Any) -> Iterator[str]:
    """The address of the page over a data folder.

    Args:
        desk: Where it asks for work, by default its own.
        options: Other settings.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, create_app(Settings(data=data, **options), desk).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def launched() -> Iterator["Browser"]:
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=PATIENCE)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def new_context(browser: "Browser", **options: Any) -> "BrowserContext":
    """A context whose one process stays, by a page that is empty, while no other page is open."""
    context = browser.new_context(**options)
    anchor = context.new_page()
    anchor.route(ANCHOR, lambda route: route.fulfill(content_type="text/html", body=""))
    anchor.goto(ANCHOR)
    return context


@contextmanager
def sound_page(opener: "Browser | BrowserContext", *expected: str, **options: Any) -> Iterator["Page"]:
    """A page that may talk to its own server only; afterwards nothing may have gone wrong on it.

    Args:
        expected: Parts of what the console may say.
        options: Of Browser.new_page.
    """
    page = opener.new_page(**options)
    page.set_default_timeout(PATIENCE)
    with sound(page, *expected):
        yield page
    page.close()


@contextmanager
def sound(page: "Page", *expected: str) -> Iterator[None]:
    """Nothing goes wrong on a page meanwhile, and it talks to its own server only."""
    wrong: list[str] = []
    asked: list[str] = []
    heard: dict[str, Any] = {
        "request": lambda request: asked.append(request.url),
        "pageerror": lambda error: wrong.append(str(error)),
        "console": lambda said: wrong.append(said.text) if said.type == "error" else None,
    }
    for event, listener in heard.items():
        page.on(event, listener)
    yield
    for event, listener in heard.items():
        page.remove_listener(event, listener)
    own = "/".join(page.url.split("/")[:3])
    page.evaluate("localStorage.clear()")
    elsewhere = [url for url in asked if not url.startswith((own, "data:", "blob:"))]
    wrong = [text for text in wrong if not any(part in text for part in expected)]
    assert not elsewhere + wrong, "\n".join(elsewhere + wrong)


def opened(page: "Page", address: str) -> "Page":
    """The page at an address, when its views are drawn; a page that is there already goes there as a link does."""
    server, _, path = address.partition("://")[2].partition("/")
    if page.url.split("/")[2:3] == [server] and page.evaluate("Boolean(window.headscope?.selection)"):
        page.evaluate(GO, f"/{path}")
    else:
        page.goto(address)
    settled(page)
    page.evaluate(STILL)
    return page


def settled(page: "Page") -> None:
    """Wait until the views have drawn what is selected."""
    page.wait_for_function(
        """() => {
            const graphs = [...document.querySelectorAll(".stage .js-plotly-plot")];
            const there = graphs.length && graphs.every(each => each._fullLayout);
            return there && window.headscope?.selection && headscope.drawn();
        }"""
    )
    page.evaluate("() => new Promise(then => requestAnimationFrame(() => requestAnimationFrame(then)))")


def expect_address(page: "Page", *parts: str) -> None:
    """Wait until the address has these parts."""
    for part in parts:
        page.wait_for_function("part => decodeURIComponent(location.search).includes(part)", arg=part)


def point_of(page: "Page", graph: str, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a graph has its point (x, y)."""
    script = """([graph, x, y]) => {
        const plot = document.querySelector(`#${graph} .js-plotly-plot`), layout = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        return [box.x + layout._size.l + layout.xaxis.d2p(x), box.y + layout._size.t + layout.yaxis.d2p(y)];
    }"""
    left, top = page.evaluate(script, [graph, x, y])
    return left, top


def click(page: "Page", x: float, y: float) -> None:
    """Click as a hand does: Plotly clicks what was hovered for a moment, on a figure that is drawn."""
    settled(page)
    page.mouse.move(x, y)
    page.wait_for_timeout(150)
    page.mouse.click(x, y)
