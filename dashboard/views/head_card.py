"""What is known of the selected head? Its numbers, here and over the set, and their place; its patterns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Output, html

from dashboard import graphs
from dashboard.data import Array, StudyFacts, Summary, large, members, of_image, ranks, read, summary
from dashboard.drawing import BODY, Drawing
from dashboard.exports import Columns, Export, opening
from dashboard.selection import Selection
from dashboard.theme import Palette, palette
from dashboard.views.panel import panel
from dashboard.words import METRICS, MIXED, QUANTITIES, count, number, ordinal, share
from store.errors import StoreError
from store.study import Study

TABLE = "head-card-table"
PATTERNS = "head-card-patterns"
READING = "head-card-reading"
LABEL = "head-card-label"
BASKET = "head-card-basket"  # importance.js says whether the head is in it

MANY_HEADS = 100  # their places are wide
# What is known of a head: label, array and metric of each quantity.
ALL_QUANTITIES: tuple[tuple[str, str, str | None], ...] = (
    *((words.label, "importance", metric) for metric, words in METRICS.items()),
    *((label, name, None) for name, label in QUANTITIES.items()),
)


def layout() -> html.Section:
    facts = html.Div([html.Div(id=TABLE), html.Div(id=PATTERNS)], className="head-facts")
    pressed: dict[str, Any] = {"aria-pressed": "false"}
    said = "Heads in the basket are pruned together"
    basket = html.Button("+ basket", id=BASKET, className="option basket", title=said, **pressed)
    tools = [html.Span(id=LABEL, className="selected"), basket]
    return panel("head-card", "Selected head", READING, facts, tools)


def draw(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    """The table, the patterns, the head's name, and its place among all heads."""
    found = rows(facts, chosen)
    return table(found, chosen), patterns(facts, chosen), chosen.label, reading(found, chosen)


def blank(colours: Palette) -> tuple[Any, ...]:
    return "", "", ""


DRAWING = Drawing(
    outputs=(
        Output(TABLE, BODY),
        Output(PATTERNS, BODY),
        Output(LABEL, BODY),
        Output(READING, BODY),
    ),
    fields=("images", "image", "layer", "head", "metric"),
    draw=draw,
    blank=blank,
)


def reading(found: list["Row"], chosen: Selection) -> str:
    """The head's place by the metric that is picked."""
    label = METRICS[chosen.metric].label
    picked = next(row for row in found if row.label == label)
    places = [
        f"{ordinal(place)} {where}"
        for place, where in ((picked.here_place, "here"), (picked.mean_place, "in the set"))
        if place
    ]
    return f"{label}: {', '.join(places) or 'no place'}, of {count(picked.heads, 'head')}."


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
    wanted = list(ALL_QUANTITIES)
    if "object_auc" not in facts.study and "cls_object_auc" not in facts.study:
        wanted.pop()  # one line says for both why
    return [_row_or_why(facts, chosen, *each) for each in wanted]


def _is_there(facts: StudyFacts, name: str, metric: str | None) -> bool:
    return metric in facts.metrics if metric else name in facts.study


def _row_or_why(facts: StudyFacts, chosen: Selection, label: str, name: str, metric: str | None) -> Row:
    study = facts.study
    if not _is_there(facts, name, metric):
        return Row(label, why=_absence(study, metric or name))
    try:
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        here = None if image is None else of_image(study, name, image, metric)
        return row(label, here, summary(study, name, metric, chosen.images), chosen)
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
    place = html.Th("#", title="Place among all heads by size; 1 is the largest", className="place")
    here = [html.Th("here", title="On the selected image"), place] if with_image else []
    mean = html.Th(["set", html.Small(" ± sd")], title="Mean and standard deviation over the image set")
    head = [html.Th(""), *here, mean, place]
    return html.Table(
        [html.Thead(html.Tr(head)), html.Tbody([_line(each, with_image, len(head)) for each in found])],
        className="numbers many" if with_image and found[0].heads >= MANY_HEADS else "numbers",
    )


def _line(each: Row, with_image: bool, columns: int) -> html.Tr:
    if each.why:
        said = html.Td(each.why, colSpan=columns - 1, className="absent", title=each.why)
        return html.Tr([html.Th(each.label), said])
    here = []
    if with_image and each.here is not None:
        here = [html.Td(number(each.here)), _place(each.here_place, each.heads)]
    spread = f" ± {number(each.sd)}"
    mean = html.Td([number(each.mean), html.Small(spread)], title=f"{number(each.mean)}{spread}")
    return html.Tr([html.Th(each.label), *here, mean, _place(each.mean_place, each.heads)])


def _place(place: int, heads: int) -> html.Td:
    """As 3, with a bar, where there is room, that is full for the first."""
    if not place:
        return html.Td("–", className="place")
    filled = f"{100 * (heads - place + 1) / heads:.0f}%"
    bar = html.I(className="bar", style={"width": filled})
    said = f"{ordinal(place)} of {count(heads, 'head')}"
    return html.Td([str(place), html.Div(bar, className="track")], className="place", title=said)


# --- patterns ---

SHARE = "its score, and the share of the set's images on which the head has it"
# What the patterns are, by array.
TOLD = {
    "pattern_name": f"Pattern of the attention between patches, {SHARE}",
    "cls_pattern_name": f"Pattern of the attention from and to CLS, {SHARE}",
    "content_relevance": "0: the same attention on every image; 1: unrelated between images",
}


