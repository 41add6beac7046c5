"""What do all panels share? A title, a line that says how to read them, and errors that stay in place."""

from collections.abc import Callable
from typing import Any, TypeVar

from dash import html
from dash.exceptions import PreventUpdate
from werkzeug.exceptions import BadRequest

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.selection import Selection, fits
from store.errors import StoreError

T = TypeVar("T")


def panel(name: str, title: str, reading_id: str, body: Any, tools: Any = None) -> html.Section:
    """A panel: `name` is its class, by which it is placed; `reading_id` that of the line under its title."""
    return html.Section(
        [
            html.Header([html.H2(title), html.Div(tools, className="tools")]),
            html.P(id=reading_id, className="reading"),
            html.Div(body, className="body"),
        ],
        className=f"panel {name}",
    )


def shown(
    shelf: Shelf, data: object, draw: Callable[[StudyFacts, Selection], tuple[T, Any]], otherwise: T
) -> tuple[T, Any]:
    """What `draw` gives for the selection in `data`, with the line that says how to read it.

    An error of the store gives `otherwise`, and the error as that line: the other panels go on.

    Raises:
        PreventUpdate: Nothing is selected yet.
        BadRequest: `data` is no selection of a study.
    """
    if data is None:
        raise PreventUpdate
    try:
        chosen = Selection.from_data(data)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    try:
        known = facts(shelf.open(chosen.study))
        if not fits(chosen, known):
            return otherwise, problem(f"study {known.name} was computed anew; reload the page")
        return draw(known, chosen)
    except StoreError as error:
        return otherwise, problem(str(error))


def problem(text: str) -> html.Span:
    """An error, where the line that says how to read would be."""
    return html.Span(text, className="problem", role="alert")
