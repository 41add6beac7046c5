"""What do all graphs share? Their wrapper, which sends nothing anywhere, and the greys around the data."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import dcc

from dashboard.data import Array
from dashboard.theme import FONT, LIGHT, Palette, Ramp, colorscale

# plotly.js 4 shows a "Share chart" button that uploads the figure to Plotly's cloud unless it is told not to.
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "toImageButtonOptions": {"format": "svg"},
}
FONT_SIZE = 12


def graph(graph_id: str, zoom: bool = False) -> dcc.Graph:
    """An empty graph that fills its parent.

    Args:
        zoom: Whether the wheel zooms, and a bar zooms back. Without, it is hovered and clicked only.
    """
    bar = {"modeBarButtons": [["resetScale2d"]], "scrollZoom": True} if zoom else {"displayModeBar": False}
    config = CONFIG | bar
    return dcc.Graph(
        id=graph_id,
        className="graph",
        config=config,
        figure=blank(LIGHT),  # transparent, so of either theme
        clear_on_unhover=True,
    )


def figure(colours: Palette, traces: list[Any], **layout: Any) -> go.Figure:
    """A figure in the page's greys; `layout` goes over them, and its axes over the axes'."""
    axes = {name: _axis(colours, **layout.pop(name, {})) for name in ("xaxis", "yaxis")}
    greys = {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": FONT_SIZE, "color": colours.text},
        "showlegend": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colours.faint, "activecolor": colours.text},
        "hoverlabel": {
            "bgcolor": colours.panel,
            "bordercolor": colours.line,
            "font": {"color": colours.text, "family": FONT, "size": FONT_SIZE},
        },
    }
    return go.Figure(data=traces, layout=greys | axes | layout)


def _axis(colours: Palette, text: str = "", **given: Any) -> dict[str, Any]:
    greys = {
        "gridcolor": colours.line,
        "linecolor": colours.line,
        "zeroline": False,
        "exponentformat": "e",
        "tickfont": {"color": colours.muted},
        "title": {"text": text, "font": {"color": colours.muted, "size": FONT_SIZE}, "standoff": 6},
    }
    return greys | given


def blank(colours: Palette) -> go.Figure:
    """What a graph shows when its panel has something to say instead."""
    return figure(colours, [], xaxis={"visible": False}, yaxis={"visible": False})


def sent(array: Array) -> dict[str, str]:
    """An array as Plotly's script, and ours, read it: bytes in base64, not a list of numbers."""
    kind = {"float32": "f4", "int32": "i4", "uint8": "u1", "int8": "i1"}[array.dtype.name]
    packed = {"dtype": kind, "bdata": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}
    return packed | ({"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {})


def colorbar(colours: Palette, title: str) -> dict[str, Any]:
    """A thin legend of a colour scale, at the right."""
    return {
        "thickness": 8,
        "outlinewidth": 0,
        "len": 1,
        "xpad": 6,
        "ypad": 0,
        "tickfont": {"color": colours.muted, "size": 11},
        "nticks": 5,
        "exponentformat": "e",
        "title": {"text": title, "side": "right", "font": {"color": colours.muted, "size": 11}},
    }


@dataclass(frozen=True)
class Colouring:
    """What the colours of points say.

    Attributes:
        values: Of each point; NaN where it has none.
        ramp: The colours, from the lowest value to the highest.
        limits: Those values.
        names: What each colour of a stepped ramp stands for; empty for a smooth one.
    """

    values: Array
    ramp: Ramp
    limits: tuple[float, float]
    names: tuple[str, ...] = ()

    @property
    def colorscale(self) -> list[list[float | str]]:
        if not self.names:
            return colorscale(self.ramp)
        edges = np.linspace(0, 1, len(self.ramp) + 1)
        return [[edge, c] for c, *pair in zip(self.ramp, edges, edges[1:], strict=False) for edge in pair]
