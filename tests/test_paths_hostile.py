"""Does anything that is sent lead to a file elsewhere? Many ways to write a path, put wherever a text can be put."""

import copy
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from dash import Dash
from flask import Flask
from werkzeug.routing import Rule

import dashboard
from dashboard import writer
from dashboard.accounts import Accounts
from dashboard.app import create_app
from dashboard.data import Shelf, facts
from dashboard.drawing import TOLD
from dashboard.selection import default
from dashboard.views import header, jobs, new_study, pruning
from jobs import uploads
from jobs.client import Desk
from store.errors import StudyNotFoundError
from store.settings import Settings
from tests.studies import compute, tiny_study, write_tiny_study
from tests.test_dashboard_app import bodies, places

CANARY = "canary-5e1f0c77d2"
SECRET = "8f3a61c0d92be47715f08c6a2d94e3b1"
OTHERS = "f" * 24  # id of an upload that is a link to elsewhere
FEW, MANY = 2, 48  # texts for each field, where time is short and where it is not
PAGE = b"react-entry-point"  # of the page itself, which every address that is none leads to


class Watch:
    """What this process opens, lists, changes or calls while it is on; Python takes no such listener back."""

    OF_A_PATH = ("open", "sqlite3.connect", "shutil.rmtree")
    NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")

    def __init__(self) -> None:
        self.on, self.paths, self.called = False, set[str](), list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in self.NEVER:
            self.called.append(f"{event}{given!r}"[:200])
        elif event in self.OF_A_PATH or event.startswith("os."):
            self.paths.update(os.fsdecode(each) for each in given if isinstance(each, str | bytes | os.PathLike))

    @contextmanager
    def off(self) -> Iterator[None]:
        """What a test itself does meanwhile is not heard."""
        self.on = False
        yield
        self.on = True

    def outside(self, roots: Iterable[Path]) -> list[str]:
        """What was touched that lies in none of the folders, wherever links lead."""
        whole = [os.path.realpath(root) for root in roots]
        real = {path: os.path.realpath(path) for path in self.paths if "\0" not in path}
        return sorted(
            path
            for path, found in real.items()
            if not any(found == root or found.startswith(f"{root}{os.sep}") for root in whole)
        )


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


