"""How far does a head look? Entropy of every head, one head's strength by hop, its entropy over images (Fig. 1C)."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, html

from dashboard import graphs
from dashboard.data import Array, Shelf, StudyFacts, members, of_image, read, strength_mean, summary, table
from dashboard.drawing import BODY, TOLD, Drawing
from dashboard.exports import Columns, Export, opening, over_images
from dashboard.image_sets import Entropy, conditions_of, without
from dashboard.selection import Selection, head_label
from dashboard.theme import Palette, colorscale, faded, palette
from dashboard.view import View
from dashboard.views.panel import panel
from dashboard.words import count, number
from store.study import Study

NAME = "attention-strength"
HEADS, HEADS_READING = "strength-heads-graph", "attention-strength-reading"
HOPS, HOPS_READING = "strength-hops-graph", "strength-hops-reading"
IMAGES, IMAGES_READING = "strength-images-graph", "strength-images-reading"
RINGS = "strength-rings"  # the picture of the hops, drawn by strength.js
PLACE = "strength-place"  # where between 0 and 1 the graph over images is
RANGE = "strength-range"  # two numbers, drawn by strength.js
ENTROPY = "strength-entropy"  # of the selected head on the selected image, or null
BRUSH = "strength-brush"  # the range of entropies that the image set has of the selected head, or null

SPREAD = 0.7  # of a layer's width, over which its heads lie
MOST_LAYER_NAMES = 10
FEWEST_FOR_SD = 2
MOST_BINS = 80
# The graph over images is never narrower: entropies that differ by less are alike.
NARROWEST = 0.01
# So many times higher than the distribution over all images may a set's be drawn: of one image it is a needle.
STEEPEST = 3


def layout() -> html.Section:
    hops = [
        html.P(id=HOPS_READING, className="reading"),
        html.P(className="reading readout", hidden=True),
        graphs.graph(HOPS),
        html.Div(
            id=RINGS,
            className="rings",
            role="slider",
            tabIndex=0,
            **{"aria-label": "Hop", "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0},
        ),
    ]
    images = [
        html.P(id=IMAGES_READING, className="reading"),
        html.P(className="reading readout", hidden=True),
        html.Div(id=RANGE, className="range"),
        html.Div(id=PLACE, className="place"),
        graphs.graph(IMAGES),
    ]
    body = [
        html.Div(
            [
                html.Div(graphs.graph(HEADS), className="heads"),
                html.Div(hops, className="hops"),
                html.Div(images, className="images"),
            ],
            className="strength",
        ),
    ]
    return panel(NAME, "Attention strength", HEADS_READING, body)


def register(app: Dash, shelf: Shelf) -> None:
    app.clientside_callback(ClientsideFunction("strength", "pick"), Input(HEADS, "clickData"))
    app.clientside_callback(ClientsideFunction("strength", "hop"), Input(HOPS, "hoverData"))


def _image(facts: StudyFacts, chosen: Selection) -> int | None:
    return None if chosen.image is None else facts.image_indices[chosen.image]


def _set_size(study: Study, images: str) -> int:
    inside = members(study, images)
    return study.sizes["image"] if inside is None else int(inside.sum())


# --- every head ---


@dataclass(frozen=True)
class Heads:
    """Entropies that are drawn, (layer, head).

    Attributes:
        entropy: On the selected image; without one, the mean over the set.
        sd: Over the set; None on an image.
        lowest: Where the axis begins, the same for all images and sets of the study.
    """

    entropy: Array
    sd: Array | None
    lowest: float

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Heads":
        study, image = facts.study, _image(facts, chosen)
        lowest = axis_start(study)
        if image is not None:
            return cls(of_image(study, "entropy", image), None, lowest)
        over_set = summary(study, "entropy", images=chosen.images)
        return cls(over_set.mean, np.where(over_set.counted >= FEWEST_FOR_SD, over_set.sd, 0), lowest)

    def figure(self, colours: Palette) -> go.Figure:
        """A click reports the head as pointNumber, which counts through all layers."""
        num_layers, num_heads = self.entropy.shape
        layers = np.repeat(np.arange(num_layers, dtype=np.float32), num_heads)
        points = go.Scatter(
            x=layers + np.tile(across(num_heads), num_layers),
            y=self.entropy.ravel().astype(np.float32),
            mode="markers",
            cliponaxis=False,  # many heads are at 1
            text=self._said(),
            hovertemplate="%{text}<extra></extra>",
            marker={
                "size": 7 if num_heads <= 8 else 5,
                "color": layers,
                "colorscale": colorscale(colours.layers),
                "cmin": 0,
                "cmax": max(1, num_layers - 1),
                "line": {"width": 0.5, "color": colours.panel},
            },
            error_y=self._error(colours),
        )
        named = range(0, num_layers, math.ceil(num_layers / MOST_LAYER_NAMES))
        return graphs.figure(
            colours,
            [points],
            margin={"l": 64, "r": 8, "t": 8, "b": 20},
            hovermode="closest",
            hoverdistance=12,
            clickmode="event",
            dragmode=False,
            shapes=[_shade(layer, colours) for layer in range(1, num_layers, 2)],
            xaxis={
                "range": [-0.5, num_layers - 0.5],
                "tickvals": list(named),
                "ticktext": [f"L{layer}" for layer in named],
                "tickangle": 0,
                "showgrid": False,
                "fixedrange": True,
            },
            yaxis={**_entropy_ticks(self.lowest), "range": [self.lowest, 1], "fixedrange": True},
        )

    def _error(self, colours: Palette) -> dict[str, Any]:
        if self.sd is None:
            return {"visible": False}
        sd = self.sd.ravel().astype(np.float32)
        return {"array": sd, "width": 0, "thickness": 1, "color": faded(colours.muted, 0.5)}

    def _said(self) -> list[str]:
        said = []
        for place, entropy in np.ndenumerate(self.entropy):
            value = number(float(entropy))
            whose = ", this image" if self.sd is None else f" ± {number(float(self.sd[place]))}, mean of the set"
            said.append(f"{head_label(*place)} · entropy {value}{whose}")
        return said

    def reading(self, images: int) -> str:
        """How to read them, and what is not drawn."""
        whose = "on this image" if self.sd is None else f"mean ± sd of {count(images, 'image')}"
        missing = int((~np.isfinite(self.entropy)).sum())
        gaps = f" {count(missing, 'head')} not drawn: not finite." if missing else ""
        return f"Entropy of attention over hops, {whose}.{gaps}"


def across(num_heads: int) -> Array:
    """How far to the side of its layer each head lies, so that heads of a layer do not cover each other: in order."""
    return ((np.arange(num_heads) - (num_heads - 1) / 2) * SPREAD / max(1, num_heads)).astype(np.float32)


@lru_cache(maxsize=64)
def axis_start(study: Study) -> float:
    """Where the axis of entropy begins: below the lowest of any head on any image, in tenths; at most 0.9."""
    entropy = table(study, "entropy")
    known = entropy[np.isfinite(entropy)]
    return min(9, math.floor(10 * float(known.min()))) / 10 if known.size else 0.0


def _entropy_ticks(lowest: float) -> dict[str, Any]:
    """Ticks that say what the ends mean; an axis that begins higher has no end of one hop."""
    middle = 0.5 if lowest == 0 else round((1 + lowest) / 2, 2)
    start = "one hop 0" if lowest == 0 else f"{lowest:g}"
    return {"tickvals": [lowest, middle, 1], "ticktext": [start, f"{middle:g}", "all alike 1"]}


def _shade(layer: int, colours: Palette) -> dict[str, Any]:
    """Every second layer is shaded, as in the importance of heads."""
    return {
        "type": "rect", "layer": "below", "yref": "paper", "y0": 0, "y1": 1,
        "x0": layer - 0.5, "x1": layer + 0.5, "fillcolor": faded(colours.muted, 0.07), "line": {"width": 0},
    }  # fmt: skip


# --- the selected head, by hop ---


@dataclass(frozen=True)
class Hops:
    """Strength of the selected head at each hop, (hop,).

    Attributes:
        of_image: On the selected image, or None.
        of_set: Mean over the set.
    """

    of_image: Array | None
    of_set: Array

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Hops":
        study, image = facts.study, _image(facts, chosen)
        own = None if image is None else read(study, "strength", image)[chosen.layer, chosen.head]
        return cls(own, strength_mean(study, chosen.images)[chosen.layer, chosen.head])

    def figure(self, colours: Palette) -> go.Figure:
        """Bars; on an image, a line over them for the set. A hover reports the hop as pointNumber."""
        shown = self.of_set if self.of_image is None else self.of_image
        bars = go.Bar(
            x=np.arange(len(shown), dtype=np.int32),
            y=shown.astype(np.float32),
            marker={"color": colours.patch[4], "line": {"width": 0}},
            text=self._said(),
            textposition="none",
            hoverinfo="none",  # strength.js says it above the graph: a label would cover most of it
        )
        return graphs.figure(
            colours,
            [bars] if self.of_image is None else [bars, self._set_line(colours)],
            margin={"l": 42, "r": 2, "t": 6, "b": 20},
            bargap=0.2,
            hovermode="x",
            hoverdistance=-1,  # the nearest hop, wherever the pointer is
            clickmode="none",
            dragmode=False,
            xaxis={
                "range": [-0.6, len(shown) - 0.4],
                "tickvals": _hop_ticks(len(shown)),
                "showgrid": False,
                "fixedrange": True,
            },
            yaxis={"range": [0, self._highest()], "nticks": 4, "fixedrange": True},
        )

    def _highest(self) -> float:
        """Of the axis: a little more than there is."""
        both = [values for values in (self.of_image, self.of_set) if values is not None]
        known = np.concatenate(both)[np.isfinite(np.concatenate(both))]
        return 1.05 * float(known.max()) if known.any() else 1.0

    def _set_line(self, colours: Palette) -> go.Scatter:
        """Steps as wide as the bars' places."""
        edges = np.arange(len(self.of_set) + 1, dtype=np.float32) - 0.5
        return go.Scatter(
            x=edges,
            y=np.append(self.of_set, self.of_set[-1]).astype(np.float32),
            mode="lines",
            line={"shape": "hv", "width": 1.5, "color": colours.text},
            hoverinfo="skip",
        )

    def _said(self) -> list[str]:
        if self.of_image is None:
            return [f"hop {hop}: {number(float(of_set))}, set" for hop, of_set in enumerate(self.of_set)]
        pairs = zip(self.of_image, self.of_set, strict=True)
        return [f"hop {hop}: {number(float(own))}; set {number(float(mean))}" for hop, (own, mean) in enumerate(pairs)]

    def reading(self) -> str:
        shown = self.of_set if self.of_image is None else self.of_image
        if not np.isfinite(shown).any():
            return "Strength is not finite here"
        if len(shown) == 1:
            return "One patch: one hop, entropy 0"
        return "By hop, the set's mean" if self.of_image is None else "By hop; line: the set's mean"


