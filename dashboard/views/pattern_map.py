"""Which heads attend alike? A map of all heads of all images, by their attention patterns (Fig. 1D1, 12)."""

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dash_bootstrap_components as dbc
import numpy as np
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, Patch, State, dcc, html, no_update

from dashboard import graphs
from dashboard.data import LARGE_KEPT, Array, Shelf, StudyFacts, large, map_array, read
from dashboard.density import Density, Window, density, whole
from dashboard.graphs import Colouring
from dashboard.routes import pictures_url
from dashboard.selection import MAP_COLOURS, MAPS, SELECTION, Selection, head_label
from dashboard.theme import Palette, Ramp, colorscale, palette
from dashboard.views import choice
from dashboard.views.header import THEME
from dashboard.views.panel import panel, shown
from dashboard.words import MAP_NAMES, MIXED, count, number, share
from store.study import Study

GRAPH = "pattern-map-graph"
READING = "pattern-map-reading"
LEGEND = "pattern-map-legend"
CAUTION = "pattern-map-caution"
ABSENT = "pattern-map-absent"
TOOLTIP = "pattern-map-tooltip"
NAMES = "pattern-map-names"  # dcc.Store with what `told` gives, for the tooltip
DRAWN = "pattern-map-drawn"  # what the map shows; while it is the same, only the selected heads move
WINDOW = "pattern-map-window"  # edges of what is looked at, x0, x1, y0, y1; None is the whole map
MAP = "map"
COLOUR = "map_colour"

MAP_LABELS = {"cls": "CLS", "patch": "patches"}
COLOUR_LABELS = {colour: colour for colour in MAP_COLOURS}

DENSITY, HEADS, OWN, RING = range(4)  # the figure's traces, the lowest first
WHOLE = Window(0.0, 1.0, 0.0, 1.0)
FEWEST_ROWS, MOST_ROWS = 24, 120  # of the density's cells; 120 are of 2 pixels at 1440 x 900
MOST_POINTS = 20_000  # above, drawing takes a browser a second, and points hide each other
POINT = 4  # pixels across
# seed_agreement below which a map is marked: most neighbours are then others in another run. Maps of noise in ten
# dimensions and more stay below 0.35, those of real attention and of clusters that were tried have 0.65 and more.
FIRM = 0.5


