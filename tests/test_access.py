"""Who gets in, and what each may do: every address, every method, every kind of nobody."""

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import itsdangerous
import pytest
from dash import Dash
from flask import Flask
from werkzeug.exceptions import HTTPException

from dashboard import access, sign_in
from dashboard import accounts as accounts_module
from dashboard.accounts import MOST_FAILURES, Accounts
from dashboard.app import create_app
from dashboard.data import Shelf, facts
from dashboard.selection import default
from dashboard.views import image_overview, new_study, pruning
from dashboard.views import jobs as jobs_page
from jobs.client import Desk
from jobs.database import LedgerUnavailableError
from store.settings import Settings
from tests.fake_desk import FakeDesk, a_job
from tests.studies import write_tiny_study

pytestmark = pytest.mark.usefixtures("cheap_passwords")
SECRET = "8f3a61c0d92be47715f08c6a2d94e3b1"
PASSWORD = "correct horse battery"
ROLES = {"vic": "viewer", "ann": "analyst", "bob": "analyst", "root": "admin"}
CALLBACKS = "/_dash-update-component"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

# What somebody who has not signed in gets, by endpoint. A new route has to be put here by whoever adds it.
EVERYBODYS = {"sign_in", "check_sign_in", "/health"}
PAGES = {"/", "/<path:path>"}  # are led to sign in
MEMBERS = {
    *("static", "_dash_assets.static", "/_favicon.ico", "/_reload-hash", "/_dash-layout", "/_dash-dependencies"),
    *("/_dash-component-suites/<string:package_name>/<path:fingerprinted_path>", CALLBACKS, "sign_out"),
    *("image", "thumbnail", "attention", "caption", "density_of_map", "jobs_json", "leave", "about"),
    *("list_uploads", "begin_upload", "show_upload", "receive_upload", "remove_upload", "list_refused"),
    *("begin_picture", "receive_picture", "follow_picture", "remove_picture"),
}
SOMEWHERE = {"int": "0", "string": "x", "path": "x", "default": "x"}  # a value for each kind of part of an address


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cheap_passwords: None) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tiny_study(folder / "studies" / "tiny")
    accounts = Accounts(Settings(data=folder).ledger_url)
    for name, role in ROLES.items():
        accounts.add(name, role, PASSWORD)
    return folder


@pytest.fixture(scope="module")
def settings(data: Path) -> Settings:
    return Settings(data=data, sign_in=True, secret=SECRET, hosts=("headscope.lab.org",))


@pytest.fixture(scope="module")
def accounts(settings: Settings) -> Accounts:
    return Accounts(settings.ledger_url)


@pytest.fixture(scope="module")
def desk(settings: Settings) -> FakeDesk:
    return FakeDesk(settings, answers=False)


@pytest.fixture(scope="module")
def app(settings: Settings, desk: Any) -> Dash:
    return create_app(settings, desk)


@pytest.fixture(scope="module")
def server(app: Dash) -> Flask:
    return app.server


@pytest.fixture(autouse=True)
def _nobody_failed(accounts: Accounts) -> None:
    with accounts._database.write() as (conn, _):
        conn.execute(accounts_module.failures.delete())


@pytest.fixture(scope="module")
def open_server(data: Path) -> Flask:
    return create_app(Settings(data=data), FakeDesk(Settings(data=data))).server


def sent(client: Any, name: str, password: str = PASSWORD, then: str = "/", **more: Any) -> Any:
    return client.post("/sign-in", data={"name": name, "password": password, "next": then}, **more)


def client_of(server: Flask, name: str) -> Any:
    """A browser in which that user is signed in."""
    client = server.test_client()
    assert sent(client, name).status_code == 303
    return client


def with_cookie(server: Flask, value: str) -> Any:
    client = server.test_client()
    client.set_cookie("headscope", value)
    return client


def signed(server: Flask, **said: Any) -> str:
    signer = server.session_interface.get_signing_serializer(server)
    assert signer is not None
    return str(signer.dumps({"_permanent": True, **said}))


# --- every address ---


