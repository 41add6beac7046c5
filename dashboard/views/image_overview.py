"""Which images are alike in what their heads do? Each a point, placed by its importance vector (Fig. 1A).

Plotly draws the points. What marks a selection lies over them and is painted by overview.js, so that the points are
drawn anew only when a set, a metric or a colour is picked: at 50,000 images that takes half a second without a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Output, dcc, html

from analyses.registry import HEAD_NUMBERS, IMAGE_NUMBERS
from analyses.vocabulary import METRICS
from dashboard import access, graphs, pictures
from dashboard.data import (
    MOST_CLASS_COLOURS,
    Array,
    StudyFacts,
    indices_of,
    members,
    per_image,
    predictions,
    read,
)
from dashboard.drawing import BODY, TOLD, Drawing
from dashboard.exports import Columns, Export
from dashboard.graphs import Colouring
from dashboard.image_sets import Classes, Lasso, Prediction, conditions_of
from dashboard.routes import pictures_url
from dashboard.selection import Selection
from dashboard.theme import Palette, Ramp, palette
from dashboard.view import View
from dashboard.views import choice
from dashboard.views.head_importance import is_signed
from dashboard.views.panel import panel
from dashboard.words import count, number, short_name
from store.study import Study

NAME = "image-overview"
GRAPH = f"{NAME}-graph"
READING = f"{NAME}-reading"
LEGEND = f"{NAME}-legend"
TOOLTIP = f"{NAME}-tooltip"
MARKS = f"{NAME}-marks"  # what the browser lays over the points, or colours them with
LASSO = f"{NAME}-lasso"
PICTURE = f"{NAME}-picture"  # picture.js sends what is picked
COLOUR = "colour"

COLOUR_LABELS = {
    "class": "class",
    "probability": "P(target)",
    "prediction": "right/wrong",
    "importance": "importance",
    **{name: each.title for name, each in IMAGE_NUMBERS.items()},
}
OUTLINED = 4  # pixels; an outline of smaller points would hide their colour
MARGIN = 0.04  # of the layout's width and height, around it
# Where the importance scale ends: one image in twenty may lie beyond, else a few would take all the colours.
SCALED = 0.95

# The legend keeps its height while images are picked: the graph above it would be drawn anew. Beside the coloured
# classes there are the selected image's, the others, wrong and unknown.
CLASSES_A_ROW, OTHER_ENTRIES = 3, 3

Entries = list[Any]


def layout() -> html.Section:
    lasso = html.Button(
        "lasso",
        id=LASSO,
        className="option",
        title="Draw around images to make them the set. At any time: Shift and drag",
        **{"aria-pressed": "false"},
    )
    why_not = access.why_not("analyst", pictures.ACT) if access.is_known() else ""
    picture = html.Button(
        "+ picture",
        id=PICTURE,
        className="option",
        disabled=bool(why_not),
        title=why_not or "See what the heads do on a picture of your own. You can also drop it anywhere on this page",
    )
    body = [
        graphs.graph(GRAPH, zoom=True),
        dcc.Tooltip(id=TOOLTIP, direction="right", className="thumbnail-tooltip"),
        choice.layout(COLOUR, COLOUR_LABELS, "Colour of the points"),
        html.Div(id=LEGEND, className="legend"),
    ]
    return panel(NAME, "Image overview", READING, body, [lasso, picture])


def reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the points cannot be coloured by some of the colours, by colour."""
    why = "no labels in this study" if "probability" in facts.study else "the model has no classifier"
    left_out = facts.study.attrs.get("left_out", {})
    return {
        colour: left_out.get(colour, "not in this study") if colour in IMAGE_NUMBERS else why
        for colour in COLOUR_LABELS
        if colour not in facts.colours
    }


# --- the points ---