class Lab:
    """A data folder with its page, and secrets beside it, in it, and behind links in it."""

    def __init__(self, root: Path) -> None:
        self.outside, self.data = root / "outside", root / "data"
        secret = tiny_study()
        secret.arrays["image"] = np.array([f"{CANARY} {number}" for number in range(5)])
        secret.arrays["class"] = np.array([f"{CANARY} {number}" for number in range(6)])
        write_tiny_study(self.data / "studies" / "tiny")
        for folder in (self.outside / "study", self.data / "studies-evil" / "tiny", self.data / "evil"):
            compute(folder, secret)
        for folder in ("images", "images-evil", "models", "models-evil"):
            (self.data / folder).mkdir()
        self.canary = self.outside / "canary.txt"
        for file in (self.canary, *(self.data / each / "canary.txt" for each in ("", "studies-evil", "images-evil"))):
            file.write_text(CANARY)
        self.mine = uploads.begin(self.data / "uploads", "ann", "birds", 10)
        theirs = uploads.begin(self.data / "uploads-evil", CANARY, CANARY, 10)
        links = {"studies/link": "study", "studies/words": "canary.txt", "images/link": "", "models/x.pt": "canary.txt"}
        for link, target in links.items():
            (self.data / link).symlink_to(self.outside / target)
        (self.data / "uploads" / OTHERS).symlink_to(theirs.folder)
        self.settings = Settings(data=self.data, trusted_header="X-User", secret=SECRET)
        accounts = Accounts(self.settings.ledger_url)
        accounts.add("ann", "analyst", None)
        accounts.add("root", "admin", "correct horse battery")
        self.desk = Desk(self.settings)
        self.app: Dash = create_app(self.settings, self.desk)
        self.known = facts(Shelf(self.settings.studies).open("tiny"))
        self.digest = self.known.content[:16]

    @property
    def roots(self) -> list[Path]:
        """What the page may open: what it serves, what Python is of, and what it writes jobs into."""
        ledger = self.data / "headscope.db"
        served = (self.data / each for each in ("studies/tiny", "uploads", "images", "models", "studies"))
        python = (sys.prefix, sys.base_prefix, Path(os.__file__).parent, os.devnull, "/etc/mime.types")
        return [*served, ledger, Path(dashboard.__file__).parents[1], *map(Path, python)]

    def texts(self) -> list[str]:
        """Ways to write a path to a secret, or something that is taken for one, or for more than a text."""
        canary, name = str(self.canary), "outside/canary.txt"
        up = f"../../{name}"
        far = "../" * 14 + canary[1:]
        climbing = [
            *(up, f"../{name}", f"../../../{name}", far, f"./{up}", f"tiny/../{up}", f"tiny/./.././{up}", f"/{up}"),
            *(f"....//....//{name}", f"..././..././{name}", f"..;/..;/{name}", f"..//..//{name}", f"../.././{name}"),
            *(f"..\\..\\{name}", f"..\\../{name}", f"..%5c..%5c{name}", f"..%2f..%2f{name}", f"%2e%2e/%2e%2e/{name}"),
            *(quote(up, safe=""), quote(quote(up, safe=""), safe=""), f"%252e%252e%252f%252e%252e%252f{name}"),
            *(f"..%c0%af..%c0%af{name}", f"%c0%ae%c0%ae/%c0%ae%c0%ae/{name}", f"..%u2215..%u2215{name}"),
            *(f"．．／．．／{name}", f"..\u2215..\u2215{name}", f"‥/‥/{name}", f"a#/{up}", f"tiny?/{up}", f"tiny;{up}"),
            *(
                f"{up}\0",
                f"{up}\0.png",
                f"{up}%00",
                f"\0{up}",
                f"{up}\n",
                f"\n{up}",
                f"{up} ",
                f" {up}",
                f"{up}\r\nX: y",
            ),
        ]
        whole = [
            *(canary, f"/{canary}", f"//localhost{canary}", f"file://{canary}", f"file:{canary}", f"file:///{canary}"),
            *(f"FILE://localhost{canary}", f"\\\\?\\{canary}", f"tiny{canary}", f"{canary}/", f"{canary}/."),
            *("/etc/passwd", "/proc/self/environ", f"/proc/self/root{canary}", "/proc/self/fd/0", "/dev/stdin"),
        ]
        beside = [
            *("../studies-evil/tiny", "../studies-evil", "-evil", "-evil/tiny", "../evil", "../canary.txt"),
            *("../uploads-evil", "../images-evil/canary.txt", "../headscope.db", "uploads/../canary.txt"),
            *("link", "words", "link/", "./link", "LINK", "tiny/../link", OTHERS, f"uploads/{OTHERS}", "images/link"),
            *("images/link/canary.txt", "models/x.pt", "x.pt", "tiny/MANIFEST.json", "tiny/lock", self.mine.id),
        ]
        odd = [
            *("", ".", "..", "...", "/", "//", "\\", "~", "~root", "~/canary.txt", "$HOME", "${PATH}", "%PATH%"),
            *(
                f"$(cat {canary})",
                f"`cat {canary}`",
                f"; cat {canary}",
                f"| cat {canary}",
                f"<{canary}",
                "{0.__class__}",
            ),
            *(
                "{{config}}",
                "{%include 'x'%}",
                "{0.__class__}",
                "%s%s%n",
                "*",
                "tin?",
                "[a-z]*",
                "tiny ",
                " tiny",
                "tiny.",
                "TINY",
            ),
            *(
                "http://169.254.169.254/latest/meta-data/",
                "http://127.0.0.1:1/",
                "https://localhost/",
                "ftp://x/",
                "s3://x",
            ),
            *(
                "hf-hub:evil/x",
                f"local-dir:{self.outside}",
                "memory://x",
                f"zip::file://{canary}",
                "gopher://127.0.0.1:1/_",
            ),
            *(
                "C:\\Windows\\win.ini",
                "\\\\host\\share\\x",
                "CON",
                "tiny::$DATA",
                "\x7f",
                "\u202e",
                "é" * 300,
                "a" * 5000,
            ),
            *(
                "1e999",
                "-1",
                "00",
                "0x10",
                "null",
                "[]",
                "{}",
                "true",
                "' or 1=1 --",
                "';drop table jobs;--",
                ":memory:",
            ),
        ]
        return list(dict.fromkeys([*climbing, *whole, *beside, *odd]))

    def ask(self, method: str, path: str, query: str = "", **more: Any) -> Any:
        """What a server hands on for an address: the path once decoded, the query as it came."""
        place = {"PATH_INFO": _latin(path), "QUERY_STRING": _latin(query), "wsgi.input_terminated": True}
        headers = {"X-User": "ann"} | more.pop("headers", {})
        client = self.app.server.test_client()
        answer = client.open(method=method, environ_overrides=place, headers=headers, **more)
        harmless(answer, (method, path[:300], query[:300], str(more)[:300]))
        return answer


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def is_text(text: str) -> bool:
    """Whether the page reads it at all."""
    return "\0" not in text and text == text.encode(errors="replace").decode()


