"""Fixtures that more than one test file uses."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from argon2 import PasswordHasher

from dashboard import accounts
from tests.databases import ledger_url, new_ledger, postgres_server, postgresql
from tests.studies import write_tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["ledger_url", "new_ledger", "no_flush", "postgres_server", "postgresql", "tiny_study_path"]


# Fixtures by which a test needs more than Python and a queue's server, and the marker that it gets for it.
NEEDS = {"browser": "browser", "postgres_server": "postgres", "compose": "docker"}


# The files that compute whole studies or start servers and workers anew, the longest first: they are marked `long`, and
# begin first, or they would be waited for at the end. Then those of the browser.
LONG = (
    *("test_chaos", "test_pipeline", "test_embedded", "test_study_units", "test_image_job", "test_prune_job"),
    "test_queue_faults",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, and those of long files: `make check` leaves these out."""
    for item in items:
        assert isinstance(item, pytest.Function)
        found = {marker for fixture, marker in NEEDS.items() if fixture in item.fixturenames}
        if item.path.name.endswith("_docker.py"):
            found.add("docker")
        if item.path.stem in LONG:
            found.add("long")
        for marker in found:
            item.add_marker(marker)
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, bool]:
    """Of its file among those that begin first."""
    name = item.path.stem
    return LONG.index(name) if name in LONG else len(LONG), not name.endswith("_browser")


@pytest.fixture(scope="session")
def tiny_study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a published tiny study that all tests share: read it, never change it."""
    return write_tiny_study(tmp_path_factory.mktemp("studies") / "tiny")


@pytest.fixture
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the disk where a test is about names and bytes: no test can see what a flush changes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """SIGINT interrupts this process and those it starts, also where tests run in the background or under nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def cheap_passwords() -> Iterator[None]:
    """Few tests are about what a hash costs."""
    with pytest.MonkeyPatch.context() as patch:
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        patch.setattr(accounts, "_HASHER", cheap)
        patch.setattr(accounts, "_NOBODYS", cheap.hash("nobody's"))
        yield


@pytest.fixture(scope="module")
def nobody_works() -> Iterator[None]:
    """Jobs stay as they were asked for: no bell rings, and the page does not wait for an answer."""
    from dashboard.views import pruning  # the page takes a second to import
    from jobs.client import Desk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Desk, "ring", lambda *given: None)
        patch.setattr(pruning, "PATIENCE", 0.0)
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """The one browser of all tests: one Playwright a process is all it takes."""
    from tests.browsing import launched  # says aloud that there is no Playwright only to the tests that need it

    with launched() as shared:
        yield shared


@pytest.fixture(scope="session")
def context(browser: "Browser") -> "BrowserContext":
    """One cache and one process: Plotly's script is large."""
    from tests.browsing import SCREEN, new_context

    return new_context(browser, viewport=SCREEN, color_scheme="light")


@pytest.fixture(scope="module")
def page_of_module(context: "BrowserContext") -> Iterator["Page"]:
    """A page takes seconds to load: the tests of a file share one."""
    from tests.browsing import PATIENCE

    shared = context.new_page()
    shared.set_default_timeout(PATIENCE)
    yield shared
    shared.close()


@pytest.fixture
def page(page_of_module: "Page") -> Iterator["Page"]:
    """A page that may talk to its own server only, and on which nothing may go wrong."""
    from tests.browsing import SCREEN, sound

    page_of_module.set_viewport_size(SCREEN)
    page_of_module.mouse.move(0, 0)
    with sound(page_of_module):
        yield page_of_module


@pytest.fixture
def fresh_page(context: "BrowserContext") -> Iterator["Page"]:
    """A page of the test's own, for what pages keep to themselves: a hovered token, a brush, what is waited for."""
    from tests.browsing import sound_page

    with sound_page(context) as found:
        yield found