def draw(facts: StudyFacts, chosen: Selection) -> tuple[go.Figure, str]:
    """The points, and how to read them."""
    study = facts.study
    inside = members(study, chosen.images)
    vector = vector_of(study, chosen.metric)
    points = Points(
        read(study, "image_layout", study.vectors.index(vector)),
        colouring(facts, chosen),
        wrong(study),
        inside,
        lassos(chosen.images, vector),
        f"{facts.content} {vector}",
    )
    meta = {"drawn_for": drawn_for(facts, chosen), "pictures": pictures_url(facts)}
    return points.figure(palette(chosen.theme), meta), reading(vector, points.placed, inside)


def drawn_for(facts: StudyFacts, chosen: Selection) -> str:
    """Equal for figures of the same points: what is sent beside them is for one figure and no other."""
    return f"{facts.content} {chosen.images} {chosen.metric} {chosen.colour} {chosen.theme}"


def vector_of(study: Study, metric: str) -> str:
    """Which vectors the images are laid out by: as in the paper, P_pruned for the probability metric."""
    vector = HEAD_NUMBERS[metric].drawn
    return vector if vector in study.vectors else study.vectors[0]


def lassos(images: str, vector: str) -> tuple[Lasso, ...]:
    """The lassos of a set that were drawn on this layout; on another they would lie anywhere."""
    return tuple(each for each in conditions_of(images) if isinstance(each, Lasso) and each.vector == vector)


def wrong(study: Study) -> Array:
    """Which images are predicted wrongly, as far as their class is known."""
    if "probability" not in study:
        return np.zeros(study.sizes["image"], bool)
    told = predictions(study)
    return np.asarray((told.label >= 0) & (told.label != told.predicted))


def reading(vector: str, placed: Array, inside: Array | None = None) -> str:
    """How many images are in the set, how many have no place, and how to read the points."""
    parts = [] if inside is None else [f"{int(inside.sum()):,} of {count(len(inside), 'image')}."]
    if not placed.all():
        parts.append(f"{count(int((~placed).sum()), 'image')} not drawn: not finite.")
    by = "P(target), each head pruned" if vector == "pruned_probability" else f"{METRICS[vector].title} of each head"
    return " ".join([*parts, f"Near: alike in {by}."])


@dataclass(frozen=True)
class Points:
    """What is drawn: one point an image.

    Attributes:
        xy: Places, (image, 2); NaN for an image without one.
        colouring: Their colours.
        wrong: Which are predicted wrongly, (image,); they are crosses.
        inside: Which are in the set, (image,), or None; those outside lie behind, small and grey.
        lassos: That are around some of them.
        uirevision: While it is the same, zoom is kept.
    """

    xy: Array
    colouring: Colouring
    wrong: Array
    inside: Array | None
    lassos: tuple[Lasso, ...]
    uirevision: str

    @property
    def placed(self) -> Array:
        """Which images have a place, (image,)."""
        return np.asarray(np.isfinite(self.xy).all(axis=1))

    def figure(self, colours: Palette, meta: dict[str, str] | None = None) -> go.Figure:
        """Each point has its image's index as customdata; the traces are "outside", "right" and "wrong"."""
        size = point_size(len(self.xy))
        placed = self.placed
        inside = placed if self.inside is None else placed & self.inside
        coloured = {"colorscale": colorscale(self.colouring, colours), "cmin": 0, "cmax": 255, "size": size}
        coloured["line"] = {"width": 0.5 if size > OUTLINED else 0, "color": colours.muted}
        dimmed = {"color": colours.unknown, "size": max(2, size / 2)}
        shown = shades(self.colouring)
        # A trace a shape: Plotly would check an array of shapes one by one, seconds for 20,000 images.
        traces = [
            self._points("outside", placed & ~inside, dimmed),
            self._points("right", inside & ~self.wrong, coloured | {"symbol": "circle"}, shown),
            self._points("wrong", inside & self.wrong, coloured | {"symbol": "x"}, shown),
        ]
        xaxis, yaxis = (
            # Given, so that another set does not move the points; by autorange, as Plotly zooms back to it alone.
            {"visible": False, "autorange": True, "autorangeoptions": {"minallowed": low, "maxallowed": high}}
            for low, high in (span(values[placed]) for values in self.xy.T)
        )
        return graphs.figure(
            colours,
            traces,
            margin={"l": 4, "r": 4, "t": 4, "b": 4},
            dragmode="pan",
            hovermode=False,  # overview.js finds the point under the pointer, pictures included
            uirevision=self.uirevision,
            shapes=[_outline(lasso, colours) for lasso in self.lassos],
            meta=meta or {},
            xaxis=xaxis,
            yaxis=yaxis,
        )

    def _points(self, name: str, of: Array, marker: dict[str, Any], shown: Array | None = None) -> go.Scattergl:
        images = np.flatnonzero(of).astype(np.int32)
        x, y = np.ascontiguousarray(self.xy[images].T)
        look = marker if shown is None else marker | {"color": shown[images]}
        return go.Scattergl(name=name, x=x, y=y, customdata=images, mode="markers", marker=look)


