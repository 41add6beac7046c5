"""How long after a click do the bars of a pruned head stand on the screen? In Chromium, on a server that is running."""

import os
import random
import re
import shutil
from urllib.parse import urlencode

from benchmarks.measuring import Table, Timed

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
FLAGS += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SCREEN = {"width": 1440, "height": 900}
PAUSE = 700  # ms between two presses, so that none counts as held
PATIENCE = 60_000  # ms

# Seconds from a key until the bars of another head are painted: two frames after they are in the page.
MEASURED = """key => new Promise(found => {
    const began = performance.now(), body = document.getElementById("pruning-body");
    const parts = document.getElementById("pruning-parts"), before = parts.ariaLabel;
    const painted = () => found((performance.now() - began) / 1000);
    const look = () => parts.ariaLabel !== before && body.className === "prunings"
        ? requestAnimationFrame(() => requestAnimationFrame(painted)) : requestAnimationFrame(look);
    for (const type of ["keydown", "keyup"]) {
        dispatchEvent(new KeyboardEvent(type, {key}));
    }
    look();
})"""


def bars_table(rounds: int, url: str, study: str) -> Table:
    """A head that nobody has pruned on that image, and one that somebody has; `rounds` times each, one after another.

    Raises:
        ValueError: There is no server at `url`, or no such study on it.
    """
    first, again = _timed(rounds, url, study)
    table = Table(
        "Bars of a pruned head",
        ("head", "p50, ms", "p95, ms", "slowest, ms"),
        notes=[
            "Target: 600 ms for a head that is pruned for the first time.",
            "From the key press until two frames after the bars are in the page; Chromium draws without a GPU, on the "
            "machine that serves and computes. All views of the page draw the head at the same time.",
            f"Study {study}, an image drawn at random; {rounds} heads, one after another.",
        ],
    )
    for name, timed in (("for the first time", first), ("again", again)):
        cells = (timed.seconds, timed.quantile(0.95), max(timed.wall))
        table.rows.append((name, *(f"{seconds * 1e3:.0f}" for seconds in cells)))
    return table


def _timed(rounds: int, url: str, study: str) -> tuple[Timed, Timed]:
    from playwright.sync_api import Error, sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    first, again = Timed([], []), Timed([], [])
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport=SCREEN)
        try:
            page.goto(f"{url.rstrip('/')}/?{urlencode({'study': study, 'layer': 0, 'head': 0})}")
        except Error as error:
            raise ValueError(f"no page at {url!r}: {error.message.splitlines()[0]}; give --url") from None
        page.wait_for_selector(".modes .bar:not([hidden])", timeout=PATIENCE)
        for _ in range(random.randrange(1, 50)):
            page.keyboard.press("]")
        page.wait_for_timeout(PAUSE)
        page.wait_for_selector("#pruning-body:not(.stale)", timeout=PATIENCE)
        layers, heads = re.search(r"(\d+) × (\d+) heads", page.inner_text("#study-facts")).groups()
        for timed, key in ((first, "ArrowRight"), (again, "ArrowLeft")):
            for _ in range(min(rounds, int(layers) * int(heads) - 1)):
                page.wait_for_timeout(PAUSE)
                timed.wall.append(page.evaluate(MEASURED, key))
        browser.close()
    return first, again
