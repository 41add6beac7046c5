"""Which part of the selected head matters? The head pruned in parts (Fig. 1B2), and the predictions then (B3).

Results come from the queue. Nothing is computed here: a job is asked for once the selection stays as it is, and
until its result is there the browser asks again (assets/pruning.js).
"""

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboard.data import Shelf, StudyFacts
from dashboard.pruned import SHOWN, Effect, Pruning, request_of
from dashboard.selection import SELECTION, Selection
from dashboard.views import choice
from dashboard.views.jobs import who
from dashboard.views.panel import problem, shown
from dashboard.words import METRICS, count, duration, number, percent, short_name
from store.database import LedgerUnavailableError
from store.ledger import Ledger
from store.work import ENDED, Job, JobNotFoundError
from workers.jobs import INTERACTIVE, PRUNE_IMAGES, key_of
from workers.queue import Desk

BODY = "pruning"
READING = "pruning-reading"
PARTS = "pruning-parts"
TOP = "pruning-top"  # what stands beside the bars: the predictions, or what there is to say instead
RUN = "pruning-run"
PART = "part"
SETTLED = "pruning-settled"  # dcc.Store that pruning.js writes: the selection, once it stays as it is
WAITING = "pruning-waiting"  # what is waited for: {"key": of the request, "job": its id, "ended": bool}; else None
AGAIN = "pruning-again"  # the same, some hundred milliseconds later

PATIENCE = 0.6  # seconds that an answer waits for a result: most are there by then
LOOK_EVERY = 0.01  # seconds
RANKS = 5

NAMES = {
    "none": "nothing pruned",
    "all": "whole head pruned",
    "patches": "patches→patches pruned",
    "cls": "CLS→CLS pruned",
    "crossing": "CLS↔patches pruned",
    "cls-related": "all of CLS pruned",
}
# How to read the bars, by metric. As on the curve, of the probability what is left of it is drawn (Sec. 5.2.4).
WORDS = {
    "probability": "P(target) with the hatched part pruned; dashed: none. Low: it matters.",
    "jsd": "How far pruning the hatched part moves the prediction; high: it matters.",
    "cls_distance": "How far pruning the hatched part turns the output for CLS; high: it matters.",
    "patch_distance": "How far pruning the hatched part turns that for patches; high: it matters.",
}
NO_CLS = "the model has no class token"
NO_WORKER = [
    html.P("No worker has been heard of for a minute; the pruning waits for one. Start one with", role="status"),
    html.Pre("headscope worker --queue interactive"),
]


def layout() -> html.Div:
    buttons = [
        html.Button(mode(part, None), id=choice.button_id(PART, part), className="mode", n_clicks=0) for part in SHOWN
    ]
    stores = [dcc.Store(id=each) for each in (SETTLED, WAITING, AGAIN)]
    return html.Div(
        [
            html.P(id=READING, className="reading", role="status"),
            html.Div(buttons, id=PARTS, className="modes", role="group"),
            html.Div(
                [html.Div(id=TOP), html.Button(id=RUN, className="option", n_clicks=0, hidden=True)], className="beside"
            ),
            *stores,
        ],
        id=BODY,
        className="pruning",
        hidden=True,
    )


def register(app: Dash, shelf: Shelf, desk: Desk) -> None:
    buttons = {"choice": PART, "value": ALL}
    app.clientside_callback(ClientsideFunction("pruning", "settle"), Input(SELECTION, "data"))
    app.clientside_callback(ClientsideFunction("pruning", "again"), Input(WAITING, "data"))

    @app.callback(
        Output(buttons, "children"),
        Output(buttons, "className"),
        Output(buttons, "disabled"),
        Output(buttons, "title"),
        Output(TOP, "children"),
        Output(RUN, "children"),
        Output(RUN, "hidden"),
        Output(WAITING, "data"),
        Output(BODY, "className"),
        Output(PARTS, "aria-label"),
        Output(READING, "children"),
        Input(SETTLED, "data"),
        Input(AGAIN, "data"),
        Input(RUN, "n_clicks"),
        State(WAITING, "data"),
        prevent_initial_call=True,
    )
    def draw(data: object, again: object, clicks: object, waiting: object) -> tuple[Any, ...]:
        parts = [str(each["id"]["value"]) for each in ctx.outputs_list[0]]
        pressed = ctx.triggered_id == RUN

        def view(facts: StudyFacts, chosen: Selection) -> tuple[Face, Any]:
            face = Face.of(facts, chosen, desk, waiting, pressed)
            return face, face.reading

        face, said = shown(shelf, data, view, Face())
        modes = face.modes(parts)
        return *modes, face.top, face.run, not face.run, face.waiting, face.class_name, face.whose, said


