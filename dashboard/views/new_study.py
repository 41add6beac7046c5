"""Which study is to be computed, what will it take, and may it be? The form that asks for one, with its price.

What is typed or picked is looked up among what is offered, here on the server. Once the form is whole, its price is
asked for by itself; the study can be asked for when the price of these very inputs is there.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dash_bootstrap_components as dbc
from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from analyses.vocabulary import ATTENTION, INTERPOLATIONS, LEAST_CROP, NAMED_CLASSES, OUTPUTS, POOLS, SKIPPABLE
from analyses.vocabulary import WEIGHTS as PART
from dashboard import access, uploads
from dashboard.data import Shelf
from dashboard.drawing import problem
from dashboard.offers import Offers
from dashboard.views import choice
from dashboard.views.jobs import place, price_line, stage_line, workers_line
from dashboard.words import ago, count
from jobs.client import Desk
from jobs.requests import INTERACTIVE, PriceRequest, StudyRequest, channels, key_of
from jobs.uploads import Upload
from jobs.work import Job, JobNotFoundError, StudyAskedError, TooManyJobsError
from store.paths import STUDY_NAME, manifest_path
from store.provenance_text import provenance_rows, questions

PAGE = "new"
FORM = "new-study-form"
OPENED = "new-study-opened"  # {"visit": how often the page was opened, "shown": whether the form is there}
PLACE = "new-study-place"  # of the form
SETTLED = "new-study-settled"  # written by new_study.js once nothing was typed for a moment
ASKED = "new-study-asked"  # the price that was asked for: {"key", "job", "known": {key: job}}
HEARD = "new-study-heard"  # that the job of the price is not as it was
PRICE = "new-study-price"
AGAIN = "new-study-again"
SUBMIT = "new-study-submit"
SAID = "new-study-said"
UPLOADED = "new-study-uploaded"  # {"id": of the upload that is to be picked, if any}, written by uploads.js
GO = "new-study-go"  # {"href": where the page goes, "said": what it says there}

WEIGHTS = {"own": "timm's own", "checkpoint": "a checkpoint", "random": "random, untrained"}
POOL = {"auto": "auto", **{each: each for each in POOLS}}
INTERPOLATION = {"auto": "auto", **{each: each for each in INTERPOLATIONS}}
SIZE = re.compile(r"([1-9][0-9]{0,3})(?:\s*[x×]\s*([1-9][0-9]{0,3}))?")
MOST_SEED = 2**32 - 1
MOST_PER_CLASS = 10**9
MOST_KNOWN = 20

# Every field, in the order of the callbacks' arguments, and what it holds at first.
FIELDS: dict[str, Any] = {
    "model": None,
    "weights": "own",
    "checkpoint": None,
    "images": None,
    "per_class": None,
    "masks": None,
    "name": "",
    "classes": None,
    "label_map": None,
    "no_labels": [],
    "image_size": "",
    "mean": "",
    "std": "",
    "crop_pct": "",
    "interpolation": "auto",
    "pool": "auto",
    "outputs": "auto",
    "part": "auto",
    "seed": 0,
    "attention": "auto",
    "skip": [],
}
PICKED = ("model", "checkpoint", "images", "masks", "classes", "label_map")  # from lists of what is offered


def field_id(name: str) -> str:
    return f"new-study-{name.replace('_', '-')}"


def problem_id(name: str) -> str:
    """Of what is wrong with a field."""
    return f"{field_id(name)}-problem"


def hint_id(name: str) -> str:
    """Of what is said beside a field."""
    return f"{field_id(name)}-hint"


# --- layout ---


def layout() -> html.Main:
    """The page without its form, whose hundred components would slow the workspace: it comes when it is opened."""
    reading = "One model on one set of pictures: what every head does on every picture, computed once."
    stores = [dcc.Store(id=each) for each in (OPENED, SETTLED, ASKED, HEARD, UPLOADED, GO)]
    body = [html.H2("New study"), html.P(reading, className="reading"), html.Div(id=PLACE), *stores]
    return html.Main(body, className="sheet new-page", id="new-page")


def form() -> dbc.Form:
    first = [
        _field("model", "Model", _list("model", "type a part of the name")),
        _field("weights", "Weights", choice.radios(field_id("weights"), WEIGHTS, FIELDS["weights"]), _weights_hint()),
        _field("checkpoint", "Checkpoint", _list("checkpoint", "a file of weights"), hidden=True),
        _field("images", "Pictures", _list("images", "a folder, or a list of pictures")),
        _field("upload", "Upload", html.Div(id="new-study-uploads", className="uploads")),
        _field("per_class", "Per class", _number("per_class", 1, "all"), "Only the first so many pictures of a class."),
        _field("masks", "Masks", _list("masks", "none"), "A mask of the object for each picture, or for some."),
        _field("name", "Name", _text("name"), "Of the study; a-z, 0-9, dot, underscore and hyphen."),
    ]
    more = [
        _field("no_labels", "Labels", _tick("no_labels", "no", "the folders are not labels of the model's classes")),
        _field(
            "classes",
            "Class names",
            _list("classes", "those that are known"),
            "A file of them in the order of the outputs, or a set that timm names. Says that the outputs are classes.",
        ),
        _field("label_map", "Label map", _list("label_map", "none"), "CSV of label,class, where labels are not names."),
        _field("image_size", "Image size", _text("image_size", "the model's own"), "224, or 224x336 (height × width)."),
        _field(
            "mean", "Mean", _text("mean", "from the weights' configuration"), "0.485,0.456,0.406 (red, green, blue)."
        ),
        _field("std", "Std", _text("std", "from the weights' configuration"), "0.229,0.224,0.225; pixels are 0 to 1."),
        _field("crop_pct", "Crop", _text("crop_pct", "as configured"), "Share of the resized picture, such as 0.875."),
        _radios("interpolation", "Resizing", INTERPOLATION, "How pictures are resized."),
        _radios("pool", "Pooling", POOL, "How the head reads the tokens. Auto: as the weights' configuration says."),
        _radios(
            "outputs", "Outputs", OUTPUTS, "Something else: an embedding, several classes at once, measured values."
        ),
        _radios("part", "Weights in file", PART, "Of a file that has both. Auto takes the averaged ones."),
        _radios(
            "attention", "Attention", {each: each for each in ATTENTION}, "Auto stores matrices up to the set limit."
        ),
        _field("seed", "Seed", _number("seed", 0, "0"), "Of layouts, of the autoencoder, of random weights."),
        _field("skip", "Leave out", _tick("skip", SKIPPABLE[0], "names and maps of patterns; they can be added later")),
    ]
    ask = html.Button("Compute this study", type="submit", id=SUBMIT, className="button primary", disabled=True)
    again = html.Button("Measure again", type="button", id=AGAIN, className="button", hidden=True, n_clicks=0)
    return dbc.Form(
        [
            html.Div(first, className="fields"),
            html.Details(
                [
                    html.Summary("More: labels, classes, image size, preprocessing, pooling, attention, seed"),
                    html.Div(more, className="fields"),
                ]
            ),
            html.Div(
                [html.H3("Price"), html.Div(id=PRICE, className="price", **{"aria-live": "polite"}), again],
                className="priced",
            ),
            html.Div([ask, html.Div(id=SAID, className="said", role="alert")], className="ask"),
        ],
        id=FORM,
        prevent_default_on_submit=True,
    )


def _weights_hint() -> list[html.Span]:
    """What each kind means; the style sheet shows that of the kind that is picked."""
    return [
        html.Span("Downloaded by the worker, if they are not there.", className="if-own"),
        html.Span("A file of this architecture's weights.", className="if-checkpoint"),
        html.Span("The study will say nothing about a trained model.", className="if-random"),
    ]


def _field(name: str, label: str, control: Any, hint: Any = "", hidden: bool = False) -> html.Div:
    return html.Div(
        [
            html.Label(label, htmlFor=field_id(name), id=f"{field_id(name)}-label"),
            html.Div([control, html.Div(id=problem_id(name), className="problem", role="alert")], className="control"),
            html.Div(hint, id=hint_id(name), className="hint"),
        ],
        className="field",
        id=f"{field_id(name)}-field",
        hidden=hidden,
    )


def _radios(name: str, label: str, labels: Mapping[str, str], hint: str) -> html.Div:
    return _field(name, label, choice.radios(field_id(name), labels, FIELDS[name]), hint)


def _list(name: str, placeholder: str) -> dcc.Dropdown:
    return dcc.Dropdown(id=field_id(name), options=[], placeholder=placeholder, searchable=True, maxHeight=320)


def _tick(name: str, value: str, label: str) -> dcc.Checklist:
    return dcc.Checklist(id=field_id(name), options={value: label}, value=[], className="tick")


def _number(name: str, least: int, placeholder: str) -> dbc.Input:
    return dbc.Input(
        id=field_id(name), type="number", min=least, step=1, value=FIELDS[name], placeholder=placeholder, size="sm"
    )


def _text(name: str, placeholder: str = "") -> dbc.Input:
    return dbc.Input(
        id=field_id(name), type="text", value="", placeholder=placeholder, size="sm", autocomplete="off", maxlength=80
    )


# --- what is asked for ---


@dataclass(frozen=True)
class Form:
    """What a form says.

    Attributes:
        request: The study; None while something is missing or wrong.
        problems: What is wrong, by field.
        missing: What must still be picked, as people call it.
        proposed: The name that the study gets if none is typed.
    """

    request: StudyRequest | None = None
    problems: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    proposed: str = ""


def read_form(values: Mapping[str, Any], offers: Offers, models: list[str], studies: Path) -> Form:
    """The study that a form asks for.

    Args:
        values: Of every field of FIELDS, straight from the browser.
        models: Names that workers know.
        studies: The folder of studies, where names may be taken.
    """
    problems: dict[str, str] = {}
    given: dict[str, Any] = {}

    def read(name: str, parse: Callable[[Any], Any]) -> None:
        try:
            given[name] = parse(values.get(name))
        except ValueError as error:
            problems[name] = str(error)

    read("model", lambda value: _one_of(value, {name: name for name in models}, "a model that the workers know"))
    read("weights", lambda value: _one_of(value or "own", {name: name for name in WEIGHTS}, "a kind of weights"))
    with_checkpoint = given.get("weights") == "checkpoint"
    if with_checkpoint:
        read("checkpoint", lambda value: _one_of(value, offers.checkpoints(), "a checkpoint that is there"))
    read("images", lambda value: _one_of(value, sources(offers), "pictures that are there"))
    read("per_class", lambda value: _whole(value, 1, MOST_PER_CLASS))
    read("masks", lambda value: _one_of(value, folders(offers), "a folder that is there"))
    read("classes", lambda value: _one_of(value, class_lists(offers), "a file that is there, or a known set"))
    read("label_map", lambda value: _one_of(value, offers.tables(), "a file that is there"))
    read("no_labels", _ticked)
    read("skip", _ticked)
    read("image_size", _size)
    read("seed", lambda value: _whole(value, 0, MOST_SEED) or 0)
    read("mean", lambda value: channels("Mean", _typed(value)))
    read("std", lambda value: channels("Std", _typed(value), positive=True))
    read("crop_pct", _share)
    for name, choices in (("interpolation", INTERPOLATION), ("pool", POOL), ("outputs", OUTPUTS), ("part", PART)):
        read(name, partial(_one_key, choices))
    read("attention", lambda value: _one_of(value or "auto", {name: name for name in ATTENTION}, "a way"))
    read("name", _name)
    if given.get("masks") is not None and given.get("masks") == given.get("images"):
        problems["masks"] = "these are the pictures themselves; pick the folder of their masks"
    wanted = [
        ("model", "a model"),
        ("images", "pictures"),
        *([("checkpoint", "a checkpoint")] if with_checkpoint else []),
    ]
    missing = tuple(words for name, words in wanted if name not in problems and given.get(name) is None)
    proposed = StudyRequest(given["model"], given["images"]).study if not {"model", "images"} & _none(given) else ""
    if problems or missing:
        return Form(None, problems, missing, proposed)
    request = StudyRequest(
        model=given["model"],
        images=given["images"],
        name=None if given["name"] == proposed else given["name"],
        checkpoint=given.get("checkpoint"),
        random_weights=given["weights"] == "random",
        image_size=given["image_size"],
        weights=given["part"] if with_checkpoint else "auto",
        pool=None if given["pool"] == "auto" else given["pool"],
        outputs=given["outputs"],
        mean=given["mean"],
        std=given["std"],
        crop_pct=given["crop_pct"],
        interpolation=None if given["interpolation"] == "auto" else given["interpolation"],
        classes=given["classes"],
        label_map=given["label_map"],
        no_labels=given["no_labels"],
        per_class=given["per_class"],
        attention=given["attention"],
        seed=given["seed"],
        masks=given["masks"],
        skip=frozenset(SKIPPABLE if given["skip"] else ()),
    )
    try:
        _name(request.study)
    except ValueError as error:
        return Form(None, {"name": str(error)}, (), proposed)
    if manifest_path(studies / request.study).exists():
        taken = f"there is a study {request.study} already; open it at the top, or give this one another name"
        return Form(None, {"name": taken}, (), proposed)
    return Form(request, {}, (), proposed)


def _none(given: Mapping[str, Any]) -> set[str]:
    return {name for name in FIELDS if given.get(name) is None}


def class_lists(offers: Offers) -> dict[str, Path]:
    """What can name the classes: files, and the sets that timm knows."""
    return {name: Path(name) for name in NAMED_CLASSES} | offers.class_lists()


def sources(offers: Offers) -> dict[str, Path]:
    """Everything that can be a study's pictures, by name: folders, CSV files beside them, and what was sent."""
    return folders(offers) | tables(offers) | {name: upload.table for name, upload in sent(offers).items()}


