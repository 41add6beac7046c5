"""What is known of the selected head? Its numbers, here and over the set, and their place; its patterns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import Dash, Input, Output, html

from dashboard.data import Array, Shelf, StudyFacts, Summary, large, of_image, ranks, read, summary
from dashboard.selection import CARDS, SELECTION, Selection
from dashboard.views import choice, pruning
from dashboard.views.panel import panel, shown
from dashboard.words import METRICS, MIXED, QUANTITIES, count, number, share
from store.errors import StoreError
from store.study import Study

TABLE = "head-card-table"
PATTERNS = "head-card-patterns"
READING = "head-card-reading"
LABEL = "head-card-label"
NUMBERS = "head-card-numbers"
CARD = "card"


def layout() -> html.Section:
    numbers = html.Div([html.Div(id=TABLE), html.Div(id=PATTERNS, className="patterns")], id=NUMBERS)
    cards = choice.layout(CARD, {card: card for card in CARDS}, "What is shown of the head")
    tools = [html.Span(id=LABEL, className="selected"), cards]
    return panel("head-card", "Selected head", READING, [numbers, pruning.layout()], tools)


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(TABLE, "children"),
        Output(PATTERNS, "children"),
        Output(LABEL, "children"),
        Output(NUMBERS, "hidden"),
        Output(pruning.BODY, "hidden"),
        Output(READING, "children"),
        Input(SELECTION, "data"),
    )
    def draw(data: object) -> tuple[Any, ...]:
        def view(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            if chosen.card == "pruning":
                return ("", "", chosen.label, True, False), ""  # it has its own line on how to read it
            numbers, named = table(rows(facts, chosen), chosen), patterns(facts, chosen)
            return (numbers, named, chosen.label, False, True), reading(facts, chosen)

        drawn, said = shown(shelf, data, view, ("", "", "", False, True))
        return *drawn, said

    choice.register(app, shelf, CARD, lambda facts: {})


def reading(facts: StudyFacts, chosen: Selection) -> str:
    """How to read the numbers."""
    here = "" if chosen.image is None else "Here: on this image. "
    return f"{here}Place: among all {count(facts.num_layers * facts.num_heads, 'head')} by size; 1 is the largest."


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
    """The four metrics, the entropy and the object AUCs; those that the study lacks, or that are damaged, say so."""
    wanted: list[tuple[str, str, str | None]]
    wanted = [(words.label, "importance", metric) for metric, words in METRICS.items()]
    wanted += [(label, name, None) for name, label in QUANTITIES.items()]
    if "object_auc" not in facts.study and "cls_object_auc" not in facts.study:
        wanted.pop()  # one line says for both why
    return [_row_or_why(facts, chosen, *each) for each in wanted]


def _row_or_why(facts: StudyFacts, chosen: Selection, label: str, name: str, metric: str | None) -> Row:
    study = facts.study
    if metric not in facts.metrics if metric else name not in study:
        return Row(label, why=_absence(study, metric or name))
    try:
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        here = None if image is None else of_image(study, name, image, metric)
        return row(label, here, summary(study, name, metric), chosen)
    except StoreError as error:
        return Row(label, why=str(error))


def _absence(study: Study, name: str) -> str:
    return str(study.attrs.get("left_out", {}).get(name, "not in this study"))


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
    head = ["", *(["here", "place"] if with_image else []), "set: mean ± sd", "place"]
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
    """As 3, with a bar that is full for the first."""
    if not place:
        return html.Td("–", className="place")
    filled = f"{100 * (heads - place + 1) / heads:.0f}%"
    bar = html.I(className="bar", style={"width": filled})
    return html.Td(
        [html.Span(str(place)), html.Div(bar, className="track")],
        className="place",
        title=f"of {heads} heads",
    )


# --- patterns ---


@dataclass(frozen=True)
class Named:
    """The pattern of one head.

    Attributes:
        name: On the selected image, or, without one, the most frequent over the set; None for mixed.
        score: Of that pattern on that image, 0 to 1; NaN without an image, or for mixed.
        share: Share of images on which the head has that name, or is mixed as well.
        on_image: Whether it is of one image.
    """

    name: str | None
    score: float
    share: float
    on_image: bool

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection, lead: str) -> "Named":
        """Of a study that has patterns; `lead` is "" for those of patches, "cls_" for those of CLS."""
        names = large(facts.study, f"{lead}pattern_name")[:, chosen.layer, chosen.head]
        words = read(facts.study, f"{lead}pattern")
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        own = int(np.bincount(names.astype(np.int64) + 1).argmax()) - 1 if image is None else int(names[image])
        score = float("nan")
        if image is not None and own >= 0:
            score = float(read(facts.study, f"{lead}pattern_score", image)[chosen.layer, chosen.head, own])
        name = str(words[own]) if own >= 0 else None
        return cls(name, score, float((names == own).mean()), image is not None)

    def said(self) -> list[Any]:
        """As self 0.93, on 98 % of images."""
        score = f" {number(self.score)}" if np.isfinite(self.score) else ""
        return [html.B(self.name or MIXED), score, html.Div(f"on {share(self.share)} of images")]


def patterns(facts: StudyFacts, chosen: Selection) -> html.Dl:
    """The head's patterns and whether they depend on the picture; what the study lacks says why."""
    lines = [
        ("Patch pattern", "pattern_name", lambda: Named.of(facts, chosen, "").said()),
        ("CLS pattern", "cls_pattern_name", lambda: Named.of(facts, chosen, "cls_").said()),
        ("Content relevance", "content_relevance", lambda: relevance(facts, chosen)),
    ]
    return html.Dl([part for label, name, said in lines for part in _term(facts.study, label, name, said)])


def _term(study: Study, label: str, name: str, said: Callable[[], Any]) -> list[Any]:
    try:
        why = "" if name in study else _absence(study, name)
        body = why or said()
    except StoreError as error:
        why = body = str(error)
    return [html.Dt(label), html.Dd(body, className="absent" if why else "", title=why)]


def relevance(facts: StudyFacts, chosen: Selection) -> list[Any]:
    """The number, and what its ends mean."""
    value = float(read(facts.study, "content_relevance")[chosen.layer, chosen.head])
    said = "0: the same attention on every image; 1: unrelated between images"
    return [html.B(number(value)), html.Div("0 fixed, 1 by content", title=said)]
