"""Which studies are there, and in which state is each? The page that lists a data folder, drawn when it is opened.

Of a study only its manifest and its root attributes are read: two files, whatever its size.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.exceptions import PreventUpdate

from analyses.registry import PROBLEMS
from dashboard.data import Shelf
from dashboard.drawing import problem
from dashboard.routes import HASH_DIGITS
from dashboard.views import header, jobs
from dashboard.words import ago, day_and_time, percent
from jobs.client import Desk
from jobs.database import LedgerUnavailableError
from jobs.work import ENDED, Job
from store import pictures
from store.errors import DamagedError, NewerSchemaError, StoreError
from store.manifest import Manifest
from store.objects import METADATA, PublishedStore
from store.paths import manifest_path
from store.study import StudyEntry

PAGE = "studies"
OPENED = "studies-opened"  # counts how often the page was opened: the folder is read anew
ROWS = "studies-rows"
LIST = "studies-list"
COUNTED = "studies-counted"
EMPTY = "studies-empty"

# How the list can be ordered; studies.js does it, and begins with the first.
ORDERS = {"published": "newest first", "name": "by name"}
THUMBNAILS = 6
LONG_AGO = 28 * 86_400  # seconds; from there on a study has a date

State = Literal["published", "computing", "waiting", "interrupted", "damaged", "newer"]
# How each but the first is marked and called.
WORDS: dict[State, tuple[str, str]] = {
    "computing": ("◐", "being computed"),
    "waiting": ("○", "waits"),
    "interrupted": ("⊘", "not finished"),
    "damaged": ("✕", "damaged"),
    "newer": ("↑", "made by a newer Headscope"),
}
WAYS: tuple[State, ...] = ("computing", "waiting")  # to become one

NONE = [
    html.H3("No study yet"),
    html.P("A study is one model on one set of pictures, computed once."),
    html.P(html.A("New study", href="/new", className="button")),
    html.P("Or let Headscope draw pictures and use the small model that comes with it; this takes a minute:"),
    html.Pre("headscope demo"),
]


def layout() -> html.Main:
    orders = [
        html.Button(label, className="option", **{"data-order": order, "aria-pressed": "false"})
        for order, label in ORDERS.items()
    ]
    head = [
        html.H2("Studies"),
        html.Div(id=COUNTED, className="counted", role="status"),
        html.Div(orders, className="choice", role="group", **{"aria-label": "Order of the studies"}),
        html.A("New study", href="/new", className="button"),
    ]
    listed = [*left_out(), html.Div(id=LIST), html.Div(NONE, id=EMPTY, className="none", hidden=True)]
    stores = [dcc.Store(id=OPENED), dcc.Store(id=ROWS)]
    return html.Main([html.Header(head), html.Div(listed, className="listed"), *stores], className="sheet studies-page")


def left_out() -> list[html.P]:
    """A line for installed packages whose analyses cannot be used, if there are any."""
    if not PROBLEMS:
        return []
    said = "; ".join(f"{name}: {why}" for name, why in PROBLEMS.items())
    return [html.P(f"Left out, of installed packages: {said}", className="problem", role="status")]


def register(app: Dash, shelf: Shelf, desk: Desk) -> None:
    @app.callback(
        Output(ROWS, "data"),
        Output(COUNTED, "children"),
        Output(EMPTY, "hidden"),
        Input(OPENED, "data"),
        Input(header.STUDIES, "data"),
    )
    def look(opened: object, mark: object) -> tuple[list[dict[str, Any]], Any, bool]:
        if opened is None:  # another page is open, and this one was not yet
            raise PreventUpdate
        try:
            asked, away = desk.ledger.jobs(kinds=["study"]), None
        except LedgerUnavailableError as error:
            asked, away = [], problem(str(error))
        found = newest_first(listed(shelf.entries(), asked))
        said = "1 study" if len(found) == 1 else f"{len(found):,} studies"
        return [row(each, time.time()) for each in found], away or said, bool(found)

    app.clientside_callback(ClientsideFunction("studies", "draw"), Input(ROWS, "data"))


# --- what is known ---


@dataclass(frozen=True)
class Told:
    """What a published study says of itself.

    Attributes:
        heads: Layers × heads.
        unreadable: Pictures that are in no number.
        top1: Accuracy; None without labels or without a classifier.
        published: Seconds since 1970.
        label: What it is called.
        private: Until when it is one person's alone; empty if it is everybody's.
        pictures: Where its pictures are, as routes.pictures_url.
        doubts: What makes the whole study doubtful, and what that means.
    """

    model: str
    heads: str
    images: int
    unreadable: int
    top1: float | None
    published: float
    label: str
    private: str
    pictures: str
    doubts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listed:
    """One study of the folder, or one that is asked for.

    Attributes:
        told: None unless it is published and can be read.
        state: Of what is published; with nothing published, of what is being made.
        said: The problem, or how far it is.
        share: Of 1, how far it is; None unless it is being made.
        job: Id of the job that makes it, made anew or for the first time.
    """

    name: str
    told: Told | None
    state: State
    said: str = ""
    share: float | None = None
    job: str | None = None


def listed(entries: Iterable[StudyEntry], asked: Iterable[Job]) -> list[Listed]:
    """Every study that is there, and every one that a job in `asked` will make."""
    live = {job.title: job for job in asked if job.state not in ENDED}
    found = {entry.name: _listed(entry, live.get(entry.name)) for entry in entries}
    waiting = {name: _made_by(name, job) for name, job in live.items() if name not in found}
    return [*found.values(), *waiting.values()]


def _listed(entry: StudyEntry, job: Job | None) -> Listed:
    if entry.manifest is None and entry.problem is None:
        return _unfinished(entry, job)
    made_anew = job.id if job is not None else None
    try:
        return Listed(entry.name, told(entry), "published", job=made_anew)
    except NewerSchemaError as error:
        return Listed(entry.name, None, "newer", str(error), job=made_anew)
    except StoreError as error:
        return Listed(entry.name, None, "damaged", str(error), job=made_anew)


def _unfinished(entry: StudyEntry, job: Job | None) -> Listed:
    if job is not None:
        return _made_by(entry.name, job)
    said = f"{entry.units_done:,} of {entry.units_total:,} units; ask for it again and it goes on from there"
    return Listed(entry.name, None, "interrupted", said, share=entry.units_done / max(entry.units_total, 1))


def _made_by(name: str, job: Job) -> Listed:
    if job.state == "queued":
        return Listed(name, None, "waiting", jobs.place(job), job=job.id)
    far = jobs.progress(job)
    return Listed(name, None, "computing", far["said"], far["share"], job.id)


def told(entry: StudyEntry) -> Told:
    """What a study says of itself, from its manifest and its root attributes.

    Raises:
        DamagedError, NewerSchemaError: What is published cannot be read.
    """
    manifest = entry.manifest or Manifest.load(entry.path)
    try:
        root = PublishedStore(entry.path / manifest.attempt, manifest.objects).get_sync(METADATA)
    except DamagedError as error:
        raise DamagedError(f"the metadata are damaged: {error}; compute it again", [METADATA]) from error
    if root is None:
        raise DamagedError(f"the manifest does not list {METADATA}; compute it again", [METADATA])
    attrs = json.loads(root.to_bytes())["attributes"]
    model, accuracy = attrs["model"], attrs.get("accuracy")
    caveats = header.caveats({**attrs, "nonfinite": {}}, [])
    return Told(
        model["name"],
        f"{model['num_layers']} × {model['num_heads']}",
        attrs["images"]["kept"],
        len(attrs["images"]["quarantined"]),
        accuracy["top1"] if accuracy else None,
        _published(entry, manifest),
        header.study_label(entry.name, manifest),
        _private(manifest),
        f"/studies/{entry.name}/{manifest.content[:HASH_DIGITS]}",
        tuple((caveat.label, " ".join(caveat.said)) for caveat in caveats if caveat.loud),
    )


def _published(entry: StudyEntry, manifest: Manifest) -> float:
    """When its run says that it was; by the file's own time for a run that says nothing."""
    try:
        return datetime.fromisoformat(str(manifest.run.get("finished"))).timestamp()
    except ValueError:
        return manifest_path(entry.path).stat().st_mtime