def tables(offers: Offers) -> dict[str, Path]:
    """Lists of pictures, by name."""
    return {name: path for name, path in offers.tables().items() if name.startswith("images/")}


def sent(offers: Offers) -> dict[str, Upload]:
    """Uploads that whoever asks may see, by name."""
    return {name: upload for name, upload in offers.uploads().items() if uploads.visible([upload])}


def folders(offers: Offers) -> dict[str, Path]:
    return {_below_images(name): folder.path for name, folder in offers.folders().items()}


def _below_images(name: str) -> str:
    return "images" if name == "." else f"images/{name}"


def _one_of(value: object, offered: Mapping[str, Any], what: str) -> Any:
    """What is offered under that name; None for no name."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in offered:
        raise ValueError(f"{str(value)[:80]!r} is not {what}; pick one of the list")
    return offered[value]


def _one_key(choices: Mapping[str, str], value: object) -> Any:
    """One of the choices by its key; "auto" for nothing."""
    return _one_of(value or "auto", {name: name for name in choices}, f"one of {', '.join(choices)}")


def _typed(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _share(value: object) -> float | None:
    """A share of LEAST_CROP to 1; None for none."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        share = float(value.replace(",", "."))
    except ValueError:
        share = 0.0
    if not LEAST_CROP <= share <= 1:
        raise ValueError(f"give a share of {LEAST_CROP} to 1, such as 0.875")
    return share


