"""What is drawn anew? All views in the answer to a gesture, and what it leaves as it is not at all.

A view says which fields of the selection it depends on. The page holds what its views were drawn from; where none
of a view's fields differ from it, the view is left alone. Of a view that is drawn anew, only what then differs is sent.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from dash import Output, html, no_update
from plotly.io.json import to_json_plotly

from dashboard.data import StudyFacts
from dashboard.selection import Selection
from dashboard.theme import Palette, palette
from store.errors import StoreError

ALWAYS = ("study", "theme")

# What headscope.js sees to: it gives a view's script what it is told, and builds what is in an element. For each
# component and each output of Dash's, a browser does something at every change on the page.
TOLD, BODY = "data-told", "data-body"
SCRIPTED = (TOLD, BODY)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """What a view shows, and when it is drawn anew.

    Attributes:
        outputs: What is drawn; a BODY is of dash.html alone. The last is the line that says how to read it, where
            errors are told too.
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


def sent(
    drawings: Sequence[Drawing], values: Sequence[tuple[Any, ...]], shown: object
) -> tuple[str, list[Any], list[int | None]]:
    """What the page does not show yet.

    Args:
        values: Of each drawing.
        shown: The digests that this gave before, from the browser. Anything else sends all.
    Returns:
        JSON of what scripts take, by output; a value for each of the other outputs; a digest of each output.
    """
    outputs = [output for each in drawings for output in each.outputs]
    before = shown if isinstance(shown, list) and len(shown) == len(outputs) else [None] * len(outputs)
    scripted: list[str] = []
    others: list[Any] = []
    digests: list[int | None] = []
    for output, value, was in zip(outputs, (value for each in values for value in each), before, strict=True):
        known = value is no_update
        text = "" if known or isinstance(value, go.Figure) else to_json_plotly(value)
        # A figure has no digest: a script may have changed what is shown of it.
        digests.append(was if known else zlib.crc32(text.encode()) if text else None)
        known = known or (was is not None and digests[-1] == was)
        if output.component_property not in SCRIPTED:
            others.append(no_update if known else value)
        elif not known:
            scripted.append(f'"{output}":{text}')
    return "{" + ",".join(scripted) + "}", others, digests
