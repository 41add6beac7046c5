"""What is known of the selected head? Its numbers, here and over the set, and their place; its patterns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Output, html

from analyses.numbers import head_numbers
from analyses.registry import ARRAYS, HEAD_NUMBERS, analysis_of
from analyses.vocabulary import MAPS, METRICS, MIXED, AttentionMap, HeadNumber
from dashboard import graphs
from dashboard.data import Array, StudyFacts, Summary, large, members, of_image, ranks, read, summary
from dashboard.drawing import BODY, Drawing
from dashboard.exports import Columns, Export, opening
from dashboard.selection import Selection
from dashboard.theme import Palette, palette
from dashboard.view import View
from dashboard.views.panel import panel
from dashboard.words import count, number, ordinal, share
from store.errors import StoreError
from store.study import Study

TABLE = "head-card-table"
PATTERNS = "head-card-patterns"
READING = "head-card-reading"
LABEL = "head-card-label"
BASKET = "head-card-basket"  # importance.js says whether the head is in it

MANY_HEADS = 100  # their places are wide


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
    picked = next((row for row in found if row.name == chosen.metric), None)
    if picked is None:  # one number a head of the whole study stands below the table
        return f"{HEAD_NUMBERS[chosen.metric].title}: one number a head, of the whole study."
    places = [
        f"{ordinal(place)} {where}"
        for place, where in ((picked.here_place, "here"), (picked.mean_place, "in the set"))
        if place
    ]
    return f"{picked.label}: {', '.join(places) or 'no place'}, of {count(picked.heads, 'head')}."


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
        name: Of the number, as in HEAD_NUMBERS.
    """

    label: str
    here: float | None = None
    here_place: int = 0
    mean: float = float("nan")
    sd: float = float("nan")
    mean_place: int = 0
    heads: int = 0
    why: str = ""
    name: str = ""


def quantities(study: Study) -> list[HeadNumber]:
    """The numbers of a head that a study can have, and those that this one has of packages not installed here."""
    return list((HEAD_NUMBERS | head_numbers(study.specs)).values())


def rows(facts: StudyFacts, chosen: Selection) -> list[Row]:
    """The numbers that each image has its own of; those that the study lacks, or that are damaged, say so.

    A package's number that is picked comes first, where it is seen without scrolling.
    """
    wanted = [each for each in quantities(facts.study) if each.per_image and not _is_said_before(facts, each)]
    wanted.sort(key=lambda each: each.name in METRICS or each.name != chosen.metric)
    return [_row_or_why(facts, chosen, each) for each in wanted]


def _is_there(facts: StudyFacts, each: HeadNumber) -> bool:
    return each.metric in facts.metrics if each.metric else each.array in facts.study


def _is_said_before(facts: StudyFacts, each: HeadNumber) -> bool:
    """Whether the study has no number of its analysis, so that the line of the first says why for all."""
    if each.metric or each.array in facts.study:
        return False
    alike = head_numbers(analysis_of(each.array).arrays)
    return each.array != next(iter(alike)) and not any(name in facts.study for name in alike)


def _row_or_why(facts: StudyFacts, chosen: Selection, each: HeadNumber) -> Row:
    study = facts.study
    if not _is_there(facts, each):
        return Row(each.title, why=_absence(study, each.name), name=each.name)
    try:
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        here = of_image(study, each.array, image, each.metric) if image is not None and each.per_image else None
        found = row(each.title, here, summary(study, each.array, each.metric, chosen.images), chosen)
        return replace(found, name=each.name)
    except StoreError as error:
        return Row(each.title, why=str(error), name=each.name)


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
PATCH_PATTERN = f"Pattern of the attention between patches, {SHARE}"
CLS_PATTERN = f"Pattern of the attention from and to CLS, {SHARE}"


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
    def of(cls, facts: StudyFacts, chosen: Selection, part: AttentionMap) -> "Named":
        """Of a study that has patterns of that part of the attention."""
        every = large(facts.study, part.pattern)[:, chosen.layer, chosen.head].astype(np.int64)
        words = read(facts.study, part.patterns)
        inside = members(facts.study, chosen.images)
        names = every if inside is None else every[inside]
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        own = int(np.bincount(names + 1, minlength=1).argmax()) - 1 if image is None else int(every[image])
        score = float("nan")
        if image is not None and own >= 0:
            score = float(read(facts.study, part.score, image)[chosen.layer, chosen.head, own])
        alike = float((names == own).mean()) if names.size else float("nan")
        return cls(str(words[own]) if own >= 0 else None, score, alike)

    def said(self) -> list[Any]:
        """As self 0.93 · 98 % of images."""
        score = f" {number(self.score)} ·" if np.isfinite(self.score) else ""
        of_images = html.Span([f" {share(self.share)}", html.Span(" of images", className="more")])
        return [html.B(self.name or MIXED), score, of_images]