def _whole(value: object, least: int, most: int) -> int | None:
    """A whole number; None for none. JSON has 3.0 for 3 at times."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{str(value)[:40]} is not a whole number")
    if not least <= value <= most:
        raise ValueError(f"give {least:,} to {most:,}")
    return int(value)


def _ticked(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _size(value: object) -> tuple[int, int] | None:
    if value is None or value == "":
        return None
    found = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("give 224, or 224x336 (height × width)")
    return int(found[1]), int(found[2] or found[1])


def _name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or STUDY_NAME.fullmatch(value) is None:
        raise ValueError("use 1 to 80 of a-z, 0-9, '.', '_' and '-', the first a letter or digit")
    return value


# --- its price ---


@dataclass(frozen=True)
class Priced:
    """How far the price is.

    Attributes:
        said: For the person.
        problems: What the price's worker found wrong, by field.
        ready: Whether the study may be asked for.
        ended: Whether nothing more comes, though there is no price.
    """

    said: Any
    problems: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    ended: bool = False


def priced(job: Job, result: Mapping[str, Any] | None, nobody: str = "") -> Priced:
    """What there is to say of the job that finds the price.

    Args:
        result: What it found; None if it has not.
        nobody: Why no worker takes it; empty if one will.
    """
    match job.state:
        case "queued":
            waits = f" ({place(job)})" if job.place else ""
            return Priced(problem(nobody) if nobody else f"waits for a worker{waits} …")
        case "running":
            return Priced(f"measuring … {stage_line(job)}" if not job.note else f"waits: {job.note}")
        case "failed" | "cancelled":
            link = html.A("its log", href=f"/jobs?job={job.id}")
            return Priced([problem(f"The price was not found: {job.cause}. "), link], ended=True)
    if result is None:
        return Priced(problem("The price is not there any more; measure again."), ended=True)
    if isinstance(refused := result.get("refused"), dict):
        where, message = str(refused.get("field")), str(refused.get("message"))
        where = "part" if where == "weights" else where
        if where in FIELDS:
            return Priced("This cannot be computed: see above.", {where: message})
        return Priced(problem(message))
    there = (
        [html.Div("Published already, with these very settings: nothing will be computed.")]
        if result.get("exists")
        else []
    )
    return Priced([html.B(price_line(dict(result))), *there, *_images_line(result), *_about(result)], ready=True)


def _about(result: Mapping[str, Any]) -> list[Any]:
    """What the study's numbers would stand on: what was assumed at once, all of it on demand."""
    about = result.get("about")
    if not isinstance(about, dict):
        return []
    rows = [part for name, said in provenance_rows(about) for part in (html.Dt(name), html.Dd(said))]
    asked = [html.Li(f"{question[0].upper()}{question[1:]}") for question in questions(about)]
    return [
        *([html.Div([html.B("Please check:"), html.Ul(asked)], className="check", role="note")] if asked else []),
        html.Details([html.Summary("How it will be made"), html.Dl(rows)], className="made"),
    ]


