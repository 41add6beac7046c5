"""Can everybody use the page? Rules of axe-core (WCAG 2 A and AA, best practices): none that matters is broken."""

from collections.abc import Iterator

import pytest

from store.settings import Settings
from tests.browsing import needs_chromium, playwright, served, sound_page
from tests.fake_desk import FakeDesk
from tests.studies import write_tiny_study

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python brings axe-core")
pytestmark = needs_chromium

MATTERS = ("serious", "critical")
# Dash's own list of choices takes the keys in a hidden input; the button beside it, which opens it, has role and name.
OF_DASH = {("aria-hidden-focus", "dash-dropdown-focus-target")}
IMAGES = 8
# Every page; the workspace with an image, as another of its faces without one, and of a model with little to tell.
PAGES = {
    "workspace": "/?study=first&token=3",
    "set": "/?study=first&image=&images=prediction:right&curve=grid&map=cls&map_as=density&tab=strength&colour=class",
    "unlabelled": "/?study=second",
    "jobs": "/jobs",
    "new": "/new",
    "studies": "/studies",
}
# Whether there is something to look at.
READY = {
    "jobs": "() => document.querySelector('#jobs-table th') && document.querySelector('#jobs-none:not([hidden])')",
    "new": "() => document.querySelector('.new-page .dash-dropdown')",
    "studies": "() => document.querySelectorAll('.study').length === 3",
}
DRAWN = """() => window.headscope?.selection && document.querySelectorAll('.js-plotly-plot .main-svg').length
    && !document.querySelector('.stage [data-dash-is-loading=true]')"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    write_tiny_study(data / "studies" / "first", images=IMAGES, labelled=IMAGES, layers=3, heads=4, grid=(4, 4))
    write_tiny_study(data / "studies" / "second", images=2, labelled=0, classes=0, has_cls=False, prefix=0)
    (data / "studies" / "third").mkdir()
    (data / "studies" / "third" / "MANIFEST.json").write_text("{")
    with served(data, FakeDesk(Settings(data=data))) as address:
        yield address


@pytest.fixture(scope="module", params=["light", "dark"])
def page(
    request: pytest.FixtureRequest, context: "playwright.BrowserContext", address: str
) -> Iterator["playwright.Page"]:
    """One page a theme: Plotly's script is large."""
    with sound_page(context) as page:
        page.emulate_media(color_scheme=request.param)
        yield page


@pytest.mark.parametrize("name", PAGES)
def test_no_rule_that_matters_is_broken(page: "playwright.Page", address: str, name: str):
    page.goto(address + PAGES[name])
    page.wait_for_function(READY.get(name, DRAWN))
    page.wait_for_load_state("networkidle")
    found = broken(page)
    assert not found, "\n".join(found)


def broken(page: "playwright.Page") -> list[str]:
    """Each place where a rule that matters is broken: the rule, where, and what is wrong."""
    violations = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}) at {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in violations
        if rule["impact"] in MATTERS
        for node in rule["nodes"]
        if not any(rule["id"] == known and part in node["html"] for known, part in OF_DASH)
    ]