def addresses(server: Flask) -> Iterator[tuple[str, str]]:
    """Every endpoint, and an address that leads there."""
    for rule in server.url_map.iter_rules():
        yield (
            rule.endpoint,
            re.sub(r"<(?:(\w+)(?:\([^)]*\))?:)?\w+>", lambda part: SOMEWHERE[part[1] or "default"], rule.rule),
        )


def test_every_route_has_a_decision(server: Flask):
    found = {endpoint for endpoint, _ in addresses(server)}
    undecided = found - EVERYBODYS - PAGES - MEMBERS
    assert not undecided, f"who gets what {undecided} give? Put them into one of the sets of this file"
    assert len(found) > 15


@dataclass(frozen=True)
class Nobody:
    """A way not to be signed in."""

    name: str

    def client(self, server: Flask, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Any:
        if self.name == "no cookie":
            return server.test_client()
        accounts.add("gone", "admin", PASSWORD)
        user = accounts.find("gone")
        assert user is not None
        good = {"name": "gone", "stamp": user.stamp}
        assert with_cookie(server, signed(server, **good)).get("/jobs.json").status_code == 200
        try:
            match self.name:
                case "expired":
                    with monkeypatch.context() as patch:
                        weeks_ago = itsdangerous.timed.time.time() - sign_in.LASTS.total_seconds() - 60
                        patch.setattr(itsdangerous.timed.time, "time", lambda: weeks_ago)
                        value = signed(server, **good)
                case "removed":
                    value = signed(server, **good)
                case "other password":
                    value = signed(server, **good)
                    accounts.set_password("gone", PASSWORD)
                case "other role":
                    value = signed(server, **good)
                    accounts.set_role("gone", "viewer")
                case "signed out":
                    value = signed(server, **good)
                    with_cookie(server, value).post("/sign-out")
                case "signed by another":
                    other = Flask("other")
                    other.secret_key = SECRET[::-1]
                    value = signed(other, **good)
                case "unsigned":
                    value = signed(server, **good).split(".")[0]
                case "changed":
                    value = signed(server, **good)
                    value = f"{'A' if value[0] != 'A' else 'B'}{value[1:]}"  # the last bits of the end mean nothing
                case "without a stamp":
                    value = signed(server, name="gone", stamp="")
                case "nobody's name":
                    value = signed(server, name="nobody", stamp=user.stamp)
                case "rubbish":
                    value = "\x7fé..;;"
            if self.name != "removed":
                return with_cookie(server, value)
        finally:
            if self.name == "removed":
                accounts.remove("gone")
        return with_cookie(server, value)


WAYS = ["no cookie", "expired", "removed", "other password", "other role", "signed out", "signed by another"]
WAYS += ["unsigned", "changed", "without a stamp", "nobody's name", "rubbish"]


@pytest.mark.parametrize("way", WAYS)
def test_nobody_gets_anything_by_any_method_at_any_address(
    server: Flask, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, way: str
):
    client, tried = Nobody(way).client(server, accounts, monkeypatch), 0
    elsewhere = ["/studies/x/y/image/0.png/more", "/sign-in/more", "/health/", "/assets/../x", "/.env"]
    try:
        for address in [*dict(addresses(server)).values(), *elsewhere]:
            for method in METHODS:
                answer, where = client.open(address, method=method), (method, address)
                endpoint = endpoint_of(server, *where)
                tried += 1
                if endpoint in EVERYBODYS:
                    assert answer.status_code != 500, where
                elif endpoint in PAGES and method in ("GET", "HEAD"):
                    assert answer.status_code == 302, where
                    assert answer.headers["Location"].startswith("/sign-in?next=/"), where
                else:
                    assert answer.status_code == 401, where
                assert b"tiny" not in answer.data, where
    finally:
        if accounts.find("gone"):
            accounts.remove("gone")
    assert tried > 200


def endpoint_of(server: Flask, method: str, address: str) -> str | None:
    """Where a request leads to; None if it leads nowhere."""
    try:
        return str(server.url_map.bind("localhost").match(address, method)[0])
    except HTTPException:
        return None


def test_of_the_assets_only_what_the_page_to_sign_in_needs_is_everybodys(server: Flask):
    client = server.test_client()
    given = {
        path.name
        for path in (Path(access.__file__).parent / "assets").iterdir()
        if path.is_file() and client.get(f"/assets/{path.name}").status_code == 200
    }
    assert given == {"theme.js"}
    for odd in ("theme.js/", "./theme.js", "x/../theme.js", "theme.js%00", "..%2fapp.py", "theme.js/../style.css"):
        assert client.get(f"/assets/{odd}").status_code in (200, 302, 401, 404)
        assert b"padding" not in client.get(f"/assets/{odd}").data


def test_a_member_gets_every_page_and_what_it_needs(server: Flask):
    for name in ("vic", "root"):
        client = client_of(server, name)
        for endpoint, address in addresses(server):
            answer = client.get(address)
            assert answer.status_code not in (302, 401), (name, endpoint)
            assert answer.status_code < 500, (name, endpoint)
        for address in ("/", "/jobs", "/_dash-layout", "/_dash-dependencies", "/jobs.json", "/assets/style.css"):
            assert client.get(address).status_code == 200, address


def test_in_open_mode_everything_is_as_if_nobody_could_sign_in(open_server: Flask):
    client = open_server.test_client()
    for address in ("/", "/_dash-layout", "/jobs.json", "/assets/style.css", "/health"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
    assert b"react-entry-point" in client.get("/sign-in").data
    assert client.post("/sign-out").status_code == 405
    assert b'"who"' not in client.get("/_dash-layout").data
    assert not {rule.endpoint for rule in open_server.url_map.iter_rules()} & {"sign_in", "sign_out"}


def test_the_page_cannot_be_made_where_it_would_be_open_to_all(tmp_path: Path):
    with pytest.raises(access.UnsafeError, match=r"HEADSCOPE_SECRET is not set.*; nobody could sign in"):
        create_app(Settings(data=tmp_path, host="0.0.0.0"))


# --- another site's page ---


@pytest.mark.parametrize("mode", ["open", "team"])
@pytest.mark.parametrize(
    ("host", "called"),
    [
        *((host, True) for host in ("localhost", "localhost:8050", "127.0.0.1:9", "127.0.0.1", "[::1]:8", "LOCALHOST")),
        *((host, False) for host in ("evil.example", "evil.example:8050", "localhost.evil.example", "127.0.0.1.io")),
        *((host, False) for host in ("localhost@evil.example", "evil.example#localhost", "10.0.0.1", "[::2]", "")),
        *((host, False) for host in ("localhost/", "a b", "[::1", "0.0.0.0:8050", "localhost,evil.example")),
    ],
)  # fmt: skip
def test_a_server_answers_to_its_own_names_only(server: Flask, open_server: Flask, mode: str, host: str, called: bool):
    client = (open_server if mode == "open" else server).test_client()
    for address in ("/health", "/", "/jobs.json"):
        answer = client.get(address, headers={"Host": host})
        assert (answer.status_code != 400) == called
        if not called:
            assert "HEADSCOPE_HOSTS" in answer.text


def test_names_that_are_set_are_the_servers_own(server: Flask, open_server: Flask):
    for host, ours in (("headscope.lab.org", 200), ("HEADSCOPE.lab.org:8443", 200), ("x.headscope.lab.org", 400)):
        assert server.test_client().get("/health", headers={"Host": host}).status_code == ours
        assert open_server.test_client().get("/health", headers={"Host": host}).status_code == 400


SITES = [
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
    ({"Sec-Fetch-Site": "odd"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:9"}, 403),
    ({"Origin": "http://localhost.evil.example"}, 403),
    ({"Origin": "http://evil.example/localhost"}, 403),
    ({"Origin": "http://["}, 403),
    ({"Origin": ""}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 0),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 0),
    ({"Sec-Fetch-Site": "none"}, 0),
    ({"Origin": "http://localhost"}, 0),
    ({}, 0),
]


@pytest.mark.parametrize("mode", ["open", "team"])
@pytest.mark.parametrize(("headers", "status"), SITES, ids=lambda given: json.dumps(given))
def test_what_another_sites_page_sends_is_refused(
    server: Flask, open_server: Flask, mode: str, headers: dict[str, str], status: int
):
    client = open_server.test_client() if mode == "open" else client_of(server, "ann")
    posts = [(CALLBACKS, {"json": {}}), ("/sign-in", {"data": {"name": "ann"}}), ("/jobs.json", {})]
    for address, body in posts:
        answer = client.post(address, headers=headers, **body)
        assert (answer.status_code == 403) == (status == 403), (address, answer.status_code)
    for method in ("PUT", "DELETE", "PATCH"):
        answer = client.open("/jobs.json", method=method, headers=headers)
        assert (answer.status_code == 403) == (status == 403)
    assert client.get("/jobs.json", headers=headers).status_code == 200  # a link from elsewhere works


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_elsewhere_could_send_is_no_callback(server: Flask, kind: str):
    body = json.dumps({"output": f"{jobs_page.SAID}.children", "inputs": [], "changedPropIds": []})
    answer = client_of(server, "ann").post(CALLBACKS, data=body, content_type=kind)
    assert answer.status_code in (400, 415)


def test_answers_of_a_team_are_kept_by_nobody_between(server: Flask, data: Path):
    client = client_of(server, "vic")
    digest = facts(Shelf(data / "studies").open("tiny")).content[:16]
    picture = client.get(f"/studies/tiny/{digest}/image/0.png")
    assert picture.status_code == 200
    assert picture.cache_control.private and picture.cache_control.immutable and not picture.cache_control.public
    assert "Set-Cookie" not in picture.headers
    assert "Cookie" in picture.headers["Vary"]
    for address in ("/", "/_dash-layout"):
        assert client.get(address).headers["Cache-Control"] == "no-store"
    for answer in (client.get("/"), server.test_client().get("/sign-in")):
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


# --- what is too much ---


class Stream(io.RawIOBase):
    """A body of so many bytes, of which it counts what is read."""

    def __init__(self, size: int) -> None:
        self.left, self.taken = size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(self.left, len(buffer))
        buffer[:size] = b"x" * size
        self.left, self.taken = self.left - size, self.taken + size
        return size


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("name", "address"), [("", CALLBACKS), ("", "/sign-in"), ("", "/"), ("ann", CALLBACKS)])
def test_a_body_of_60_mb_is_refused_unread(server: Flask, name: str, address: str, chunked: bool):
    client = client_of(server, name) if name else server.test_client()
    body = Stream(60_000_000)
    kind = "application/x-www-form-urlencoded" if address == "/sign-in" else "application/json"
    length = (
        {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        if chunked
        else {"CONTENT_LENGTH": "60000000"}
    )
    given = {"wsgi.input": body, "CONTENT_TYPE": kind, **length}
    answer = client.post(address, environ_overrides=given)
    # Of a body without a length, as much is read as may come; what is cut off there is no JSON and no form.
    refused = (401,) if not name and address != "/sign-in" else (413, 400, 401) if chunked else (413,)
    assert answer.status_code in refused
    assert body.taken <= (9_000_000 if name else 20_000)


def test_a_form_of_very_many_parts_is_refused(server: Flask):
    parts = {f"part{number}": "x" for number in range(5000)}
    for kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        assert server.test_client().post("/sign-in", data=parts, content_type=kind).status_code == 413


def test_json_that_is_nested_very_deeply_is_refused(server: Flask):
    answer = client_of(server, "ann").post(CALLBACKS, data=b"[" * 100_000, content_type="application/json")
    assert answer.status_code == 400


def test_what_is_typed_to_sign_in_is_text(server: Flask):
    for given in ({"name": "ann\0"}, {"name": "ann", "password": "\0"}, {"name": "ann", "next": "/\0"}):
        answer = server.test_client().post("/sign-in", data=given)
        assert answer.status_code == 400
        assert re.fullmatch(r"a text has a NUL in it; in the log as error [0-9a-f]{8}", answer.text)


# --- signing in ---


def test_signing_in_leads_to_what_was_asked_for(server: Flask):
    client = server.test_client()
    asked = "/?study=tiny&image=set/photo%20002.png&layer=1"
    led = client.get(asked)
    assert led.status_code == 302
    form = client.get(led.headers["Location"])
    then = re.search(r'name="next" value="([^"]*)"', form.text)
    assert then is not None
    answer = sent(client, "Ann", then=then[1].replace("&amp;", "&"))
    assert (answer.status_code, answer.headers["Location"]) == (303, asked)
    assert client.get(asked).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        *("", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example"),
        *("javascript:alert(1)", "evil.example", "/\t/evil.example", "\t//evil.example", " /x", "/\n/evil.example"),
        *("http:evil.example", "/x\\..\\\\evil", "/\x01", "?x", "#x", "data:text/html,x"),
    ],
)
def test_signing_in_never_leads_to_another_site(server: Flask, address: str):
    client = server.test_client()
    assert 'name="next" value="/"' in client.get(f"/sign-in?next={quote(address)}").text
    assert sent(client, "ann", then=address).headers["Location"] == "/"


def test_what_is_typed_is_no_html(server: Flask):
    attack = '"><script>alert(1)</script>'
    for answer in (
        sent(server.test_client(), attack, "wrong"),
        server.test_client().get(f"/sign-in?next={quote('/' + attack)}"),
    ):
        assert "<script>alert" not in answer.text
        assert "&lt;script&gt;alert" in answer.text


def test_the_page_to_sign_in_says_what_it_is_to_those_who_listen(server: Flask):
    page = sent(server.test_client(), "ann", "wrong").text
    assert '<label for="name">Name</label>' in page and '<label for="password">Password</label>' in page
    assert '<p role="alert">The name or the password is wrong.</p>' in page
    assert page.count("autofocus") == 1
    assert '<html lang="en">' in page
    assert "<script>" not in page  # works without any


@pytest.mark.parametrize("https", [True, False])
def test_the_cookie_is_the_servers_alone_and_goes_by_https_where_there_is_https(server: Flask, https: bool):
    base = f"http{'s' if https else ''}://localhost"
    answer = sent(server.test_client(), "ann", base_url=base)
    (cookie,) = answer.headers.getlist("Set-Cookie")
    name_and_value, *flags = cookie.split("; ")
    assert name_and_value.startswith("headscope=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(flags)
    assert ("Secure" in flags) == https
    assert not any(flag.startswith("Domain") for flag in flags)
    assert server.permanent_session_lifetime.days == 7


def test_a_proxy_is_believed_only_where_one_is_set(server: Flask, settings: Settings, desk: Any):
    behind = create_app(settings.model_copy(update={"proxies": 1}), desk).server
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
    assert "Secure" in sent(behind.test_client(), "ann", headers=told).headers["Set-Cookie"]
    assert "Secure" not in sent(server.test_client(), "ann", headers=told).headers["Set-Cookie"]
    for address in ("/", "/sign-in", "/health", "/jobs.json"):  # answers of every kind
        assert "max-age=" in behind.test_client().get(address, headers=told).headers["Strict-Transport-Security"]
        assert "Strict-Transport-Security" not in behind.test_client().get(address).headers
        assert "Strict-Transport-Security" not in server.test_client().get(address, headers=told).headers
    # A name is tried from many addresses, an address tries many names.
    statuses = {"believed": [], "not": []}
    for number in range(MOST_FAILURES + 3):
        told = {"X-Forwarded-For": f"198.51.100.7, 192.0.2.{number}"}
        for kind, at in (("believed", behind), ("not", server)):
            statuses[kind].append(sent(at.test_client(), f"{kind}-{number}", "wrong", headers=told).status_code)
    assert set(statuses["believed"]) == {401}
    assert statuses["not"][-1] == 429


def test_twenty_wrong_passwords_are_ten_answers_and_then_a_wait(server: Flask):
    for name, password in (("ann", "wrong"), ("nobody", PASSWORD)):
        told = [sent(server.test_client(), name, password, environ_base={"REMOTE_ADDR": name}) for _ in range(20)]
        assert [answer.status_code for answer in told] == [401] * MOST_FAILURES + [429] * (20 - MOST_FAILURES)
        assert "try again in 5 min" in told[-1].text
        assert 270 < int(told[-1].headers["Retry-After"]) <= 301
    right = sent(server.test_client(), "ann", PASSWORD, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert right.status_code == 429


def test_a_wrong_password_and_an_unknown_name_read_the_same(server: Flask):
    pages = {name: sent(server.test_client(), name, "wrong") for name in ("ann", "zzz")}
    for status in (401, 429):
        assert {page.status_code for page in pages.values()} == {status}
        assert pages["ann"].text.replace("ann", "zzz") == pages["zzz"].text
        assert {key for key, _ in pages["ann"].headers} == {key for key, _ in pages["zzz"].headers}
        for _ in range(MOST_FAILURES):
            pages = {
                name: sent(server.test_client(), name, "wrong", environ_base={"REMOTE_ADDR": name})
                for name in ("ann", "zzz")
            }


def test_who_signs_out_is_out_in_every_browser_and_others_are_not(server: Flask):
    here, there, other = client_of(server, "ann"), client_of(server, "ann"), client_of(server, "bob")
    answer = here.post("/sign-out")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
    assert [client.get("/jobs.json").status_code for client in (here, there, other)] == [401, 401, 200]
    assert here.get("/sign-out").status_code != 303


def test_a_name_and_the_way_out_are_at_the_top_of_the_page(server: Flask):
    layout = json.dumps(client_of(server, "ann").get("/_dash-layout").json)
    assert '"ann"' in layout and '"analyst"' in layout and '"/sign-out"' in layout


# --- the lab's own proxy ---


@pytest.fixture(scope="module")
def behind(settings: Settings, desk: Any) -> Flask:
    """A server to which the lab's proxy says who it lets in."""
    return create_app(settings.model_copy(update={"sign_in": None, "trusted_header": "X-Remote-User"}), desk).server


def test_whom_the_proxy_names_gets_in_as_a_viewer_at_first(behind: Flask, accounts: Accounts):
    client = behind.test_client()
    told = {"X-Remote-User": "Eve@Lab.org"}
    layout = client.get("/_dash-layout", headers=told)
    assert '"eve@lab.org"' in layout.text and '"viewer"' in layout.text and "/sign-out" not in layout.text
    assert "Set-Cookie" not in layout.headers
    accounts.set_role("eve@lab.org", "admin")
    assert '"admin"' in client.get("/_dash-layout", headers=told).text
    accounts.remove("eve@lab.org")


def test_whom_the_proxy_does_not_name_gets_nothing(behind: Flask, server: Flask, accounts: Accounts):
    ann = accounts.find("ann")
    assert ann is not None
    client = with_cookie(behind, signed(server, name="ann", stamp=ann.stamp))
    before = accounts.users()
    told = ["", "a b", "ann, root", "../x", "x" * 65, "<b>"]
    for endpoint, address in addresses(behind):
        for name in told:
            for method in ("GET", "POST"):
                headers = {"X-Remote-User": name} if name else {}
                answer = client.open(address, method=method, headers=headers)
                assert endpoint == "/health" or answer.status_code == 401, (endpoint, name, method)
    assert accounts.users() == before
    assert {rule.endpoint for rule in behind.url_map.iter_rules()} <= EVERYBODYS | PAGES | MEMBERS


# --- what each role may ---


def called(client: Any, output: str, values: dict[str, Any], changed: str) -> Any:
    """What a callback answers: its `output` begins so."""
    dependencies = json.loads(client.get("/_dash-dependencies").data)
    found = next(each for each in dependencies if each["output"].lstrip(".").startswith(output))

    def filled(part: str) -> list[dict[str, Any]]:
        return [{**each, "value": values.get(f"{each['id']}.{each['property']}")} for each in found[part]]

    outputs = [
        dict(zip(("id", "property"), name.rsplit(".", 1), strict=True))
        for name in found["output"].strip(".").split("...")
    ]
    body = {
        "output": found["output"],
        "outputs": outputs if found["output"].startswith("..") else outputs[0],
        "inputs": filled("inputs"),
        "state": filled("state"),
        "changedPropIds": [changed],
    }
    answer = client.post(CALLBACKS, json=body)
    assert answer.status_code == 200, answer.text
    return json.dumps(answer.json["response"], ensure_ascii=False)


VIEWER = "You are vic, with the role viewer; to "


@pytest.fixture
def anns_job(desk: FakeDesk) -> str:
    job = a_job(id="ann's job", who="ann", title="a study of ann's", kind="study")
    desk.ledger.all = {job.id: job}
    return job.id


@pytest.mark.parametrize(
    ("name", "said", "state"),
    [
        ("vic", f"{VIEWER}cancel jobs takes the role analyst", "queued"),
        ("bob", "a study of ann's was asked for by ann: only ann or an admin can cancel it", "queued"),
        ("ann", "is cancelled", "cancelled"),
        ("root", "is cancelled", "cancelled"),
    ],
)
def test_a_job_is_cancelled_by_who_asked_for_it_and_by_admins(
    server: Flask, desk: FakeDesk, anns_job: str, name: str, said: str, state: str
):
    client = client_of(server, name)
    rows = client.get("/jobs.json?shown=all").json["rows"]
    assert [row["actions"] for row in rows] == ["cancel" if state == "cancelled" else ""]
    answer = called(client, jobs_page.SAID, {f"{jobs_page.CANCEL}.data": {"job": anns_job}}, f"{jobs_page.CANCEL}.data")
    assert said in answer
    assert desk.ledger.job(anns_job).state == state
    if state == "cancelled":
        assert desk.ledger.job(anns_job).cause == f"cancelled by {name}"


@pytest.mark.parametrize(("name", "asks"), [("vic", False), ("ann", True)])
def test_a_head_is_pruned_for_who_may_have_things_computed(
    server: Flask, desk: FakeDesk, data: Path, monkeypatch: pytest.MonkeyPatch, name: str, asks: bool
):
    monkeypatch.setattr(pruning, "PATIENCE", 0.0)
    desk.ledger.all, desk.ledger.results = {}, {}
    known = facts(Shelf(data / "studies").open("tiny"))
    chosen = {**default(known).data(), "image": known.image_ids[int(asks)]}  # results are kept for good
    values = {f"{pruning.SETTLED}.data": chosen}
    answer = called(client_of(server, name), pruning.FOUND, values, f"{pruning.SETTLED}.data")
    assert [job.who for job in desk.ledger.jobs()] == (["ann"] if asks else [])
    assert (f"{VIEWER}have something computed takes the role analyst" in answer) != asks
    # Pressing the button changes nothing about that.
    values[f"{pruning.STATE}.data"] = {"waits": False, "jobs": {}}
    called(client_of(server, name), pruning.FOUND, values, f"{pruning.RUN}.n_clicks")
    assert bool(desk.ledger.jobs()) == asks
    # What others had computed is everybody's, and so is what they wait for.
    called(client_of(server, "ann"), pruning.FOUND, values, f"{pruning.RUN}.n_clicks")
    assert "waiting for a worker" in called(client_of(server, name), pruning.FOUND, values, f"{pruning.SETTLED}.data")
    for job in desk.ledger.jobs():
        desk.finish(job.id)
    answer = called(client_of(server, name), pruning.FOUND, values, f"{pruning.SETTLED}.data")
    assert VIEWER not in answer
    assert f'"{pruning.FOUND}": {{"data": {{' in answer


def test_a_study_is_asked_for_by_who_may_have_things_computed(
    server: Flask, desk: FakeDesk, data: Path, monkeypatch: pytest.MonkeyPatch
):
    desk.ledger.all = {}
    monkeypatch.setattr(new_study, "model_names", lambda desk: ["vit_tiny_patch16_224"])
    monkeypatch.setattr(new_study, "sources", lambda offers: {"images/pets": data})
    values = {f"{new_study.field_id(name)}.value": value for name, value in new_study.FIELDS.items()}
    follow, submit = new_study.problem_id("model"), new_study.GO
    refused = f"{VIEWER}have something computed takes the role analyst"
    # Before anything is picked:
    assert refused in called(client_of(server, "vic"), follow, values, f"{new_study.SETTLED}.data")
    values[f"{new_study.field_id('model')}.value"] = "vit_tiny_patch16_224"
    values[f"{new_study.field_id('images')}.value"] = "images/pets"
    assert refused in called(client_of(server, "vic"), follow, values, f"{new_study.SETTLED}.data")
    assert desk.ledger.jobs() == []
    called(client_of(server, "ann"), follow, values, f"{new_study.SETTLED}.data")
    (price,) = desk.ledger.jobs()
    assert (price.kind, price.who) == ("price", "ann")
    # A viewer who has the price of these very inputs, as another person asked for it.
    desk.set(price.id, state="done")
    desk.ledger.results[price.key] = {"bytes": 1.0, "seconds": 1.0}
    values |= {f"{new_study.ASKED}.data": {"job": price.id}, f"{new_study.FORM}.n_submit": 1}
    assert refused in called(client_of(server, "vic"), submit, values, f"{new_study.FORM}.n_submit")
    assert desk.ledger.jobs() == [desk.ledger.job(price.id)]
    called(client_of(server, "ann"), submit, values, f"{new_study.FORM}.n_submit")
    assert [(job.kind, job.who) for job in desk.ledger.jobs()] == [("price", "ann"), ("study", "ann")]


def parts(component: Any) -> Iterator[dict[str, Any]]:
    """The props of all components of a layout, as the browser gets it."""
    if isinstance(component, list):
        for each in component:
            yield from parts(each)
    elif isinstance(component, dict):
        yield component["props"]
        yield from parts(component["props"].get("children"))


def test_the_button_for_a_picture_says_to_viewers_whom_to_ask(server: Flask, open_server: Flask):
    def button(client: Any) -> dict[str, Any]:
        layout = client.get("/_dash-layout").json
        return next(props for props in parts(layout) if props.get("id") == image_overview.PICTURE)

    refused = f"{VIEWER}drop pictures takes the role analyst. Ask whoever runs this server for it."
    assert button(client_of(server, "vic")).items() >= {"disabled": True, "title": refused}.items()
    for client in (client_of(server, "ann"), client_of(server, "root"), open_server.test_client()):
        props = button(client)
        assert props["disabled"] is False
        assert props["title"].startswith("See what the heads do on a picture of your own")


def test_everything_that_a_desk_does_is_guarded_or_harmless():
    done = {name for name in vars(Desk) if not name.startswith("_")}
    guarded = {name for name in vars(access._Guarded) if not name.startswith("_")}
    assert guarded == {"submit", "cancel"}
    assert done - guarded == {"ring"}, "may every role do that?"


def test_nobody_but_the_local_user_is_admin_without_signing_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access.getpass, "getuser", lambda: "me")
    assert (access.current().name, access.current().role) == ("me", "admin")
    with Flask("other").test_request_context(), pytest.raises(AttributeError):
        access.current()


def test_a_role_that_is_too_low_is_said_to_scripts_too(settings: Settings, desk: Any):
    server = create_app(settings, desk).server
    server.add_url_rule("/only-admins", view_func=lambda: access.need("admin", "open this") or "in")
    assert client_of(server, "root").get("/only-admins").text == "in"
    answer = client_of(server, "ann").get("/only-admins")
    assert answer.status_code == 403
    assert answer.text.startswith("You are ann, with the role analyst; to open this takes the role admin.")


# --- faults ---


def test_a_fault_is_logged_under_a_number_and_the_answer_has_only_that(
    app: Dash, server: Flask, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*given: Any) -> Any:
        raise ZeroDivisionError("the secret of /etc/passwd")

    monkeypatch.setattr(desk.ledger, "counts", broken)
    client = client_of(server, "ann")
    with caplog.at_level(logging.ERROR):
        answers = [client.get("/jobs.json") for _ in range(2)]
    numbers = [re.fullmatch(r"[^\n]*in the log as fault ([0-9a-f]{8})", answer.text) for answer in answers]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert numbers[0] is not None and numbers[1] is not None and numbers[0][1] != numbers[1][1]
    assert "passwd" not in answers[0].text
    assert f"fault {numbers[0][1]} at GET /jobs.json" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_while_the_ledger_does_not_answer_nobody_gets_in(
    server: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    client = client_of(server, "ann")

    def away(*given: Any) -> Any:
        raise LedgerUnavailableError("postgresql://db.lab.org/ledger does not answer")

    monkeypatch.setattr(Accounts, "find", away)
    monkeypatch.setattr(Accounts, "sign_in", away)
    for answer in (client.get("/jobs.json"), client.get("/"), sent(server.test_client(), "ann")):
        assert answer.status_code == 503
        assert answer.text == "the ledger does not answer; try again in a minute"
    assert "db.lab.org" in caplog.text
