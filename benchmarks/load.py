"""How is the page when many are at it? Replayed clicks of many, idle pages of many, prunings of many at once.

What a click asks is recorded in Chromium at first; then threads ask the same, each with a sign-in and a connection of
its own, while a few pages of Chromium measure what a person sees. The server is on this machine: its processor time
and its memory are those of the processes that listen at the address.
"""

import json
import random
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil

from benchmarks.bars import PATIENCE, SCREEN
from benchmarks.measuring import Table
from benchmarks.workspace import KEY, OF_HEAD, OF_IMAGE, OPENED, VIEWS, browsing
from dashboard.accounts import Accounts
from store.settings import Settings

EVERY = 2.0  # seconds between two clicks of one user
PAGES = 3  # of Chromium, beside the replayed users
IDLE = 100  # users with a page open
PRUNERS = (20, 50, 100)
MOST_ASKED = 200  # prunings of one user, to see which is refused
MOST_SECONDS = 30.0  # that an answer is waited for
PASSWORD = "of a user that is measured and then removed"
CALLBACKS, POLL = "/_dash-update-component", "/jobs.json"
SETTLED, STATE, AGAIN, RUN = "pruning-settled", "pruning-state", "pruning-again", "pruning-run"
# Of what a page loads, what a browser keeps for good and asks no second time.
KEPT = ("/assets/", "/_dash-component-suites/", "/_favicon")
KEYS = (("]", OF_IMAGE), ("ArrowRight", OF_HEAD), ("]", OF_IMAGE), ("ArrowLeft", OF_HEAD))  # pressed in turn
SET = "low => headscope.gesture('probability', [low, 1])"
DRAWN = """() => new Promise(then => {
    const look = () => headscope.drawn() ? then() : requestAnimationFrame(look);
    look();
})"""


@dataclass(frozen=True)
class Asked:
    """One request of a page."""

    method: str
    path: str
    body: bytes | None


@dataclass
class Told:
    """What came of many requests, or clicks of several requests.

    Attributes:
        seconds: Of each.
        wrong: What went wrong, by what was said of it.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """Number, p50, p95, p99 in ms, and errors."""
        if not self.seconds:
            return "0", "", "", "", str(len(self.wrong))
        found = sorted(self.seconds)
        at = [found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.95, 0.99)]
        return str(len(found)), *(f"{1e3 * seconds:.0f}" for seconds in at), str(len(self.wrong))


class Visitor:
    """Somebody with a connection and, where people sign in, a sign-in of their own."""

    def __init__(self, url: str, name: str, told: Told) -> None:
        self.name, self.told = name, told
        self._host = urlsplit(url).netloc
        self._connection: HTTPConnection | None = None
        self._headers = {"Host": self._host, "Accept-Encoding": "gzip", "Sec-Fetch-Site": "same-origin"}

    @property
    def cookie(self) -> str:
        """Of the sign-in, as name=value; empty without one."""
        return self._headers.get("Cookie", "")

    def beside(self) -> "Visitor":
        """The same user on another connection."""
        made = Visitor(f"http://{self._host}", self.name, self.told)
        made._headers = dict(self._headers)
        return made

    def sign_in(self) -> None:
        """Get the cookie, which is sent from now on.

        Raises:
            ValueError: It was refused.
        """
        form = urlencode({"name": self.name, "password": PASSWORD, "next": "/"}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        status, _, headers = self._sent(Asked("POST", "/sign-in", form), kind)
        if status != 303:
            raise ValueError(f"{self.name} could not sign in: {status}")
        self._headers["Cookie"] = headers.get("Set-Cookie", "").partition(";")[0]

    def ask(self, asked: Asked, *, plain: bool = False) -> bytes:
        """The answer; what is no answer is counted as wrong.

        Args:
            plain: Not compressed, to be read.
        """
        headers = {"Content-Type": "application/json"} if asked.body else {}
        try:
            status, said, _ = self._sent(asked, headers | ({"Accept-Encoding": "identity"} if plain else {}))
        except (OSError, HTTPException) as error:
            self._connection = None
            self.told.wrong.append(f"{asked.method} {asked.path.partition('?')[0]}: {type(error).__name__} {error}")
            return b""
        if status >= 400:
            self.told.wrong.append(f"{asked.method} {asked.path.partition('?')[0]}: {status} {said[:120]!r}")
        return said

    def click(self, requests: list[Asked]) -> None:
        """Ask all that a click asks, one after another."""
        began, wrong = time.perf_counter(), len(self.told.wrong)
        for each in requests:
            self.ask(each)
        if len(self.told.wrong) == wrong:
            self.told.seconds.append(time.perf_counter() - began)

    def _sent(self, asked: Asked, headers: dict[str, str]) -> tuple[int, bytes, Any]:
        for last in (False, True):
            if self._connection is None:
                self._connection = HTTPConnection(self._host, timeout=MOST_SECONDS)
            try:
                self._connection.request(asked.method, asked.path, asked.body, self._headers | headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read(), answer.headers
            except (ConnectionError, HTTPException):  # a server ends connections that were idle for long
                self._connection = None
                if last:
                    raise
        raise AssertionError("unreachable")


class Serving:
    """The processes of the server at an address of this machine."""

    def __init__(self, url: str) -> None:
        port = urlsplit(url).port
        heard = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port]
        called = [psutil.Process(each.pid).cmdline() for each in heard if each.pid]
        if not called:
            raise ValueError(f"no process of this machine listens at {url!r}; give --url")
        # gunicorn's processes share one socket, which is told of one of them; workers are called otherwise
        self._web = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] in called]

    def rss(self) -> int:
        """Bytes of memory of the processes that answer."""
        return sum(each.memory_info().rss for each in self._web)

    def busy(self) -> float:
        """Processor seconds of them so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._web)


