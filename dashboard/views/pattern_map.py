"""Which heads attend alike? A map of all heads of all images, by their attention patterns (Fig. 1D1, 12).

Three things lie over each other, so that each changes alone: pictures of the density, which the server paints of what
is looked at; the points, which Plotly draws with WebGL; and the marks, which are the selected image's heads, or the
selected head on the images, over both (assets/patterns.js).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dash_bootstrap_components as dbc
import numpy as np
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from flask import Response, abort, request

from analyses.registry import HEAD_NUMBERS
from analyses.vocabulary import MAPS, MIXED
from dashboard import graphs
from dashboard.data import Array, Shelf, StudyFacts, facts, indices_of, large, of_image, read, table
from dashboard.density import SHARES, Part, Window, bins_of, density, outlined, painted, sampled, whole
from dashboard.drawing import BODY, TOLD, Drawing
from dashboard.exports import Export
from dashboard.graphs import sent
from dashboard.routes import HASH_DIGITS, pictures_url
from dashboard.selection import MAP_COLOURS, MAP_LOOKS, Selection, head_label, resolve
from dashboard.theme import Palette, Ramp, palette
from dashboard.view import View
from dashboard.views import choice
from dashboard.views.head_importance import is_signed
from dashboard.views.panel import panel
from dashboard.words import count, number, share
from jobs.client import Desk
from store.errors import StoreError
from store.study import Study

GRAPH = "pattern-map-graph"
READING = "pattern-map-reading"
LEGEND = "pattern-map-legend"
CAUTION = "pattern-map-caution"
ABSENT = "pattern-map-absent"
TOOLTIP = "pattern-map-tooltip"
DENSITY = "pattern-map-density"  # where patterns.js puts the pictures of the density
DRAWN = "pattern-map-drawn"  # dcc.Store: the graph's figure, and what patterns.js must know of it
MARKS = "pattern-map-marks"  # the heads that lie over it
MARKED = "pattern-map-marked"  # which heads those are

WHOLE = Window(0.0, 1.0, 0.0, 1.0)
MOST_POINTS = 20_000  # above, drawing takes a browser a second, and points hide each other
MOST_MARKS = 2_000
MOST_PIXELS = 4_000  # of a side of the density's picture
SHADES = 64  # of importance
# Of importance's absolute values are within the scale: else the few largest make all others one colour.
WITHIN = 0.95
# seed_agreement below which a map is marked: most neighbours are then others in another run. Maps of noise in ten
# dimensions and more stay below 0.35, those of real attention and of clusters that were tried have 0.65 and more.
FIRM = 0.5


def layout() -> html.Section:
    graph = graphs.graph(GRAPH, zoom=True)
    under = [
        choice.layout("map_as", {look: look for look in MAP_LOOKS}, "Every head as a point, or how many are where"),
        html.Div(id=MARKED),
        choice.layout("map_colour", {colour: colour for colour in MAP_COLOURS}, "Colour of the heads"),
        html.Div(id=LEGEND),
        html.Div(id=CAUTION),
    ]
    body = [
        html.Div([html.Div(id=DENSITY, className="density"), graph], className="map"),
        html.Div(id=ABSENT, className="map-absent", hidden=True),
        html.Div(under, className="map-key"),
        dcc.Tooltip(id=TOOLTIP, direction="right", className="thumbnail-tooltip"),
        dcc.Store(id=DRAWN),
    ]
    tools = choice.layout("map", {name: MAPS[name].title for name in reversed(MAPS)}, "Which attention the map is of")
    return panel("pattern-map", "Pattern map", READING, body, tools)


def register(app: Dash, shelf: Shelf) -> None:
    app.clientside_callback(ClientsideFunction("patterns", "drawn"), Output(GRAPH, "figure"), Input(DRAWN, "data"))
    app.clientside_callback(ClientsideFunction("patterns", "hovered"), Input(GRAPH, "hoverData"))
    app.clientside_callback(ClientsideFunction("patterns", "clicked"), Input(GRAPH, "clickData"))

    @app.server.get("/studies/<name>/<digest>/density.png")
    def density_of_map(name: str, digest: str) -> Response:
        try:
            known = facts(shelf.open(name))
            if digest != known.content[:HASH_DIGITS]:
                abort(404, f"study {name} has another content now; reload the page")
            response = Response(picture(known, request.args), mimetype="image/png")
        except StoreError as error:
            abort(404, str(error))
        except (ValueError, IndexError) as error:
            abort(400, str(error))
        response.cache_control.public = True
        response.cache_control.immutable = True
        response.cache_control.max_age = 31_536_000
        return response


# --- what there is ---


def why_not(study: Study, array: str) -> str:
    """Why the study does not have an array."""
    return str(study.attrs.get("left_out", {}).get(array, "it was computed without them"))


def map_reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the study lacks some of the maps, by map."""
    return {name: why_not(facts.study, of.layout) for name, of in MAPS.items() if of.layout not in facts.study}