def _images_line(result: Mapping[str, Any]) -> list[Any]:
    images, measured = result.get("images"), result.get("measured")
    if not isinstance(images, int) or not isinstance(measured, int):
        return []
    parts = [count(images, "picture"), f"measured on {measured:,} of them"]
    if isinstance(labels := result.get("labels"), str):
        classes = result.get("classes")
        parts.append(f"labels by {labels}" + (f", {count(classes, 'class')}" if classes else ""))
    if isinstance(bad := result.get("quarantined"), int) and bad:
        parts.append(f"{count(bad, 'picture')} cannot be read and will be left out")
    return [html.Div(" · ".join(parts), className="hint")]


def ask_price(desk: Desk, request: StudyRequest, asked: object, again: bool) -> dict[str, Any]:
    """Ask for a price, unless this page has it; what it asked for before and needs no more is cancelled."""
    before: dict[str, Any] = asked if isinstance(asked, dict) else {}
    wanted = PriceRequest(request)
    key = key_of(wanted)
    known = before.get("known")
    known = {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}
    if not again and key in known and (job := _job(desk, known[key])) is not None and job.state == "done":
        return {"key": key, "job": job.id, "known": known}
    stale = _job(desk, before.get("job"))
    who = access.current().name
    if stale is not None and stale.kind == "price" and stale.who == who and stale.key != key:
        desk.cancel(stale.id, who)
    job = desk.submit(wanted, who).job
    known = dict([*known.items(), (key, job.id)][-MOST_KNOWN:])
    return {"key": key, "job": job.id, "known": known}