# --- what is there, and what is waited for ---


@dataclass(frozen=True)
class Face:
    """What the card shows.

    Attributes:
        chosen: The selection; None where it could not be read.
        pruning: The result; None while there is none.
        reading: How to read it, or what is waited for.
        top: Beside the bars; no_update leaves what is there.
        run: Words of the button that asks for a job; without any it is hidden.
        waiting: The job that is waited for, or that ended without a result; None otherwise.
        has_cls: Whether the model has a class token.
    """

    chosen: Selection | None = None
    pruning: Pruning | None = None
    reading: Any = ""
    top: Any = None
    run: str = ""
    waiting: dict[str, Any] | None = None
    has_cls: bool = True

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection, desk: Desk, waiting: object, pressed: bool) -> "Face":
        """Of the result, as soon as it is there; a job is asked for if there is none.

        Args:
            waiting: What the browser says that it waits for.
            pressed: Whether the button was: only then are all images pruned, or a failed job tried again.
        """
        blank = cls(chosen, has_cls=facts.has_cls)
        try:
            return blank._after(facts, chosen, desk, waiting, pressed)
        except LedgerUnavailableError as error:
            return replace(blank, reading=f"{chosen.label} was not pruned.", top=problem(str(error)), run="try again")

    def _after(self, facts: StudyFacts, chosen: Selection, desk: Desk, waiting: object, pressed: bool) -> "Face":
        request = request_of(facts, chosen)
        key, unheard = key_of(request), None
        found = self._found(facts, chosen, desk, key)
        if found:
            return found
        job = None if pressed else _job_of(desk.ledger, waiting, key)
        if job is None and chosen.image is None and not pressed:
            job = _live(desk.ledger, key)
            if job is None:
                return self._offered(facts, chosen, len(request.images))
        if job is None:
            submitted = desk.submit(request, who())
            job, unheard = submitted.job, submitted.unheard
            until = time.monotonic() + PATIENCE
            while found is None and time.monotonic() < until:
                time.sleep(LOOK_EVERY)
                found = self._found(facts, chosen, desk, key)
            job = desk.ledger.job(job.id)
        found = found or self._found(facts, chosen, desk, key)  # a job may have ended just now
        if found:
            return found
        held = {"key": key, "job": job.id, "ended": job.state in ENDED}
        if job.state in ENDED:
            top = problem((job.cause or job.state).rstrip(".") + ".")
            return replace(self, reading=f"{chosen.label} was not pruned.", top=top, run="try again", waiting=held)
        alone = not any(seen.queue == INTERACTIVE for seen in desk.ledger.workers())
        top = NO_WORKER if alone else beside(job)
        return replace(self, reading=progress(job, chosen, unheard), top=top, waiting=held)

    def _found(self, facts: StudyFacts, chosen: Selection, desk: Desk, key: str) -> "Face | None":
        try:
            pruning = Pruning(_result(desk.ledger, key), chosen.layer)
        except LookupError:
            return None
        top = predictions(pruning, facts.study.class_names, chosen)
        return replace(self, pruning=pruning, reading=reading(pruning, chosen), top=top)

    def _offered(self, facts: StudyFacts, chosen: Selection, images: int) -> "Face":
        every = len(facts.image_ids)
        top = html.P(f"Select an image to see {chosen.label} pruned on it, or prune it on the whole set.")
        run = f"prune over {images:,} of {every:,} images" if images < every else f"prune over all {images:,} images"
        return replace(self, reading="No image is selected.", top=top, run=run)

    @property
    def waits(self) -> bool:
        """Whether a result is to come; until then what was drawn before stays."""
        return self.waiting is not None and not self.waiting["ended"]

    @property
    def class_name(self) -> str:
        """Of the card."""
        return "pruning stale waiting" if self.waits else "pruning"

    @property
    def whose(self) -> Any:
        """Of which head the bars are."""
        if self.waits:
            return no_update
        return f"Parts of {self.chosen.label}" if self.chosen and self.pruning else ""

    def modes(self, parts: list[str]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        """Of each button: its children, class, whether it is disabled, and its title."""
        picked = self.chosen.part if self.chosen else ""
        lacks = {part for part in parts if "cls" in part or part == "crossing"} if not self.has_cls else set()
        found = bars(self.pruning, self.chosen) if self.pruning and self.chosen else None
        children = [no_update if self.waits else mode(part, found) for part in parts]
        classes = ["mode on" if part == picked else "mode" for part in parts]
        titles = [f"{NAMES[part]}: {NO_CLS}" if part in lacks else title(part, found) for part in parts]
        return children, classes, [part in lacks for part in parts], titles


def _job_of(ledger: Ledger, waiting: object, key: str) -> Job | None:
    """The job that the browser says it waits for, if that is of this request."""
    if not isinstance(waiting, dict) or waiting.get("key") != key:
        return None
    try:
        job = ledger.job(str(waiting.get("job")))
    except JobNotFoundError:
        return None
    return job if job.key == key else None


def _live(ledger: Ledger, key: str) -> Job | None:
    """The job of that key that waits or runs."""
    return next((job for job in ledger.jobs(kinds=["prune"]) if job.key == key and job.state not in ENDED), None)


@lru_cache(maxsize=64)
def _result(ledger: Ledger, key: str) -> dict[str, Any]:
    """The result of that key, which never changes. LookupError: there is none yet, which is not kept."""
    result = ledger.result(key)
    if result is None:
        raise LookupError(key)
    return result


def progress(job: Job, chosen: Selection, unheard: str | None) -> str:
    """What is waited for."""
    if job.state == "queued":
        before = f"waiting, {count(job.place, 'job')} before it" if job.place else "waiting for a worker"
        return f"{chosen.label}: {before}. {unheard or job.note or ''}".rstrip()
    return f"Pruning {chosen.label}… {job.note or ''}".rstrip()


def beside(job: Job) -> Any:
    """How far a job of many images is; of a short one nothing, and what was there stays."""
    if job.images_total <= PRUNE_IMAGES:
        return no_update
    done = f"{job.images_done:,} of {count(job.images_total, 'image')}"
    left = "" if job.eta is None else f", about {duration(job.eta)} left"
    share = 100 * job.images_done / job.images_total
    bar = html.Div(html.I(className="bar", style={"width": f"{share:.1f}%"}), className="track")
    return [html.P([f"{done}{left}. ", html.A("Jobs", href="/jobs")]), bar]


# --- bars ---


@dataclass(frozen=True)
class Bars:
    """What is drawn of each part.

    Attributes:
        effects: By part.
        top: What a full bar stands for.
        reference: The value with nothing pruned, where it is not 0.
        axis: What is measured.
        several: Whether it is of several images.
    """

    effects: dict[str, Effect]
    top: float
    reference: float | None
    axis: str
    several: bool


def bars(pruning: Pruning, chosen: Selection) -> Bars:
    """The selected metric by part."""
    words = METRICS[chosen.metric]
    effects = {part: pruning.effect(chosen.metric, part) for part in SHOWN}
    highest = [each.mean + (each.sd if math.isfinite(each.sd) else 0) for each in effects.values()]
    known = [value for value in highest if math.isfinite(value)]
    reference = effects["none"].mean if words.curve != "importance" else None
    return Bars(effects, max(known, default=0) or 1.0, reference, words.curve_axis, pruning.images > 1)


def mode(part: str, found: Bars | None) -> list[Any]:
    """One bar: its value, itself, and which parts of the matrix it is without. Without `found` it is empty."""
    effect = found.effects[part] if found else None
    marks: list[Any] = []
    if found and effect and math.isfinite(effect.mean):
        marks.append(html.I(className="bar", style={"height": _height(effect.mean, found.top)}))
        if math.isfinite(effect.sd):
            low, high = max(effect.mean - effect.sd, 0), effect.mean + effect.sd
            span = {"bottom": _height(low, found.top), "height": _height(high - low, found.top)}
            marks.append(html.I(className="spread", style=span))
    if found and found.reference is not None and math.isfinite(found.reference):
        marks.append(html.I(className="reference", style={"bottom": _height(found.reference, found.top)}))
    said = brief(effect.mean) if effect else ""
    return [html.Span(said, className="value"), html.Div(marks, className="well"), glyph(part)]


def brief(value: float) -> str:
    """As `number`, with one figure less below 0.1: room is scarce, and hovering says all three."""
    if 1e-3 <= abs(value) < 0.1:
        return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"
    return number(value)


def _height(value: float, top: float) -> str:
    return f"{100 * value / top:.1f}%"


def glyph(part: str) -> html.Div:
    """The matrix of a head, CLS first: what is switched off is hatched."""
    cells = ("cls", "cls-patches", "patches-cls", "patches")
    off = {
        "none": (),
        "all": cells,
        "patches": cells[3:],
        "cls": cells[:1],
        "crossing": cells[1:3],
        "cls-related": cells[:3],
    }[part]
    return html.Div([html.I(className="off" if cell in off else cell) for cell in cells], className="glyph")


def title(part: str, found: Bars | None) -> str:
    """What hovering a bar says."""
    if found is None:
        return NAMES[part]
    effect = found.effects[part]
    spread = f" ± {number(effect.sd)} over {count(effect.counted, 'image')}" if found.several else ""
    return f"{NAMES[part]}: {found.axis} {number(effect.mean)}{spread}"


def reading(pruning: Pruning, chosen: Selection) -> str:
    """How to read the bars."""
    over = "Mean ± sd. " if pruning.images > 1 else ""
    return over + WORDS[chosen.metric]


# --- predictions ---


def predictions(pruning: Pruning, names: list[str] | None, chosen: Selection) -> Any:
    """The most probable classes before and after; of several images, how often they change."""
    if pruning.why_not(chosen.part):
        return html.P(f"{NAMES[chosen.part]}: {pruning.why_not(chosen.part)}.")
    if pruning.images > 1:
        return of_set(pruning, chosen.part)
    before, after = pruning.before(), pruning.after(chosen.part)
    if not before or not after:
        return html.P("No predictions to compare: the model has no classifier.")
    label = pruning.label()
    fallen = []
    if label is not None and label not in dict(after):
        left = float(pruning.values("probability", chosen.part)[0])
        fallen = [html.P([html.B(_name(names, label)), f" {brief(left)}, not among the first {len(after)}"])]
    return html.Div(
        [
            html.Span("before"),
            html.Span(NAMES[chosen.part]),
            ranks(before, names, label, {place for place, _ in after}),
            html.Div(slopes(before, after, label), className="slopes"),
            ranks(after, names, label, {place for place, _ in before}),
            *fallen,
        ],
        className="compared",
    )


def ranks(classes: list[tuple[int, float]], names: list[str] | None, label: int | None, other: set[int]) -> html.Ol:
    """A column of classes; the true one is bold, those that the other column has not are marked."""
    return html.Ol([_rank(place, p, names, place == label, place in other) for place, p in classes])


def _rank(place: int, p: float, names: list[str] | None, is_label: bool, stays: bool) -> html.Li:
    share = f"{100 * p:.1f}%" if math.isfinite(p) else "0"
    bar = html.Div(html.I(className="bar", style={"width": share}), className="track")
    words = html.Div([html.Span(short_name(_name(names, place)), className="name"), html.Small(brief(p))])
    kind = " ".join(word for word, is_so in (("label", is_label), ("gone", not stays)) if is_so)
    return html.Li([words, bar], className=kind, title=f"{_name(names, place)}: {number(p)}")


def _name(names: list[str] | None, place: int) -> str:
    return names[place] if names and place < len(names) else f"class {place}"


def slopes(before: list[tuple[int, float]], after: list[tuple[int, float]], label: int | None) -> list[html.I]:
    """A line from each class's place before to its place after, where it has both. Heights are shares of RANKS."""
    to = {place: rank for rank, (place, _) in enumerate(after)}
    lines = []
    for rank, (place, _) in enumerate(before):
        if place in to:
            step = to[place] - rank
            kind = "level" if step == 0 else "down" if step > 0 else "up"
            top, height = min(rank, to[place]) + 0.5, abs(step)
            style = {"top": f"{100 * top / RANKS:.0f}%", "height": f"{100 * height / RANKS:.0f}%"}
            lines.append(html.I(className=f"{kind} label" if place == label else kind, style=style))
    return lines


def of_set(pruning: Pruning, part: str) -> Any:
    """Top-1 accuracy and mean P(target), before and after, and how many predictions stay."""
    told = pruning.predictions(part)
    if told is None:
        return html.P("No predictions to compare: the model has no classifier.")
    lines: list[tuple[str, str, str, str]] = []
    if told.right_before is not None and told.right_after is not None:
        of = f"of {count(told.labelled, 'labelled image')}"
        lines.append(("Top-1 accuracy", percent(told.right_before), percent(told.right_after), of))
    left = [number(pruning.effect("probability", each).mean) for each in ("none", part)]
    lines.append(("P(target), mean", left[0], left[1], "of the true class; without a label, of the predicted one"))
    lines.append(("Same prediction", "", percent(told.same), "images whose most probable class is the one before"))
    rows = [
        html.Tr([html.Th(label, title=said), html.Td(before), html.Td(after)]) for label, before, after, said in lines
    ]
    head = html.Tr([html.Th(text) for text in ("", "before", NAMES[part])])
    return html.Table([html.Thead(head), html.Tbody(rows)], className="numbers")