def load_table(url: str, study: str, data: Path, users: int, seconds: float) -> Table:
    """Users who click, users with an idle page, and users who all prune at once.

    Args:
        url: Of the page; of this machine, with at least one worker for prunings.
        data: Its data folder, in whose ledger users are made for a while where people sign in.
        seconds: For how long users click beside the pages, and others are idle; each alone for half of it.
    Raises:
        ValueError: There is no server at `url`, or it refused a user.
    """
    url = url.rstrip("/")
    serving = Serving(url)
    table = Table(
        "Many people at once",
        ("load", "what", "of them", "p50, ms", "p95, ms", "p99, ms", "errors"),
        notes=[
            f"Targets: {users} users, a click each {EVERY:g} s: from the key to all views drawn p95 300 ms, p99 1 s, "
            f"no error; {IDLE} idle: 5 % of a core, no poll below 2 s, 2 MB a user; {PRUNERS[0]} who prune: p95 2 s.",
            "A click on the server: everything that it asks, one after another on one connection, as recorded in "
            "Chromium. To all views drawn: in Chromium without a GPU, on the machine that serves.",
            f"waitress {version('waitress')}, dash {version('dash')}, flask {version('flask')}.",
        ],
    )
    with _visitors(url, data, max(users, IDLE, *PRUNERS) + 1) as (make, cookie):
        with _pages(url, study, cookie, PAGES) as pages:
            clicks = _recorded(pages[0])
            _clicking(table, make, serving, pages, clicks, users, seconds)
            idle = _idle_requests(pages[0], 16.0)
            shape = pages[0].evaluate("[headscope.facts.layers, headscope.facts.heads]")
        _idling(table, make, serving, idle, seconds)
        _pruning(table, make, [click for each in clicks.values() for click in each], shape)
    return table


@contextmanager
def _visitors(url: str, data: Path, number: int) -> Iterator[tuple[Callable[[int, Told], Visitor], str]]:
    """Gives visitors by number, signed in if people sign in there, and one cookie for the pages."""
    stranger = Visitor(url, "", Told())
    stranger.ask(Asked("GET", f"{POLL}?shown=&job=", None))
    signs_in = bool(stranger.told.wrong)
    accounts = Accounts(Settings(data=data).ledger_url)
    run = secrets.token_hex(3)  # users of a run that was killed are still there
    names = [f"load-{run}-{each:03}" for each in range(number)]
    made: dict[int, Visitor] = {}

    def visitor(at: int, told: Told) -> Visitor:
        if at not in made:
            made[at] = Visitor(url, names[at], told)
            if signs_in:
                made[at].sign_in()
        made[at].told = told
        return made[at]

    try:
        for name in names if signs_in else ():
            accounts.add(name, "analyst", PASSWORD)
        yield visitor, visitor(number - 1, Told()).cookie
    finally:
        for name in names if signs_in else ():
            with suppress(ValueError):
                accounts.remove(name)