def _hop_ticks(num_hops: int) -> list[int]:
    """About four hops that are named, from 0, at even steps."""
    return list(range(0, num_hops, max(1, round(num_hops / 4))))


# --- the selected head, over images ---


@dataclass(frozen=True)
class Distribution:
    """Densities of a head's entropy: each has the area 1, so that a set compares with all images.

    Attributes:
        edges: Of the bins, (bin + 1,).
        every: Over all images, (bin,).
        in_set: Over the image set, or None where that is all images.
        counts: Images in each bin, of the set and of all, (2, bin).
        span: What the axis shows.
        missing: Images without a number.
    """

    edges: Array
    every: Array
    in_set: Array | None
    counts: Array
    span: tuple[float, float]
    missing: int

    @classmethod
    def of(cls, entropy: Array, inside: Array | None) -> "Distribution | None":
        """Of a head's entropy, (image,), and which images are in the set; None where no image has a number."""
        known = np.isfinite(entropy)
        values = entropy[known].astype(np.float64)
        if not values.size:
            return None
        edges = _edges(values)
        every = np.histogram(values, edges)[0]
        within = every if inside is None else np.histogram(values[inside[known]], edges)[0]
        width = np.diff(edges)
        return cls(
            edges,
            every / (every.sum() * width),
            None if inside is None else within / (max(1, within.sum()) * width),
            np.stack([within, every]),
            _span(float(values.min()), float(values.max())),
            int((~known).sum()),
        )

    def reading(self) -> str:
        """On which images."""
        within, every = self.counts.sum(axis=1)
        among = count(int(every), "image") if self.in_set is None else f"{within:,} of {every:,}"
        return f"Entropy on {among}" + (f", {self.missing:,} not finite" if self.missing else "")

    def said(self, head: str) -> str:
        """The same at length."""
        behind = "" if self.in_set is None else " Faint: all images, drawn to the same area."
        return f"{self.reading().replace('Entropy', f'Entropy of {head}')}.{behind} Drag over it to pick images."

    def figure(self, colours: Palette) -> go.Figure:
        """Areas, the last in front. Of a bin that begins at x[i] it says text[i]; strength.js brushes over them."""
        front = self.every if self.in_set is None else self.in_set
        traces = [self._area(front, faded(colours.muted, 0.45), colours.text)]
        if self.in_set is not None:
            traces.insert(0, self._area(self.every, faded(colours.muted, 0.18), faded(colours.muted, 0.45)))
        highest = max(float(self.every.max()), min(float(front.max()), STEEPEST * float(self.every.max())))
        return graphs.figure(
            colours,
            traces,
            margin={"l": 8, "r": 8, "t": 2, "b": 20},
            hovermode=False,
            dragmode=False,
            xaxis={"range": list(self.span), "nticks": 4, "showgrid": False, "fixedrange": True},
            yaxis={"range": [0, 1.05 * highest], "visible": False, "fixedrange": True},
        )

    def _area(self, density: Array, fill: str, line: str) -> go.Scatter:
        """Steps from bin to bin, down to 0 at both ends."""
        return go.Scatter(
            x=np.concatenate([self.edges[:1], self.edges]),
            y=np.concatenate([[0], density, [0]]),
            mode="lines",
            line={"shape": "hv", "width": 1.2, "color": line},
            fill="tozeroy",
            fillcolor=fill,
            text=["", *self._said_of_bins(), ""],
            hoverinfo="skip",
        )

    def _said_of_bins(self) -> list[str]:
        said = []
        for low, high, within, every in zip(self.edges[:-1], self.edges[1:], *self.counts, strict=True):
            among = count(int(every), "image") if self.in_set is None else f"{within:,} of {every:,}"
            said.append(f"{number(low)}–{number(high)}: {among}")
        return said