def harmless(answer: Any, about: object) -> None:
    """An answer has nothing of a secret, is no fault, and leads nowhere else."""
    assert CANARY.encode() not in answer.data, about
    assert CANARY not in str(answer.headers), about
    assert answer.status_code < 500, (about, answer.text)
    assert b"Traceback" not in answer.data, about
    where = answer.headers.get("Location", "/")
    assert where.startswith(("http://localhost/", "/")) and not where.startswith(("//", "/\\")), (about, where)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, nobody_works: None) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(autouse=True)
def nothing_else_is_opened(request: pytest.FixtureRequest, watch: Watch, lab: Lab) -> Iterator[None]:
    for address in ("/", "/_dash-layout", "/jobs.json?shown=all", "/assets/style.css", "/export/head-importance.csv"):
        lab.ask("GET", *address.partition("?")[::2])  # what the first request alone opens
    watch.paths, watch.called, watch.on = set(), [], True
    yield
    watch.on = False
    assert watch.called == []
    assert watch.outside(lab.roots) == []


def test_the_watch_sees_what_is_opened_elsewhere(watch: Watch, lab: Lab):
    lab.canary.read_bytes()
    list((lab.data / "studies" / "link").iterdir())
    (lab.data / "studies" / "tiny" / "MANIFEST.json").read_bytes()
    assert {Path(path).name for path in watch.outside(lab.roots)} == {"canary.txt", "link"}
    watch.paths = set()


def test_there_are_enough_texts(lab: Lab):
    assert len(lab.texts()) > 100


def some(texts: list[str], few: bool, turn: int) -> list[str]:
    """Some of them: others at each turn, so that all come somewhere."""
    number = FEW if few else MANY
    return [texts[(turn * number + step) % len(texts)] for step in range(number)]


briefly = pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.hostile)])

# --- addresses ---