def span(values: Array) -> tuple[float, float]:
    """From the lowest value to the highest, with a margin; 0 to 1 of none."""
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = MARGIN * (high - low) or 1.0
    return low - room, high + room


def _outline(lasso: Lasso, colours: Palette) -> dict[str, Any]:
    path = "M" + "L".join(f"{x:.6g},{y:.6g}" for x, y in lasso.corners) + "Z"
    return {"type": "path", "path": path, "line": {"color": colours.faint, "width": 1, "dash": "4px,3px"}}


def point_size(images: int) -> int:
    """Pixels across: points must stay apart, and big enough to be hit."""
    return 9 if images <= 500 else 6 if images <= 5000 else 4 if images <= 20000 else 3


# --- their colours ---


def colouring(facts: StudyFacts, chosen: Selection) -> Colouring:
    """The colours of all images."""
    study, colours = facts.study, palette(chosen.theme)
    match chosen.colour:
        case "class":
            label = read(study, "label")
            return by_class(label, coloured_classes(label, chosen.images), colours)
        case "probability":
            # Without the palest colour: a point must be seen on the panel.
            return Colouring(predictions(study).probability, colours.sequential[1:], (0.0, 1.0))
        case "prediction":
            told = predictions(study)
            right = np.where((told.label >= 0) & (told.predicted >= 0), told.label == told.predicted, np.nan)
            return Colouring(right, (colours.wrong, colours.right), (0.0, 1.0), ("wrong", "right"))
        case "importance":
            values = per_image(study, chosen.metric, chosen.layer, chosen.head)
            return by_importance(values, is_signed(HEAD_NUMBERS[chosen.metric], values), colours)
        case name if name in IMAGE_NUMBERS:
            values = read(study, name).astype(np.float64)
            return by_importance(values, bool((values < 0).any()), colours)
    return Colouring(np.zeros(study.sizes["image"]), (colours.muted, colours.muted), (0.0, 1.0))


def coloured_classes(label: Array, images: str) -> tuple[int, ...]:
    """Which classes have a colour: all, or of too many those in the set, in the order in which they came to it."""
    present = np.unique(label[label >= 0])
    if len(present) <= MOST_CLASS_COLOURS:
        return tuple(present.tolist())
    return tuple(each for each in classes_of(images) if each in present)[:MOST_CLASS_COLOURS]


def classes_of(images: str) -> tuple[int, ...]:
    """The classes that a set names."""
    return next((each.classes for each in conditions_of(images) if isinstance(each, Classes)), ())


def by_class(label: Array, coloured: Sequence[int], colours: Palette) -> Colouring:
    """A colour for each of some classes; grey for the others, if there are any."""
    others = np.setdiff1d(label[label >= 0], coloured).size > 0
    values = np.where(label >= 0, 0.0, np.nan)
    for place, index in enumerate(coloured):
        values[label == index] = place + others
    ramp = (*[colours.faint] * others, *colours.classes[: len(coloured)])
    return Colouring(
        values, ramp or (colours.faint,), (-0.5, max(1, len(ramp)) - 0.5), tuple(map(str, coloured)) or ("",)
    )


