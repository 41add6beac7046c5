"""What does a gesture change? The one writer of the selection: every click, key and address comes here.

address ─┐             ┌─> WRITTEN: the selection, which scripts mark in all views, and the address of the page
clicks  ─┼─> write ────┤
gestures┘              └─> every view that shows it otherwise than before, drawn from the store

One request does all of it, with few outputs: around each, the browser looks through all components of the page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate
from plotly.io.json import to_json_plotly

from dashboard import bodies
from dashboard.data import STUDIES_OPEN, Shelf, StudyFacts, facts, indices_of
from dashboard.drawing import SCRIPTED, TOLD, Drawing, anew, sent
from dashboard.image_sets import corners_of
from dashboard.routes import pictures_url
from dashboard.selection import (
    LEAST_TOP,
    MOST_TOP,
    THEMES,
    Selection,
    after_key,
    asked_for,
    find_image,
    fits,
    resolve,
    to_search,
    with_basket,
    with_choice,
    with_class_toggled,
    with_entropy,
    with_head,
    with_image,
    with_large,
    with_lasso,
    with_point,
    with_prediction,
    with_probability,
    with_rank,
    with_study,
    with_token,
    with_top,
    without_condition,
)
from dashboard.views import head_attention, head_importance, header, image_overview, pattern_map
from dashboard.views.choice import Reasons
from store.errors import StoreError
from store.study import Study

URL = "url"  # {"search": the address, "theme": the browser's own}, when it was not this page that changed it
WRITTEN = "written"  # what `told` gives; scripts have it as headscope.selection, .index and .facts
SHOWN = "shown"  # what scripts draw of it
GESTURES = "gestures"  # made since the page last settled: {"gestures": [{"kind", "value"}, ...], "n": number}
NOTICE = "notice"
EMPTY = "empty"
STAGE = "stage"

MOST_GESTURES = 1000

# Why a study does not have some values of a field, for the buttons.
LACKS: dict[str, Reasons] = {
    "metric": head_importance.reasons,
    "colour": image_overview.reasons,
    "map": pattern_map.map_reasons,
    "map_as": pattern_map.look_reasons,
    "map_colour": pattern_map.colour_reasons,
}

NO_STUDY = [
    html.H2("No study yet"),
    html.P("A study is one model on one set of pictures, computed once."),
    html.P(html.A("New study", href="/new", className="button")),
    html.P("From the command line the same is"),
    html.Pre("headscope precompute vit_base_patch16_224 path/to/pictures"),
    html.P("Or let Headscope draw pictures and use the small model that comes with it; this takes a minute:"),
    html.Pre("headscope demo"),
]


def layout() -> list[Any]:
    stores = [dcc.Store(id=each) for each in (URL, GESTURES)]
    told = [html.Div(id=each, hidden=True) for each in (WRITTEN, SHOWN)]
    return [*told, *stores, html.Div(id=NOTICE, className="notice", role="status")]


@dataclass(frozen=True)
class Written:
    """What one gesture leads to.

    Attributes:
        chosen: The selection; None if there is no study to select in.
        notice: What could not be done, for the person to read.
        found: Whether it was found from the address, which then needs no new entry in the history.
    """

    chosen: Selection | None
    notice: str = ""
    found: bool = False


def written(shelf: Shelf, before: object, source: object, value: object, typed: object = "") -> Written:
    """The selection after a gesture.

    Args:
        before: The selection's data, or None on a page that has none yet.
        source: Id of the component that the gesture was made on.
        value: What that component says of it, straight from the browser.
        typed: Text in the search field.
    """
    if before is None and source == header.STUDY:  # picked on another page, before the workspace was ever shown
        return replace(from_address(shelf, f"?study={quote(str(value))}"), found=False)
    if before is None or source == URL:
        told = value if isinstance(value, dict) and source == URL else {}
        return from_address(shelf, told.get("search"), told.get("theme"))
    try:
        chosen = Selection.from_data(before)
        known = facts(shelf.open(chosen.study))
        if not fits(chosen, known):
            return from_address(shelf, f"?study={quote(chosen.study)}", chosen.theme)
    except (ValueError, StoreError) as error:
        return _first(shelf, str(error))
    if source == header.STUDY:
        return _of_study(shelf, chosen, value)
    if source == header.SEARCH:
        return Written(*find_image(chosen, known, typed if isinstance(typed, str) else ""))
    try:
        return Written(after(chosen, known, source, value))
    except StoreError as error:
        return Written(chosen, str(error))


def after(chosen: Selection, known: StudyFacts, source: object, value: Any) -> Selection:
    """The selection after a gesture within the study; unchanged by what makes no sense."""
    match source:
        case str() if source == GESTURES:
            for kind, made in _gestures(value):
                chosen = after_gesture(chosen, known, kind, made)
        case str() if source == header.THEME:
            return with_choice(chosen, known, "theme", value)
    return chosen


def after_gesture(chosen: Selection, known: StudyFacts, kind: object, value: Any) -> Selection:
    """The selection after one gesture that a script told of; unchanged by what makes no sense."""
    if kind == "key":
        among = indices_of(known.study, chosen.images).tolist() if value in ("[", "]") and chosen.images else None
        return after_key(chosen, known, value, among)
    if isinstance(kind, str) and kind in WITH_A_VALUE:
        return WITH_A_VALUE[kind](chosen, known, value)
    match kind, value:
        case "choice", [str(field), str(picked)] if field in known.choices:
            return with_choice(chosen, known, field, picked)
        case "release", _:
            return replace(chosen, image=None)
        case "head", [layer, head]:
            return with_head(chosen, known, layer, head)
        case "basket", [layer, head]:
            return with_basket(chosen, known, layer, head)
        case "basket-clear", _:
            return replace(chosen, basket="")
        case "token", {"token": token, "direction": direction}:
            return with_token(chosen, known, token, direction)
        case "lasso", list():
            return with_lasso(chosen, known, image_overview.vector_of(known.study, chosen.metric), corners_of(value))
        case "drop", _:
            return without_condition(chosen, value)
    return chosen


# Gestures that have one value, which the move looks at.
WITH_A_VALUE: dict[str, Callable[[Selection, StudyFacts, Any], Selection]] = {
    "rank": with_rank,
    "image": with_image,
    "point": with_point,
    "top": lambda chosen, known, value: with_top(chosen, value),
    "regions": lambda chosen, known, value: with_choice(chosen, known, "regions", value),
    "large": with_large,
    "class": with_class_toggled,
    "prediction": with_prediction,
    "probability": with_probability,
    "brush": with_entropy,
}


def _gestures(value: object) -> list[tuple[object, Any]]:
    made = value.get("gestures") if isinstance(value, dict) else None
    if not isinstance(made, list):
        return []
    return [(each.get("kind"), each.get("value")) for each in made[:MOST_GESTURES] if isinstance(each, dict)]


def from_address(shelf: Shelf, search: object, theme: object = None) -> Written:
    """The selection that the address names, as far as it is there; the defaults where it names nothing."""
    asked = asked_for(search)
    if theme in THEMES:
        asked = {"theme": str(theme)} | asked
    if "study" not in asked:
        return _first(shelf, "", asked)
    try:
        known = facts(shelf.open(asked["study"]))
    except StoreError as error:
        return _first(shelf, str(error))
    chosen, problems = resolve(asked, known)
    return Written(chosen, "; ".join(problems), found=True)


def _first(shelf: Shelf, why: str, asked: Mapping[str, str] | None = None) -> Written:
    """The first study that opens, and why it is not the one that was asked for."""
    study = shelf.first()
    if study is None:
        return Written(None, why, found=True)
    try:
        chosen, problems = resolve(asked or {}, facts(study))
    except StoreError as error:
        return Written(None, str(error), found=True)
    instead = [f"{why}; showing {study.name} instead"] if why else []
    return Written(chosen, "; ".join([*instead, *problems]), found=True)


def _of_study(shelf: Shelf, chosen: Selection, name: object) -> Written:
    try:
        return Written(with_study(chosen, facts(shelf.open(str(name)))))
    except StoreError as error:
        return Written(chosen, str(error))


def told(known: StudyFacts, chosen: Selection) -> dict[str, Any]:
    """What the browser must know of what is selected."""
    return {
        "selection": chosen.data(),
        "content": known.content,
        "index": None if chosen.image is None else known.image_indices[chosen.image],
        "facts": facts_told(known.study),
    }


@lru_cache(maxsize=STUDIES_OPEN)
def facts_told(study: Study) -> dict[str, Any]:
    """Of a study, what scripts need, in plain JSON.

    Returns:
        histogram, top: Bins of attention and where their axis ends; the least and the most that is shown, in per cent.
        lacks: Why it does not have some values, by field and value.
    """
    known = facts(study)
    return {
        "name": known.name,
        "pictures": pictures_url(known),
        "layers": known.num_layers,
        "heads": known.num_heads,
        "tokens": known.num_tokens,
        "grid": list(known.grid),
        "prefix": list(known.prefix_tokens),
        "has_cls": known.has_cls,
        "aspect": study.sizes["x"] / study.sizes["y"],
        "small": study.sizes["y"],
        "images": len(known.image_ids),
        "histogram": {"bins": head_attention.BINS, "least": head_attention.LEAST},
        "top": [LEAST_TOP, MOST_TOP],
        "lacks": {field: dict(reasons(known)) for field, reasons in LACKS.items()},
    }


def register(app: Dash, shelf: Shelf, drawings: Sequence[Drawing]) -> None:
    app.clientside_callback(ClientsideFunction("page", "search"), Output(URL, "data"), Input(URL, "id"))
    outputs = [output for drawing in drawings for output in drawing.outputs]
    others = [output for output in outputs if output.component_property not in SCRIPTED]

    @app.callback(
        Output(WRITTEN, TOLD),
        Output(SHOWN, TOLD),
        Output(header.STUDY, "value"),
        Output(EMPTY, "children"),
        Output(STAGE, "hidden"),
        *others,
        Input(URL, "data"),
        Input(header.STUDY, "value"),
        Input(header.THEME, "data"),
        Input(header.SEARCH, "n_submit"),
        Input(GESTURES, "data"),
        State(WRITTEN, TOLD),
        State(header.SEARCH, "value"),
    )
    def write(*values: Any) -> tuple[Any, ...]:
        last, typed = values[-2:]
        last = held(last)
        before, source, value = last.get("selection"), ctx.triggered_id, _triggered_value()
        if (before is None and source != header.STUDY) or f"{URL}.data" in ctx.triggered_prop_ids:
            # On the first load everything triggers at once, and a theme may come with an address, which has it too.
            source, value = URL, values[0]
            if value is None:  # another page than the workspace is open
                raise PreventUpdate
        result = written(shelf, before, source, value, typed)
        chosen = result.chosen
        said = {"notice": result.notice, "done": value.get("n") if isinstance(value, dict) else None}
        if chosen is None:
            return to_json_plotly(said), no_update, no_update, NO_STUDY, True, *(no_update for _ in others)
        known = facts(shelf.open(chosen.study))
        shown, views, digests = sent(drawings, anew(drawings, known, chosen, last), last.get("digests"))
        if result.found or chosen.data() != before:
            said["address"] = {"search": to_search(chosen, known), "replace": result.found, "title": title(chosen)}
        return (
            to_json_plotly(told(known, chosen) | said | {"digests": digests}),
            shown,
            no_update if source == GESTURES else chosen.study,
            None if before is None else no_update,
            False if before is None else no_update,
            *views,
        )


def held(said: object) -> dict[str, Any]:
    """What the page holds, as it says itself; nothing if that is no sense."""
    try:
        last = bodies.parse(said) if isinstance(said, str) else None
    except ValueError:
        return {}
    return last if isinstance(last, dict) else {}


def _triggered_value() -> Any:
    return ctx.triggered[0]["value"] if ctx.triggered else None


def title(chosen: Selection) -> str:
    """Of the browser's tab."""
    return f"{chosen.label} · {chosen.study} · Headscope"
