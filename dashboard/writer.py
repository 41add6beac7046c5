"""What does a gesture change? The one writer of the selection: every click, key and address comes here.

address ─┐                                ┌─> views, each drawing from the selection and the store
clicks  ─┼─> write ──> SELECTION ─────────┤
keys    ─┘      └────> address of the page└─> `settled`: the keys pressed meanwhile may come
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.selection import (
    SELECTION,
    Selection,
    after_key,
    asked_for,
    find_image,
    resolve,
    to_search,
    with_choice,
    with_head,
    with_image,
    with_point,
    with_rank,
    with_study,
    with_token,
)
from dashboard.views import (
    head_attention,
    head_card,
    head_grid,
    head_importance,
    header,
    image_card,
    image_overview,
    pattern_map,
    pruning,
)
from store.errors import StoreError

URL = "url"  # the address, when it was not this page that changed it: first load, back, forward
ADDRESS = "address"  # what the address should be
KEYS = "keys"  # keys pressed since the page last settled: {"keys": [...], "n": number}
KEYS_DONE = "keys-done"
NOTICE = "notice"
EMPTY = "empty"
STAGE = "stage"

MOST_KEYS = 1000

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
    stores = [dcc.Store(id=each) for each in (SELECTION, URL, ADDRESS, KEYS, KEYS_DONE)]
    return [*stores, html.Div(id=NOTICE, className="notice", role="status")]


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
        return from_address(shelf, value.get("search") if isinstance(value, dict) and source == URL else "")
    try:
        chosen = Selection.from_data(before)
        known = facts(shelf.open(chosen.study))
    except (ValueError, StoreError) as error:
        return _first(shelf, str(error))
    if source == header.STUDY:
        return _of_study(shelf, chosen, value)
    if source == image_card.SEARCH:
        return Written(*find_image(chosen, known, typed if isinstance(typed, str) else ""))
    return Written(after(chosen, known, source, value))


def after(chosen: Selection, known: StudyFacts, source: object, value: Any) -> Selection:
    """The selection after a gesture within the study; unchanged by what makes no sense."""
    if source == KEYS:
        for key in _keys(value):
            chosen = after_key(chosen, known, key)
        return chosen
    point = _point(value)
    match source:
        case image_overview.GRAPH:
            return with_image(chosen, known, point.get("pointIndex", point.get("pointNumber")))
        case head_importance.GRAPH:
            return with_rank(chosen, known, point.get("x"))
        case head_grid.GRAPH:
            return with_head(chosen, known, point.get("y"), point.get("x"))
        case pattern_map.GRAPH:
            return with_point(chosen, known, pattern_map.place_of(known, chosen, point))
        case head_attention.TOKEN if isinstance(value, dict):
            return with_token(chosen, known, value.get("token"))
        case {"suggested": int(slot)}:
            return with_image(chosen, known, head_attention.suggested_at(known, chosen, slot))
        case image_card.RELEASE:
            return after_key(chosen, known, "Escape")
        case {"choice": str(field), "value": str(picked)} if field in known.choices:
            return with_choice(chosen, known, field, picked)
    return chosen


def _point(click: object) -> Mapping[str, Any]:
    points = click.get("points") if isinstance(click, dict) else None
    return points[0] if isinstance(points, list) and points and isinstance(points[0], dict) else {}


def _keys(value: object) -> list[object]:
    keys = value.get("keys") if isinstance(value, dict) else None
    return keys[:MOST_KEYS] if isinstance(keys, list) else []


def from_address(shelf: Shelf, search: object) -> Written:
    """The selection that the address names, as far as it is there; the defaults where it names nothing."""
    asked = asked_for(search)
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


def register(app: Dash, shelf: Shelf) -> None:
    app.clientside_callback(ClientsideFunction("page", "search"), Output(URL, "data"), Input(URL, "id"))

    @app.callback(
        Output(SELECTION, "data"),
        Output(ADDRESS, "data"),
        Output(header.STUDY, "value"),
        Output(NOTICE, "children"),
        Output(KEYS_DONE, "data"),
        Output(EMPTY, "children"),
        Output(STAGE, "hidden"),
        Input(URL, "data"),
        Input(header.STUDY, "value"),
        Input(image_overview.GRAPH, "clickData"),
        Input(image_card.SEARCH, "n_submit"),
        Input({"choice": image_overview.COLOUR, "value": ALL}, "n_clicks"),
        Input({"choice": head_importance.METRIC, "value": ALL}, "n_clicks"),
        Input({"choice": pattern_map.MAP, "value": ALL}, "n_clicks"),
        Input({"choice": pattern_map.COLOUR, "value": ALL}, "n_clicks"),
        Input({"choice": head_card.CARD, "value": ALL}, "n_clicks"),
        Input({"choice": pruning.PART, "value": ALL}, "n_clicks"),
        Input(head_importance.GRAPH, "clickData"),
        Input(head_grid.GRAPH, "clickData"),
        Input(pattern_map.GRAPH, "clickData"),
        Input(head_attention.TOKEN, "data"),
        Input({"suggested": ALL}, "n_clicks"),
        Input(image_card.RELEASE, "n_clicks"),
        Input(KEYS, "data"),
        State(SELECTION, "data"),
        State(image_card.SEARCH, "value"),
    )
    def write(*values: Any) -> tuple[Any, ...]:
        before, typed = values[-2:]
        source, value = ctx.triggered_id, _triggered_value()
        if before is None and source != header.STUDY:
            # On the first load everything triggers at once; only the address means something then.
            source, value = URL, values[0]
            if value is None:  # another page than the workspace is open
                raise PreventUpdate
        result = written(shelf, before, source, value, typed)
        done = value.get("n") if source == KEYS and isinstance(value, dict) else no_update
        if result.chosen is None:
            return None, no_update, no_update, result.notice, done, NO_STUDY, True
        data = result.chosen.data()
        address = {"search": to_search(result.chosen), "replace": result.found, "title": title(result.chosen)}
        unchanged = data == before
        return (
            no_update if unchanged else data,
            no_update if unchanged and not result.found else address,
            result.chosen.study,
            result.notice,
            done,
            None,
            False,
        )

    app.clientside_callback(ClientsideFunction("page", "address"), Input(ADDRESS, "data"))

    # Called once when all views have drawn.
    app.clientside_callback(
        ClientsideFunction("keys", "settled"),
        Input(KEYS_DONE, "data"),
        Input(head_importance.GRAPH, "figure"),
        Input(head_grid.GRAPH, "figure"),
        Input(pattern_map.GRAPH, "figure"),
        Input(head_card.TABLE, "children"),
        Input(head_attention.ATTENTION, "data"),
        Input(image_card.CARD, "children"),
    )


def _triggered_value() -> Any:
    return ctx.triggered[0]["value"] if ctx.triggered else None


def title(chosen: Selection) -> str:
    """Of the browser's tab."""
    return f"{chosen.label} · {chosen.study} · Headscope"