def by_importance(values: Array, signed: bool, colours: Palette) -> Colouring:
    """One head's importance, or another number: about zero if it has a sign, else from zero."""
    known = np.abs(values[np.isfinite(values)])
    most = float(np.quantile(known, SCALED, method="higher")) if known.size else 0.0
    ends = colours.diverging[:2], colours.diverging[-2:]
    # The middle of the scale is darker than elsewhere: a point must be seen on the panel.
    ramp: Ramp = (*ends[0], colours.faint, *ends[1]) if signed else colours.sequential[1:]
    return Colouring(values, ramp, (-(most or 1.0) if signed else 0.0, most or 1.0))


def shades(told: Colouring) -> Array:
    """The colour of each point as a byte: 1 to 255 from the lowest to the highest, 0 for what has no value."""
    low, high = told.limits
    with np.errstate(invalid="ignore"):
        share = np.clip((told.values - low) / (high - low), 0, 1)
    return np.where(np.isfinite(told.values), 1 + np.round(254 * np.nan_to_num(share)), 0).astype(np.uint8)


def colorscale(told: Colouring, colours: Palette) -> list[list[float | str]]:
    """The colours of those bytes, from 0 to 255, as Plotly takes it."""
    edge = 0.5 / 255
    known = [[max(edge, (1 + 254 * float(share)) / 255), colour] for share, colour in told.colorscale]
    return [[0.0, colours.unknown], [edge, colours.unknown], [edge, told.ramp[0]], *known]


# --- what lies over the points, and beside them ---