def _without_maps(facts: StudyFacts, values: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(values, "this study has no maps") if len(map_reasons(facts)) == len(MAPS) else {}


def look_reasons(facts: StudyFacts) -> dict[str, str]:
    """Why heads cannot be drawn in some of the ways, by way."""
    return _without_maps(facts, MAP_LOOKS)


def colour_reasons(facts: StudyFacts) -> dict[str, str]:
    """Why heads cannot be coloured by some of the colours, by colour."""
    return _without_maps(facts, MAP_COLOURS)


def absence(facts: StudyFacts) -> str:
    return f"Not in this study: {why_not(facts.study, next(iter(MAPS.values())).layout)}."


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
    parts = [f"No map of {MAPS[other].title}: {why.rpartition(': ')[2]}." for other, why in map_reasons(facts).items()]
    parts.append("Near is alike.")
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


# --- places: every map is moved and stretched to fill WHOLE, so that a zoom goes back to the same edges ---


@lru_cache(maxsize=64)
def bounds(study: Study, name: str) -> Window:
    """What of a map's own units becomes WHOLE."""
    return whole(large(study, MAPS[name].layout))


def scaled(study: Study, name: str, places: Array) -> Array:
    """Places of a map's own units in WHOLE, float32."""
    edges = bounds(study, name)
    low = np.array([edges.x0, edges.y0], np.float32)
    return np.asarray((places - low) / np.array([edges.x1 - edges.x0, edges.y1 - edges.y0], np.float32))


def unscaled(study: Study, name: str, window: Window) -> Window:
    """A part of WHOLE in the map's own units."""
    edges = bounds(study, name)
    wide, high = edges.x1 - edges.x0, edges.y1 - edges.y0
    return Window(
        edges.x0 + window.x0 * wide,
        edges.x0 + window.x1 * wide,
        edges.y0 + window.y0 * high,
        edges.y0 + window.y1 * high,
    )


@lru_cache(maxsize=16)
def unplaced(study: Study, name: str) -> Array:
    """How many heads of each image have no place on a map, (image,)."""
    return np.asarray(np.isnan(large(study, MAPS[name].layout)[..., 0]).sum(axis=(1, 2)))


# --- colours ---


@dataclass(frozen=True)
class Scale:
    """What the colours of heads say.

    Attributes:
        by: Of MAP_COLOURS.
        colours: By code.
        words: What a code stands for; empty for importance.
        limit: Of importance: the value of the last shade; the first is its negative, or 0 if it is not `signed`.
        axis: What is measured; empty for layers and patterns.
    """

    by: str
    colours: Ramp
    words: tuple[str, ...] = ()
    limit: float = 0.0
    signed: bool = False
    axis: str = ""

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Scale":
        """Of a selection. A study without names of patterns has its layers instead."""
        colours, study = palette(chosen.theme), facts.study
        if chosen.map_colour == "pattern" and MAPS[chosen.map].pattern in study:
            words = pattern_words(study, chosen.map)
            return cls("pattern", pattern_colours(len(words), colours), (MIXED, *words))
        if chosen.map_colour == "importance":
            picked = HEAD_NUMBERS[chosen.metric]
            signed = is_signed(picked, table(study, picked.array, picked.metric))
            ramp = sampled(colours.diverging if signed else colours.sequential, SHADES)
            return cls(
                "importance",
                (*ramp, colours.unknown),
                limit=largest(study, chosen.metric),
                signed=signed,
                axis=picked.axis,
            )
        layers = sampled(colours.layers, facts.num_layers)
        return cls("layer", layers, tuple(f"L{layer}" for layer in range(facts.num_layers)))

    def shades(self, values: Array) -> Array:
        """Codes of importance; what is no number has the last."""
        low = -self.limit if self.signed else 0.0
        place = np.clip((values - low) / (self.limit - low), 0, 1) * (SHADES - 1)
        return np.where(np.isfinite(values), np.round(place), SHADES).astype(np.uint8)


@lru_cache(maxsize=64)
def largest(study: Study, metric: str) -> float:
    """The absolute value that WITHIN of the importance of all heads of all images stay below."""
    picked = HEAD_NUMBERS[metric]
    values = table(study, picked.array, picked.metric)
    some = np.abs(values[:: max(1, values.size // 1_000_000)])
    known = some[np.isfinite(some)]
    return (float(np.quantile(known, WITHIN)) if known.size else 0.0) or 1.0


def pattern_words(study: Study, name: str) -> tuple[str, ...]:
    return tuple(map(str, read(study, MAPS[name].patterns)))


def pattern_colours(patterns: int, colours: Palette) -> Ramp:
    """Mixed, then a colour a pattern: the classes' twelve, and that of text for a thirteenth."""
    given = (*colours.classes, colours.text)
    return (colours.unknown, *given[:patterns], *[colours.faint] * (patterns - len(given)))


def density_ramp(colours: Palette, of_set: bool) -> Ramp:
    """From few heads to many; that of a set begins with more than the outline of all heads, which lies under it."""
    return colours.density[2 if of_set else 1 :]


# --- what is drawn ---


@dataclass(frozen=True)
class Heads:
    """Some heads, each on an image; flat.

    Attributes:
        places: Which they are: counting through the heads of all images, int32.
        xy: Where in WHOLE, float32 (head, 2); NaN for a head without a place.
        codes: Their colours, of a Scale, uint8.
        names: Index of each one's pattern in the study's words, -1 is mixed; None if the study has no names.
        values: Importance, float32; None if they are not coloured by it.
    """

    places: Array
    xy: Array
    codes: Array
    names: Array | None
    values: Array | None

    @classmethod
    def of_set(cls, facts: StudyFacts, chosen: Selection, scale: Scale) -> "Heads":
        """All heads of the image set; the most important are drawn last, over the others."""
        images = indices_of(facts.study, chosen.images)
        found = cls._of(facts, chosen, scale, images, slice(None), slice(None))
        return found if found.values is None else found.taken(np.argsort(np.nan_to_num(np.abs(found.values), nan=-1)))

    @classmethod
    def of_head(cls, facts: StudyFacts, chosen: Selection, scale: Scale) -> "Heads":
        """The selected head on the images of the set; on MOST_MARKS of them, evenly spaced, if there are more."""
        images = indices_of(facts.study, chosen.images)
        if len(images) > MOST_MARKS:
            images = images[np.linspace(0, len(images) - 1, MOST_MARKS).astype(np.intp)]
        rank = (slice(chosen.layer, chosen.layer + 1), slice(chosen.head, chosen.head + 1))
        return cls._of(facts, chosen, scale, images, *rank)

    @classmethod
    def _of(cls, facts: StudyFacts, chosen: Selection, scale: Scale, images: Array, *rank: slice) -> "Heads":
        study, where = facts.study, (slice(None) if len(images) == len(facts.image_ids) else images, *rank)
        heads = np.arange(facts.num_layers * facts.num_heads).reshape(facts.num_layers, facts.num_heads)
        named = MAPS[chosen.map].pattern in study
        picked = HEAD_NUMBERS[chosen.metric]
        values = table(study, picked.array, picked.metric)[where] if scale.by == "importance" else None
        return cls._made(
            facts,
            (images[:, None, None] * heads.size + heads[rank]),
            scaled(study, chosen.map, large(study, MAPS[chosen.map].layout)[where]),
            scale,
            large(study, MAPS[chosen.map].pattern)[where] if named else None,
            values,
        )

    @classmethod
    def of_image(cls, facts: StudyFacts, chosen: Selection, image: int, scale: Scale) -> "Heads":
        """All heads of one image, of which no more is read than is there."""
        study, heads = facts.study, facts.num_layers * facts.num_heads
        picked = HEAD_NUMBERS[chosen.metric]
        named = MAPS[chosen.map].pattern in study
        return cls._made(
            facts,
            image * heads + np.arange(heads).reshape(facts.num_layers, facts.num_heads),
            scaled(study, chosen.map, read(study, MAPS[chosen.map].layout, image)),
            scale,
            read(study, MAPS[chosen.map].pattern, image) if named else None,
            of_image(study, picked.array, image, picked.metric) if scale.by == "importance" else None,
        )

    @classmethod
    def _made(
        cls, facts: StudyFacts, places: Array, xy: Array, scale: Scale, names: Array | None, values: Array | None
    ) -> "Heads":
        if values is not None:
            codes = scale.shades(values)
        elif scale.by == "pattern" and names is not None:
            codes = names.astype(np.int16) + 1
        else:
            codes = places // facts.num_heads % facts.num_layers
        return cls(
            places.astype(np.int32).ravel(),
            xy.reshape(-1, 2),
            codes.astype(np.uint8).ravel(),
            None if names is None else names.astype(np.int8).ravel(),
            None if values is None else values.astype(np.float32).ravel(),
        )

    def taken(self, order: Array) -> "Heads":
        """These heads, in another order."""
        names = None if self.names is None else self.names[order]
        values = None if self.values is None else self.values[order]
        return Heads(self.places[order], self.xy[order], self.codes[order], names, values)

    def told(self) -> dict[str, Any]:
        """For the tooltip of the head under the pointer, and what a click on it selects."""
        return {
            "places": sent(self.places),
            "names": None if self.names is None else sent(self.names),
            "values": None if self.values is None else sent(self.values),
        }


@dataclass(frozen=True)
class PatternMap:
    """What is drawn of the image set.

    Attributes:
        scale: What colours say.
        heads: The points; None if it is their density alone.
        images, of: How many images the set has, and the study.
        num_heads: Heads of the set's images.
        nowhere: How many of them have no place on the map.
        why: Why points that were asked for are not drawn.
    """

    scale: Scale
    heads: Heads | None
    images: int
    of: int
    num_heads: int
    nowhere: int
    why: str

    @classmethod
    def of_selection(cls, facts: StudyFacts, chosen: Selection) -> "PatternMap":
        """Of a study that has the map, and a selection."""
        study, scale = facts.study, Scale.of(facts, chosen)
        images = indices_of(study, chosen.images)
        num_heads = len(images) * facts.num_layers * facts.num_heads
        why = f"{count(num_heads, 'head')} are too many for points: up to {MOST_POINTS:,}"
        fits = num_heads <= MOST_POINTS
        heads = Heads.of_set(facts, chosen, scale) if chosen.map_as == "points" and fits else None
        nowhere = int(unplaced(study, chosen.map)[images].sum())
        return cls(scale, heads, len(images), len(facts.image_ids), num_heads, nowhere, "" if fits else why)

    def figure(self, colours: Palette, uirevision: str) -> go.Figure:
        """The points. A click or a hover reports the point's number, by which `Heads.told` tells the head.

        Args:
            uirevision: While it is the same, patterns.js keeps what is looked at; Plotly alone would forget what was
                zoomed to with the wheel.
        """
        traces = [] if self.heads is None else [self.points(self.heads, go.Scattergl, "none")]
        return graphs.figure(
            colours,
            traces,
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            dragmode="pan",
            clickmode="event",
            uirevision=uirevision,
            xaxis={"visible": False, "range": [WHOLE.x0, WHOLE.x1]},
            yaxis={"visible": False, "range": [WHOLE.y0, WHOLE.y1]},
        )

    def points(self, heads: Heads, kind: Any, hoverinfo: str, **marker: Any) -> Any:
        drawn = {"color": heads.codes, "size": point_size(len(heads.places)), "opacity": 0.75} | marker
        x, y = np.ascontiguousarray(heads.xy.T)
        return kind(x=x, y=y, mode="markers", hoverinfo=hoverinfo, marker=drawn | self._coloured())

    def _coloured(self) -> dict[str, Any]:
        """Codes and their colours, for Plotly."""
        colours = self.scale.colours
        edges = np.linspace(0, 1, len(colours) + 1)
        steps = [[edge, c] for c, *pair in zip(colours, edges, edges[1:], strict=False) for edge in pair]
        return {"colorscale": steps, "cmin": -0.5, "cmax": len(colours) - 0.5}

    def legend(self, colours: Palette) -> list[Any]:
        """What the colours stand for, how many heads there are, and what is not drawn."""
        said = f"{count(self.num_heads, 'head')} of {count(self.images, 'image')}"
        entries: list[Any] = [html.Span(said if self.images == self.of else f"{said}, of {self.of:,}")]
        entries += self._colours()
        if self.heads is None:
            shares = ", ".join(share(each) for each in SHARES)
            told = f"Each contour goes around the densest places that together have {shares} of the heads."
            entries.append(html.Span(["few", _bar(density_ramp(colours, self.images < self.of)), "many"], title=told))
        if self.nowhere:
            entries.append(html.Span(f"{count(self.nowhere, 'head')} not drawn: not finite"))
        return entries

    def _colours(self) -> list[Any]:
        scale = self.scale
        if scale.by == "importance":
            low, high = (number(-scale.limit) if scale.signed else "0"), number(scale.limit)
            told = f"{scale.axis}; {share(1 - WITHIN)} of the heads are beyond the ends"
            return [
                html.Span(
                    [html.Span(scale.axis), html.Span(low), _bar(scale.colours[:-1]), html.Span(high)], title=told
                )
            ]
        if scale.by == "layer":
            layers = [
                _part(f"layer={layer}", [], f"Layer {layer}", background=colour)
                for layer, colour in enumerate(scale.colours)
            ]
            ends = scale.words[0], scale.words[-1]
            return [html.Span([ends[0], html.Div(layers, className="layers"), ends[1]])]
        return [
            _part(
                f"pattern={code - 1}",
                [html.I(className="dot", style={"background": scale.colours[code]}), scale.words[code]],
                told,
            )
            for code, told in self._frequent()
        ]

    def _frequent(self) -> list[tuple[int, str]]:
        """Codes of the patterns that are drawn, the most frequent first, and how many heads have them; of a density
        all patterns."""
        if self.heads is None:
            return [(code, "") for code in (*range(1, len(self.scale.words)), 0)]
        of_each = np.bincount(self.heads.codes, minlength=len(self.scale.words))
        order = [int(code) for code in np.argsort(-of_each, kind="stable") if of_each[code]]
        return [(code, f"{share(of_each[code] / self.num_heads)} of {count(self.num_heads, 'head')}") for code in order]

    def told(self, facts: StudyFacts, chosen: Selection) -> dict[str, Any]:
        """For patterns.js."""
        words = pattern_words(facts.study, chosen.map) if MAPS[chosen.map].pattern in facts.study else ()
        return {
            "pictures": pictures_url(facts),
            "asked": {
                "map": chosen.map,
                "images": chosen.images,
                "map_colour": chosen.map_colour,
                "theme": chosen.theme,
            },
            "points": None if self.heads is None else self.heads.told(),
            "part": self.images < self.of,
            "words": [*words, MIXED],  # so that -1, mixed, is the last
            "axis": self.scale.axis,
            "why": self.why,
        }


def point_size(heads: int) -> float:
    """Pixels across, so that few are seen and many do not hide each other."""
    return float(np.clip(9 - 1.25 * np.log10(max(1, heads)), 3.5, 7))


def _part(part: str, children: list[Any], title: str, **style: str) -> html.Button:
    """An entry of the legend that shows where its heads are."""
    return html.Button(
        children,
        className="part",
        title=title,
        style=style,
        **{"data-part": part, "aria-label": _name(children, title)},
    )


def _name(children: list[Any], title: str) -> str:
    return ", ".join([*(each for each in children if isinstance(each, str)), *([title] if title else [])])


def _bar(ramp: Ramp) -> html.I:
    return html.I(className="ramp", style={"background": f"linear-gradient(to right, {', '.join(ramp)})"})


def draw(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    """The map of the image set, its legend, a caution, what stands in its place, and how to read it."""
    colours = palette(chosen.theme)
    if MAPS[chosen.map].layout not in facts.study:
        return *blank(colours)[:-2], absent(facts), False, absence(facts)
    found = PatternMap.of_selection(facts, chosen)
    told = found.told(facts, chosen) | {"figure": found.figure(colours, f"{facts.content} {chosen.map}").to_dict()}
    return told, found.legend(colours), caution(facts, chosen.map), None, True, reading(facts, chosen.map)


def blank(colours: Palette) -> tuple[Any, ...]:
    return {"figure": graphs.blank(colours).to_dict()}, None, None, None, True


def draw_marks(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
    """The heads that lie over the map, and which they are."""
    if MAPS[chosen.map].layout not in facts.study:
        return None, None
    heads, scale = marks_of(facts, chosen)
    image = None if chosen.image is None else facts.image_indices[chosen.image]
    said = {
        "image": image,
        "x": sent(heads.xy[:, 0].copy()),
        "y": sent(heads.xy[:, 1].copy()),
        "codes": sent(heads.codes),
        "colours": list(scale.colours),
    }
    return heads.told() | said, marked(facts, chosen, len(heads.places))


def marks_of(facts: StudyFacts, chosen: Selection) -> tuple[Heads, Scale]:
    """The selected image's heads; without one, the selected head on the images of the set. And their colours."""
    scale = Scale.of(facts, chosen)
    if chosen.image is not None:
        return Heads.of_image(facts, chosen, facts.image_indices[chosen.image], scale), scale
    return Heads.of_head(facts, chosen, scale), scale


def marked(facts: StudyFacts, chosen: Selection, drawn: int) -> html.Span:
    """Which heads lie over the map."""
    label = head_label(chosen.layer, chosen.head)
    if chosen.image is not None:
        return html.Span([html.I("◉", className="shape ring"), label, html.I("●", className="shape"), "this image"])
    images = len(indices_of(facts.study, chosen.images))
    on = count(images, "image") if drawn == images else f"{drawn:,} of {count(images, 'image')}"
    return html.Span([html.I("○", className="shape ring"), f"{label} on {on}"])


DRAWINGS = (
    Drawing(
        outputs=(
            Output(DRAWN, "data"),
            Output(LEGEND, BODY),
            Output(CAUTION, "children"),
            Output(ABSENT, BODY),
            Output(ABSENT, "hidden"),
            Output(READING, BODY),
        ),
        fields=("images", "map", "map_as", "map_colour", "metric"),
        draw=draw,
        blank=blank,
    ),
    Drawing(
        outputs=(Output(MARKS, TOLD), Output(MARKED, BODY)),
        fields=("images", "image", "layer", "head", "map", "map_colour", "metric"),
        draw=draw_marks,
        blank=lambda colours: (None,),
    ),
)


# --- the density, as a picture ---


def picture(facts: StudyFacts, asked: Mapping[str, str]) -> bytes:
    """A PNG of the density of a window of a map.

    Args:
        asked: map, images, map_colour and theme, as in the address of the page; x0, x1, y0, y1, a window of WHOLE;
            width, height, in pixels. With layer or pattern, of those heads alone, in their colour; with outline,
            where there are heads at all.
    Raises:
        ValueError, IndexError: The study does not have what is asked for, or it is no number.
    """
    fields = ("images", "map", "map_colour", "theme")
    chosen, problems = resolve({name: asked[name] for name in fields if name in asked}, facts)
    if problems:
        raise ValueError("; ".join(problems))
    window = Window(*(float(asked.get(edge, "nan")) for edge in ("x0", "x1", "y0", "y1")))
    size = _pixels(asked.get("height")), _pixels(asked.get("width"))
    study, colours = facts.study, palette(chosen.theme)
    layer, pattern = (_index(asked.get(name)) for name in ("layer", "pattern"))
    images = indices_of(study, chosen.images) if chosen.images else None
    part = Part(images=images, layer=layer, pattern=pattern)
    names = large(study, MAPS[chosen.map].pattern) if pattern is not None else None
    places, own = large(study, MAPS[chosen.map].layout), unscaled(study, chosen.map, window)
    raster = density(places, own, bins_of(size), part, names)
    if "outline" in asked:
        return outlined(raster, size, colours.density[1])
    if layer is None and pattern is None:
        return painted(raster, size, density_ramp(colours, bool(chosen.images)))
    code = layer if layer is not None else (pattern or 0) + 1
    scale = Scale.of(facts, chosen)
    if code >= len(scale.colours):
        raise IndexError(f"there is no colour {code} of {scale.by}")
    return painted(raster, size, (colours.density[1], scale.colours[code]))


def _pixels(word: str | None) -> int:
    pixels = int(word or "")
    if not 0 < pixels <= MOST_PIXELS:
        raise ValueError(f"{pixels} pixels; a picture has 1 to {MOST_PIXELS:,} on a side")
    return pixels


def _index(word: str | None) -> int | None:
    return None if word is None else int(word)


def exports(desk: Desk) -> Sequence[Export]:
    """What can leave the panel; its file reads this one."""
    from dashboard.views import pattern_map_export

    return pattern_map_export.EXPORTS


ABOUT = r"""
A point a head on an image: all heads of all images, near where they attend alike.

**Read it.** Only nearness means something: the axes have no unit. One tight cluster of a head is a head that does the
same on every image; many places, one that follows the content (Sec. 6.3.1). Grey behind is how many heads are there;
it goes with the square root. The line under the title says how far the map is to be trusted.

**Computed.** *CLS*: t-SNE of the first 50 principal components of the attention from and to CLS (Sec. 5.4.1),

$$
A_{\mathrm{CLS}} = \big[A[\mathrm{CLS}, \mathrm{CLS}],\; A[\mathrm{CLS}, \mathrm{patches}],
\; A[\mathrm{patches}, \mathrm{CLS}]\big] \in \mathbb{R}^{2 p^2 + 1}
$$

*Patches*: of each matrix of attention between patches the strongest 1 % become 1 and the rest 0, exactly $\lceil
0.01\, p^4 \rceil$ ones; an autoencoder says each in 32 numbers, and t-SNE lays these out (Fig. 6C).

Computed in `precompute/patterns.py`, `precompute/autoencoder.py`, `precompute/reduction.py`, `precompute/layout.py` ·
arrays `patch_layout`, `cls_layout`
"""

VIEW = View(
    "pattern-map",
    layout,
    drawings=DRAWINGS,
    about=ABOUT,
    exports=exports,
    register=lambda app, shelf, desk: register(app, shelf),
    row="attention",
    place=6,
)
