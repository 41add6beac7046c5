"""Where in the model are the heads that matter? One importance metric as a map, a row a layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Dash, Input, Output, html

from dashboard import graphs
from dashboard.data import Array, Shelf, StudyFacts, of_image, summary
from dashboard.selection import SELECTION, Selection, head_label
from dashboard.theme import Palette, colorscale, palette
from dashboard.views.header import THEME
from dashboard.views.panel import panel, shown
from dashboard.words import METRICS, count

GRAPH = "head-grid-graph"
READING = "head-grid-reading"

LABELLED = 8  # up to so many rows or columns each has a number; twice as many, every second


def layout() -> html.Section:
    return panel("head-grid", "Layers and heads", READING, graphs.graph(GRAPH))


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(Output(GRAPH, "figure"), Output(READING, "children"), Input(SELECTION, "data"), Input(THEME, "data"))
    def draw(data: object, theme: object) -> tuple[go.Figure, Any]:
        colours = palette(theme)

        def view(facts: StudyFacts, chosen: Selection) -> tuple[go.Figure, Any]:
            grid = Grid.of(facts, chosen)
            return grid_figure(grid.values, chosen, colours), reading(grid)

        return shown(shelf, data, view, graphs.blank(colours))


@dataclass(frozen=True)
class Grid:
    """What is drawn.

    Attributes:
        values: Importance of each head, (layer, head).
        whose: Of which images.
    """

    values: Array
    whose: str

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Grid":
        """Of a study and a selection."""
        if chosen.image is None:
            return cls(
                summary(facts.study, "importance", chosen.metric).mean,
                f"Mean of {count(len(facts.image_ids), 'image')}",
            )
        index = facts.image_indices[chosen.image]
        return cls(of_image(facts.study, "importance", index, chosen.metric), "This image")


def grid_figure(values: Array, chosen: Selection, colours: Palette) -> go.Figure:
    """Heat map of `values`, (layer, head). A click reports x = head and y = layer."""
    num_layers, num_heads = values.shape
    words = METRICS[chosen.metric]
    lowest, highest = limits(values, words.signed)
    cells = go.Heatmap(
        z=np.asarray(values, np.float32),
        text=[[head_label(layer, head) for head in range(num_heads)] for layer in range(num_layers)],
        colorscale=colorscale(colours.diverging if words.signed else colours.sequential),
        zmin=lowest,
        zmax=highest,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{text}: %{z:.3~g}<extra></extra>",
        colorbar=graphs.colorbar(colours, words.axis),
    )
    x, y = chosen.head, chosen.layer
    outline = {"color": colours.accent, "width": 3}
    selected = {"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5, "line": outline}
    return graphs.figure(
        colours,
        [cells],
        margin={"l": 40, "r": 62, "t": 6, "b": 34},
        clickmode="event",
        dragmode=False,
        uirevision="fixed",
        xaxis=_axis("head", num_heads),
        yaxis=_axis("layer", num_layers) | {"range": _range(num_layers)[::-1]},
        shapes=[selected],
    )


def limits(values: Array, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: from 0, or alike on both sides of it for a signed metric; never empty."""
    known = np.abs(values[np.isfinite(values)])
    highest = float(known.max()) if known.size and known.max() > 0 else 1.0
    return (-highest if signed else 0.0), highest


def _axis(title: str, size: int) -> dict[str, Any]:
    step = 1 if size <= LABELLED else 2 if size <= 2 * LABELLED else 4
    return {
        "text": title,
        "tickvals": list(range(0, size, step)),
        "range": _range(size),
        "showgrid": False,
        "ticks": "",
        "fixedrange": True,
    }


def _range(size: int) -> list[float]:
    """Of an axis: a little more than the cells, so that the outline of the last is whole."""
    return [-0.5 - 0.01 * size, size - 0.5 + 0.01 * size]


def reading(grid: Grid) -> str:
    """How to read the map, and what is not in it."""
    missing = int((~np.isfinite(grid.values)).sum())
    gaps = f" {count(missing, 'blank')}: not finite." if missing else ""
    return f"{grid.whose}.{gaps}"