@dataclass(frozen=True)
class Named:
    """The pattern of one head.

    Attributes:
        name: On the selected image, or, without one, the most frequent over the set; None for mixed.
        score: Of that pattern on that image, 0 to 1; NaN without an image, or for mixed.
        share: Share of the set's images on which the head has that name, or is mixed as well; NaN of no images.
    """

    name: str | None
    score: float
    share: float

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection, lead: str) -> "Named":
        """Of a study that has patterns; `lead` is "" for those of patches, "cls_" for those of CLS."""
        every = large(facts.study, f"{lead}pattern_name")[:, chosen.layer, chosen.head].astype(np.int64)
        words = read(facts.study, f"{lead}pattern")
        inside = members(facts.study, chosen.images)
        names = every if inside is None else every[inside]
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        own = int(np.bincount(names + 1, minlength=1).argmax()) - 1 if image is None else int(every[image])
        score = float("nan")
        if image is not None and own >= 0:
            score = float(read(facts.study, f"{lead}pattern_score", image)[chosen.layer, chosen.head, own])
        alike = float((names == own).mean()) if names.size else float("nan")
        return cls(str(words[own]) if own >= 0 else None, score, alike)

    def said(self) -> list[Any]:
        """As self 0.93 · 98 % of images."""
        score = f" {number(self.score)} ·" if np.isfinite(self.score) else ""
        of_images = html.Span([f" {share(self.share)}", html.Span(" of images", className="more")])
        return [html.B(self.name or MIXED), score, of_images]


def patterns(facts: StudyFacts, chosen: Selection) -> html.Dl:
    """The head's patterns and whether they depend on the picture; what the study lacks says why."""
    lines = [
        ("Patch pattern", "pattern_name", lambda: Named.of(facts, chosen, "").said()),
        ("CLS pattern", "cls_pattern_name", lambda: Named.of(facts, chosen, "cls_").said()),
        (["Content", html.Span(" relevance", className="more")], "content_relevance", lambda: relevance(facts, chosen)),
    ]
    return html.Dl([_term(facts.study, *line) for line in lines])


def _term(study: Study, label: Any, name: str, said: Callable[[], Any]) -> html.Div:
    try:
        why = "" if name in study else _absence(study, name)
        body = why or said()
    except StoreError as error:
        why = body = str(error)
    return html.Div([html.Dt(label), html.Dd(body, className="absent" if why else "", title=why or TOLD[name])])


def relevance(facts: StudyFacts, chosen: Selection) -> list[Any]:
    """The number, and what its ends mean."""
    value = float(read(facts.study, "content_relevance")[chosen.layer, chosen.head])
    return [html.B(number(value)), html.Span(f" ({TOLD['content_relevance']})", className="more")]


# --- what leaves the page ---


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """The table, a row a quantity; what the study lacks has none."""
    found = [row for row in rows(facts, chosen) if not row.why]
    columns: dict[str, list[Any]] = {
        "quantity": [row.label for row in found],
        "mean": [row.mean for row in found],
        "sd": [row.sd for row in found],
        "place": [row.mean_place for row in found],
    }
    if chosen.image is not None:
        columns["image"] = [row.here for row in found]
        columns["image_place"] = [row.here_place for row in found]
    return columns


def python(facts: StudyFacts, chosen: Selection) -> str:
    """Lines that give `numbers` from the store alone."""
    found = [(label, name, metric) for label, name, metric in ALL_QUANTITIES if _is_there(facts, name, metric)]
    arrays = {label: (name, facts.study.metric_index(metric)) if metric else (name,) for label, name, metric in found}
    image = None if chosen.image is None else facts.image_indices[chosen.image]
    lines = [
        *opening(facts, chosen),
        f"head = {chosen.layer}, {chosen.head}",
        f"arrays = {arrays!r}",
        "numbers = {}",
        "",
        "",
        "def place(values):",
        '    """Of the head by size, 1 for the largest; 0 without a number."""',
        "    size = np.where(np.isfinite(values), np.abs(values), -1).ravel()",
        "    rank = np.ravel_multi_index(head, values.shape)",
        "    return int(np.argsort(-size, kind='stable').tolist().index(rank)) + 1 if size[rank] >= 0 else 0",
        "",
        "",
        "def add(column, value):",
        "    numbers.setdefault(column, []).append(value)",
        "",
        "",
        "for label, array in arrays.items():",
        "    values = study.read(*array).astype(float)  # (image, layer, head)",
        "    known = np.ma.masked_invalid(values[images])",
        "    mean = known.mean(axis=0).filled(np.nan)",
        '    add("quantity", label)',
        '    add("mean", mean[head])',
        '    add("sd", known.std(axis=0).filled(np.nan)[head])',
        '    add("place", place(mean))',
    ]
    if image is not None:
        lines += [f'    add("image", values[{image}][head])', f'    add("image_place", place(values[{image}]))']
    return "\n".join(lines) + "\n"


def figure(facts: StudyFacts, chosen: Selection) -> go.Figure:
    """The table as a picture."""
    colours, columns = palette(chosen.theme), numbers(facts, chosen)
    cells = [[each if isinstance(each, str | int) else number(each) for each in column] for column in columns.values()]
    look = {"fill_color": colours.panel, "line_color": colours.line, "align": ["left", "right"], "height": 24}
    table = go.Table(
        header={"values": [name.replace("_", " ") for name in columns], "font_color": colours.muted, **look},
        cells={"values": cells, "font_color": colours.text, **look},
    )
    height = 24 * (1 + len(cells[0])) + 2
    return graphs.figure(colours, [table], margin=dict.fromkeys("lrtb", 0), width=560, height=height)


EXPORTS = (Export("head-card", "head-card", "Selected head", numbers, python, "figure", figure),)
