"""Which images are alike in what their heads do? Each a point, placed by its importance vector (Fig. 1A)."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, Patch, State, dcc, html, no_update

from dashboard import graphs
from dashboard.data import MOST_CLASS_COLOURS, Array, Shelf, StudyFacts, predictions, read
from dashboard.graphs import Colouring
from dashboard.routes import pictures_url
from dashboard.selection import SELECTION, Selection
from dashboard.theme import Palette, palette
from dashboard.views import choice
from dashboard.views.header import THEME
from dashboard.views.panel import panel, shown
from dashboard.words import METRICS, count, short_name
from store.study import Study

GRAPH = "image-overview-graph"
READING = "image-overview-reading"
LEGEND = "image-overview-legend"
TOOLTIP = "image-overview-tooltip"
PICTURES = "image-overview-pictures"  # address of the study's pictures, for the tooltip
DRAWN = "image-overview-drawn"  # what the points show; while it is the same, only the ring moves
COLOUR = "colour"

COLOUR_LABELS = {"class": "class", "probability": "P(target)", "prediction": "right/wrong"}
OUTLINED = 4  # pixels; an outline of smaller points would hide their colour
RING = 3  # the trace of the selected point's ring, over all others


def layout() -> html.Section:
    body = [
        graphs.graph(GRAPH, zoom=True),
        dcc.Tooltip(id=TOOLTIP, direction="right", className="thumbnail-tooltip"),
        html.Div(id=LEGEND, className="legend"),
        dcc.Store(id=PICTURES),
        dcc.Store(id=DRAWN),
    ]
    return panel(
        "image-overview", "Images", READING, body, choice.layout(COLOUR, COLOUR_LABELS, "Colour of the points")
    )


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(GRAPH, "figure"),
        Output(LEGEND, "children"),
        Output(PICTURES, "data"),
        Output(DRAWN, "data"),
        Output(READING, "children"),
        Input(SELECTION, "data"),
        Input(THEME, "data"),
        State(DRAWN, "data"),
    )
    def draw(data: object, theme: object, drawn: object) -> tuple[Any, ...]:
        colours = palette(theme)

        def view(facts: StudyFacts, chosen: Selection) -> tuple[tuple[Any, ...], Any]:
            overview = Overview.of(facts, chosen, colours)
            key = [overview.key(chosen, str(theme)), chosen.image]
            before = drawn if isinstance(drawn, list) and len(drawn) == len(key) else [None, None]
            if key == before:
                figure: Any = no_update
            else:
                figure = overview.moved_ring() if key[0] == before[0] else overview.figure(colours)
            return (figure, overview.legend(colours), pictures_url(facts), key), overview.reading

        shown_, reading = shown(shelf, data, view, (graphs.blank(colours), None, None, None))
        return *shown_, reading

    choice.register(app, shelf, COLOUR, reasons)

    app.clientside_callback(
        ClientsideFunction("page", "thumbnail"),
        Output(TOOLTIP, "show"),
        Output(TOOLTIP, "bbox"),
        Output(TOOLTIP, "children"),
        Input(GRAPH, "hoverData"),
        State(PICTURES, "data"),
    )


def reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the points cannot be coloured by some of the colours, by colour."""
    why = "no labels in this study" if "probability" in facts.study else "the model has no classifier"
    return {colour: why for colour in COLOUR_LABELS if colour not in facts.colours}


