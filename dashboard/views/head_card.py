"""What is known of the selected head? All metrics and the entropy, here and over the set, and its place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import Dash, Input, Output, html

from dashboard.data import Array, Shelf, StudyFacts, Summary, of_image, ranks, summary
from dashboard.selection import SELECTION, Selection
from dashboard.views.panel import panel, shown
from dashboard.words import METRICS, number
from store.errors import StoreError

TABLE = "head-card-table"
READING = "head-card-reading"
LABEL = "head-card-label"


def layout() -> html.Section:
    return panel("head-card", "Selected head", READING, html.Div(id=TABLE), html.Span(id=LABEL, className="selected"))


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(TABLE, "children"),
        Output(LABEL, "children"),
        Output(READING, "children"),
        Input(SELECTION, "data"),
    )
    def draw(data: object) -> tuple[Any, Any, Any]:
        def view(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            return (
                table(rows(facts, chosen), chosen),
                chosen.label,
            ), "Place among all heads by size; 1 is the largest."

        (body, label), reading = shown(shelf, data, view, ("", ""))
        return body, label, reading


@dataclass(frozen=True)
class Row:
    """One quantity of the head. Numbers are NaN, and places 0, where there is none.

    Attributes:
        label: Of the quantity.
        here: On the selected image; None without one.
        here_place: Place among all heads there.
        mean, sd: Over the set.
        mean_place: Place of the mean among all heads.
        heads: Heads that have a place.
        why: Why the study does not have it; the numbers are then NaN.
    """

    label: str
    here: float | None = None
    here_place: int = 0
    mean: float = float("nan")
    sd: float = float("nan")
    mean_place: int = 0
    heads: int = 0
    why: str = ""


def rows(facts: StudyFacts, chosen: Selection) -> list[Row]:
    """The four metrics and the entropy; those that the study lacks, or that are damaged, say so."""
    wanted = [(words.label, "importance", metric) for metric, words in METRICS.items()]
    return [_row_or_why(facts, chosen, *each) for each in [*wanted, ("Entropy", "entropy", None)]]


def _row_or_why(facts: StudyFacts, chosen: Selection, label: str, name: str, metric: str | None) -> Row:
    study = facts.study
    if metric not in facts.metrics if metric else name not in study:
        return Row(label, why=study.attrs.get("left_out", {}).get(metric or name, "not in this study"))
    try:
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        here = None if image is None else of_image(study, name, image, metric)
        return row(label, here, summary(study, name, metric), chosen)
    except StoreError as error:
        return Row(label, why=str(error))


def row(label: str, here: Array | None, over_set: Summary, chosen: Selection) -> Row:
    """Of one quantity, (layer, head) each."""
    at = (chosen.layer, chosen.head)
    return Row(
        label,
        None if here is None else float(here[at]),
        0 if here is None else int(ranks(np.abs(here))[at]),
        float(over_set.mean[at]),
        float(over_set.sd[at]),
        int(ranks(np.abs(over_set.mean))[at]),
        over_set.mean.size,
    )


def table(found: list[Row], chosen: Selection) -> html.Table:
    """The rows as a table; without an image, without its columns."""
    with_image = chosen.image is not None
    head = ["", *(["this image", "place"] if with_image else []), "mean ± sd of the set", "place"]
    return html.Table(
        [
            html.Thead(html.Tr([html.Th(text) for text in head])),
            html.Tbody([_line(each, with_image, len(head)) for each in found]),
        ],
        className="numbers",
    )


def _line(each: Row, with_image: bool, columns: int) -> html.Tr:
    if each.why:
        said = html.Td(each.why, colSpan=columns - 1, className="absent", title=each.why)
        return html.Tr([html.Th(each.label), said])
    here = (
        [] if not with_image or each.here is None else [html.Td(number(each.here)), _place(each.here_place, each.heads)]
    )
    spread = html.Td([number(each.mean), html.Small(f" ± {number(each.sd)}")])
    return html.Tr([html.Th(each.label), *here, spread, _place(each.mean_place, each.heads)])


def _place(place: int, heads: int) -> html.Td:
    """As 3 / 36, with a bar that is full for the first."""
    if not place:
        return html.Td("–", className="place")
    filled = f"{100 * (heads - place + 1) / heads:.0f}%"
    bar = html.I(className="bar", style={"width": filled})
    return html.Td(
        [html.Span([str(place), html.Small(f" / {heads}")]), html.Div(bar, className="track")],
        className="place",
    )
