"""Which heads matter? One importance metric over all heads of all layers (Fig. 1B1 and 7)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Dash, Input, Output, html

from dashboard import graphs
from dashboard.data import Array, Shelf, StudyFacts, Summary, of_image, predictions, summary
from dashboard.selection import SELECTION, Selection, head_label
from dashboard.theme import Palette, faded, palette
from dashboard.views import choice
from dashboard.views.header import THEME
from dashboard.views.panel import panel, shown
from dashboard.words import METRICS, count, number

GRAPH = "head-importance-graph"
READING = "head-importance-reading"
METRIC = "metric"

MARKED_HEADS = 200  # up to so many heads each has a dot; more would touch
FEWEST_FOR_SD = 2


def layout() -> html.Section:
    metrics = choice.layout(METRIC, {name: words.label for name, words in METRICS.items()}, "Importance metric")
    return panel("head-importance", "Head importance", READING, graphs.graph(GRAPH), metrics)


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(Output(GRAPH, "figure"), Output(READING, "children"), Input(SELECTION, "data"), Input(THEME, "data"))
    def draw(data: object, theme: object) -> tuple[go.Figure, Any]:
        colours = palette(theme)

        def view(facts: StudyFacts, chosen: Selection) -> tuple[go.Figure, Any]:
            curve = Curve.of(facts, chosen)
            return importance_figure(curve, chosen, colours), reading(curve, chosen)

        return shown(shelf, data, view, graphs.blank(colours))

    choice.register(app, shelf, METRIC, reasons)


def reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the study lacks some of the metrics, by metric."""
    left_out = facts.study.attrs.get("left_out", {})
    return {name: left_out.get(name, "not in this study") for name in METRICS if name not in facts.metrics}


@dataclass(frozen=True)
class Curve:
    """What is drawn: a value a head, (layer, head).

    Attributes:
        over_set: Mean and standard deviation over all images.
        of_image: The selected image's own, or None.
        unpruned: The value with nothing pruned, for the dashed line, or None where it is no such metric.
    """

    over_set: Summary
    of_image: Array | None
    unpruned: float | None

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Curve":
        """Of a study and a selection."""
        study, name = facts.study, METRICS[chosen.metric].curve
        metric = chosen.metric if name == "importance" else None
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        unpruned = None
        if name == "pruned_probability":
            before = predictions(study).probability
            unpruned = float(before[image] if image is not None else _mean(before))
        row = None if image is None else of_image(study, name, image, metric)
        return cls(summary(study, name, metric), row, unpruned)

    @property
    def shown(self) -> Array:
        """The curve that is clicked, (layer, head)."""
        return self.over_set.mean if self.of_image is None else self.of_image


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def importance_figure(curve: Curve, chosen: Selection, colours: Palette) -> go.Figure:
    """Lines over all heads, layer by layer. A click reports x = layer · num_heads + head."""
    num_layers, num_heads = curve.over_set.mean.shape
    words = METRICS[chosen.metric]
    traces = [
        _spread(curve.over_set, colours),
        *_lines(curve, colours),
        _selected_point(curve, chosen, colours),
    ]
    return graphs.figure(
        colours,
        traces,
        margin={"l": 52, "r": 10, "t": 18, "b": 30},
        hovermode="x",
        hoverdistance=-1,  # the nearest head, wherever the pointer is
        clickmode="event",
        dragmode=False,
        uirevision="fixed",
        xaxis={
            "range": [-0.6, num_layers * num_heads - 0.4],
            "tickvals": [(layer + 0.5) * num_heads - 0.5 for layer in range(num_layers)],
            "ticktext": [f"L{layer}" for layer in range(num_layers)],
            "ticks": "",
            "showgrid": False,
            "fixedrange": True,
        },
        yaxis={
            "text": words.curve_axis,
            "fixedrange": True,
            "rangemode": "normal" if words.signed else "tozero",
            "nticks": 6,
        },
        shapes=[
            *(_shade(layer, num_heads, colours) for layer in range(1, num_layers, 2)),
            *_dashed(curve.unpruned, colours),
            _selected_line(chosen, num_heads, colours),
        ],
        annotations=[_selected_label(curve, chosen, num_heads, colours)],
    )


def _lines(curve: Curve, colours: Palette) -> list[go.Scatter]:
    """The mean alone; or the image's own curve over a faint mean. Only the last answers the pointer."""
    if curve.of_image is None:
        return [_line(curve.over_set.mean, colours.text, 1.8, "mean")]
    return [
        _line(curve.over_set.mean, faded(colours.muted, 0.6), 1.2),
        _line(curve.of_image, colours.text, 1.8, "this image"),
    ]