def patterns(facts: StudyFacts, chosen: Selection) -> html.Dl:
    """The head's patterns, and its numbers of the whole study; what the study lacks says why."""
    study, patch, cls = facts.study, MAPS["patch"], MAPS["cls"]
    lines = [
        _term(study, "Patch pattern", patch.pattern, PATCH_PATTERN, lambda: Named.of(facts, chosen, patch).said()),
        _term(study, "CLS pattern", cls.pattern, CLS_PATTERN, lambda: Named.of(facts, chosen, cls).said()),
    ]
    return html.Dl([*lines, *(_once(facts, chosen, each) for each in quantities(study) if not each.per_image)])


def _term(study: Study, label: Any, name: str, title: str, said: Callable[[], Any], kind: str = "") -> html.Div:
    try:
        why = "" if name in study else _absence(study, name)
        body = why or said()
    except StoreError as error:
        why = body = str(error)
    described = html.Dd(body, className="absent" if why else "", title=why or title)
    return html.Div([html.Dt(label), described], className=kind)


def _once(facts: StudyFacts, chosen: Selection, each: HeadNumber) -> html.Div:
    """A number of the whole study, and what its ends mean; of its title the first word, and the rest where it fits."""

    def said() -> list[Any]:
        value = float(read(facts.study, each.array)[chosen.layer, chosen.head])
        return [html.B(number(value)), *([html.Span(f" ({unit})", className="more")] if unit else [])]

    study = facts.study
    row = (study.specs if each.array in study else ARRAYS)[each.array]
    first, blank, more = each.title.partition(" ")
    label = [first, html.Span(blank + more, className="more")] if more else first
    unit = row.unit
    return _term(study, label, each.array, unit or row.doc, said, "once")


# --- what leaves the page ---


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """The table, and the numbers of the whole study, a row a quantity; what the study lacks has none."""
    every = [_row_or_why(facts, chosen, each) for each in quantities(facts.study)]
    found = [row for row in every if not row.why]
    columns: dict[str, list[Any]] = {
        "quantity": [row.label for row in found],
        "mean": [row.mean for row in found],
        "sd": [row.sd for row in found],
        "place": [row.mean_place for row in found],
    }
    if chosen.image is not None:
        columns["image"] = [float("nan") if row.here is None else row.here for row in found]
        columns["image_place"] = [row.here_place for row in found]
    return columns


def python(facts: StudyFacts, chosen: Selection) -> str:
    """Lines that give `numbers` from the store alone."""
    arrays = {
        each.title: (each.array, *([facts.study.metric_index(each.metric)] if each.metric else []))
        for each in quantities(facts.study)
        if _is_there(facts, each)
    }
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
        "    values = study.read(*array).astype(float)  # (image, layer, head), or (layer, head) of the whole study",
        "    per_image = values.ndim == 3",
        "    known = np.ma.masked_invalid(values[images] if per_image else values[None])",
        "    mean = known.mean(axis=0).filled(np.nan)",
        '    add("quantity", label)',
        '    add("mean", mean[head])',
        '    add("sd", known.std(axis=0).filled(np.nan)[head] if per_image else np.nan)',
        '    add("place", place(mean))',
    ]
    if image is not None:
        lines += [
            f'    add("image", values[{image}][head] if per_image else np.nan)',
            f'    add("image_place", place(values[{image}]) if per_image else 0)',
        ]
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


ABOUT = r"""
The selected head in numbers: on this image, over the image set, and its place among all heads.

**Read it.** *Entropy*: 0, all attention at one distance; 1, alike at all. *Pattern*: the shape of the attention, with
a score of 0 to 1, and on how many images the head has it; *mixed* is no one shape. *Content relevance*: 0, the same
attention on every image; 1, unrelated between images. *Object AUC*: the chance that a pixel of the object gets more
attention than one of the background; 0.5, it does not tell them apart.

**Computed.** Importance and entropy as in their panels. Content relevance, over all pairs of the $m$ images of the
study, $r$ being Pearson's correlation of the attention between patches:

$$
1 - \frac{2}{m (m - 1)} \sum_{x < y} r(A_x, A_y)
$$

Object AUC, with $a$ the mean attention that a patch receives from patches (*CLS object AUC*: from CLS):

$$
\Pr(a_{\mathrm{object}} > a_{\mathrm{background}}) + \tfrac12 \Pr(a_{\mathrm{object}} = a_{\mathrm{background}})
$$

The paper names patterns by eye (Fig. 13, Sec. 6.3.1); the scores, and these two numbers, are Headscope's own.

Computed in `precompute/pattern_names.py`, `precompute/content.py` · formulas of the patterns: `docs/patterns.md`
"""

VIEW = View(
    "head-card",
    layout,
    drawings=(DRAWING,),
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    row="about-head",
    place=3,
)