def _edges(values: Array) -> Array:
    """Of bins that show what so many images can tell (Freedman and Diaconis, or Sturges), at most MOST_BINS."""
    low, high = float(values.min()), float(values.max())
    if high - low < NARROWEST / MOST_BINS:
        centre = (low + high) / 2
        return np.array([centre - NARROWEST / 20, centre + NARROWEST / 20])
    edges = np.histogram_bin_edges(values, "auto")
    return edges if len(edges) <= MOST_BINS + 1 else np.linspace(low, high, MOST_BINS + 1)


def _span(low: float, high: float) -> tuple[float, float]:
    """The values with some room at both ends, NARROWEST or wider, within 0 to 1 and a little beyond."""
    room = max(0.05 * (high - low), (NARROWEST - (high - low)) / 2)
    return low - room, high + room


def own_range(chosen: Selection) -> tuple[float, float] | None:
    """The range of the selected head's entropy that the image set has, or None."""
    for condition in conditions_of(chosen.images):
        if isinstance(condition, Entropy) and (condition.layer, condition.head) == (chosen.layer, chosen.head):
            return condition.low, condition.high
    return None


def other_conditions(chosen: Selection) -> str:
    """The image set but for the range of the selected head's entropy: what is brushed is not cut off by the brush."""
    return without(chosen.images, Entropy(chosen.layer, chosen.head, 0, 0).slot)


