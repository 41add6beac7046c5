"""What is being computed, what waits, and what came of it? The jobs of the ledger, as they change.

The page asks `/jobs.json` again and again (assets/jobs.js), from here come the words of the answer: a row a job, who
works, and by which mark each browser knows that something is new.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dash import ClientsideFunction, Dash, Input, Output, dcc, html, no_update
from dash.exceptions import PreventUpdate
from flask import Flask, Response, jsonify, request

from analyses import registry
from analyses.request import AnalysisRequest
from dashboard import access, uploads
from dashboard.data import Shelf
from dashboard.drawing import problem
from dashboard.views import choice
from dashboard.words import ago, count, duration, megabytes, number
from jobs.client import Desk
from jobs.requests import QUEUES, ImageRequest, PriceRequest, StudyRequest, UploadRequest, from_json, kinds
from jobs.work import ENDED, Job, JobNotFoundError, WorkerSeen
from store.paths import manifest_path
from store.settings import Settings

PAGE = "jobs"
TABLE = "jobs-table"
SHOWN = "jobs-shown"  # which kinds
WORKERS = "jobs-workers"
AWAY = "jobs-away"  # that the server does not answer
NONE = "jobs-none"  # what to do while there is no job
NONE_SAID = "jobs-none-said"
OLDER = "jobs-older"  # that there are more than are shown
DETAIL = "jobs-detail"
CHOSEN = "jobs-chosen"  # {"job": id, "mark": of its state}: what the detail is of
CANCEL = "jobs-cancel"  # {"job": id, "act": "cancel" or "again", "times": pressed}: what is to be done with a job
SAID = "jobs-said"  # what became of that

# What the kinds of jobs are called that are no analysis, which is called by its title.
KIND_LABELS = {"study": "study", "price": "price", "upload": "upload", "image": "picture"}
MARKS = {"queued": "○", "running": "◐", "done": "✓", "failed": "✕", "cancelled": "⊘"}

MOST_ENDED = 500  # that are shown; what waits or runs is shown always
OLDER_SAID = f"The last {MOST_ENDED:,} that ended are shown; `headscope jobs --all` lists older ones."
MARK_DIGITS = 12
IMAGES_STEP = "images "  # how the names of units of images begin


def shown_kinds() -> dict[str, tuple[str, ...]]:
    """What can be shown, and the kinds of jobs that it has.

    Prices are asked for by the page itself: only "all" has them.
    """
    return {"study": ("study",), **{name: (name,) for name in registry.on_request()}, "all": kinds()}


def kind_label(kind: str) -> str:
    """What a kind of job is called amid a sentence."""
    asked = registry.on_request()
    return asked[kind].title.lower() if kind in asked else KIND_LABELS.get(kind, kind)


def layout() -> html.Main:
    of_analyses = {name: f"{each.title}s" for name, each in registry.on_request().items()}
    shown = choice.radios(SHOWN, {"study": "Studies", **of_analyses, "all": "All"}, "study")
    ask = html.A("New study", href="/new", className="button")
    none = html.Div([html.P(id=NONE_SAID), ask], id=NONE, className="none", hidden=True)
    body = [
        html.Header(
            [
                html.H2("Jobs"),
                html.Div(shown, role="group", **{"aria-label": "Which jobs are shown"}),
                html.Div(id=WORKERS, className="workers", role="status"),
                html.Div(id=AWAY, className="away", role="status"),
                html.Div(id=SAID, className="said", role="status"),
            ]
        ),
        html.Div([html.Div(id=TABLE), html.P(id=OLDER, className="older", hidden=True), none], className="rows"),
        html.Section(id=DETAIL, className="detail", hidden=True, **{"aria-label": "The selected job"}),
        dcc.Store(id=CHOSEN),
        dcc.Store(id=CANCEL),
    ]
    return html.Main(body, className="sheet jobs-page", id="jobs-page")


def register(app: Dash, desk: Desk) -> None:
    app.clientside_callback(ClientsideFunction("jobs", "show"), Input(SHOWN, "value"))

    @app.callback(Output(SAID, "children"), Input(CANCEL, "data"), prevent_initial_call=True)
    def cancel(pressed: object) -> Any:
        job_id, act = (pressed.get("job"), pressed.get("act")) if isinstance(pressed, dict) else (None, None)
        if not isinstance(job_id, str):
            raise PreventUpdate
        if act == "again":
            return compute_again(desk, job_id)
        try:
            job = desk.cancel(uploads.job_of(desk, job_id).id, access.current().name)
        except access.ForbiddenError as error:
            return problem(str(error))
        except JobNotFoundError:
            return problem("there is no such job any more; reload the page")
        return f"{job.title} is cancelled" if job.state == "cancelled" else f"{job.title} had ended before: {job.state}"

    @app.callback(
        Output(DETAIL, "children"), Output(DETAIL, "hidden"), Input(CHOSEN, "data"), prevent_initial_call=True
    )
    def show(chosen: object) -> tuple[Any, Any]:
        job_id = chosen.get("job") if isinstance(chosen, dict) else None
        if not isinstance(job_id, str) or not job_id:
            return no_update, True
        try:
            job = uploads.job_of(desk, job_id)
        except JobNotFoundError:
            return [html.P("There is no such job in this ledger.", className="absent")], False
        return detail(job, desk.ledger.now(), desk.settings), False


def compute_again(desk: Desk, job_id: str) -> Any:
    """Ask for what a job that failed was asked for; what became of that, for the person."""
    try:
        job = uploads.job_of(desk, job_id)
        if not may_be_again(job):
            return problem(f"{job.title} is {job.state}; only a study that failed is computed again")
        asked = desk.submit(from_json(job.kind, job.request), access.current().name)
    except JobNotFoundError:
        return problem("there is no such job any more; reload the page")
    except (ValueError, access.ForbiddenError) as error:
        return problem(str(error))
    said = f"{job.title} is computed again" if asked.new else f"{job.title} was asked for already, by {asked.job.who}"
    return f"{said}: {asked.unheard}" if asked.unheard else said


def may_be_again(job: Job) -> bool:
    """Whether a job can be asked for again where it is listed."""
    return job.kind == "study" and job.state == "failed"


# --- what the page asks for again and again ---


def add_routes(server: Flask, shelf: Shelf, desk: Desk) -> None:
    """`/jobs.json?shown=study&job=ID`: how many jobs are live, who works, the rows, and the mark of one job."""

    @server.get("/jobs.json")
    def jobs_json() -> Response:
        told = heard(shelf, desk, request.args.get("shown", ""), request.args.get("job", ""))
        answer: Response = jsonify(told)
        answer.cache_control.no_cache = True
        answer.add_etag()
        answer.make_conditional(request)
        return answer


def heard(shelf: Shelf, desk: Desk, shown: str, watched: str) -> dict[str, Any]:
    """What a page is told.

    Args:
        shown: Of `shown_kinds`; anything else asks for no rows.
        watched: Id of the one job that the page follows.
    """
    ledger = desk.ledger
    counts = ledger.counts()
    told: dict[str, Any] = {
        "live": counts.get("queued", 0) + counts.get("running", 0),
        "running": counts.get("running", 0),
        "studies": studies_mark(shelf),
    }
    if watched:
        told["watched"] = {"job": watched, "mark": _mark_of(desk, watched)}
    if shown in shown_kinds():
        found = ledger.jobs(told["live"] + MOST_ENDED + 1, shown_kinds()[shown])  # the live ones first
        found = [job for job in found if not uploads.is_hidden(job)]
        live = [job for job in found if job.state not in ENDED]
        ended, now = found[len(live) :], ledger.now()
        told["rows"] = [row(job, now) for job in sorted(live + ended[:MOST_ENDED], key=_order)]
        told["older"] = OLDER_SAID if len(ended) > MOST_ENDED else ""
        told["workers"], told["short"] = workers_line(ledger.workers())
        told["none"] = f"No {'job' if shown == 'all' else kind_label(shown)} has been asked for yet."
    return told


def _mark_of(desk: Desk, job_id: str) -> str:
    try:
        return _digest(repr(uploads.job_of(desk, job_id)))
    except JobNotFoundError:
        return "gone"


def studies_mark(shelf: Shelf) -> str:
    """Changes whenever a study is published, published anew or removed."""
    try:
        names = sorted(path.name for path in shelf.studies.iterdir())
    except OSError:
        return ""
    return _digest(repr([(name, _published(shelf.studies / name)) for name in names]))


def _published(study: Path) -> int:
    try:
        return manifest_path(study).stat().st_mtime_ns
    except OSError:
        return 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:MARK_DIGITS]


# --- in words ---


def row(job: Job, now: float) -> dict[str, Any]:
    """One job in the table."""
    left = job.eta if job.state == "running" else None
    running = job.state == "running"
    return {
        "id": job.id,
        "title": job.title,
        "href": study_href(job),
        "kind": kind_label(job.kind),
        "who": job.who,
        "state": {"mark": MARKS[job.state], "word": job.state},
        "progress": progress(job),
        "rate": number(job.images_per_second) if running and job.images_per_second else "",
        "eta": "" if left is None else duration(left),
        "place": place(job),
        "submitted": {"at": job.submitted, "said": ago(now - job.submitted)},
        "actions": _action(job),
    }


def _action(job: Job) -> str:
    """What can be done with a job in the table."""
    if job.state not in ENDED and not access.why_not_cancel(job):
        return "cancel"
    if may_be_again(job) and not access.why_not_ask():
        return "again"
    return "open" if study_href(job) else ""


def _order(job: Job) -> tuple[float, ...]:
    """Ascending: what runs, what waits in turn, what has ended, the last first."""
    if job.state == "running":
        return 0, job.submitted
    if job.state == "queued":
        return 1, job.place or 0, job.submitted
    return 2, -(job.finished or job.submitted)


def study_href(job: Job) -> str:
    """The address of the study that a job has made; empty if it has not made one."""
    made = job.kind == "study" and job.state == "done"
    return f"/?study={quote(job.title)}" if made else ""


def place(job: Job) -> str:
    """Where a waiting job stands in its queue."""
    if job.state != "queued" or job.place is None:
        return ""
    return "next" if job.place == 0 else f"{job.place:,} before"


def progress(job: Job) -> dict[str, Any]:
    """How far a job is: `share` of 1 for the bar, and what is said beside it."""
    if job.state == "done":
        return {"share": 1, "said": _took(job)}
    units = max(job.units_total, 1)
    part = job.stage_done / job.stage_total if job.stage_total and job.workers else 0
    share = min(1.0, (job.units_done + part) / units)
    if job.state == "queued":
        return {"share": share, "said": job.note or ""}
    if job.state in ENDED:
        return {"share": share, "said": job.cause or ""}
    return {"share": share, "said": job.note if job.note and not job.workers else stage_line(job)}


def stage_line(job: Job) -> str:
    """What a running job is at: units of images, or another step and how far it is."""
    stage = job.stage or "waits for a worker"
    if stage.startswith(IMAGES_STEP) and job.units_total > 1:
        return f"units {job.units_done:,} of {job.units_total:,} · images"
    part = f" {100 * job.stage_done / job.stage_total:.0f}\u202f%" if job.stage_total else ""
    counted = f" {job.counted}" if job.counted and job.counted != stage else ""
    return f"{stage.replace('-', ' ')}{counted}{part}"


def _took(job: Job) -> str:
    if job.started is None or job.finished is None:
        return ""
    return f"took {duration(job.finished - job.started)}"


def workers_line(seen: Sequence[WorkerSeen]) -> tuple[str, bool]:
    """Who works, and whether a queue has nobody."""
    missing = [queue for queue in QUEUES if not any(each.queue == queue for each in seen)]
    if len(missing) == len(QUEUES):
        return (
            "No worker is running: jobs wait. Start one with `headscope serve` or `headscope worker --queue bulk`.",
            True,
        )
    devices = sorted({each.device for each in seen})
    alike = Counter(each.queue if len(devices) == 1 else f"{each.queue} ({each.device})" for each in seen)
    said = ", ".join(f"{n} {name}" for name, n in sorted(alike.items(), reverse=True))
    line = f"{said} {'worker' if len(seen) == 1 else 'workers'}" + (f" ({devices[0]})" if len(devices) == 1 else "")
    waits = {"bulk": "studies", "interactive": "prices and prunings"}
    for queue in missing:
        line += f". No {queue} worker: {waits[queue]} wait; start one with `headscope worker --queue {queue}`"
    return line, bool(missing)


# --- one job ---


def detail(job: Job, now: float, settings: Settings) -> list[Any]:
    """Everything that is known of one job."""
    close = html.Button("✕", id="jobs-close", className="icon", title="Close (Esc)", **{"aria-label": "Close"})
    state = html.Span(f"{MARKS[job.state]} {job.state}", className=f"state {job.state}")
    title = html.Header([html.H3(job.title), state, html.Code(job.id), *_open(job), close])
    failed = [html.Div([html.H4("Why"), html.P(job.cause, className="problem" if job.state == "failed" else "")])]
    log = [html.H4("Last lines of the log"), html.Pre(job.log, className="log", tabIndex=0)] if job.log else []
    right = [*(failed if job.cause else []), *log]
    parts = [
        html.Div([html.H4("Asked for"), _list(asked_for(job, settings))]),
        html.Div([html.H4("So far"), _list(times(job, now))]),
        *([html.Div(right, className="why")] if right else []),
    ]
    return [title, html.Div(parts, className="parts")]


def _open(job: Job) -> list[Any]:
    return [html.A("Open the study", href=study_href(job), className="button")] if study_href(job) else []


def _list(pairs: Iterable[tuple[str, str]]) -> html.Dl:
    return html.Dl([part for term, said in pairs for part in (html.Dt(term), html.Dd(said, title=said))])


def times(job: Job, now: float) -> list[tuple[str, str]]:
    """When what happened, how far it is, and what was noted."""
    found = [("Asked", f"{ago(now - job.submitted)}, by {job.who}")]
    if job.started is not None:
        waited = f"{ago(now - job.started)}, after {duration(job.started - job.submitted)} in the queue"
        found.append(("Started", waited))
    if job.finished is not None:
        found.append(("Ended", f"{ago(now - job.finished)}" + (f", {_took(job)}" if job.started else "")))
    if job.place is not None:
        found.append(("Queue", f"{job.queue}, {place(job)}"))
    if job.units_total > 1:
        found.append(("Units", f"{job.units_done:,} of {job.units_total:,}"))
    if job.images_total:
        found.append(("Images", f"{job.images_done:,} of {job.images_total:,}"))
    if job.state == "running":
        found.append(("Now", f"{stage_line(job)}, {count(job.workers, 'worker')}"))
        if job.beat is not None:
            found.append(("Heard of", ago(now - job.beat)))
    if job.note and job.state not in ENDED:
        found.append(("Waits", job.note))
    priced = job.facts.get("price")
    if isinstance(priced, dict):
        found.append(("Price", price_line(priced)))
    return found


def price_line(price: dict[str, Any]) -> str:
    """What a study takes, as `workers.price` found it."""
    bytes_, seconds, mapped = price.get("bytes"), price.get("seconds"), price.get("mapped")
    parts = []
    if isinstance(bytes_, int | float):
        stored = price.get("attention_bytes") if price.get("attention") == "stored" else None
        of_attention = f", of which attention {megabytes(stored)}" if isinstance(stored, int | float) else ""
        parts.append(megabytes(bytes_) + of_attention)
    if isinstance(seconds, int | float):
        then = f"names and maps of {mapped:,} heads" if isinstance(mapped, int) and mapped else ""
        after = price.get("after_seconds")  # jobs of earlier versions do not know it
        if then:
            then = f", then {f'about {duration(after)} for ' if isinstance(after, int | float) else ''}{then}"
        parts.append(f"about {duration(seconds)} on this worker{then}")
    return " · ".join(parts) or "not known"


def asked_for(job: Job, settings: Settings) -> list[tuple[str, str]]:
    """A job's request in words; only what differs from what holds by itself."""
    try:
        asked = from_json(job.kind, job.request)
    except ValueError as error:
        return [("Request", str(error))]
    if isinstance(asked, AnalysisRequest):
        return asked.in_words()
    if isinstance(asked, UploadRequest):
        return [("Archive", asked.name)]
    if isinstance(asked, ImageRequest):
        return [("Study", asked.study), ("Picture", asked.name)]
    return _of_study(asked.of if isinstance(asked, PriceRequest) else asked, settings)