def _private(manifest: Manifest) -> str:
    said = pictures.private(manifest)
    return "" if said is None else f"private, until {day_and_time(said.until)}"


def newest_first(found: Iterable[Listed]) -> list[Listed]:
    """What is being made, then what was published last, then what cannot be opened; by name where that is equal."""

    def place(each: Listed) -> tuple[int, float, str]:
        if each.told is not None:
            return len(WAYS), -each.told.published, each.name
        return (WAYS.index(each.state) if each.state in WAYS else len(WAYS) + 1), 0, each.name

    return sorted(found, key=place)


def shown_images(images: int) -> list[int]:
    """Which images stand for a study: evenly spaced, the first and the last among them."""
    return [int(image) for image in np.linspace(0, images - 1, min(images, THUMBNAILS)).round()]


# --- in words ---


def row(each: Listed, now: float) -> dict[str, Any]:
    """One study in the list, as studies.js draws it."""
    told = {"name": each.name, "state": each.state, "job": f"/jobs?job={quote(each.job)}" if each.job else ""}
    if each.told is None:
        return told | {"words": WORDS[each.state], "said": each.said, "share": each.share}
    known, at = each.told, day_and_time(each.told.published)
    return told | {
        "href": f"/?study={quote(each.name)}",
        "label": known.label,
        "private": known.private,
        "model": known.model,
        "doubts": known.doubts,
        "pictures": [f"{known.pictures}/thumbnail/{index}.webp" for index in shown_images(known.images)],
        "images": f"{known.images:,}",
        "unreadable": f"{known.unreadable:,} unreadable" if known.unreadable else "",
        "heads": known.heads,
        "top1": "–" if known.top1 is None else percent(known.top1),
        "published": ago(now - known.published) if now - known.published < LONG_AGO else at.partition(",")[0],
        "at": at,
    }