def _job(desk: Desk, job_id: object) -> Job | None:
    try:
        return desk.ledger.job(job_id) if isinstance(job_id, str) else None
    except JobNotFoundError:
        return None


def _price_of(desk: Desk, request: StudyRequest, asked: object) -> Priced | None:
    """How far the price of that very request is; None if it was not asked for."""
    job = _job(desk, asked.get("job")) if isinstance(asked, dict) else None
    if job is None or job.key != key_of(PriceRequest(request)):
        return None
    seen = desk.ledger.workers() if job.state == "queued" else []
    waits = job.state == "queued" and not any(each.queue == INTERACTIVE for each in seen)
    nobody = workers_line(seen)[0] if waits else ""
    return priced(job, desk.ledger.result(job.key) if job.state == "done" else None, nobody)


# --- callbacks ---


def register(app: Dash, shelf: Shelf, desk: Desk, offers: Offers) -> None:
    states = [State(field_id(name), "value") for name in FIELDS]

    def form_of(values: tuple[Any, ...]) -> Form:
        return read_form(dict(zip(FIELDS, values, strict=True)), offers, model_names(desk), shelf.studies)

    app.clientside_callback(
        ClientsideFunction("new_study", "typed"), *(Input(field_id(name), "value") for name in FIELDS)
    )
    app.clientside_callback(
        ClientsideFunction("new_study", "marked"), *(Input(problem_id(name), "children") for name in FIELDS)
    )
    app.clientside_callback(ClientsideFunction("jobs", "price"), Input(ASKED, "data"))
    app.clientside_callback(ClientsideFunction("jobs", "go"), Input(GO, "data"))
    app.clientside_callback(ClientsideFunction("uploads", "opened"), Input(field_id("images"), "options"))

    @app.callback(Output(PLACE, "children"), Input(OPENED, "data"), prevent_initial_call=True)
    def show(opened: object) -> dbc.Form:
        if isinstance(opened, dict) and opened.get("shown"):
            raise PreventUpdate
        return form()

    # Called when the form comes, and at each visit.
    @app.callback(
        *(Output(field_id(name), "options") for name in PICKED),
        Output(hint_id("model"), "children"),
        Output(hint_id("images"), "children"),
        Output(hint_id("checkpoint"), "children"),
        Output(field_id("images"), "value"),
        Input(OPENED, "data"),
        Input(UPLOADED, "data"),
    )
    def offer(opened: object, uploaded: object) -> tuple[Any, ...]:
        name = f"uploads/{uploaded.get('id')}" if isinstance(uploaded, dict) and ctx.triggered_id == UPLOADED else ""
        return *offered(desk, offers), name if name in sent(offers) else no_update

    @app.callback(
        *(Output(problem_id(name), "children") for name in FIELDS),
        Output(field_id("name"), "placeholder"),
        Output(PRICE, "children"),
        Output(AGAIN, "hidden"),
        Output(SUBMIT, "disabled"),
        Output(ASKED, "data"),
        Input(SETTLED, "data"),
        Input(HEARD, "data"),
        Input(AGAIN, "n_clicks"),
        *states,
        State(ASKED, "data"),
        prevent_initial_call=True,
    )
    def follow(settled: object, heard: object, again: object, *values: Any) -> tuple[Any, ...]:
        *given, asked = values
        form = form_of(tuple(given))
        if refused := access.why_not_ask():
            return *_each(form.problems), form.proposed, problem(refused), True, True, no_update
        if form.request is None:
            said = "" if form.problems else f"Pick {' and '.join(form.missing)} to see what it takes."
            return *_each(form.problems), form.proposed, said, True, True, no_update
        now = asked
        if ctx.triggered_id in (SETTLED, AGAIN) and (
            ctx.triggered_id == AGAIN or _price_of(desk, form.request, asked) is None
        ):
            try:
                now = ask_price(desk, form.request, asked, again=ctx.triggered_id == AGAIN)
            except TooManyJobsError as error:
                return *_each({}), form.proposed, problem(str(error)), False, True, no_update
        found = _price_of(desk, form.request, now) or Priced("")
        told = no_update if now == asked else now
        return *_each(found.problems), form.proposed, found.said, not found.ended, not found.ready, told

    @app.callback(
        Output(GO, "data"),
        Output(SAID, "children"),
        Input(FORM, "n_submit"),
        *states,
        State(ASKED, "data"),
        prevent_initial_call=True,
    )
    def submit(pressed: object, *values: Any) -> tuple[Any, Any]:
        *given, asked = values
        if not pressed:
            raise PreventUpdate
        form = form_of(tuple(given))
        found = form.request and _price_of(desk, form.request, asked)
        if form.request is None or not isinstance(found, Priced) or not found.ready:
            return no_update, problem("Wait until the price of these inputs is there.")
        return submitted(desk, form.request)


