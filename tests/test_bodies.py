"""What no browser sends, in every callback and at every address: refused in one line under a number, never an error."""

import json
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from dash import Dash

from dashboard.app import create_app
from dashboard.bodies import MOST_DEPTH, MOST_INTEGER, OddError, parse
from dashboard.data import Shelf, StudyFacts, facts
from dashboard.routes import pictures_url
from dashboard.selection import default
from store.settings import Settings
from tests.studies import write_tiny_study
from tests.test_access import addresses
from tests.test_dashboard_app import KINDS_OF_GESTURE, bodies

DIGITS = "9" * 400
# As they stand in a body.
ODD = {
    "a lone surrogate": r'"a\ud800"',
    "one of the other half": r'"\udfffb"',
    "a lone surrogate as a name": r'{"\ud800": 1}',
    "a NUL": r'"a\u0000b"',
    "400 digits": DIGITS,
    "400 digits below zero": f"-{DIGITS}",
    "5,000 digits": "9" * 5000,
    "20 digits": "9" * 20,
    "past all floats": "1e400",
    "400 digits and a point": f"{DIGITS}.5",
    "no number": "NaN",
    "infinity": "-Infinity",
    "lists in lists, a hundred": "[" * 100 + "]" * 100,
    "lists in lists, 900": "[" * 900 + "]" * 900,
    "lists in lists, 100,000": "[" * 100_000 + "]" * 100_000,
    "objects in objects": '{"a":' * 900 + "1" + "}" * 900,
}
HERE = "HERE"  # what an odd piece takes the place of
TELLS_ITS_NUMBER = re.compile(r"[^\n]{1,160}; in the log as error ([0-9a-f]{8})")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tiny_study(folder / "studies" / "tiny", images=4, labelled=4)
    return folder


@pytest.fixture(scope="module")
def app(data: Path) -> Dash:
    return create_app(Settings(data=data))


@pytest.fixture(scope="module")
def tiny(data: Path) -> StudyFacts:
    return facts(Shelf(data / "studies").open("tiny"))


@pytest.fixture
def client(app: Dash) -> Any:
    return app.server.test_client()


def refused(answer: Any, log: str) -> bool:
    """Whether it is refused in one line, under a number that the log has."""
    told = TELLS_ITS_NUMBER.fullmatch(answer.text)
    return answer.status_code == 400 and told is not None and f"error {told[1]}: " in log


# --- one body ---


@pytest.mark.parametrize("name", ODD)
def test_what_no_browser_sends_is_not_read(name: str):
    for body in (ODD[name], f"[{ODD[name]}]", f'{{"a": [{ODD[name]}]}}'):
        with pytest.raises(OddError):
            parse(body)


def test_what_browsers_send_is_read_as_it_is():
    nested: Any = [1]
    for _ in range(MOST_DEPTH - 3):
        nested = [nested]
    for value in ({}, nested, MOST_INTEGER, -MOST_INTEGER, 1e300, -0.5, "日本 😀", {"__proto__": 1}, None, True):
        assert parse(json.dumps(value)) == value
        assert parse(json.dumps(value, ensure_ascii=False).encode()) == value
    with pytest.raises(ValueError, match="Expecting"):
        parse("{")


# --- callbacks ---


@pytest.mark.parametrize("name", ODD)
def test_no_callback_gets_it(app: Dash, client: Any, name: str, caplog: pytest.LogCaptureFixture):
    for body in bodies(app).values():
        place = next(each for each in [*body["inputs"], *body["state"]])
        (place[0] if isinstance(place, list) else place)["value"] = HERE
        text = json.dumps(body).replace(f'"{HERE}"', ODD[name])
        answer = client.post("/_dash-update-component", data=text, content_type="application/json")
        assert refused(answer, caplog.text), (body["output"], answer.text)