def place(span: tuple[float, float]) -> list[Any]:
    """Where between 0 and 1 the graph is: a scale, and a lens from there to the graph's whole width."""
    low, high = (100 * min(1.0, max(0.0, end)) for end in span)
    lens = f"polygon({low:.2f}% 0, {high:.2f}% 0, 100% 100%, 0 100%)"
    return [
        html.I(className="shown", style={"left": f"{low:.2f}%", "width": f"{max(0.5, high - low):.2f}%"}),
        html.I(className="lens", style={"clipPath": lens}),
    ]


# --- what is drawn ---


def draw_heads(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    heads = Heads.of(facts, chosen)
    return heads.figure(palette(chosen.theme)), heads.reading(_set_size(facts.study, chosen.images))


def draw_hops(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    hops, image = Hops.of(facts, chosen), _image(facts, chosen)
    entropy = math.nan if image is None else float(of_image(facts.study, "entropy", image)[chosen.layer, chosen.head])
    return hops.figure(palette(chosen.theme)), entropy if math.isfinite(entropy) else None, hops.reading()


def draw_images(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    colours, others = palette(chosen.theme), other_conditions(chosen)
    entropy = table(facts.study, "entropy")[:, chosen.layer, chosen.head]
    distribution = Distribution.of(entropy, members(facts.study, others))
    if distribution is None:
        return *blank_images(colours), "Entropy is not finite on any image"
    reading = html.Span(distribution.reading(), title=distribution.said(chosen.label))
    return distribution.figure(colours), place(distribution.span), own_range(chosen), reading


def blank_heads(colours: Palette) -> tuple[Any, ...]:
    return (graphs.blank(colours),)


def blank_hops(colours: Palette) -> tuple[Any, ...]:
    return graphs.blank(colours), None


def blank_images(colours: Palette) -> tuple[Any, ...]:
    return graphs.blank(colours), [], None


# Three, as a head that is picked leaves the graph of all heads as it is, and an image that of all images.
DRAWINGS = (
    Drawing(
        outputs=(Output(HEADS, "figure"), Output(HEADS_READING, BODY)),
        fields=("images", "image"),
        draw=draw_heads,
        blank=blank_heads,
    ),
    Drawing(
        outputs=(Output(HOPS, "figure"), Output(ENTROPY, TOLD), Output(HOPS_READING, BODY)),
        fields=("images", "image", "layer", "head"),
        draw=draw_hops,
        blank=blank_hops,
    ),
    Drawing(
        outputs=(
            Output(IMAGES, "figure"),
            Output(PLACE, BODY),
            Output(BRUSH, TOLD),
            Output(IMAGES_READING, BODY),
        ),
        fields=("images", "layer", "head"),
        draw=draw_images,
        blank=blank_images,
    ),
)


# --- what leaves ---


def entropy_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """A row a head: its entropy on the selected image, and over the set."""
    over_set, image = summary(facts.study, "entropy", images=chosen.images), _image(facts, chosen)
    layer, head = np.indices(over_set.mean.shape).reshape(2, -1)
    columns = {"layer": layer, "head": head, "mean": over_set.mean.ravel(), "sd": over_set.sd.ravel()}
    return columns if image is None else columns | {"image": of_image(facts.study, "entropy", image).ravel()}


def entropy_lines(facts: StudyFacts, chosen: Selection) -> str:
    return _lines(
        facts,
        chosen,
        *over_images("'entropy'"),
        *_own(chosen, "study.read('entropy', {image}).ravel()"),
    )


def hops_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """A row a hop: the strength of the selected head on the selected image, and its mean over the set."""
    hops = Hops.of(facts, chosen)
    columns = {"hop": np.arange(len(hops.of_set)), "mean": hops.of_set}
    return columns if hops.of_image is None else columns | {"image": hops.of_image}


def hops_lines(facts: StudyFacts, chosen: Selection) -> str:
    place = f"{chosen.layer}, {chosen.head}"
    return _lines(
        facts,
        chosen,
        f"values = study.read('strength', slice(None), {place})[images].astype(float)  # (image, hop)",
        "mean = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)",
        'numbers = {"hop": np.arange(len(mean)), "mean": mean}',
        *_own(chosen, f"study.read('strength', {{image}}, {place})"),
    )


def images_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """A row an image: the selected head's entropy on it, and whether it is in the set."""
    entropy, inside = table(facts.study, "entropy")[:, chosen.layer, chosen.head], members(facts.study, chosen.images)
    in_set = np.ones(len(entropy), bool) if inside is None else inside
    return {"image": facts.image_ids, "entropy": entropy, "in_set": in_set}


def images_lines(facts: StudyFacts, chosen: Selection) -> str:
    return _lines(
        facts,
        chosen,
        f"entropy = study.read('entropy', slice(None), {chosen.layer}, {chosen.head})",
        "in_set = np.zeros(len(entropy), bool)",
        "in_set[images] = True",
        'numbers = {"image": study.image_ids, "entropy": entropy, "in_set": in_set}',
    )


def _lines(facts: StudyFacts, chosen: Selection, *lines: str) -> str:
    return "\n".join([*opening(facts, chosen), *lines]) + "\n"


def _own(chosen: Selection, value: str) -> list[str]:
    """The line that adds what is of the selected image; `value` has {image} where its index goes."""
    if chosen.image is None:
        return []
    return [f'numbers["image"] = {value.format(image=f"study.image_index({chosen.image!r})")}']


EXPORTS = (
    Export(NAME, "entropy", "Entropy of every head", entropy_numbers, entropy_lines, f"graph:{HEADS}"),
    Export(NAME, "strength", "Strength by hop", hops_numbers, hops_lines, f"graph:{HOPS}"),
    Export(
        NAME,
        "entropy-distribution",
        "Entropy over images",
        images_numbers,
        images_lines,
        f"graph:{IMAGES}",
    ),
)


ABOUT = r"""
How far a head's patches look: their attention by distance on the patch grid, and how evenly it is spread.

**Read it.** Above: a point a head, by layer; low entropy, it looks at one distance; high, at all alike. Below, left:
the selected head's strength at each hop, on this image and as the mean of the set. Right: its entropy over the images
of the set; the line is this image. Brush it to make an image set.

**Computed.** Hop $k$ of a patch are the patches at Chebyshev distance $k$: a square ring $N_k(q)$, clipped at the
border (Fig. 5). The mean over the ring comes first, then that over the $|Q_k|$ patches which have such a ring:

$$
s_k = \frac{1}{|Q_k|} \sum_{q \,\in\, Q_k} \frac{1}{|N_k(q)|} \sum_{r \,\in\, N_k(q)} A[q, r],
\qquad k = 0 \dots p - 1 \qquad \text{(Eq. 7, 8)}
$$

$A$ is as it is, not renormalised without CLS; on a grid that is no square, $p$ is its longer side. The entropy (Sec.
5.3.2) is scaled to 0 … 1:

$$
H = -\frac{1}{\ln p} \sum_k \hat s_k \ln \hat s_k, \qquad \hat s_k = \frac{s_k}{\sum_h s_h}
$$

Computed in `precompute/strength.py` · arrays `strength`, `entropy`
"""

VIEW = View(
    "attention-strength",
    layout,
    drawings=DRAWINGS,
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    register=lambda app, shelf, desk: register(app, shelf),
    row="low",
    place=5,
)
