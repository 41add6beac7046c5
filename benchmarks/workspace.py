"""How long after a gesture is the workspace drawn? In Chromium, on a server that is running: what a person waits."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from benchmarks.bars import FLAGS, PATIENCE, SCREEN
from benchmarks.measuring import Table, Timed

PAUSE = 500  # ms between two gestures, once nothing of the one before is under way
# That the bars of pruning are there too, which a worker computes once all else is drawn.
PRUNED = "() => !document.querySelector('.pruning [data-dash-is-loading], .panel.working')"
MOST_OPENED = 5

# By view, what of it tells that it was drawn anew: text, paths, what is laid over a graph, and what the canvases show.
VIEWS = """window.views = (() => {
    const paths = graph => [...document.querySelectorAll(`#${graph} .trace path`)]
        .map(path => `${path.getAttribute("d")} ${path.getAttribute("transform")}`).join();
    const over = graph => document.querySelector(`svg.overlay[data-graph="${graph}"]`)?.innerHTML ?? "";
    const text = id => document.getElementById(id)?.textContent ?? "";
    return {
        "image card": () => text("image-card-reading"),
        "head card": () => text("head-card-label"),
        "overview": () => over("image-overview-graph"),
        "curve": () => paths("head-importance-graph"),
        "line": () => over("head-importance-graph"),
        "entropies": () => paths("strength-heads-graph"),
        "entropies' ring": () => over("strength-heads-graph"),
        "hops": () => paths("strength-hops-graph"),
        "distribution": () => paths("strength-images-graph"),
        "distribution's line": () => over("strength-images-graph"),
        "map": () => over("pattern-map-graph"),
        "attention": () => document.getElementById("head-attention-views")?.dataset.shown ?? "",
    };
})();
window.painted = then => requestAnimationFrame(() => requestAnimationFrame(then));
window.since = began => ({
    ms: performance.now() - began,
    served: performance.getEntriesByType("resource")
        .filter(entry => entry.startTime >= began && entry.transferSize > 0 && !entry.name.includes("/jobs.json"))
        .map(entry => [new URL(entry.name).pathname, entry.responseStart - entry.requestStart]),
});"""

# What changes with an image, and what with a head.
OF_IMAGE = ("image card", "overview", "curve", "entropies", "hops", "distribution's line", "map", "attention")
OF_HEAD = ("head card", "line", "entropies' ring", "hops", "distribution", "map", "attention")

# Milliseconds from a key until all of those views have changed and two more frames are painted, and the requests of it.
KEY = """([key, names, patience]) => new Promise((found, failed) => {
    const before = Object.fromEntries(names.map(name => [name, views[name]()]));
    performance.clearResourceTimings();
    const began = performance.now();
    const look = () => {
        const same = names.filter(name => views[name]() === before[name]);
        if (!same.length) {
            painted(() => found(since(began)));
        } else if (performance.now() - began > patience) {
            failed(new Error(`${key} left as it was: ${same.join(", ")}`));
        } else {
            requestAnimationFrame(look);
        }
    };
    for (const type of ["keydown", "keyup"]) {
        dispatchEvent(new KeyboardEvent(type, {key, bubbles: true}));
    }
    look();
})"""

# Milliseconds from a move of the pointer to a token of the two axes until lines and masks are others, and painted.
HOVER = """([share, patience]) => new Promise((found, failed) => {
    const print = canvas => {
        const {width, height} = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        return new Uint32Array(data.buffer).reduce((sum, pixel) => (31 * sum + pixel) | 0, 0);
    };
    const axes = document.getElementById("two-axes"), box = axes.getBoundingClientRect();
    const lines = axes.querySelector(".lit"), masks = [...document.querySelectorAll("#attention-masks canvas")];
    const seen = () => [print(lines), masks.map(print).join()];
    const before = seen();
    performance.clearResourceTimings();
    const began = performance.now();
    const look = () => {
        const now = seen();
        if (now.every((each, part) => each !== before[part])) {
            painted(() => found(since(began)));
        } else if (performance.now() - began > patience) {
            failed(new Error(`a token under the pointer changed no ${now[0] === before[0] ? "lines" : "masks"}`));
        } else {
            requestAnimationFrame(look);
        }
    };
    const place = {clientX: box.left + share * box.width, clientY: box.top + 5, bubbles: true, isPrimary: true};
    for (const [type, Made] of [["pointermove", PointerEvent], ["mousemove", MouseEvent]]) {
        axes.dispatchEvent(new Made(type, place));
    }
    look();
})"""

# Milliseconds from the navigation until every view shows something and two more frames are painted.
OPENED = """patience => new Promise((found, failed) => {
    const look = () => {
        const empty = Object.keys(views).filter(name => views[name]() === "");
        if (!empty.length && !document.querySelector(".stage [data-dash-is-loading=true], .head-attention.working")) {
            painted(() => found(performance.now()));
        } else if (performance.now() > patience) {
            failed(new Error(`still empty: ${empty.join(", ")}`));
        } else {
            requestAnimationFrame(look);
        }
    };
    look();
})"""


@dataclass
class Gestures:
    """Times of one gesture, in seconds, and what the server had of them.

    Attributes:
        drawn: Until all was drawn.
        served: By gesture, from each request's start to the first byte of its answer.
        asked: The last one's requests.
    """

    drawn: Timed = field(default_factory=lambda: Timed([], []))
    served: list[list[float]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    def add(self, told: dict[str, Any]) -> None:
        self.drawn.wall.append(told["ms"] / 1e3)
        self.served.append([ms / 1e3 for _, ms in told["served"]])
        self.asked = Counter(path.rsplit("/", 1)[1] for path, _ in told["served"])

    def row(self, name: str) -> tuple[str, ...]:
        asked = sorted(len(each) for each in self.served)
        summed = Timed([sum(each) for each in self.served], [])
        longest = Timed([max(each, default=0) for each in self.served], [])
        requests = f"{asked[0]}" if asked[0] == asked[-1] else f"{asked[0]} to {asked[-1]}"
        return (
            name,
            *_cells(self.drawn),
            requests,
            *(f"{1e3 * each.quantile(0.95):.0f}" for each in (summed, longest)),
        )


def workspace_table(rounds: int, url: str, study: str) -> Table:
    """`rounds` images, heads and tokens, one after another; then the first open, in browsers that know nothing yet.

    Raises:
        ValueError: There is no server at `url`.
    """
    from playwright.sync_api import Error

    address = f"{url.rstrip('/')}/?{urlencode({'study': study, 'layer': 0, 'head': 0})}"
    images, heads, tokens = Gestures(), Gestures(), Gestures()
    first, again = Timed([], []), Timed([], [])
    with browsing() as browser:
        for _ in range(min(rounds, MOST_OPENED)):
            page = browser.new_context(viewport=SCREEN).new_page()
            page.add_init_script(VIEWS)
            for timed in (first, again):
                try:
                    page.goto(address, wait_until="commit", timeout=PATIENCE)
                except Error as error:
                    raise ValueError(f"no page at {url!r}: {error.message.splitlines()[0]}; give --url") from None
                timed.wall.append(page.evaluate(OPENED, PATIENCE) / 1e3)
                page.wait_for_timeout(PAUSE)
            page.context.close()
        page = browser.new_page(viewport=SCREEN)
        page.add_init_script(VIEWS)
        page.goto(address)
        page.evaluate(OPENED, PATIENCE)
        for gestures, key, names in ((images, "]", OF_IMAGE), (heads, "ArrowRight", OF_HEAD)):
            for _ in range(rounds):
                _rest(page)
                gestures.add(page.evaluate(KEY, [key, names, PATIENCE]))
        for number in range(rounds):
            _rest(page)
            tokens.add(page.evaluate(HOVER, [(0.2 + 0.37 * number) % 0.9 + 0.05, PATIENCE]))
    table = Table(
        f"The workspace, study {study}",
        ("what", "p50, ms", "p95, ms", "slowest, ms", "requests", "on the server, p95, ms", "the longest, p95, ms"),
        notes=[
            "Targets: image or head selected → all views drawn 250 ms, of it 100 ms on the server; token under the "
            "pointer → lines and masks painted 50 ms, no request.",
            "From the event until two frames after every view that shows it has changed, but for the bars of pruning, "
            "which are computed on demand; Chromium draws without a GPU, on the machine that serves.",
            "On the server: from the start of each request to the first byte of its answer, all of a gesture summed, "
            "and the longest; what the browser had kept, and jobs, are not counted.",
            *(
                f"Requests of {what}: {', '.join(f'{number} {name}' for name, number in each.asked.items())}."
                for what, each in (("an image", images), ("a head", heads))
            ),
            f"{rounds} of each, one after another, each image new to the page; {len(first.wall)} first opens, each "
            "in a browser without a cache, and once more with it.",
        ],
    )
    table.rows += [images.row("image selected"), heads.row("head selected"), tokens.row("token under the pointer")]
    for name, timed in (("first open", first), ("opened again", again)):
        table.rows.append((name, *_cells(timed), "", "", ""))
    return table


def _rest(page: Any) -> None:
    """Wait until neither the page nor a worker is at anything."""
    page.wait_for_timeout(PAUSE)
    page.wait_for_function(PRUNED, timeout=PATIENCE)
    page.wait_for_timeout(PAUSE)


@contextmanager
def browsing() -> Iterator[Any]:
    """Chromium, as a person's browser would be, but without a GPU."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def _cells(timed: Timed) -> tuple[str, ...]:
    return tuple(f"{1e3 * seconds:.0f}" for seconds in (timed.seconds, timed.quantile(0.95), max(timed.wall)))