# Within a text that a callback takes apart, where the body has nothing odd.
INSIDE = [
    *(f"?study=tiny&{field}" for field in ("layer=" + DIGITS, "image=%00", "image=%ed%a0%80", "top=1e400")),
    *(f"?study=tiny&images={part}" for part in (f"class:{DIGITS}", "class:" + "9" * 5000, "p:0..1e400", "id:%2500")),
    *("?study=%00", "?study=%ed%a0%80", f"?{DIGITS}={DIGITS}", "[" * 3000, '{"selection": ' * 900),
    *(f'{{"selection": {{"study": {odd}}}}}' for odd in (ODD["a lone surrogate"], DIGITS)),
    *(f"entropy:{DIGITS}.0:0..1", f"lasso:jsd:{','.join([DIGITS] * 6)}", "__proto__", "x" * 9000),
]


@pytest.mark.parametrize("calls", [100, pytest.param(5_000, marks=pytest.mark.hostile)])
def test_nothing_odd_within_a_text_or_a_gesture_is_an_error(app: Dash, client: Any, tiny: StudyFacts, calls: int):
    rng = random.Random(calls)
    chosen = default(tiny).data()
    every, statuses = list(bodies(app).values()), set()
    for _ in range(calls):
        body = json.loads(json.dumps(rng.choice(every)))
        for place in [*body["inputs"], *body["state"]]:
            odd = rng.choice([*INSIDE, MOST_INTEGER, -MOST_INTEGER, 1e300, 5e-324, [[[]]], {"a": {"b": {}}}])
            gestures = [{"kind": kind, "value": value} for kind in KINDS_OF_GESTURE for value in (odd, [odd, odd])]
            part = rng.choice(sorted(chosen))
            shapes = (
                *(odd, [odd], {"search": odd, "theme": odd}, {"gestures": gestures, "n": odd}, chosen | {part: odd}),
                *({"job": odd}, {"id": odd}, json.dumps({"selection": chosen | {part: odd}})),
            )
            (place[0] if isinstance(place, list) else place)["value"] = rng.choice(shapes)
        named = [place for place in body["inputs"] if isinstance(place, dict)]
        body["changedPropIds"] = [f"{place['id']}.{place['property']}" for place in named[:1]]
        answer = client.post("/_dash-update-component", json=body)
        assert answer.status_code < 500, (body, answer.text)
        statuses.add(answer.status_code)
    assert {200, 400} <= statuses


# --- addresses ---


def test_no_route_gets_it(client: Any, caplog: pytest.LogCaptureFixture):
    for address in ("/uploads", "/uploads/pictures"):
        for name, odd in ODD.items():
            for body in (odd, f'{{"name": {odd}, "bytes": 1}}', f'{{"name": "x.zip", "bytes": {odd}}}'):
                answer = client.post(address, data=body, content_type="application/json")
                assert refused(answer, caplog.text), (address, name, answer.text)


@pytest.mark.parametrize("odd", ["%00", "a%00b", "%ff", "%ed%a0%80", "%c3%28"])
def test_an_address_that_is_no_text_is_refused_wherever_it_leads(
    app: Dash, client: Any, odd: str, caplog: pytest.LogCaptureFixture
):
    for endpoint, address in addresses(app.server):
        assert refused(client.get(f"{address}?job={odd}"), caplog.text), endpoint
        path = unquote_to_bytes(f"{address}/{odd}").decode("latin-1")  # as servers pass it on; the client would mend it
        assert refused(client.get("/", environ_overrides={"PATH_INFO": path}), caplog.text), endpoint


@pytest.mark.parametrize("digits", [10, 20, 400, 5000])
def test_a_long_number_in_an_address_is_of_nothing_that_is_there(client: Any, tiny: StudyFacts, digits: int):
    pictures, many = pictures_url(tiny), "9" * digits
    places = ("image/{}.png", "image/{}.json", "thumbnail/{}.webp", "attention/{}/0/0.f16", "attention/0/{}/{}.f16")
    for place in places:
        assert client.get(f"{pictures}/{place.replace('{}', many)}").status_code == 404, place
    window = "density.png?map=patch&x0=0&x1=1&y0=0&y1=1&width=9&height=9"
    for query in (f"{window}&layer={many}", window.replace("x1=1", f"x1={many}"), f"{window}&images=class:{many}"):
        assert client.get(f"{pictures}/{query}").status_code in (200, 400), query
    assert client.put(f"/uploads/{'0' * 24}?at={many}", data=b"x").status_code == 404