def parameters(rule: Rule) -> list[str]:
    return re.findall(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", rule.rule)


def filled(rule: Rule, **values: str) -> str:
    return re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", lambda part: values[part[1]], rule.rule)


def good(lab: Lab, rule: Rule) -> dict[str, str]:
    """What leads to something, for each parameter of a route."""
    return {
        "name": "head-importance" if rule.endpoint == "leave" else "tiny",
        "digest": lab.digest,
        "form": "csv",
        "panel": "pruning",
        "upload_id": lab.mine.id,
        "filename": "style.css",
        "path": "jobs",
        "package_name": "dash",
        "fingerprinted_path": "dash-renderer/build/dash_renderer.min.js",
        **dict.fromkeys(("index", "layer", "head"), "0"),
    }


@briefly
def test_no_parameter_of_any_route_leads_to_another_file(lab: Lab, few: bool):
    led, tried = set(), 0
    wanted = [(rule, name) for rule in lab.app.server.url_map.iter_rules() for name in parameters(rule)]
    for turn, (rule, name) in enumerate(wanted):
        query = "study=tiny" if rule.endpoint == "leave" else ""
        for text in some(lab.texts(), few, turn):
            address = filled(rule, **good(lab, rule) | {name: text})
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                if method == "DELETE" and lab.mine.id in address:
                    continue
                answer = lab.ask(method, address, query, data=b"")
                tried += 1
                if answer.status_code == 200 and PAGE not in answer.data:
                    led.add((method, address))
    assert tried > (50 if few else 1_200)
    # 00 is 0, and her own upload's id is among the texts; nothing else that was tried is the name of something.
    known = ("00", lab.mine.id)
    there = {filled(rule, **good(lab, rule) | {name: text}) for rule, name in wanted for text in known}
    assert {address for _, address in led} <= there


def test_what_the_good_values_lead_to_is_there(lab: Lab):
    for rule in lab.app.server.url_map.iter_rules():
        if (
            "GET" in rule.methods
            and parameters(rule)
            and rule.endpoint not in ("static", "list_refused", "follow_picture")
        ):
            query = "study=tiny" if rule.endpoint == "leave" else "map=patch&width=20&height=20"
            assert lab.ask("GET", filled(rule, **good(lab, rule)), query).status_code in (200, 400), rule
    assert lab.ask("GET", f"/uploads/{lab.mine.id}").status_code == 200


SELECTED = tuple(writer.Selection.__dataclass_fields__)
DENSITY = ("map", "colour", "images", "layer", "head", "pattern", "x0", "x1", "y0", "y1", "width", "height")


@briefly
def test_no_field_of_any_query_leads_to_another_file(lab: Lab, watch: Watch, few: bool):
    asked = {
        "/export/head-importance.csv": (*SELECTED, "evil"),
        "/export/pruning.json": ("study", "image", "images", "basket"),
        "/export/head-attention.py": ("study", "image"),
        f"/studies/tiny/{lab.digest}/density.png": DENSITY,
        "/jobs.json": ("shown", "job"),
        f"/uploads/{lab.mine.id}": ("job", "at"),
        "/": ("study", "image"),
        "/jobs": ("job",),
    }
    answers: dict[str, list[int]] = {path: [] for path in asked}
    for turn, (path, field) in enumerate((path, field) for path, fields in asked.items() for field in fields):
        for text in some(lab.texts(), few, turn):
            for written in (quote_plus(text), text):
                whole = f"{field}={written}" if field == "study" else f"study=tiny&{field}={written}"
                answers[path].append(lab.ask("GET", path, whole).status_code)
    for path, statuses in answers.items():
        may_refuse = path.startswith(("/export/", "/studies/"))  # the others pass over what they do not know
        assert set(statuses) <= ({200, 400, 404} if may_refuse else {200}), path
    assert watch.paths  # it heard what was opened
    assert watch.outside(lab.roots) == []
    assert watch.called == []


@pytest.mark.hostile
def test_no_export_under_any_name_leads_to_another_file(lab: Lab):
    for text in lab.texts():
        for form in ("csv", "py", "json", text):
            answer = lab.ask("GET", f"/export/{text}.{form}", "study=tiny")
            assert answer.status_code != 200 or PAGE in answer.data


# --- links and neighbours ---


@pytest.mark.parametrize("name", ["link", "words", "../studies-evil/tiny", "../evil", "-evil"])
def test_a_study_that_lies_elsewhere_is_none_by_link_or_by_a_name_that_begins_alike(lab: Lab, name: str):
    shelf = Shelf(lab.settings.studies)
    assert [entry.name for entry in shelf.entries()] == ["tiny"]
    with pytest.raises(StudyNotFoundError):
        shelf.open(name)
    for address in (f"/studies/{name}/{lab.digest}/image/0.png", f"/studies/{name}/{lab.digest}/image/0.json"):
        answer = lab.ask("GET", address)
        assert answer.status_code == 404 or PAGE in answer.data
    assert lab.ask("GET", "/export/head-importance.csv", f"study={quote(name)}").status_code == 404


def test_an_upload_that_is_a_link_is_none(lab: Lab, watch: Watch):
    assert [each["id"] for each in lab.ask("GET", "/uploads").json["uploads"]] == [lab.mine.id]
    assert uploads.find(lab.settings.uploads, OTHERS) is None
    for method in ("GET", "PUT", "DELETE"):
        assert lab.ask(method, f"/uploads/{OTHERS}", data=b"x").status_code == 404
    with watch.off():
        assert [each.name for each in uploads.every(lab.data / "uploads-evil")] == [CANARY]


# --- what is sent ---


@briefly
def test_no_name_that_is_sent_becomes_a_path(lab: Lab, watch: Watch, few: bool):
    with watch.off():
        before = files_of(lab)
    for text in lab.texts()[:: 5 if few else 1]:
        begun = lab.ask("POST", "/uploads", json={"name": text, "bytes": 3})
        if not is_text(text):
            assert begun.status_code == 400, text
            continue
        assert begun.status_code == 201, text
        (made,) = [each for each in uploads.every(lab.settings.uploads) if each.id != lab.mine.id]
        assert begun.json["name"] == made.name
        assert lab.ask("PUT", f"/uploads/{made.id}", "at=0", data=b"zip").status_code == 200
        assert made.archive.read_bytes() == b"zip"
        assert lab.ask("DELETE", f"/uploads/{made.id}").status_code == 204
        for body in ({"name": "a", "bytes": text}, {"name": [text], "bytes": 3}, text, [text], {text: text}):
            assert lab.ask("POST", "/uploads", json=body).status_code == 400
    with watch.off():
        assert files_of(lab) == before


def files_of(lab: Lab) -> list[Path]:
    return sorted(path for path in lab.data.rglob("*") if "headscope.db" not in path.name)


def test_no_name_of_a_user_leads_to_a_file(lab: Lab):
    for text in lab.texts():
        sendable = text.replace("\n", "").replace("\r", "").encode("utf-8", "surrogatepass").decode("latin-1")
        answer = lab.ask("GET", "/uploads", headers={"X-User": sendable})
        assert answer.status_code in (200, 401, 403), text


def test_nothing_that_is_typed_to_sign_in_leads_to_a_file(lab: Lab, watch: Watch, cheap_passwords: None):
    with watch.off():
        server: Flask = create_app(Settings(data=lab.data, sign_in=True, secret=SECRET), lab.desk).server
    for number, text in enumerate(lab.texts()):
        client = server.test_client()
        for typed in ({"name": text}, {"password": text}, {"next": text}):
            here = {"REMOTE_ADDR": f"192.0.2.{number}"}
            sent = {"name": f"n{number}", "password": "x"} | typed
            answer = client.post("/sign-in", data=sent, environ_base=here)
            harmless(answer, text)
            assert answer.status_code in ((401, 429) if is_text(text) else (400,))
        harmless(client.get("/sign-in", query_string={"next": text}), text)


# --- callbacks ---


def values(lab: Lab) -> dict[str, Any]:
    """What the page would send, by property; of what is not here it sends nothing."""
    picked = default(lab.known).data()
    kinds = [*writer.WITH_A_VALUE, "key", "release", "basket-clear", "drop"]
    made = [{"kind": kind, "value": "x"} for kind in kinds] + [
        {"kind": "choice", "value": ["metric", "jsd"]},
        {"kind": "head", "value": ["x", 1]},
        {"kind": "basket", "value": ["x", 1]},
        {"kind": "token", "value": {"token": 1, "direction": "to"}},
        {"kind": "lasso", "value": [[0, 0], ["x", 1], [1, 1]]},
    ]
    waited = {"waits": True, "jobs": {"key": "job"}, "said": ""}
    return {
        f"{writer.WRITTEN}.{TOLD}": {"selection": picked, "content": lab.known.content, "index": 0},
        f"{writer.URL}.data": {"search": "?study=tiny&image=x&images=id:x", "theme": "light"},
        f"{writer.GESTURES}.data": {"gestures": made, "n": 1},
        f"{header.STUDY}.value": "tiny",
        f"{header.SEARCH}.value": "photo",
        f"{pruning.SETTLED}.data": picked,
        f"{pruning.STATE}.data": waited,
        f"{jobs.CANCEL}.data": {"job": "x", "times": 1},
        f"{jobs.CHOSEN}.data": {"job": "x", "mark": "x"},
        f"{new_study.UPLOADED}.data": {"id": "x"},
        f"{new_study.ASKED}.data": {"key": "x", "job": "x", "known": {"x": "x"}},
        **{f"{new_study.field_id(name)}.value": value for name, value in new_study.FIELDS.items()},
        f"{new_study.field_id('model')}.value": "vit_tiny_patch16_224",
        f"{new_study.field_id('images')}.value": "images",
        f"{new_study.FORM}.n_submit": 1,
    }


def calls(lab: Lab) -> Iterator[tuple[dict[str, Any], list[Any], tuple[Any, ...]]]:
    """Every call of a callback, in it what one value of it is in, and the way from there to a text to be changed."""
    usual = values(lab)
    for body in bodies(lab.app).values():
        for part in ("inputs", "state"):
            for at, place in enumerate(body[part]):
                called = copy.deepcopy(body)
                for each in [*called["inputs"], *called["state"]]:
                    each["value"] = copy.deepcopy(usual.get(f"{each['id']}.{each['property']}"))
                named = place if part == "inputs" else body["inputs"][-1]
                called["changedPropIds"] = [f"{named['id']}.{named['property']}"]
                for way in [(), *places(called[part][at]["value"])]:
                    yield called, called[part][at], way


def as_sent(called: dict[str, Any]) -> dict[str, Any]:
    """The call as the page makes it: what it holds is an attribute, of text."""
    state = [
        each | {"value": json.dumps(each["value"])} if each["property"] == TOLD else each for each in called["state"]
    ]
    return called | {"state": state}


@briefly
def test_no_value_of_any_callback_leads_to_another_file(lab: Lab, few: bool):
    texts, tried = lab.texts(), 0
    for number, (called, place, way) in enumerate(calls(lab)):
        kept = place["value"]
        for text in some(texts, few, number):
            place["value"] = copy.deepcopy(kept)
            *into, last = ("value", *way)
            functools.reduce(lambda inside, key: inside[key], into, place)[last] = text
            answer = lab.ask("POST", "/_dash-update-component", json=as_sent(called))
            assert answer.status_code in (200, 204, 400), (way, text, answer.text)
            tried += 1
        place["value"] = kept
    assert tried > (350 if few else 8_000)
    assert [job.kind for job in lab.desk.ledger.jobs() if job.kind not in ("price", "prune", "upload")] == []
    asked = json.dumps([job.request for job in lab.desk.ledger.jobs(kinds=["study", "price"])])
    assert CANARY not in asked and str(lab.outside) not in asked