def draw_legend(facts: StudyFacts, chosen: Selection) -> tuple[dict[str, Any], dict[str, int], Entries]:
    """What the browser lays over the points, and what colours and shapes stand for, with its rows."""
    told, colours = colouring(facts, chosen), palette(chosen.theme)
    same = same_class(facts, chosen, colours)
    marks = {
        "drawn_for": drawn_for(facts, chosen),
        "same": same and {"images": graphs.sent(same.images), "colour": same.colour},
        "shades": graphs.sent(shades(told)) if chosen.colour == "importance" else None,
    }
    entries = len(coloured_classes(read(facts.study, "label"), chosen.images)) + OTHER_ENTRIES
    rows = -(-entries // CLASSES_A_ROW) if chosen.colour == "class" else 2
    return marks, {"--rows": rows}, legend(facts, chosen, told, same)


@dataclass(frozen=True)
class SameClass:
    """The class of the selected image, where it has no colour among the points.

    Attributes:
        index: Of the class.
        images: Indices of its images in the set.
        colour: That the browser gives them.
    """

    index: int
    images: Array
    colour: str


def same_class(facts: StudyFacts, chosen: Selection, colours: Palette) -> SameClass | None:
    """The selected image's class; None where it has a colour already, or there is none."""
    if chosen.image is None or chosen.colour != "class":
        return None
    label = read(facts.study, "label")
    index = int(label[facts.image_indices[chosen.image]])
    coloured = coloured_classes(label, chosen.images)
    if index < 0 or index in coloured:
        return None
    inside = members(facts.study, chosen.images)
    images = np.flatnonzero((label == index) & (True if inside is None else inside)).astype(np.int32)
    return SameClass(index, images, (*colours.classes, colours.text)[len(coloured)])


def legend(facts: StudyFacts, chosen: Selection, told: Colouring, same: SameClass | None) -> Entries:
    """What the colours and shapes stand for. A click on a class, or on right and wrong, changes the set."""
    study, colours = facts.study, palette(chosen.theme)
    entries: Entries = []
    if chosen.colour == "class":
        entries += _classes(facts, chosen, told, same)
    elif chosen.colour == "prediction":
        entries.append(_verdict("right", colours.right, study, chosen.images))
        entries.append(_verdict("wrong", colours.wrong, study, chosen.images))
    elif chosen.colour != "plain":
        entries.append(_ramp(told, chosen))
    if wrong(study).any() and chosen.colour != "prediction":
        entries.append(_verdict("wrong", colours.muted, study, chosen.images))
    if not np.isfinite(told.values).all():
        entries.append(html.Span([_dot(colours.unknown), "unknown"], className="entry"))
    return entries


def _classes(facts: StudyFacts, chosen: Selection, told: Colouring, same: SameClass | None) -> Entries:
    label, names = read(facts.study, "label"), facts.study.class_names
    images = np.bincount(label[label >= 0], minlength=len(names))
    coloured, in_set = coloured_classes(label, chosen.images), classes_of(chosen.images)
    others = int((images > 0).sum()) - len(coloured) - (same is not None)
    entries: Entries = [
        _filter("class", index, short_name(names[index]), _dot(colour), index in in_set, int(images[index]))
        for index, colour in [
            *zip(coloured, told.ramp[len(told.ramp) - len(coloured) :], strict=True),
            *([(same.index, same.colour)] if same else []),
        ]
    ]
    if others:
        entries.append(html.Span([_dot(told.ramp[0]), count(others, "other class")], className="entry"))
    return entries


def _verdict(verdict: str, colour: str, study: Study, images: str) -> html.Button:
    told = predictions(study)
    is_right = (told.label >= 0) & (told.label == told.predicted)
    of = is_right if verdict == "right" else wrong(study)
    sign = html.I("✕", className="shape", style={"color": colour}) if verdict == "wrong" else _dot(colour)
    pressed = Prediction(verdict == "right") in conditions_of(images)
    return _filter("prediction", verdict, verdict, sign, pressed, int(of.sum()))


def _filter(kind: str, value: object, name: str, sign: html.I, pressed: bool, images: int) -> html.Button:
    """An entry that is also a condition of the set; overview.js sends the gesture."""
    does = "Click to take it out of the set" if pressed else "Click to have only such images in the set"
    return html.Button(
        [sign, html.Span(name)],
        className="entry",
        title=f"{name}: {count(images, 'image')}. {does}",
        **{"aria-pressed": str(pressed).lower(), "data-kind": kind, "data-value": str(value)},
    )


def _ramp(told: Colouring, chosen: Selection) -> html.Span:
    low, high = told.limits
    name, ends = "P(target)", (f"{low:g}", f"{high:g}")
    if chosen.colour == "importance" or chosen.colour in IMAGE_NUMBERS:
        of_head = f"{HEAD_NUMBERS[chosen.metric].axis}, {chosen.label}"
        name = of_head if chosen.colour == "importance" else IMAGE_NUMBERS[chosen.colour].title
        known = told.values[np.isfinite(told.values)]
        beyond = bool(known.size) and float(np.abs(known).max()) > high
        ends = "≤ " * (beyond and low < 0) + number(low), "≥ " * beyond + number(high)
    bar = html.I(className="ramp", style={"background": f"linear-gradient(to right, {', '.join(told.ramp)})"})
    return html.Span([f"{name} {ends[0]}", bar, ends[1]], className="entry")


def _dot(colour: str) -> html.I:
    return html.I(className="dot", style={"background": colour})


def blank(colours: Palette) -> tuple[go.Figure]:
    return (graphs.blank(colours),)


DRAWING = Drawing((Output(GRAPH, "figure"), Output(READING, BODY)), ("images", "metric", "colour"), draw, blank)
DRAWING_LEGEND = Drawing(
    (Output(MARKS, TOLD), Output(LEGEND, "style"), Output(LEGEND, BODY)),
    ("images", "image", "metric", "colour", "layer", "head"),
    draw_legend,
    lambda colours: (None, None),
)
DRAWINGS = (DRAWING, DRAWING_LEGEND)


# --- what leaves the page ---


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """What is drawn, a row an image."""
    study = facts.study
    x, y = read(study, "image_layout", study.vectors.index(vector_of(study, chosen.metric))).T
    inside = members(study, chosen.images)
    columns: dict[str, Any] = {"image": facts.image_ids, "x": x, "y": y}
    columns["in_set"] = np.ones(len(x), bool) if inside is None else inside
    if "probability" in study:
        told = predictions(study)
        columns |= {"label": told.label, "predicted": told.predicted, "probability": told.probability}
    if chosen.colour == "importance":
        columns["importance"] = per_image(study, chosen.metric, chosen.layer, chosen.head)
    if chosen.colour in IMAGE_NUMBERS:
        columns[chosen.colour] = read(study, chosen.colour)
    return columns


def python(facts: StudyFacts, chosen: Selection) -> str:
    """Lines that give `numbers` from the store alone."""
    study = facts.study
    vector = vector_of(study, chosen.metric)
    lines = [
        "import headscope",
        "import numpy as np",
        "",
        f"study = headscope.open_study({facts.name!r})",
        f'x, y = study.read("image_layout", study.vectors.index({vector!r})).T  # t-SNE of {vector}',
    ]
    if chosen.images:
        listed = indices_of(study, chosen.images).tolist()
        lines.append(f"in_set = np.isin(np.arange(len(x)), {listed})  # {chosen.images}")
    else:
        lines.append("in_set = np.ones(len(x), bool)")
    lines.append('numbers = {"image": study.image_ids, "x": x, "y": y, "in_set": in_set}')
    if "probability" in study:
        lines += [
            'probability, target = study.read("probability"), study.read("target")',
            "known = np.isfinite(probability).all(axis=1)",
            'numbers["label"] = study.read("label")  # -1: unknown',
            'numbers["predicted"] = np.where(known, probability.argmax(axis=1), -1)',
            'numbers["probability"] = np.where(target >= 0, probability[np.arange(len(x)), target], np.nan)',
        ]
    if chosen.colour == "importance":
        picked = HEAD_NUMBERS[chosen.metric]
        where = "" if picked.metric is None else f", study.metric_index({picked.metric!r})"
        where += ", slice(None)" * picked.per_image + f", {chosen.layer}, {chosen.head}"
        value = f"study.read({picked.array!r}{where})"
        lines.append(f'numbers["importance"] = {value if picked.per_image else f"np.full(len(x), {value})"}')
    if chosen.colour in IMAGE_NUMBERS:
        lines.append(f"numbers[{chosen.colour!r}] = study.read({chosen.colour!r})")
    return "\n".join(lines) + "\n"


EXPORTS = (Export(NAME, NAME, "Images", numbers, python, f"graph:{GRAPH}"),)


ABOUT = r"""
A point an image. Near means that the heads matter alike for two images.

**Read it.** Only nearness means something: the axes have no unit. Colour is the class, P(target), right or wrong, or
the selected head's importance; a cross is a wrong prediction in any colour. The *target* is the true class, or the
predicted one where no label is known.

**Computed.** Image $x$ has the vector of its values over all $l \cdot n$ heads; for *Probability* these are the
probabilities that are left when a head is pruned (Sec. 5.1, 6.1):

$$
v(x) = \big(P_{i,j}[\mathrm{target}]\big)_{i=0 \dots l-1,\; j=0 \dots n-1}
$$

t-SNE lays the vectors out in the plane: perplexity 30 or less, started from the principal components, the same in
every run. Images with a number that is not finite have no place.

Computed in `precompute/layout.py` · arrays `image_layout`, `probability`, `target`
"""

VIEW = View(
    "image-overview",
    layout,
    drawings=DRAWINGS,
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    row="",
    place=0,
)