def _each(problems: Mapping[str, str]) -> list[str]:
    return [problems.get(name, "") for name in FIELDS]


def submitted(desk: Desk, request: StudyRequest) -> tuple[Any, Any]:
    """Ask for the study: where the page goes, or what stands in the way."""
    try:
        done = desk.submit(request, access.current().name)
    except StudyAskedError as error:
        return no_update, [problem(f"{error} "), html.A("that job", href=f"/jobs?job={error.job}")]
    except (ValueError, access.ForbiddenError) as error:
        return no_update, problem(str(error))
    said = done.unheard or ""
    if not done.new:
        since = ago(desk.ledger.now() - done.job.submitted)
        said = f"{done.job.who} asked for this very study {since}: this is that job"
    return {"href": f"/jobs?job={done.job.id}", "said": said}, ""


def model_names(desk: Desk) -> list[str]:
    """Names of the models that workers know, as the last of them said."""
    kept = desk.ledger.kept("models")
    return [name for name in kept if isinstance(name, str)] if isinstance(kept, list) else []


def offered(desk: Desk, offers: Offers) -> tuple[Any, ...]:
    """The options of each list of PICKED, and what is said of models, of pictures and of checkpoints."""
    models = model_names(desk)
    found = {_below_images(name): folder for name, folder in offers.folders().items()}
    pictures = [
        _option(
            name, f"{count(folder.pictures, 'picture')}" + (f" · {folder.classes:,} classes" if folder.classes else "")
        )
        for name, folder in found.items()
    ]
    lists = [_option(name, "a list of pictures") for name in tables(offers)]
    own = [_option(name, uploads.offer_line(upload), f"upload: {upload.name}") for name, upload in sent(offers).items()]
    checkpoints = list(offers.checkpoints())
    of_models = (
        f"{len(models):,} models of timm that Headscope takes."
        if models
        else problem(
            "No worker has said yet which models it knows: start one with `headscope serve` or `headscope worker`."
        )
    )
    of_pictures = (
        f"Folders of {offers.images}."
        if pictures or lists or own
        else problem(f"There are no pictures yet: put a folder of them into {offers.images}, one sub-folder a class.")
    )
    of_checkpoints = (
        "" if checkpoints else problem(f"There is none yet: put .safetensors or .pth into {offers.models}.")
    )
    return (
        models,
        checkpoints,
        [*own, *pictures, *lists],
        pictures,
        list(class_lists(offers)),
        list(offers.tables()),
        of_models,
        of_pictures,
        of_checkpoints,
    )


def _option(name: str, said: str, shown: str = "") -> dict[str, Any]:
    shown = shown or name
    return {"label": html.Span([shown, html.Small(said)], className="offer"), "value": name, "search": shown}