@contextmanager
def _pages(url: str, study: str, cookie: str, number: int) -> Iterator[list[Any]]:
    """Pages of Chromium with the workspace open, each in a window of its own: a hidden tab waits for timers."""
    with browsing() as browser:
        pages = []
        for _ in range(number):
            context = browser.new_context(viewport=SCREEN)
            if cookie:
                name, _, value = cookie.partition("=")
                context.add_cookies([{"name": name, "value": value, "url": url}])
            page = context.new_page()
            page.add_init_script(VIEWS)
            page.goto(f"{url}/?{urlencode({'study': study, 'layer': 0, 'head': 0})}")
            page.evaluate(OPENED, PATIENCE)
            pages.append(page)
        yield pages


def _recorded(page: Any, number: int = 10) -> dict[str, list[list[Asked]]]:
    """What clicks ask, by what was clicked: another image, another head, another set."""
    asked: list[Asked] = []

    def hear(request: Any) -> None:
        path = urlsplit(request.url)
        address = f"{path.path}?{path.query}" if path.query else path.path
        if request.url.startswith("http") and not address.startswith((*KEPT, POLL)):
            asked.append(Asked(request.method, address, request.post_data_buffer))

    page.on("request", hear)
    found: dict[str, list[list[Asked]]] = {"image": [], "head": [], "set": []}
    for turn in range(number):
        for kind, do in (
            ("image", lambda: page.evaluate(KEY, ["]", OF_IMAGE, PATIENCE])),
            ("head", lambda: page.evaluate(KEY, ["ArrowRight", OF_HEAD, PATIENCE])),
            ("set", lambda turn=turn: (page.evaluate(SET, 0.02 * turn), page.evaluate(DRAWN))),
        ):
            asked.clear()
            do()
            page.wait_for_timeout(900)  # what settles a moment later is asked too
            found[kind].append(list(asked))
    page.remove_listener("request", hear)
    return {kind: [each for each in clicks if each] for kind, clicks in found.items()}


def _together(visitors: list[Visitor], live: Callable[[Visitor, random.Random], None]) -> None:
    """What each of them does, at the same time."""
    threads = [
        threading.Thread(target=live, args=(each, random.Random(number)), daemon=True)
        for number, each in enumerate(visitors)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _clicking(
    table: Table, make: Any, serving: Serving, pages: list[Any], clicks: Any, users: int, seconds: float
) -> None:
    """Pages alone, users alone, and both; browsers have machines of their own elsewhere, here they share one."""
    warm = Told()
    visitors = [make(number, warm) for number in range(users)]
    for each in clicks.values():  # warm: once by one of them
        for click in each:
            visitors[0].click(click)
    load = f"{users} users, a click each {EVERY:g} s"
    alone, _, _ = _at_once([], pages, clicks, serving, seconds / 2)
    _, told, busy = _at_once(visitors, [], clicks, serving, seconds / 2)
    drawn, beside, both = _at_once(visitors, pages, clicks, serving, seconds)
    table.rows += [
        (f"{len(pages)} pages of Chromium", "a key to all views drawn", *alone.cells()),
        (load, "a click on the server", *told.cells()),
        ("both", "a key to all views drawn", *drawn.cells()),
        ("", "a click on the server", *beside.cells()),
    ]
    table.notes.append(
        f"While {users} click: {busy:.0%} of a core on the server, with the pages {both:.0%}; "
        f"{serving.rss() / 1e6:.0f} MB."
    )
    _say_wrong(table, "clicking", warm, alone, told, drawn, beside)


def _at_once(
    visitors: list[Visitor], pages: list[Any], clicks: Any, serving: Serving, seconds: float
) -> tuple[Told, Told, float]:
    """From a key to all views drawn, of the pages; clicks of the visitors; cores that the server needed."""
    told = Told()
    for each in visitors:
        each.told = told
    until, before = time.perf_counter() + seconds, serving.busy()

    def live(visitor: Visitor, draw: random.Random) -> None:
        time.sleep(EVERY * draw.random())
        due = time.perf_counter()
        while due < until:
            kind = draw.choices(("image", "head", "set"), (45, 45, 10))[0]
            visitor.click(draw.choice(clicks[kind]))
            visitor.ask(Asked("GET", f"{POLL}?shown=&job=", None))  # as while jobs are live
            due = max(due + EVERY, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))

    others = threading.Thread(target=_together, args=(visitors, live))
    others.start()
    drawn = _pressing(pages, until)
    others.join()
    return drawn, told, (serving.busy() - before) / seconds


