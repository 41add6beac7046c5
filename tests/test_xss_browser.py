"""Names that would be scripts, wherever a name is shown: none runs, none becomes an element, no policy is broken."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from analyses.pruning import PruneRequest
from dashboard.selection import THEMES
from dashboard.workspace import VIEWS
from jobs import uploads
from jobs.requests import PriceRequest, StudyRequest, UploadRequest, to_json
from jobs.uploads import Contents
from jobs.work import Job, WorkerSeen
from store.settings import Settings
from tests.browsing import PATIENCE, SCREEN, needs_chromium, opened, playwright, point_of, served, settled, sound
from tests.fake_desk import FakeDesk, a_job
from tests.studies import compute, tiny_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_chromium
expect = playwright.expect

ATTACKS = [
    '<img src="/xss-canary" onerror="canary()">',
    '"><svg onload=canary() x="',
    "<script>canary()</script>",
    "javascript:canary()//",
    "<a href='javascript:canary()'><b>%{x}</b></a>",
    "'+canary()+'{{constructor.constructor('canary()')()}}${canary()}",
]
FILES = [attack.replace("/", "∕") for attack in ATTACKS]  # a name of a file has no slash
EVERY = "".join(ATTACKS)
IMAGES = 8
START = {"study": "odd", "layer": 0, "head": 0}
QUIET = ("the server responded with a status of 40",)  # what the console says of an address that is none

# What a payload would do, and what the browser says when the policy has stopped it.
LISTEN = """
window.ran = [];
window.canary = () => { window.ran.push(new Error().stack); };
window.alert = window.confirm = window.prompt = window.canary;
window.reports = [];
document.addEventListener("securitypolicyviolation", event => {
    window.reports.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""
# What only a payload makes: an attribute, an address or an element that no view has.
MADE = """() => [...document.querySelectorAll("*")].filter(each =>
    ["onerror", "onload"].some(name => each.hasAttribute(name))
    || ["href", "xlink:href", "src"].some(name => /^(\\s*javascript:|.xss-)/i.test(each.getAttribute(name) ?? ""))
    || (each.tagName === "SCRIPT" && each.textContent.includes("canary"))
).map(each => each.outerHTML.slice(0, 200))"""


def attacked(kind: str, number: int) -> Job:
    """A job every text of which is an attack."""
    attack = ATTACKS[number % len(ATTACKS)]
    study = StudyRequest(attack, Path("/") / attack, name=attack, checkpoint=Path(attack), device=attack)
    requests = {
        "study": study,
        "price": PriceRequest(study),
        "prune": PruneRequest(study=attack, content=attack, images=(attack,), heads=((0, 0),)),
        "upload": UploadRequest(attack, attack),
    }
    states = ("failed", "running", "queued", "done", "cancelled")
    texts = dict.fromkeys(("title", "who", "cause", "note", "stage", "counted", "log"), EVERY)
    return a_job(
        id=f"{kind}{number}", kind=kind, request=to_json(requests[kind]), state=states[number % len(states)],
        submitted=0.0, started=1.0, finished=2.0, beat=1.0, stage_total=2, workers=number % 2, **texts,
        facts={"price": {"attention": attack, "bytes": 1}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which every name that can be is an attack."""
    folder = tmp_path_factory.mktemp("data")
    odd = tiny_study(images=IMAGES, labelled=IMAGES, classes=6, layers=2, heads=2, prefix=2, unit_images=IMAGES)
    odd.arrays["image"] = np.array([f"{attack} {number}" for number, attack in enumerate((ATTACKS * 2)[:IMAGES])])
    odd.arrays["class"] = np.array(ATTACKS)
    odd.attrs["model"] |= {"name": EVERY, "prefix_tokens": ["CLS", ATTACKS[0]]}
    odd.attrs["weights"] |= {"kind": EVERY, "file": EVERY}
    odd.attrs["images"] |= {
        "folder": EVERY,
        "quarantined": [{"image": attack, "reason": attack} for attack in ATTACKS],
    }
    compute(folder / "studies" / "odd", odd)
    without = tiny_study(maps=False)
    without.attrs["left_out"] |= dict.fromkeys(without.attrs["left_out"], EVERY)
    compute(folder / "studies" / "without", without)
    (folder / "studies" / "damaged").mkdir()
    (folder / "studies" / "damaged" / "MANIFEST.json").write_text(EVERY)
    for number, name in enumerate(FILES):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / f"{name}.png").write_bytes(b"")
        (folder / "images" / f"{name}.csv").write_text("")
        (folder / "images" / f"{name}.txt").write_text("")
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models" / f"{name}.pth").write_text("")
        sent = uploads.begin(folder / "uploads", f"{number}{ATTACKS[number]}", ATTACKS[number], 10)
        (sent.folder / "x.csv").write_text("path,label,id\n")
        sent.refused.write_text("[]")
        uploads.publish(sent, Contents("x.csv", 1, 1, 1, 0, 10))
    return folder


@pytest.fixture(scope="module")
def desk(data: Path) -> FakeDesk:
    made = FakeDesk(Settings(data=data))
    made.ledger.seen = [
        WorkerSeen(EVERY, queue, attack, 0.0) for queue in ("interactive", "bulk") for attack in ATTACKS
    ]
    made.ledger.kept = lambda name: ATTACKS
    return made


@pytest.fixture(autouse=True)
def jobs_that_attack(desk: FakeDesk) -> None:
    kinds = ("study", "price", "prune", "upload")
    made = [attacked(kind, number) for number, kind in enumerate(kinds * 3)]
    desk.ledger.all = {job.id: job for job in made}
    desk.ledger.results = {}


@pytest.fixture(scope="module")
def address(data: Path, desk: FakeDesk) -> Iterator[str]:
    with served(data, desk) as found:
        yield found


@pytest.fixture(scope="module")
def shared(browser: "Browser") -> Iterator["Page"]:
    context = browser.new_context(viewport=SCREEN, color_scheme="light")
    context.add_init_script(LISTEN)
    found = context.new_page()
    found.set_default_timeout(PATIENCE)
    yield found
    context.close()


@pytest.fixture
def page(shared: "Page") -> Iterator["Page"]:
    """A page on which nothing that a name says may happen."""
    said: list[str] = []

    def hear(dialog: object) -> None:
        said.append(str(dialog))
        dialog.dismiss()  # type: ignore[attr-defined]

    fetched = lambda request: said.append(request.url) if "/xss-canary" in request.url.split("?")[0] else None  # noqa: E731
    shared.on("dialog", hear)
    shared.on("request", fetched)
    with sound(shared, *QUIET):
        yield shared
        assert harmless(shared)
    shared.remove_listener("dialog", hear)
    shared.remove_listener("request", fetched)
    assert said == []


def harmless(page: "Page") -> bool:
    """Nothing ran, nothing was made, and the policy had nothing to stop."""
    assert page.evaluate("window.ran") == []
    assert page.evaluate("window.reports") == []
    assert page.evaluate(MADE) == []
    return True


def at(address: str, **picked: object) -> str:
    return f"{address}/?{urlencode(START | picked, quote_via=quote)}"


def test_the_page_hears_of_a_script_that_runs_and_of_one_that_is_stopped(shared: "Page", address: str):
    shared.goto(f"{address}/jobs")
    shared.evaluate("canary()")
    shared.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p><b onclick=canary()>x</b><img src=x onerror=y></p>')"
    )
    shared.wait_for_function("window.reports.length > 0")
    assert len(shared.evaluate("window.ran")) == 1
    assert len(shared.evaluate(MADE)) == 1
    shared.goto(f"{address}/jobs")
    assert shared.evaluate("[window.ran.length, window.reports.length]") == [0, 0]


# The second one takes as long as the first.
both_themes = pytest.mark.parametrize("theme", [THEMES[0], pytest.param(THEMES[1], marks=pytest.mark.hostile)])

# --- the workspace ---


@both_themes
def test_no_name_in_any_view_is_more_than_a_name(page: "Page", address: str, theme: str):
    opened(page, at(address, theme=theme))
    seen = set()
    for _ in range(IMAGES):
        page.keyboard.press("]")
        settled(page)
        harmless(page)
        seen.add(page.inner_text("#image-card-reading")[:-2])
    assert seen == set(ATTACKS)
    for part in (*page.locator("header.top details summary").all(), *page.locator(".caveats summary").all()):
        part.click()
    page.keyboard.press("Escape")
    for picked in ({"images": "class:0,1,2,3,4,5"}, {"images": f"id:{quote(ATTACKS[0])}"}, {"colour": "prediction"}):
        opened(page, at(address, theme=theme, **picked))
        harmless(page)
    opened(page, at(address, study="without", theme=theme))
    harmless(page)


@both_themes
def test_no_tooltip_is_more_than_text(page: "Page", address: str, theme: str):
    said: dict[str, list[str]] = {}
    for colour, map_as in (("class", "points"), ("prediction", "density")):
        opened(page, at(address, theme=theme, colour=colour, map_as=map_as, map_colour="pattern"))
        for graph in ("image-overview-graph", "pattern-map-graph", "strength-images-graph", "head-importance-graph"):
            places = page.evaluate(
                """graph => [...document.querySelectorAll(`#${graph} .js-plotly-plot`)].flatMap(plot => plot._fullData)
                    .flatMap(trace => [...(trace.x ?? [])].map((x, place) => [Number(x), Number(trace.y?.[place])]))
                    .filter(place => place.every(Number.isFinite)).slice(0, 8)""",
                graph,
            )
            for x, y in places:
                left, top = point_of(page, graph, x, y)
                page.mouse.move(left - 2, top)
                page.mouse.move(left, top)
                page.wait_for_timeout(60)
                said.setdefault(graph, []).extend(page.locator(".thumbnail-tooltip:visible").all_inner_texts())
        assert harmless(page)
    page.mouse.move(0, 0)
    for attack in ATTACKS:
        assert any(attack in text for text in said["image-overview-graph"]), attack
    assert any(ATTACKS[0] in text for text in said["pattern-map-graph"])


def test_what_is_typed_and_what_the_address_says_is_told_as_text(page: "Page", address: str):
    opened(page, at(address))
    for attack in ATTACKS:
        page.fill("#search", f"no such {attack}")
        page.press("#search", "Enter")
        expect(page.locator("#notice")).to_contain_text("no such")
        page.fill("#search", "")
    page.keyboard.press("Escape")
    wrong = dict.fromkeys(("metric", "colour", "images", "image", "basket", "layer", "token"), EVERY)
    for query in (START | wrong, {"study": EVERY}, START | {"images": f"lasso:{EVERY}:0,0,1,0,1,1"}):
        page.goto(f"{address}/?{urlencode(query)}")  # in a page that is there already, the theme would come after it
        settled(page)
        expect(page.locator("#notice")).to_contain_text("canary")
        harmless(page)


def test_every_panel_fills_the_screen_and_prunes_with_names_as_text(page: "Page", address: str, desk: FakeDesk):
    opened(page, at(address))
    for panel in page.evaluate("[...document.querySelectorAll('.stage .panel')].map(each => each.dataset.panel)"):
        if panel:
            page.evaluate("panel => headscope.gesture('large', panel)", panel)
            settled(page)
            harmless(page)
            page.evaluate("panel => headscope.gesture('large', panel)", panel)
    settled(page)
    desk.answers = False
    page.evaluate("headscope.gesture('image', 3)")
    page.evaluate("headscope.gesture('head', [1, 1])")
    settled(page)
    panel = page.locator(".panel.pruning")
    expect(panel).to_contain_text("waiting for a worker")
    for job in desk.ledger.jobs(kinds=["prune"]):
        desk.set(job.id, state="failed", cause=f"because {EVERY}")
    expect(panel).to_contain_text("because <img")
    desk.answers = True


# --- what leaves ---


@both_themes
def test_no_picture_that_leaves_has_a_script_in_it(
    page: "Page", browser: "Browser", address: str, theme: str, tmp_path: Path
):
    opened(page, at(address, theme=theme, image=f"{ATTACKS[2]} 2"))
    expect(page.locator("#pruning-body")).to_contain_text("canary")  # it leaves once it is there
    alone = browser.new_context()
    alone.add_init_script(LISTEN)
    viewer = alone.new_page()
    for export in page.evaluate("JSON.parse(document.getElementById('export-menu').dataset.exports)"):
        page.click(f"[data-menu={export['panel']}]")
        with page.expect_download() as download:
            page.click(f"#export-menu [data-export='{export['name']}'][data-as=svg]")
        path = tmp_path / download.value.suggested_filename
        assert re.fullmatch(r"[\w.-]+\.svg", path.name), path.name
        download.value.save_as(path)
        root = ET.parse(path).getroot()
        assert any("canary" in text for text in root.itertext()), export
        for each in root.iter():
            assert each.tag.rpartition("}")[2] not in ("script", "foreignObject", "a", "iframe"), export
            for name, value in each.attrib.items():
                assert not name.rpartition("}")[2].startswith("on"), export
                assert "javascript:" not in value, export
        viewer.goto(path.as_uri())
        viewer.wait_for_timeout(30)
        assert viewer.evaluate("window.ran") == []
    alone.close()


def test_lines_and_cards_are_shown_as_text(page: "Page", address: str):
    opened(page, at(address, image=f"{ATTACKS[0]} 0", images=f"id:{quote(ATTACKS[2])}"))
    dialog = page.locator("#python-lines")
    for panel in (view.name for view in VIEWS):
        page.click(f"[data-menu={panel}]")
        name = page.locator("#export-menu [data-as=py]").first.get_attribute("data-export")
        lines = page.evaluate("async name => (await fetch(`/export/${name}.py${location.search}`)).text()", name)
        page.click("#export-menu [data-as=py]")
        expect(dialog).to_be_visible()
        expect(dialog.locator("pre")).to_have_text(lines.strip())
        expect(dialog.locator(".hljs-keyword").first).to_have_text("import")
        harmless(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()


# --- the other pages ---


@both_themes
def test_no_text_of_a_job_is_more_than_a_text(page: "Page", address: str, theme: str, desk: FakeDesk):
    page.goto(f"{address}/jobs")
    page.locator("#jobs-shown").get_by_text("All").click()
    page.evaluate("theme => { document.documentElement.dataset.bsTheme = theme; }", theme)
    expect(page.locator(".job", has_text="pruning").first).to_contain_text("canary")
    for job in desk.ledger.all:
        page.evaluate("job => dash_clientside.page.go(`/jobs?job=${job}`)", job)
        expect(page.locator("#jobs-detail code")).to_have_text(job)
        expect(page.locator("#jobs-detail")).to_contain_text("canary")
        harmless(page)
    page.evaluate("job => dash_clientside.page.go(`/jobs?job=${encodeURIComponent(job)}`)", EVERY)
    expect(page.locator("#jobs-detail")).to_contain_text("There is no such job")


@both_themes
def test_the_studies_and_the_new_study_offer_names_as_text(page: "Page", address: str, theme: str, desk: FakeDesk):
    desk.ledger.all |= {"waits": replace(attacked("study", 2), id="waits", state="queued")}
    page.goto(f"{address}/studies")
    page.evaluate("theme => { document.documentElement.dataset.bsTheme = theme; }", theme)
    expect(page.locator("#studies-list")).to_contain_text("canary")
    harmless(page)
    page.evaluate("dash_clientside.page.go('/new')")
    expect(page.locator("#new-study-model-hint")).to_contain_text("6 models of timm")
    page.get_by_text("a checkpoint").click()
    for details in page.locator("#new-study-form details:not([open]) > summary").all():
        details.click()
    for field in ("model", "checkpoint", "images", "masks", "classes", "label-map"):
        page.locator(f"#new-study-{field}").click()
        expect(page.locator(".dash-dropdown-content [role=option]").first).to_be_visible()
        expect(page.locator(".dash-dropdown-content")).to_contain_text("canary")
        harmless(page)
        page.keyboard.press("Escape")
    for attack in ATTACKS:
        page.fill("#new-study-name", attack)
        page.fill("#new-study-image-size", attack)
        page.keyboard.press("Tab")
        expect(page.locator("#new-study-name-problem")).not_to_be_empty()
    expect(page.locator("#new-study-uploads")).to_contain_text("canary")