def _of_study(asked: StudyRequest, settings: Settings) -> list[tuple[str, str]]:
    weights = "random, untrained" if asked.random_weights else "timm's own"
    if asked.checkpoint is not None:
        weights = _below(asked.checkpoint, settings.models, "models")
    sent = Path(asked.images).is_relative_to(settings.uploads.absolute())
    root, role = (settings.uploads, "uploads") if sent else (settings.images, "images")
    found = [("Model", asked.model), ("Weights", weights), ("Images", _below(asked.images, root, role))]
    if asked.per_class is not None:
        found.append(("Per class", f"the first {asked.per_class:,}"))
    if asked.masks is not None:
        found.append(("Masks", _below(asked.masks, settings.images, "images")))
    if asked.no_labels:
        found.append(("Labels", "none: the folders are not labels"))
    if asked.mean is not None or asked.std is not None:
        numbers = {"mean": asked.mean, "std": asked.std}
        said = (f"{name} {', '.join(map(str, value))}" for name, value in numbers.items() if value is not None)
        found.append(("Normalisation", "; ".join(said)))
    for term, path in (("Class names", asked.classes), ("Label map", asked.label_map)):
        if path is not None:
            found.append((term, _below(path, settings.images, "images")))
    if asked.image_size is not None:
        found.append(("Image size", "{} × {}".format(*asked.image_size)))
    usual = {field.name: field.default for field in fields(StudyRequest)}
    for term, name in (
        ("Weights in file", "weights"),
        ("Pooling", "pool"),
        ("Outputs", "outputs"),
        ("Crop", "crop_pct"),
        ("Resizing", "interpolation"),
        ("Attention", "attention"),
        ("Device", "device"),
        ("Seed", "seed"),
    ):
        if getattr(asked, name) != usual[name]:
            found.append((term, str(getattr(asked, name))))
    if asked.skip:
        found.append(("Left out", ", ".join(sorted(asked.skip))))
    return found


def _below(path: Path, root: Path, role: str) -> str:
    """A path as people know it: below the folder of its role, or whole."""
    try:
        return str(role / Path(path).absolute().relative_to(root.absolute()))
    except ValueError:
        return str(path)