def _pressing(pages: list[Any], until: float) -> Told:
    """A key in one page after another, all of them every few seconds: from the key to all views drawn."""
    drawn, turn = Told(), 0
    while time.perf_counter() < until:
        began = time.perf_counter()
        key, names = KEYS[turn % len(KEYS)]
        for page in pages:
            try:
                drawn.seconds.append(page.evaluate(KEY, [key, names, PATIENCE])["ms"] / 1e3)
            except Exception as error:  # noqa: BLE001  Playwright's own, counted
                drawn.wrong.append(str(error).splitlines()[0])
        turn += 1
        time.sleep(max(0.0, began + EVERY - time.perf_counter()))
    return drawn


def _idle_requests(page: Any, seconds: float) -> list[tuple[float, Asked]]:
    """What a page asks while nobody does anything, and after how long."""
    began = time.perf_counter()
    heard: list[tuple[float, Asked]] = []

    def hear(request: Any) -> None:
        path = urlsplit(request.url)
        heard.append((time.perf_counter() - began, Asked(request.method, f"{path.path}?{path.query}", None)))

    page.wait_for_timeout(3000)
    page.on("request", hear)
    page.wait_for_timeout(seconds * 1000)
    page.remove_listener("request", hear)
    return heard


def _idling(table: Table, make: Any, serving: Serving, idle: list[tuple[float, Asked]], seconds: float) -> None:
    apart = [later - sooner for (sooner, _), (later, _) in pairwise(idle)]
    every = statistics.median(apart) if apart else 5.0
    told = Told()
    visitors = [make(number, told) for number in range(IDLE)]
    opening = [
        Asked("GET", path, None) for path in ("/", "/_dash-layout", "/_dash-dependencies", f"{POLL}?shown=&job=")
    ]
    rss = serving.rss()
    for visitor in visitors:
        visitor.click(opening)
    told.seconds.clear()
    until, before = time.perf_counter() + seconds, serving.busy()

    def live(visitor: Visitor, draw: random.Random) -> None:
        time.sleep(every * draw.random())
        while time.perf_counter() < until:
            visitor.click([idle[0][1] if idle else opening[-1]])
            time.sleep(every)

    _together(visitors, live)
    busy, more = (serving.busy() - before) / seconds, (serving.rss() - rss) / IDLE
    table.rows.append((f"{IDLE} users with an idle page", "a poll on the server", *told.cells()))
    table.notes.append(
        f"Idle: {busy:.1%} of a core on the server, {more / 1e6:+.2f} MB a user; a page asks "
        f"{', '.join(sorted({asked.path.partition('?')[0] for _, asked in idle})) or 'nothing'}, every {every:.1f} s."
    )
    _say_wrong(table, "idle", told)


