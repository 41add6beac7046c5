"""Which part of a head matters, and which heads together? Heads pruned in parts (Fig. 1B2), the predictions then (B3).

Results come from the store. Nothing is computed here: a job is asked for once the selection stays as it is, and until
its result is there the browser asks again (assets/pruning.js, which draws what `drawn` gives: another metric, and
other regions of those that are known, need no server).
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate
from werkzeug.exceptions import BadRequest

from analyses.pruning import ANALYSIS as PRUNE
from analyses.pruning import PruneRequest
from analyses.vocabulary import METRICS, MODES, REGION_SETS, REGION_SETS_WITHOUT_CLS, REGIONS
from dashboard import access
from dashboard.data import Shelf, StudyFacts, facts, indices_of
from dashboard.drawing import problem
from dashboard.exports import Export
from dashboard.pruned import Effect, Pruning, Result, name_of, requests_of, result_of
from dashboard.selection import Selection, fits, head_label
from dashboard.view import View
from dashboard.views.panel import panel
from dashboard.words import MINUS, count, duration, number, percent, short_name
from jobs.client import Desk
from jobs.database import LedgerUnavailableError
from jobs.ledger import Ledger
from jobs.requests import INTERACTIVE, key_of
from jobs.work import ENDED, Job, JobNotFoundError, TooManyJobsError
from store.derived import path_of
from store.errors import StoreError

NAME = "pruning"
BODY = "pruning-body"
READING = "pruning-reading"
HEADS = "pruning-heads"  # the heads that are pruned together
PICTURE = "pruning-picture"  # bars, matrix and predictions
TOP = "pruning-top"  # what there is to say where the predictions would be
RUN = "pruning-run"
SETTLED = "pruning-settled"  # dcc.Store that pruning.js writes: the selection, once it stays as it is
FOUND = "pruning-found"  # what `drawn` gives, None when there is nothing
STATE = "pruning-state"  # what is said, and the jobs that are waited for: what `Face.state` gives
AGAIN = "pruning-again"  # the same, some hundred milliseconds later

PATIENCE = 0.6  # seconds that an answer waits for a result: most are there by then
LOOK_EVERY = 0.01  # seconds

CANCEL = "cancel"
NO_CLASSIFIER = "No predictions to compare: the model has no classifier."
NO_WORKER = [
    html.P("No worker has been heard of for a minute; the pruning waits for one. Start one with", role="status"),
    html.Pre("headscope worker --queue interactive"),
]


def layout() -> html.Section:
    """What is drawn is put by pruning.js into the element that is empty here."""
    instead = [html.Div(id=TOP), html.Button(id=RUN, className="option", n_clicks=0, hidden=True)]
    stores = [dcc.Store(id=each) for each in (SETTLED, FOUND, STATE, AGAIN)]
    drawn_in = html.Div(id=PICTURE, className="pruned", **{"data-regions": json.dumps(prunable())})
    body = html.Div([drawn_in, html.Div(instead, className="instead"), *stores], id=BODY, className="prunings")
    tools = html.Div(id=HEADS, className="heads", role="group", **{"aria-label": "Heads that are pruned together"})
    return panel(NAME, "Pruning", READING, body, tools)


def prunable() -> dict[str, Any]:
    """What can be pruned of a head, in plain JSON.

    Returns:
        modes: Regions of the bars. cells: Bit and name of each region, as they lie in the matrix. names: What any
        regions are called when they are pruned. without_cls: The regions that a model has which reads no CLS.
    """
    names = [name_of(each) for each in REGION_SETS]
    return {"modes": MODES, "cells": list(REGIONS.items()), "names": names, "without_cls": REGION_SETS_WITHOUT_CLS}


def register(app: Dash, shelf: Shelf, desk: Desk) -> None:
    app.clientside_callback(ClientsideFunction("pruning", "found"), Input(FOUND, "data"), Input(STATE, "data"))

    @app.callback(
        Output(FOUND, "data"),
        Output(STATE, "data"),
        Output(TOP, "children"),
        Output(RUN, "children"),
        Output(RUN, "hidden"),
        Input(SETTLED, "data"),
        Input(AGAIN, "data"),
        Input(RUN, "n_clicks"),
        State(STATE, "data"),
        prevent_initial_call=True,
    )
    def draw(data: object, again: object, clicks: object, state: object) -> tuple[Any, ...]:
        chosen = selection_of(data)
        try:
            known = facts_of(shelf, chosen)
            face = Face.of(known, chosen, desk, state, pressed=ctx.triggered_id == RUN)
        except StoreError as error:
            face = Face(said="Nothing is pruned.", top=problem(str(error)))  # its heads may be none of the study
        return face.found, face.state, face.top, face.run, not face.run


def selection_of(data: object) -> Selection:
    """The selection that the browser holds.

    Raises:
        PreventUpdate: There is none yet.
        BadRequest: `data` is none.
    """
    if data is None:
        raise PreventUpdate
    try:
        return Selection.from_data(data)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def facts_of(shelf: Shelf, chosen: Selection) -> StudyFacts:
    """The study that is picked.

    Raises:
        StoreError: It cannot be opened, or no longer has what is picked.
    """
    known = facts(shelf.open(chosen.study))
    if not fits(chosen, known):
        raise StoreError(f"study {known.name} was computed anew; reload the page")
    return known


# --- what is there, and what is waited for ---


@dataclass(frozen=True)
class Face:
    """What the panel shows.

    Attributes:
        found: What `drawn` gives; None for nothing, no_update for what was there before.
        said: What is waited for, or what is wrong; said where regions are picked that `found` has not.
        top: The same at length, in the place of the predictions.
        run: Words of the button that asks for a job; without any it is hidden.
        jobs: Ids of the jobs that are waited for or ended without a result, by the key of their request.
        ended: Whether the one that is needed first has ended, without a result.
    """

    found: Any = None
    said: str = ""
    top: Any = None
    run: str = ""
    jobs: dict[str, str] | None = None
    ended: bool = False

    @property
    def state(self) -> dict[str, Any]:
        """For the browser, which gives it back."""
        waits = bool(self.jobs) and not self.ended
        return {"said": self.said, "told": bool(self.top or self.run), "jobs": self.jobs or {}, "waits": waits}

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection, desk: Desk, state: object, pressed: bool) -> "Face":
        """Of the results, as soon as they are there; jobs are asked for if they are not.

        Args:
            state: What the browser was given last.
            pressed: Whether the button was: only then are all images pruned, a failed job tried again, or one that
                takes long cancelled.
        """
        try:
            return cls._of(facts, chosen, desk, state, pressed)
        except (LedgerUnavailableError, TooManyJobsError) as error:
            return cls(said=f"{label(chosen)} not pruned.", top=problem(str(error)), run="try again")

    @classmethod
    def _of(cls, facts: StudyFacts, chosen: Selection, desk: Desk, state: object, pressed: bool) -> "Face":
        wanted = {key_of(request): request for request in requests_of(facts, chosen)}
        if not wanted:
            return cls(
                said="No image is in the set.", top=html.P("Take a condition off the set to prune on its images.")
            )
        missing = [key for key, request in wanted.items() if result_of(facts.study, request) is None]
        if pressed and isinstance(state, dict) and state.get("waits"):
            for waited in filter(None, (_job_of(desk.ledger, state, key) for key in missing)):
                desk.cancel(waited.id, access.current().name)
            pressed = False
        jobs, unheard, refused = {}, None, access.why_not_ask()
        until = 0.0
        for key in missing:
            job = None if pressed else _job_of(desk.ledger, state, key)
            if job is None and (refused or (chosen.image is None and not pressed)):
                job = _live(desk.ledger, key)
            elif job is None:
                submitted = desk.submit(wanted[key], access.current().name)
                job, unheard, until = submitted.job, submitted.unheard, time.monotonic() + PATIENCE
            if job is not None:
                jobs[key] = job
        while missing and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
            missing = [key for key in missing if result_of(facts.study, wanted[key]) is None]
        jobs = {key: desk.ledger.job(job.id) for key, job in jobs.items() if key in missing}
        results = results_of(facts, list(wanted.values()), desk)  # after the jobs: one may have ended just now
        there = [result for result in results if result is not None]
        # The six modes come first; other regions alone are no reason to draw.
        found = drawn(Pruning.joined(facts, there), facts, chosen) if results[0] is not None else None
        missing = [key for key, result in zip(wanted, results, strict=True) if result is None]
        if not missing:
            return cls(found)
        if missing[0] not in jobs and refused:
            return cls(found, f"{label(chosen)} not pruned.", problem(refused))
        if missing[0] not in jobs:
            return cls._offered(facts, chosen, found, len(wanted[missing[0]].images))
        return cls._waiting(chosen, desk, found, jobs, jobs[missing[0]], unheard)

    @classmethod
    def _offered(cls, facts: StudyFacts, chosen: Selection, found: Any, images: int) -> "Face":
        every = len(indices_of(facts.study, chosen.images))
        of = f"the {count(every, 'image')} of the set" if chosen.images else f"all {count(every, 'image')}"
        run = f"prune over {of}" if images == every else f"prune over {images:,} of {of.removeprefix('all ')}"
        top = html.P(f"Select an image to see {label(chosen)} pruned on it, or prune on many.")
        return cls(found, "No image is selected.", top, run)

    @classmethod
    def _waiting(
        cls, chosen: Selection, desk: Desk, found: Any, jobs: dict[str, Job], job: Job, unheard: str | None
    ) -> "Face":
        ids = {key: each.id for key, each in jobs.items()}
        if job.state in ENDED:
            top = problem((job.cause or job.state).rstrip(".") + ".")
            return cls(found, f"{label(chosen)} not pruned.", top, "try again", ids, ended=True)
        alone = not any(seen.queue == INTERACTIVE for seen in desk.ledger.workers())
        top = NO_WORKER if alone else beside(job)
        run = CANCEL if job.images_total > PRUNE.unit_images and not access.why_not_cancel(job) else ""
        return cls(no_update if found is None else found, progress(job, chosen, unheard), top, run, ids)


def _job_of(ledger: Ledger, state: object, key: str) -> Job | None:
    """The job of this request that the browser says it waits for."""
    jobs = state.get("jobs") if isinstance(state, dict) else None
    if not isinstance(jobs, dict) or key not in jobs:
        return None
    try:
        job = ledger.job(str(jobs[key]))
    except JobNotFoundError:
        return None
    # One that is done, and of which there is no result any more, is asked for again.
    return job if job.key == key and job.state != "done" else None


def _live(ledger: Ledger, key: str) -> Job | None:
    """The job of that key that waits or runs."""
    return next((job for job in ledger.jobs(kinds=[PRUNE.name]) if job.key == key and job.state not in ENDED), None)


def results_of(facts: StudyFacts, requests: Sequence[PruneRequest], desk: Desk) -> list[Result | None]:
    """What came of each request, None while there is nothing; that it is used is noted."""
    results = [result_of(facts.study, request) for request in requests]
    for request, result in zip(requests, results, strict=True):
        if result is not None:
            desk.uses.note(path_of(facts.study.folder.parent, PRUNE.name, request))
    return results


def label(chosen: Selection) -> str:
    """What is pruned, as L10·H0 or 3 heads."""
    heads = chosen.heads_pruned
    return head_label(*heads[0]) if len(heads) == 1 else count(len(heads), "head")


def progress(job: Job, chosen: Selection, unheard: str | None) -> str:
    """What is waited for."""
    if job.state == "queued":
        before = f"waiting, {count(job.place, 'job')} before it" if job.place else "waiting for a worker"
        return f"{label(chosen)}: {before}. {unheard or job.note or ''}".rstrip()
    return f"Pruning {label(chosen)}… {job.note or ''}".rstrip()


def beside(job: Job) -> Any:
    """How far a job of many images is; of a short one nothing, and what was there stays."""
    if job.images_total <= PRUNE.unit_images:
        return None
    done = f"{job.images_done:,} of {count(job.images_total, 'image')}"
    left = "" if job.eta is None else f", about {duration(job.eta)} left"
    share = 100 * job.images_done / job.images_total
    bar = html.Div(html.I(className="bar", style={"width": f"{share:.1f}%"}), className="track")
    return [html.P([f"{done}{left}. ", html.A("Jobs", href="/jobs")]), bar]


# --- what the browser draws ---


def drawn(pruning: Pruning, facts: StudyFacts, chosen: Selection) -> dict[str, Any]:
    """Everything that the browser draws of a result, whichever metric and regions are picked, in plain JSON.

    Returns:
        of: What it is of; pruning.js makes the same of a selection. regions: in the order of the lists that follow.
        metrics: By metric its reading, its bars and their reference. predictions: as `compared` gives them.
    """
    names = facts.study.class_names
    return {
        "of": [facts.name, chosen.image, "" if chosen.image else chosen.images, basket_of(chosen)],
        "regions": pruning.regions,
        "metrics": {metric: _drawn_bars(pruning, facts, metric) for metric in facts.metrics},
        "predictions": [compared(pruning, names, regions) for regions in pruning.regions],
    }


def basket_of(chosen: Selection) -> str:
    """The heads that are pruned together, as the basket has them."""
    return chosen.basket or f"{chosen.layer}.{chosen.head}"


@dataclass(frozen=True)
class Bars:
    """One metric by regions.

    Attributes:
        effects: By regions.
        top: What a full bar stands for.
        reference: The value with nothing pruned, where it is not 0.
        axis: What is measured.
        heads: How many are pruned together.
    """

    effects: dict[int, Effect]
    top: float
    reference: float | None
    axis: str
    heads: int

    @classmethod
    def of(cls, pruning: Pruning, metric: str) -> "Bars":
        words = METRICS[metric]
        effects = {regions: pruning.effect(metric, regions) for regions in pruning.regions}
        highest = [each.mean + (each.sd if math.isfinite(each.sd) else 0) for each in effects.values()]
        known = [value for value in highest if math.isfinite(value)]
        reference = effects[0].mean if words.curve else None
        axis = words.curve_axis or words.axis
        if len(pruning.heads) > 1:
            axis = axis.replace("head", "heads") + (f" of layer {pruning.layer}" if metric.endswith("distance") else "")
        return cls(effects, max(known, default=0) or 1.0, reference, axis, len(pruning.heads))

    def share(self, value: float) -> float | None:
        """Of a full bar; None for what is no number."""
        return round(max(value, 0) / self.top, 4) if math.isfinite(value) else None

    def title(self, regions: int) -> str:
        """What hovering a bar says."""
        effect = self.effects[regions]
        spread = f" ± {number(effect.sd)} over {count(effect.counted, 'image')}" if math.isfinite(effect.sd) else ""
        return f"{name_of(regions, self.heads)}: {self.axis} {number(effect.mean)}{spread}"


def _drawn_bars(pruning: Pruning, facts: StudyFacts, metric: str) -> dict[str, Any]:
    bars = Bars.of(pruning, metric)
    return {
        "reading": reading(pruning, facts, metric),
        "reference": None if bars.reference is None else bars.share(bars.reference),
        "bars": [
            {
                "value": briefest(effect.mean),
                "title": bars.title(regions),
                "height": bars.share(effect.mean),
                "low": bars.share(effect.mean - effect.sd),
                "high": bars.share(effect.mean + effect.sd),
            }
            for regions, effect in bars.effects.items()
        ],
    }


def brief(value: float) -> str:
    """As `number`, with two figures below 0.1 and one below 0.001: room is scarce, and hovering says all three."""
    if 1e-3 <= abs(value) < 0.1:
        return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", MINUS)
    return number(value)


def briefest(value: float) -> str:
    """The same in five signs, for seven bars side by side: no more than three decimals."""
    return f"{value:.3f}" if 1e-3 <= abs(value) < 0.01 else brief(value)


def reading(pruning: Pruning, facts: StudyFacts, metric: str) -> str:
    """How to read the bars; of several heads what pruning them together is worth, and one by one (E7, Sec. 6.5)."""
    over = "Mean ± sd. " if pruning.images > 1 else ""
    told = pruning.together(facts, metric)
    if told is None:
        return over + METRICS[metric].pruned_reading
    # The probability is told as what it changes by, as people say it; the metric is what is lost.
    what, signed = ("P(target) changes by", _change) if metric == "probability" else (METRICS[metric].title, number)
    heads = count(len(pruning.heads), "whole head")
    mean = " on average" if pruning.images > 1 else ""
    return f"{heads} together: {what} {signed(told[0])}{mean}; one by one they sum to {signed(told[1])}."


def _change(drop: float) -> str:
    return number(-drop) if drop >= 0 else f"+{number(-drop)}"


def compared(pruning: Pruning, names: list[str] | None, regions: int) -> dict[str, Any]:
    """The predictions before and after: of one image the most probable classes, of several how often they change.

    Returns:
        One of {"note"}, {"title", "rows"} and {"title", "label", "before", "after", "fallen"}.
    """
    named = name_of(regions, len(pruning.heads))
    if pruning.why_not(regions):
        return {"note": f"{named}: {pruning.why_not(regions)}."}
    if pruning.images > 1:
        return _of_set(pruning, regions)
    before, after = pruning.top_before, pruning.after(regions)
    if not before or not after:
        return {"note": NO_CLASSIFIER}
    true = int(pruning.label[0]) if pruning.label[0] >= 0 else None
    fallen = None
    if true is not None and true not in dict(after):
        left = float(pruning.values("probability", regions)[0])
        fallen = {
            "name": short_name(class_name(names, true)),
            "said": f" {brief(left)}, not among the first {len(after)}",
        }
    columns = {"before": before, "after": after}
    return {
        "title": named,
        "label": true,
        "fallen": fallen,
        **{key: [_rank(place, p, names) for place, p in column] for key, column in columns.items()},
    }


def _rank(place: int, p: float, names: list[str] | None) -> dict[str, Any]:
    full = class_name(names, place)
    share = p if math.isfinite(p) else 0
    return {"class": place, "name": short_name(full), "p": brief(p), "share": share, "title": f"{full}: {number(p)}"}


def class_name(names: list[str] | None, place: int) -> str:
    return names[place] if names and place < len(names) else f"class {place}"


def _of_set(pruning: Pruning, regions: int) -> dict[str, Any]:
    """Top-1 accuracy and mean P(target), before and after, and how many predictions stay."""
    told = pruning.predictions(regions)
    if told is None:
        return {"note": NO_CLASSIFIER}
    rows: list[tuple[str, str, str, str]] = []
    if told.right_before is not None and told.right_after is not None:
        of = f"accuracy on {count(told.labelled, 'labelled image')}"
        rows.append(("Top-1", percent(told.right_before), percent(told.right_after), of))
    left = [number(pruning.effect("probability", each).mean) for each in (0, regions)]
    rows.append(("P(target)", left[0], left[1], "mean, of the true class; without a label, of the predicted one"))
    rows.append(("Unchanged", "", percent(told.same), "images whose most probable class is the one before"))
    return {"title": name_of(regions, len(pruning.heads)), "rows": rows}


def exports(desk: Desk) -> Sequence[Export]:
    """What can leave the panel; its file reads this one."""
    from dashboard.views import pruning_export

    return pruning_export.exports(desk)


ABOUT = r"""
What is left of a prediction when parts of the selected head, or several heads together, are switched off.

**Read it.** A head's attention matrix has four regions: CLS→CLS, CLS→patches, patches→CLS, patches→patches (Fig. 4A).
Under each bar stands the matrix, CLS first; what is hatched is 0. Beside the bars: the five most probable classes
before and after, the true one bold.

**Computed.** With $R$ the regions that are switched off, of every pruned head

$$
A'[q, k] = \begin{cases} 0 & (q, k) \in R \\ A[q, k] & \text{otherwise} \end{cases}
$$

after the softmax, nothing renormalised; the rest of the model runs as it is, and the metrics are those of *Head
importance* (Eq. 3 to 6). The paper's six modes (Fig. 4B), as its text needs them: nothing, the whole head,
patches→patches, CLS→CLS, both crossings, everything of CLS. Registers and distillation tokens go only with the whole
head.

Computed in `precompute/pruning.py`, when it is first looked at, and kept beside the study (`store/derived.py`)
"""

VIEW = View(
    "pruning",
    layout,
    drawings=(),
    about=ABOUT,
    exports=exports,
    register=register,
    row="about-head",
    place=2,
)