def layout() -> html.Section:
    tools = [
        html.Div(id=CAUTION, className="caveats"),
        choice.layout(MAP, MAP_LABELS, "Which attention the map is of"),
    ]
    under = [choice.layout(COLOUR, COLOUR_LABELS, "Colour of the heads"), html.Div(id=LEGEND, className="legend")]
    body = [
        graphs.graph(GRAPH, zoom=True),
        html.Div(id=ABSENT, className="said", hidden=True),
        html.Div(under, className="under"),
        dcc.Tooltip(id=TOOLTIP, direction="right", className="thumbnail-tooltip"),
        dcc.Store(id=NAMES),
        dcc.Store(id=DRAWN),
        dcc.Store(id=WINDOW),
    ]
    return panel("pattern-map", "Attention patterns", READING, body, tools)


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(GRAPH, "figure"),
        Output(WINDOW, "data"),
        Output(LEGEND, "children"),
        Output(NAMES, "data"),
        Output(DRAWN, "data"),
        Output(CAUTION, "children"),
        Output(ABSENT, "children"),
        Output(ABSENT, "hidden"),
        Output(READING, "children"),
        Input(SELECTION, "data"),
        Input(THEME, "data"),
        State(DRAWN, "data"),
        State(WINDOW, "data"),
    )
    def draw(data: object, theme: object, drawn: object, edges: object) -> tuple[Any, ...]:
        colours = palette(theme)
        nothing = (graphs.blank(colours), no_update, None, None, None, None, None, True)

        def view(facts: StudyFacts, chosen: Selection) -> tuple[tuple[Any, ...], Any]:
            if map_array(chosen.map) not in facts.study:
                return (*nothing[:-2], absent(facts), False), absence(facts)
            found = PatternMap.of(facts, chosen)
            key = [found.uirevision, found.colour, str(theme)]
            before = drawn if isinstance(drawn, list) and len(drawn) == len(key) else [None] * len(key)
            # Another map starts whole: what the last one was zoomed to means nothing there.
            stays = key[0] == before[0]
            if key == before:
                figure: Any = found.moved()
            else:
                figure = found.figure(found.raster((window_of(edges) if stays else None) or WHOLE), colours)
            window = no_update if stays or edges is None else None
            said = (found.legend(colours), found.told(facts), key, caution(facts, chosen.map), None, True)
            return (figure, window, *said), reading(facts, chosen.map)

        shown_, said = shown(shelf, data, view, nothing)
        return *shown_, said

    @app.callback(
        Output(GRAPH, "figure", allow_duplicate=True),
        Input(WINDOW, "data"),
        State(SELECTION, "data"),
        prevent_initial_call=True,
    )
    def refine(edges: object, data: object) -> Any:
        """The density of the part that is looked at, in cells as many as before."""

        def view(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            if map_array(chosen.map) not in facts.study:
                return no_update, None
            found = PatternMap.of(facts, chosen)
            return refined(found.raster(window_of(edges) or WHOLE)), None

        return shown(shelf, data, view, no_update)[0]

    # Of all that Plotly says of a layout only a zoom or a move goes to the server.
    app.clientside_callback(
        ClientsideFunction("page", "window"),
        Output(WINDOW, "data", allow_duplicate=True),
        Input(GRAPH, "relayoutData"),
        prevent_initial_call=True,
    )

    choice.register(app, shelf, MAP, map_reasons)
    choice.register(app, shelf, COLOUR, colour_reasons)

    app.clientside_callback(
        ClientsideFunction("page", "head"),
        Output(TOOLTIP, "show"),
        Output(TOOLTIP, "bbox"),
        Output(TOOLTIP, "children"),
        Input(GRAPH, "hoverData"),
        State(NAMES, "data"),
    )


# --- what there is ---


def why_not(study: Study, array: str) -> str:
    """Why the study does not have an array."""
    return str(study.attrs.get("left_out", {}).get(array, "it was computed without them"))


def map_reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the study lacks some of the maps, by map."""
    return {name: why_not(facts.study, map_array(name)) for name in MAPS if map_array(name) not in facts.study}


def colour_reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the heads cannot be coloured by some of the colours, by colour."""
    if len(map_reasons(facts)) == len(MAPS):
        return dict.fromkeys(MAP_COLOURS, "this study has no maps")
    heads = len(facts.image_ids) * facts.num_layers * facts.num_heads
    if heads > MOST_POINTS:
        return {"density": f"{count(heads, 'head')} are too many for points: there is always their density"}
    return {}


def absence(facts: StudyFacts) -> str:
    return f"Not in this study: {why_not(facts.study, map_array(MAPS[0]))}."


def absent(facts: StudyFacts) -> list[Any]:
    """What stands in the map's place: how to get one."""
    model, folder = facts.study.attrs["model"]["name"], facts.study.attrs["images"]["folder"]
    return [
        html.P(
            "This study has no maps of attention patterns. They are added by the command that it was computed with:"
        ),
        html.Pre(f"headscope precompute {model} {folder} …"),
        html.P("without --skip patterns; only what is missing is computed."),
    ]


def caution(facts: StudyFacts, name: str) -> list[Any]:
    """A chip, if another seed makes another map; it says what that means."""
    agreement = _told(facts, name).get("seed_agreement")
    if not isinstance(agreement, int | float) or not agreement < FIRM:
        return []
    said = (
        f"Laid out again from another seed, {share(1 - agreement)} of the neighbours of a head are others. "
        "Trust which heads form a cluster; do not trust distances, nor who is next to whom."
    )
    button = html.Button("caution", id="pattern-map-caution-button", className="chip", title=said)
    target = "pattern-map-caution-button"
    return [
        button,
        dbc.Popover(dbc.PopoverBody(said), target=target, trigger="legacy", placement="bottom", class_name="caveat"),
    ]


def reading(facts: StudyFacts, name: str) -> html.Span:
    """How to read the map, how far it can be trusted, and which map is not there."""
    told = _told(facts, name)
    # Of a reason the end is said here, and all of it on the button: the line has room for no more.
    parts = [f"No map of {MAP_NAMES[other]}: {why.rpartition(': ')[2]}." for other, why in map_reasons(facts).items()]
    parts.append("Neighbours attend alike.")
    if "trustworthiness" in told:
        parts.append(f"Trustworthiness {number(told['trustworthiness'])}.")
    return html.Span(" ".join(parts), title=" ".join([*parts, *_quality(told)]))


def _quality(told: dict[str, Any]) -> list[str]:
    """What was measured of the map, in words."""
    parts = ["A point is a head on an image."]
    if "trustworthiness" in told:
        parts.append("Trustworthiness: 1 if neighbours on the map are neighbours in the attention too.")
    if "neighbours_kept" in told:
        parts.append(f"Of a head's 15 nearest, {share(told['neighbours_kept'])} are nearest on the map.")
    if "seed_agreement" in told:
        parts.append(f"Another seed keeps {share(told['seed_agreement'])} of them.")
    if "purity" in told:
        same, chance = share(told["purity"]["all"]), share(told["purity"]["chance"])
        parts.append(f"{same} are the same head on other images; by chance it would be {chance}.")
    return parts


def _told(facts: StudyFacts, name: str) -> dict[str, Any]:
    """What the study says of a map, as far as it has enough heads to tell."""
    told = facts.study.attrs.get("maps", {}).get(name, {})
    return {what: value for what, value in told.items() if value is not None}


# --- what is drawn ---


@lru_cache(maxsize=LARGE_KEPT)
def scaled(study: Study, name: str) -> Array:
    """Places on a map, (image, layer, head, 2), moved and stretched to fill WHOLE: Plotly zooms back to where the
    graph began, whichever map it shows by then."""
    layout = study.read(map_array(name))
    window = whole(layout)
    layout -= np.array([window.x0, window.y0], np.float32)
    layout /= np.array([window.x1 - window.x0, window.y1 - window.y0], np.float32)
    layout.flags.writeable = False
    return layout


@dataclass(frozen=True)
class PatternMap:
    """What is drawn: one point a head on an image.

    Attributes:
        xy: Places in WHOLE, (image, layer, head, 2); NaN for a head without one.
        names: Index in `words` of each head's pattern, (image, layer, head); -1 is mixed. None without patterns.
        words: Names of the patterns.
        colour: What the points are coloured by, of MAP_COLOURS.
        image: Index of the selected image, or None.
        head: The selected head, (layer, head).
        uirevision: While it is the same, zoom is kept.
    """

    xy: Array
    names: Array | None
    words: tuple[str, ...]
    colour: str
    image: int | None
    head: tuple[int, int]
    uirevision: str

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "PatternMap":
        """Of a study that has the map, and a selection."""
        study, lead = facts.study, "cls_" if chosen.map == "cls" else ""
        named = f"{lead}pattern_name" in study
        return cls(
            scaled(study, chosen.map),
            large(study, f"{lead}pattern_name") if named else None,
            tuple(map(str, read(study, f"{lead}pattern"))) if named else (),
            chosen.map_colour,
            None if chosen.image is None else facts.image_indices[chosen.image],
            (chosen.layer, chosen.head),
            f"{facts.content} {chosen.map}",
        )

    @property
    def with_points(self) -> bool:
        """Whether all heads are drawn, or their density alone."""
        return self.colour != "density" and self.xy.size // 2 <= MOST_POINTS

    @property
    def by_pattern(self) -> bool:
        return self.colour == "pattern" and self.names is not None

    def raster(self, window: Window) -> Density:
        """Its density, in so many cells that the whole map has two heads for each: fewer would be dots, not density."""
        heads, wide = self.xy.size // 2, 4 / 3
        rows = min(MOST_ROWS, max(FEWEST_ROWS, round((heads / 2 / wide) ** 0.5)))
        return density(self.xy, window, (rows, round(rows * wide)))

    def figure(self, raster: Density, colours: Palette) -> go.Figure:
        """A click or a hover reports the trace, HEADS or OWN, and the point in it, which `place_of` reads."""
        behind = go.Heatmap(
            **_cells(raster),
            zmin=0,
            zmax=255,
            zsmooth="best",
            colorscale=colorscale(colours.density),
            showscale=False,
            hoverinfo="skip",
        )
        drawn = ... if self.with_points else slice(0)
        every = self._colouring(self._values(drawn), colours) | {"size": POINT, "opacity": 0.7}
        heads = go.Scattergl(**_places(self.xy[drawn].reshape(-1, 2)), mode="markers", hoverinfo="none", marker=every)
        own = self._colouring(self._own_values(), colours)
        own |= {"size": 10, "line": {"width": 1.5, "color": colours.text}}
        ring = {"symbol": "circle-open", "color": colours.accent, **self._ring_size()}
        traces = [
            behind,
            heads,
            go.Scattergl(**_places(self._own()), mode="markers", hoverinfo="none", marker=own),
            go.Scattergl(**_places(self._ringed()), mode="markers", hoverinfo="skip", marker=ring),
        ]
        return graphs.figure(
            colours,
            traces,
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            dragmode="pan",
            clickmode="event",
            uirevision=self.uirevision,
            # Given, as uirevision alone forgets a zoom once a change has gone over it.
            xaxis={"visible": False, "range": [raster.window.x0, raster.window.x1]},
            yaxis={"visible": False, "range": [raster.window.y0, raster.window.y1]},
        )

    def moved(self) -> Patch:
        """The change of a drawn figure to this selection."""
        patch = Patch()
        for trace, points in ((OWN, self._own()), (RING, self._ringed())):
            for axis, places in _places(points).items():
                patch["data"][trace][axis] = _sent(places)
        patch["data"][OWN]["marker"]["color"] = _sent(self._own_values())
        for name, value in self._ring_size().items():
            patch["data"][RING]["marker"][name] = value
        return patch

    def _own(self) -> Array:
        """Places of the selected image's heads."""
        return self.xy[self.image].reshape(-1, 2) if self.image is not None else np.empty((0, 2), np.float32)

    def _own_values(self) -> Array:
        return self._values(self.image) if self.image is not None else np.empty(0, np.float32)

    def _own_names(self) -> Array | None:
        return None if self.names is None or self.image is None else np.asarray(self.names[self.image])

    def _ringed(self) -> Array:
        """Place of the selected head on the selected image; without one, its places on all, if they can be drawn."""
        if self.image is not None:
            return np.asarray(self.xy[(self.image, *self.head)].reshape(1, 2))
        return np.asarray(self.xy[:, *self.head]) if len(self.xy) <= MOST_POINTS else np.empty((0, 2), np.float32)

    def _ring_size(self) -> dict[str, Any]:
        return {"size": 18, "line": {"width": 3}} if self.image is not None else {"size": 7, "line": {"width": 1.5}}

    def _values(self, images: Any) -> Array:
        """What the colours of the heads of some images say, flat."""
        if self.by_pattern and self.names is not None:
            return np.asarray(self.names[images].astype(np.float32).ravel())
        layers = np.arange(self.xy.shape[1], dtype=np.float32)[:, None]
        return np.broadcast_to(layers, self.xy[images].shape[:-1]).ravel()

    def _colouring(self, values: Array, colours: Palette) -> dict[str, Any]:
        ramp, names = self._ramp(colours), (MIXED, *self.words) if self.by_pattern else ()
        limits = (-1.5, len(self.words) - 0.5) if self.by_pattern else (0, max(1, self.xy.shape[1] - 1))
        told = Colouring(values, ramp, limits, names)
        return {"color": values, "colorscale": told.colorscale, "cmin": limits[0], "cmax": limits[1]}

    def _ramp(self, colours: Palette) -> Ramp:
        if self.by_pattern:
            return pattern_colours(len(self.words), colours)
        return colours.layers

    def legend(self, colours: Palette) -> list[Any]:
        """What the colours stand for, and what is not drawn."""
        entries = self._names_drawn(colours) if self.by_pattern else self._layers_drawn(colours)
        if not self.with_points:
            entries.insert(0, html.Span(["heads: few", _bar(colours.density), "many"]))
        if self.image is None and len(self._ringed()):
            entries.append(html.Span([html.I("○", className="shape ring"), head_label(*self.head)]))
        missing = int(np.isnan(self.xy[..., 0]).sum())
        if missing:
            entries.append(html.Span(f"{count(missing, 'head')} not drawn: not finite"))
        return entries

    def _layers_drawn(self, colours: Palette) -> list[Any]:
        last = self.xy.shape[1] - 1
        if not self.with_points and self.image is None:
            return []
        return [html.Span(["L0", _bar(colours.layers), f"L{last}"])]

    def _names_drawn(self, colours: Palette) -> list[Any]:
        """The patterns of the heads that are drawn, the most frequent first."""
        drawn = self.names if self.with_points else self._own_names()
        if drawn is None or not drawn.size:
            return []
        words, ramp = (MIXED, *self.words), self._ramp(colours)
        of_each = np.bincount(drawn.ravel().astype(np.int64) + 1, minlength=len(words))
        order = [index for index in np.argsort(-of_each, kind="stable") if of_each[index]]
        shares = [f"{share(of_each[index] / drawn.size)} of {count(drawn.size, 'head')}" for index in order]
        return [
            html.Span([html.I(className="dot", style={"background": ramp[index]}), words[index]], title=said)
            for index, said in zip(order, shares, strict=True)
        ]

    def told(self, facts: StudyFacts) -> dict[str, Any]:
        """For the tooltip: names of the patterns, and a byte a head for each trace that answers the pointer."""
        every = self.names if self.with_points else None
        return {
            "pictures": pictures_url(facts),
            "heads": facts.num_heads,
            "layers": facts.num_layers,
            "image": self.image,
            "own": OWN,
            "words": [*self.words, MIXED],  # so that -1, mixed, is the last
            "names": {str(trace): _bytes(names) for trace, names in ((HEADS, every), (OWN, self._own_names()))},
        }


def place_of(facts: StudyFacts, chosen: Selection, point: Any) -> int | None:
    """Which head a click hit, counting through the heads of all images; None if it hit none."""
    trace, index = point.get("curveNumber"), point.get("pointIndex", point.get("pointNumber"))
    if isinstance(index, bool) or not isinstance(index, int) or trace not in (HEADS, OWN):
        return None
    if trace == HEADS:
        return index
    heads = facts.num_layers * facts.num_heads
    if chosen.image is None or not 0 <= index < heads:
        return None
    return facts.image_indices[chosen.image] * heads + index


def window_of(edges: object) -> Window | None:
    """The window of four edges from the browser; None for anything else."""
    if not isinstance(edges, list) or any(
        isinstance(edge, bool) or not isinstance(edge, int | float) for edge in edges
    ):
        return None
    try:
        return Window(*map(float, edges))
    except (TypeError, ValueError, OverflowError):
        return None


def refined(raster: Density) -> Patch:
    """The change of a drawn figure to the density of another window."""
    patch = Patch()
    cells = _cells(raster)
    patch["data"][DENSITY]["z"] = _sent(cells.pop("z"))
    for name, value in cells.items():
        patch["data"][DENSITY][name] = value
    return patch


def _cells(raster: Density) -> dict[str, Any]:
    """The raster as a heat map takes it. Counts go with the square root: else single heads would not be seen."""
    rows, columns = raster.counts.shape
    window, most = raster.window, max(1, int(raster.counts.max(initial=0)))
    dx, dy = (window.x1 - window.x0) / columns, (window.y1 - window.y0) / rows
    return {
        "z": np.round(255 * np.sqrt(raster.counts / most)).astype(np.uint8),
        "x0": window.x0 + dx / 2,
        "dx": dx,
        "y0": window.y0 + dy / 2,
        "dy": dy,
    }


def _places(points: Array) -> dict[str, Array]:
    return dict(zip("xy", np.ascontiguousarray(points.T), strict=True))


def _sent(array: Array) -> dict[str, str]:
    """An array as Plotly's script reads it from a change."""
    kind = {"float32": "f4", "uint8": "u1"}[array.dtype.name]
    sent = {"dtype": kind, "bdata": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}
    return sent | ({"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {})


def _bytes(names: Array | None) -> str | None:
    """A byte a head, base64."""
    return None if names is None else base64.b64encode(names.astype(np.int8).tobytes()).decode()


def pattern_colours(patterns: int, colours: Palette) -> Ramp:
    """Mixed, then a colour a pattern: the classes' twelve, and that of text for a thirteenth."""
    given = (*colours.classes, colours.text)
    return (colours.unknown, *given[:patterns], *[colours.faint] * (patterns - len(given)))


def _bar(ramp: Ramp) -> html.I:
    return html.I(className="ramp", style={"background": f"linear-gradient(to right, {', '.join(ramp)})"})