@dataclass(frozen=True)
class Overview:
    """What is drawn: one point an image.

    Attributes:
        xy: Places, (image, 2); NaN for an image without one.
        colouring: Their colours.
        wrong: Which are predicted wrongly, (image,); they are crosses.
        selected: Index of the selected image, or None.
        reading: How to read it.
        uirevision: While it is the same, zoom is kept.
    """

    xy: Array
    colouring: Colouring
    wrong: Array
    selected: int | None
    reading: str
    uirevision: str

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection, colours: Palette) -> "Overview":
        """Of a study and a selection."""
        study = facts.study
        vector = vector_of(study, chosen.metric)
        xy = read(study, "image_layout", study.vectors.index(vector))
        selected = None if chosen.image is None else facts.image_indices[chosen.image]
        wrong = np.zeros(len(xy), bool)
        if "probability" in study and study.has_labels:
            told = predictions(study)
            wrong = (told.label >= 0) & (told.label != told.predicted)
        return cls(
            xy,
            colouring(study, chosen.colour, selected, colours),
            wrong,
            selected,
            reading(vector),
            f"{facts.content} {vector}",
        )

    def key(self, chosen: Selection, theme: str) -> str:
        """Equal for equal points."""
        picked = chosen.image if chosen.colour == "class" and len(self.colouring.names) == 2 else ""
        return f"{self.uirevision} {chosen.colour} {theme} {picked}"

    def figure(self, colours: Palette) -> go.Figure:
        """A click or a hover reports the image's index as pointIndex."""
        size = point_size(len(self.xy))
        known = np.isfinite(self.colouring.values)
        coloured = {
            "color": self.colouring.values.astype(np.float32),
            "colorscale": self.colouring.colorscale,
            "cmin": self.colouring.limits[0],
            "cmax": self.colouring.limits[1],
        }
        # A trace a shape: Plotly would check an array of shapes one by one, seconds for 20,000 images.
        parts = (
            (known & ~self.wrong, coloured | {"symbol": "circle"}),
            (known & self.wrong, coloured | {"symbol": "x"}),
            (~known, {"color": colours.unknown}),
        )
        outline = {"width": 0.5 if size > OUTLINED else 0, "color": colours.muted}
        traces = [self._points(of, look | {"size": size, "line": outline}) for of, look in parts]
        ring = {"size": size + 9, "symbol": "circle-open", "color": colours.accent, "line": {"width": 3}}
        traces.append(go.Scattergl(**self._ring_place(), mode="markers", hoverinfo="skip", marker=ring))
        return graphs.figure(
            colours,
            traces,
            margin={"l": 4, "r": 4, "t": 4, "b": 4},
            dragmode="pan",
            clickmode="event",
            uirevision=self.uirevision,
            xaxis={"visible": False},
            yaxis={"visible": False},
        )

    def _points(self, of: Array, marker: dict[str, Any]) -> go.Scattergl:
        """Points of some images. The others are in it without a place: a point's number is its image's."""
        x, y = np.where(of, self.xy.T, np.float32(np.nan))
        return go.Scattergl(x=x, y=y, mode="markers", hoverinfo="none", marker=marker)

    def moved_ring(self) -> Patch:
        """The change of a drawn figure to this selection."""
        patch = Patch()
        for axis, place in self._ring_place().items():
            patch["data"][RING][axis] = {"dtype": "f4", "bdata": base64.b64encode(place.tobytes()).decode()}
        return patch

    def _ring_place(self) -> dict[str, Array]:
        place = self.xy[self.selected] if self.selected is not None else np.full(2, np.nan)
        return {axis: np.array([value], np.float32) for axis, value in zip("xy", place, strict=True)}

    def legend(self, colours: Palette) -> list[Any]:
        """What the colours and shapes stand for."""
        entries: list[Any] = []
        ramp, names = self.colouring.ramp, self.colouring.names
        if names:
            entries += [_entry(name, colour, "✕" * (name == "wrong")) for name, colour in zip(names, ramp, strict=True)]
        elif ramp[0] != ramp[-1]:
            bar = html.I(className="ramp", style={"background": f"linear-gradient(to right, {', '.join(ramp)})"})
            entries.append(html.Span([f"P(target) {self.colouring.limits[0]:g}", bar, f"{self.colouring.limits[1]:g}"]))
        placed = np.isfinite(self.xy).all(axis=1)
        if not np.isfinite(self.colouring.values[placed]).all():
            entries.append(_entry("unknown", colours.unknown))
        if self.wrong.any() and "wrong" not in names:
            entries.append(_entry("predicted wrong", colours.muted, "✕"))
        if not placed.all():
            entries.append(html.Span(f"{count(int((~placed).sum()), 'image')} not drawn: not finite"))
        return entries


def _entry(name: str, colour: str, shape: str = "") -> html.Span:
    """A dot, or a shape, and what it stands for."""
    dot = html.I(className="dot", style={"background": colour})
    return html.Span([html.I(shape, className="shape", style={"color": colour}) if shape else dot, name], title=name)


def vector_of(study: Study, metric: str) -> str:
    """Which vectors the images are laid out by: as in the paper, P_pruned for the probability metric."""
    vector = "pruned_probability" if metric == "probability" else metric
    return vector if vector in study.vectors else study.vectors[0]


def colouring(study: Study, colour: str, selected: int | None, colours: Palette) -> Colouring:
    """The colours of all images."""
    images = study.sizes["image"]
    match colour:
        case "class":
            return _by_class(read(study, "label"), study.class_names, selected, colours)
        case "probability":
            # Without the palest colour: a point must be seen on the panel.
            return Colouring(predictions(study).probability, colours.sequential[1:], (0.0, 1.0))
        case "prediction":
            told = predictions(study)
            right = np.where((told.label >= 0) & (told.predicted >= 0), told.label == told.predicted, np.nan)
            return Colouring(right, (colours.wrong, colours.right), (0.0, 1.0), ("wrong", "right"))
    return Colouring(np.zeros(images), (colours.muted, colours.muted), (0.0, 1.0))


def _by_class(label: Array, names: list[str], selected: int | None, colours: Palette) -> Colouring:
    """A colour a class; with more classes than colours, grey, but for the class of the selected image."""
    present = np.unique(label[label >= 0])
    values = np.full(len(label), np.nan)
    if len(present) <= MOST_CLASS_COLOURS:
        values[label >= 0] = np.searchsorted(present, label[label >= 0])
        shown_ = tuple(short_name(names[index]) for index in present)
        return Colouring(values, colours.classes[: len(present)], (-0.5, len(present) - 0.5), shown_)
    chosen = label[selected] if selected is not None and label[selected] >= 0 else None
    values[label >= 0] = (label == chosen)[label >= 0] if chosen is not None else 0
    same = short_name(names[chosen]) if chosen is not None else "class of the selected image"
    return Colouring(
        values,
        (colours.faint, colours.classes[0]),
        (-0.5, 1.5),
        (f"{len(present) - 1:,} other classes", same),
    )


def reading(vector: str) -> str:
    """How to read the points."""
    by = "P(target), each head pruned" if vector == "pruned_probability" else f"{METRICS[vector].label} of each head"
    return f"Neighbours are alike in {by}."


def point_size(images: int) -> int:
    """Pixels across: points must stay apart, and big enough to be hit."""
    return 9 if images <= 500 else 6 if images <= 5000 else 4 if images <= 20000 else 3
