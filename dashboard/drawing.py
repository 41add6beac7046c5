"""What is drawn anew? All views in the answer to a gesture, and what it leaves as it is not at all.

A view says which fields of the selection it depends on. The page holds what its views were drawn from; where none
of a view's fields differ from it, the view is left alone.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import Output, html, no_update
from dash.exceptions import PreventUpdate
from werkzeug.exceptions import BadRequest

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.selection import Selection, fits
from dashboard.theme import Palette, palette
from store.errors import StoreError

ALWAYS = ("study", "theme")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """What a view shows, and when it is drawn anew.

    Attributes:
        outputs: What is drawn. The last is the line that says how to read it, where errors are told too.
        fields: Of the selection, that the drawing depends on; study and theme always do.
        draw: A value for each output.
        blank: A value for each output but the last, for what cannot be drawn.
    """

    outputs: tuple[Output, ...]
    fields: tuple[str, ...]
    draw: Callable[[StudyFacts, Selection], tuple[Any, ...]]
    blank: Callable[[Palette], tuple[Any, ...]]

    def values(self, known: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
        """A value for each output. An error stays in its view: the others go on."""
        try:
            return self.draw(known, chosen)
        except StoreError as error:
            said = str(error)
        except Exception:  # any fault of one view: the other views go on
            log.exception("%s cannot be drawn for %s", self.outputs[-1], chosen)
            said = "This cannot be drawn: an error of Headscope, which is in the server's log."
        return *self.blank(palette(chosen.theme)), problem(said)


def problem(text: str) -> html.Span:
    """An error, where the line that says how to read would be."""
    return html.Span(text, className="problem", role="alert")


def anew(
    drawings: Sequence[Drawing], known: StudyFacts, chosen: Selection, last: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """The values of each drawing.

    Args:
        last: What the page holds, from the browser: the `selection` that its views were drawn from, and the
            `content` of the study. Anything else draws all.
    """
    same = last.get("selection") if last.get("content") == known.content else None
    differ = {name for name, value in chosen.data().items() if not isinstance(same, dict) or same.get(name) != value}
    return [
        each.values(known, chosen) if differ & {*ALWAYS, *each.fields} else (no_update,) * len(each.outputs)
        for each in drawings
    ]


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