def _pruning(table: Table, make: Any, clicks: list[list[Asked]], shape: tuple[int, int]) -> None:
    """Heads that nobody has pruned together, each user others, and asked for again as the page does."""
    called = (each for click in clicks for each in click if each.path.partition("?")[0] == CALLBACKS)
    bodies = [json.loads(each.body) for each in called if each.body]
    body = next((each for each in bodies if SETTLED in (place["id"] for place in each["inputs"])), None)
    if body is None:
        table.notes.append("No pruning was recorded.")
        return
    draw = random.Random(time.time_ns())
    selected = next(place["value"] for place in body["inputs"] if place["id"] == SETTLED)
    everyone = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]

    def asking(basket: str, image: str | None, state: object, changed: str) -> Asked:
        made = json.loads(json.dumps(body))
        values = {SETTLED: selected | {"basket": basket, "image": image}, STATE: state, AGAIN: 1, RUN: 1}
        for place in [*made["inputs"], *made["state"]]:
            place["value"] = values[place["id"]]
        made["changedPropIds"] = [changed]
        return Asked("POST", CALLBACKS, json.dumps(made).encode())

    def basket_of(draw: random.Random) -> str:
        some = draw.sample(everyone, draw.randint(2, min(6, len(everyone))))
        return ",".join(f"{layer}.{head}" for layer, head in some)

    for number in PRUNERS:
        told, places = Told(), set[str]()
        seeds = draw.randrange(1 << 30)
        visitors = [make(each, told) for each in range(number)]

        def live(visitor: Visitor, own: random.Random, seeds: int = seeds, places: set[str] = places) -> None:
            told = visitor.told
            own.seed(f"{seeds} {visitor.name}")
            basket, began, state, changed = basket_of(own), time.perf_counter(), None, f"{SETTLED}.data"
            while time.perf_counter() - began < MOST_SECONDS:
                said = visitor.ask(asking(basket, selected["image"], state, changed), plain=True)
                if not said:
                    return
                state = json.loads(said)["response"][STATE]["data"]
                if "before it" in state["said"]:
                    places.add(state["said"].partition(": ")[2])
                if not state["waits"]:
                    told.seconds.append(time.perf_counter() - began)
                    if state["said"]:
                        told.wrong.append(state["said"])
                    return
                changed = f"{AGAIN}.data"
                time.sleep(0.2)
            told.wrong.append(f"no result within {MOST_SECONDS:g} s")

        _together(visitors, live)
        table.rows.append((f"{number} users prune at once", "to the result", *told.cells()))
        shown = f"{len(places)}, as {min(places)!r}" if places else "none"
        table.notes.append(f"{number} who prune: places in the queue that were shown: {shown}.")
        _say_wrong(table, f"{number} prunings", told)
    _over_the_limit(table, make, asking, basket_of, draw)


def _over_the_limit(table: Table, make: Any, asking: Any, basket_of: Any, draw: random.Random) -> None:
    """One user asks for more than one may have waiting; what was asked for is cancelled afterwards."""
    told = Told()
    first, lock = make(0, told), threading.Lock()
    refused: list[str] = []
    waiting: list[tuple[str, Any]] = []

    def live(visitor: Visitor, own: random.Random) -> None:
        while not refused and len(waiting) < MOST_ASKED:
            with lock:
                basket = basket_of(draw)
            said = visitor.ask(asking(basket, None, None, f"{RUN}.n_clicks"), plain=True)
            answer = json.loads(said)["response"] if said else {}
            refused.extend(_texts(answer, "HEADSCOPE_JOBS_PER_USER"))
            waiting.append((basket, answer.get(STATE, {}).get("data")))

    _together([first.beside() for _ in range(8)], live)
    for basket, state in waiting:
        if isinstance(state, dict) and state.get("waits"):
            first.ask(asking(basket, None, state, f"{RUN}.n_clicks"))
    said = f"is told: {refused[0]}" if refused else "was not refused"
    table.notes.append(f"One user asks for prunings of all images: with {len(waiting)} asked for, {said}")
    _say_wrong(table, "over the limit", told)


def _texts(inside: Any, part: str) -> Iterator[str]:
    """Texts with that part in a piece of JSON."""
    if isinstance(inside, str) and part in inside:
        yield inside
    elif isinstance(inside, dict | list):
        for each in inside.values() if isinstance(inside, dict) else inside:
            yield from _texts(each, part)


def _say_wrong(table: Table, what: str, *told: Told) -> None:
    wrong = [each for one in told for each in one.wrong]
    for each in sorted(set(wrong))[:5]:
        table.notes.append(f"Wrong, {what}: {wrong.count(each)} times {each}")