def _line(values: Array, colour: str, width: float, whose: str = "") -> go.Scatter:
    """One curve of (layer, head); it answers the pointer only if it says whose it is. NaN is a gap."""
    num_heads = values.shape[1]
    names = [f"{head_label(*divmod(rank, num_heads))} · {whose}" for rank in range(values.size)]
    hover = {"text": names, "hovertemplate": "%{text}: %{y:.3~g}<extra></extra>"}
    return go.Scatter(
        x=np.arange(values.size, dtype=np.float32),
        y=np.asarray(values, np.float32).ravel(),
        mode="lines+markers" if values.size <= MARKED_HEADS and whose else "lines",
        line={"color": colour, "width": width},
        marker={"size": 5, "color": colour},
        connectgaps=False,
        **(hover if whose else {"hoverinfo": "skip"}),
    )


def _spread(over_set: Summary, colours: Palette) -> go.Scatter:
    x, y = band(over_set)
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        fill="toself",
        fillcolor=faded(colours.muted, 0.15),
    )


def band(over_set: Summary) -> tuple[Array, Array]:
    """Outline of mean ± sd, x and y: a polygon for each run of heads that have both, NaN between polygons.

    It ends at 0, as all values of a curve do: they are probabilities and distances.
    """
    mean, sd = over_set.mean.ravel(), over_set.sd.ravel()
    known = np.isfinite(mean) & (over_set.counted.ravel() >= FEWEST_FOR_SD)
    x = np.arange(mean.size, dtype=np.float64)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    between = np.full(1, np.nan)
    around_x: list[Array] = [between[:0]]
    around_y: list[Array] = [between[:0]]
    for start, stop in edges.reshape(-1, 2):
        run = slice(start, stop)
        low, high = np.maximum(mean[run] - sd[run], 0), mean[run] + sd[run]
        around_x += [x[run], x[run][::-1], between]
        around_y += [high, low[::-1], between]
    return np.concatenate(around_x).astype(np.float32), np.concatenate(around_y).astype(np.float32)


def _shade(layer: int, num_heads: int, colours: Palette) -> dict[str, Any]:
    """Every second layer is shaded."""
    return {
        "type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1,
        "x0": layer * num_heads - 0.5, "x1": (layer + 1) * num_heads - 0.5,
        "fillcolor": faded(colours.muted, 0.07), "line": {"width": 0},
    }  # fmt: skip


def _dashed(unpruned: float | None, colours: Palette) -> list[dict[str, Any]]:
    """Where the curve would be with nothing pruned."""
    if unpruned is None or not np.isfinite(unpruned):
        return []
    line = {"color": colours.muted, "width": 1, "dash": "dash"}
    return [
        {
            "type": "line",
            "layer": "below",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": unpruned,
            "y1": unpruned,
            "line": line,
        }
    ]


def _selected_line(chosen: Selection, num_heads: int, colours: Palette) -> dict[str, Any]:
    rank = chosen.layer * num_heads + chosen.head
    line = {"color": colours.accent, "width": 2}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": rank, "x1": rank, "line": line}


def _selected_label(curve: Curve, chosen: Selection, num_heads: int, colours: Palette) -> dict[str, Any]:
    """The head's name and value, on the side of its line that has room."""
    rank = chosen.layer * num_heads + chosen.head
    value = number(float(curve.shown[chosen.layer, chosen.head]))
    return {
        "x": rank, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "borderpad": 1,
        "xanchor": "right" if rank > curve.shown.size / 2 else "left",
        "text": f"<b>{chosen.label}</b> {value}", "font": {"color": colours.accent},
    }  # fmt: skip


def _selected_point(curve: Curve, chosen: Selection, colours: Palette) -> go.Scatter:
    num_heads = curve.shown.shape[1]
    outline = {"color": colours.accent, "width": 3}
    return go.Scatter(
        x=[chosen.layer * num_heads + chosen.head],
        y=[float(curve.shown[chosen.layer, chosen.head])],
        mode="markers",
        hoverinfo="skip",
        cliponaxis=False,
        marker={"size": 10, "color": colours.panel, "line": outline},
    )


def reading(curve: Curve, chosen: Selection) -> str:
    """How to read the curve, and what is not in it."""
    whose = "Mean ± sd of the set." if curve.of_image is None else "Faint: mean ± sd."
    missing = int((~np.isfinite(curve.shown)).sum())
    gaps = f" {count(missing, 'gap')}: not finite." if missing else ""
    dashed = "" if curve.unpruned is None else f"Dashed, {number(curve.unpruned)}: none pruned. "
    return f"{METRICS[chosen.metric].curve_reading} {dashed}{whose}{gaps}"
