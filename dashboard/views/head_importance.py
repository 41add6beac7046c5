"""Which heads matter? One importance metric, or one number of a package, over all heads (Fig. 1B1 and 7).

It is a curve, or a grid of layers and heads.

The selected head is no part of the figures: importance.js lays it over them, so that moving it draws nothing anew.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Output, html

from analyses.registry import HEAD_NUMBERS, PICKED_NUMBERS
from analyses.vocabulary import HeadNumber
from dashboard import graphs
from dashboard.data import Array, StudyFacts, Summary, members, of_image, predictions, summary
from dashboard.drawing import BODY, Drawing
from dashboard.exports import Columns, Export, of_study, opening, over_images
from dashboard.selection import Selection, head_label
from dashboard.theme import Palette, colorscale, faded, palette
from dashboard.view import View
from dashboard.views import choice
from dashboard.views.panel import panel
from dashboard.words import count, number, ordinal

GRAPH = "head-importance-graph"
READING = "head-importance-reading"

PEAKS = 5  # heads that are named on the curve
MARKED_HEADS = 200  # up to so many heads each has a dot; more would touch
FEWEST_FOR_SD = 2
# Of the height of what is drawn: room for the names beyond the curve, and for the strip of layers below it.
NAMES_ROOM, STRIP_ROOM = 0.2, 0.14
# The deviation may add so much of the height of the curves; more of it is cut off, or the curves were flat.
MOST_SPREAD = 1.0
MOST_NAMED_LAYERS = 25  # below a grid; of more, every second is
LEFT = 66  # pixels beside the plot, for ticks and a title of two lines
LONG_TITLE = 16  # letters of an axis's title that a low panel has room for

SET_MEAN, THIS_IMAGE = "mean of the set", "this image"
ONCE = "One number a head, of the whole study"


def layout() -> html.Section:
    tools = [
        html.Span(
            ["order", choice.layout("sort", {"model": "model", "importance": "importance"}, "Order of the heads")],
            className="sort",
        ),
        choice.layout("curve", {"line": "line", "grid": "grid"}, "Curve or grid of the heads"),
        choice.layout("metric", {name: each.title for name, each in PICKED_NUMBERS.items()}, "Importance metric"),
    ]
    return panel("head-importance", "Head importance", READING, graphs.graph(GRAPH), tools)


def draw(facts: StudyFacts, chosen: Selection) -> tuple[go.Figure, Any]:
    """The curve or the grid, and how to read it."""
    heads, colours = Heads.of(facts, chosen), palette(chosen.theme)
    if chosen.curve == "grid":
        return grid_figure(heads, chosen, colours), grid_reading(heads, chosen)
    return curve_figure(heads, chosen, colours), curve_reading(heads, chosen, colours)


def blank(colours: Palette) -> tuple[go.Figure]:
    return (graphs.blank(colours),)


DRAWING = Drawing(
    outputs=(Output(GRAPH, "figure"), Output(READING, BODY)),
    fields=("images", "image", "metric", "curve", "sort"),
    draw=draw,
    blank=blank,
)


def reasons(facts: StudyFacts) -> dict[str, str]:
    """Why the study lacks some of the numbers, by name."""
    left_out, has = facts.study.attrs.get("left_out", {}), facts.choices["metric"]
    return {name: left_out.get(name, "not in this study") for name in PICKED_NUMBERS if name not in has}


# --- what is drawn ---


@dataclass(frozen=True)
class Heads:
    """A value a head, (layer, head).

    Attributes:
        over_set: Mean and standard deviation over the image set.
        of_image: The selected image's own, or None.
        low_matters: Whether the lowest value is that of the most important head.
        unpruned: The value with nothing pruned, or None where it is no such metric.
    """

    over_set: Summary
    of_image: Array | None
    low_matters: bool = False
    unpruned: float | None = None

    @classmethod
    def of(cls, facts: StudyFacts, chosen: Selection) -> "Heads":
        """Of a study and a selection. The grid has the number itself, the curve what its row of HEAD_NUMBERS says."""
        study, picked = facts.study, HEAD_NUMBERS[chosen.metric]
        name, metric = array_of(chosen)
        image = None if chosen.image is None else facts.image_indices[chosen.image]
        over_set = summary(study, name, metric, chosen.images)
        row = of_image(study, name, image, metric) if image is not None and picked.per_image else None
        if name == picked.array:
            return cls(over_set, row)
        before = predictions(study).probability
        inside = members(study, chosen.images)
        return cls(over_set, row, True, _mean(before if inside is None else before[inside], image, before))

    @property
    def shown(self) -> Array:
        """What is clicked and sorted by: the image's own values, or the means."""
        return self.over_set.mean if self.of_image is None else self.of_image

    @property
    def whose(self) -> str:
        return SET_MEAN if self.of_image is None else THIS_IMAGE

    def order(self) -> Array:
        """Ranks of the heads (layer · num_heads + head), the most important first; those without a value last."""
        values = np.asarray(self.shown, np.float64).ravel()
        least_first = values if self.low_matters else -values
        return np.argsort(np.where(np.isfinite(values), least_first, np.inf), kind="stable")

    def peaks(self) -> list[int]:
        """Ranks of the most important heads."""
        return [int(rank) for rank in self.order()[:PEAKS] if np.isfinite(self.shown.ravel()[rank])]

    def said(self) -> list[str]:
        """Of each head, by rank: its name and its values in words."""
        num_heads = self.over_set.mean.shape[1]
        mean, sd, counted = (each.ravel() for each in (self.over_set.mean, self.over_set.sd, self.over_set.counted))
        own = None if self.of_image is None else self.of_image.ravel()
        lines = []
        for rank in range(mean.size):
            spread = f" ± {number(sd[rank])}" if counted[rank] >= FEWEST_FOR_SD else ""
            here = "" if own is None else f"{THIS_IMAGE}: {number(own[rank])}; "
            name = head_label(*divmod(rank, num_heads))
            lines.append(f"<b>{name}</b> · {here}{SET_MEAN} {number(mean[rank])}{spread}")
        return lines


def array_of(chosen: Selection) -> tuple[str, str | None]:
    """The array that is drawn, and its metric if it has several."""
    picked = HEAD_NUMBERS[chosen.metric]
    if picked.curve and chosen.curve != "grid":
        return picked.curve, None
    return picked.array, picked.metric


def _mean(values: Array, image: int | None, every: Array) -> float:
    """Of the image, or of all that are known."""
    if image is not None:
        return float(every[image])
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


# --- the curve ---


def curve_figure(heads: Heads, chosen: Selection, colours: Palette) -> go.Figure:
    """Lines over all heads, in the order that is picked.

    For importance.js: the last trace is named "heads", its customdata has the head's rank at each place of the x
    axis; layout.meta has the ranks of the peaks. Below a sorted curve there is room for its strip of layers.
    """
    num_layers, num_heads = heads.over_set.mean.shape
    in_model = chosen.sort == "model"
    order = np.arange(num_layers * num_heads) if in_model else heads.order()
    mean, sd, counted = (
        np.asarray(each, np.float64).ravel()[order]
        for each in (heads.over_set.mean, heads.over_set.sd, heads.over_set.counted)
    )
    x, y = band(mean, sd, counted)
    low, high = ends(heads)
    traces = [_spread(x, y, colours)]
    if not in_model:
        low -= STRIP_ROOM * (high - low)
    if heads.of_image is not None:
        traces.append(_line(mean, faded(colours.muted, 0.6), 1.2))
    picked = HEAD_NUMBERS[chosen.metric]
    said, title = heads.said(), picked.curve_axis or picked.axis
    traces.append(
        _line(np.asarray(heads.shown).ravel()[order], colours.text, 1.8, order, [said[rank] for rank in order])
    )
    return graphs.figure(
        colours,
        traces,
        margin={"l": LEFT, "r": 10, "t": 4, "b": 20},
        hovermode="x",
        hoverdistance=-1,  # the nearest head, wherever the pointer is
        dragmode=False,
        meta={"peaks": heads.peaks(), "low_matters": heads.low_matters},
        xaxis=_x_axis(num_layers, num_heads, in_model),
        yaxis={
            "text": title if len(title) <= LONG_TITLE else title.replace(", ", ",<br>"),
            "fixedrange": True,
            "range": [low, high],
            "nticks": 6,
        },
        shapes=[
            *(_shade(layer, num_heads, colours) for layer in range(1, num_layers, 2) if in_model),
            *_dashed(heads.unpruned, colours),
        ],
    )


def ends(heads: Heads) -> tuple[float, float]:
    """Of the y axis: the curves, as much of the deviation as leaves them legible, and room for names where the
    important heads are: above, or below where low values matter."""
    (low, high), cut = _of_curves(heads), spread_beyond(heads)
    height, (below, above) = high - low, cut
    scale = min(1.0, MOST_SPREAD * height / (below + above)) if below + above else 1.0
    low, high = low - scale * below, high + scale * above
    names = NAMES_ROOM * (high - low)
    if heads.low_matters:
        return max(low - names, min(low, 0.0)), high + 0.04 * (high - low)
    return low, high + names


def _of_curves(heads: Heads) -> tuple[float, float]:
    """Lowest and highest value that must be seen; never alike."""
    unpruned = np.array([heads.unpruned], np.float64)  # None is NaN
    zero = np.array([np.nan if heads.low_matters else 0.0])
    values = np.concatenate([heads.over_set.mean.ravel(), heads.shown.ravel(), unpruned, zero])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return low, (high if high > low else low + 1.0)


def spread_beyond(heads: Heads) -> tuple[float, float]:
    """How far mean ± sd goes below and above the curves."""
    low, high = _of_curves(heads)
    _, y = band(*(each.ravel() for each in (heads.over_set.mean, heads.over_set.sd, heads.over_set.counted)))
    known = y[np.isfinite(y)]
    return (max(0.0, low - float(known.min())), max(0.0, float(known.max()) - high)) if known.size else (0.0, 0.0)


def _x_axis(num_layers: int, num_heads: int, in_model: bool) -> dict[str, Any]:
    size = num_layers * num_heads
    if in_model:
        at = [(layer + 0.5) * num_heads - 0.5 for layer in range(num_layers)]
        text = [f"L{layer}" for layer in range(num_layers)]
    else:
        step = next((each for each in (5, 10, 20, 50) if size <= 12 * each), 100)
        places = [1, *range(step, size + 1, step)]
        at, text = [place - 1 for place in places], [ordinal(place) for place in places]
    return {
        "range": [-0.6, size - 0.4],
        "tickvals": at,
        "ticktext": text,
        "ticks": "",
        "showgrid": False,
        "fixedrange": True,
    }


def _line(
    values: Array, colour: str, width: float, order: Array | None = None, said: list[str] | None = None
) -> go.Scatter:
    """One curve; it answers the pointer only if it has what to say. NaN is a gap."""
    answers: dict[str, Any] = {"hoverinfo": "skip"}
    if order is not None:
        answers = {
            "name": "heads",
            "customdata": order.astype(np.uint16),
            "text": said,
            "hovertemplate": "%{text}<extra></extra>",
        }
    return go.Scatter(
        x=np.arange(values.size, dtype=np.float32),
        y=np.asarray(values, np.float32),
        mode="lines+markers" if values.size <= MARKED_HEADS and order is not None else "lines",
        line={"color": colour, "width": width},
        marker={"size": 5, "color": colour},
        connectgaps=False,
        **answers,
    )


def _spread(x: Array, y: Array, colours: Palette) -> go.Scatter:
    fill = faded(colours.muted, 0.15)
    return go.Scatter(x=x, y=y, mode="lines", line={"width": 0}, hoverinfo="skip", fill="toself", fillcolor=fill)


def band(mean: Array, sd: Array, counted: Array) -> tuple[Array, Array]:
    """Outline of mean ± sd, x and y: a polygon for each run of heads that have both, NaN between polygons.

    It ends at 0, as all values of a curve do: they are probabilities and distances.
    """
    known = np.isfinite(mean) & (counted >= FEWEST_FOR_SD)
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


def curve_reading(heads: Heads, chosen: Selection, colours: Palette) -> list[Any]:
    """How to read the curve, and what is not in it."""
    picked = HEAD_NUMBERS[chosen.metric]
    whose = "Mean ± sd of the set" if heads.of_image is None else "Faint: mean ± sd of the set"
    whose = whose if picked.per_image else ONCE
    low, high = _of_curves(heads)
    cut = ", cut off." if sum(spread_beyond(heads)) > MOST_SPREAD * (high - low) else "."
    dashed = "" if heads.unpruned is None else f"Dashed, {number(heads.unpruned)}: none pruned. "
    said = [f"{picked.curve_reading or picked.reading} {dashed}{whose}{cut}{_missing(heads, 'gap')}"]
    if chosen.sort == "model":
        return said
    ramp = html.I(className="ramp", style={"background": f"linear-gradient(to right, {', '.join(colours.layers)})"})
    last = heads.over_set.mean.shape[0] - 1
    return [*said, " Strip: L0", ramp, f"L{last}."]


def _missing(heads: Heads, thing: str) -> str:
    missing = int((~np.isfinite(heads.shown)).sum())
    return f" {count(missing, thing)}: not finite." if missing else ""


# --- the grid ---


def grid_figure(heads: Heads, chosen: Selection, colours: Palette) -> go.Figure:
    """Heat map of the heads, a column a layer, so that layers stand where the curve has them, in a low panel too. For
    importance.js, its trace is named "heads"."""
    values, picked = heads.shown, HEAD_NUMBERS[chosen.metric]
    num_layers, num_heads = values.shape
    signed = is_signed(picked, values)
    lowest, highest = limits(values, signed)
    cells = go.Heatmap(
        name="heads",
        z=np.asarray(values.T, np.float32),
        x=[f"L{layer}" for layer in range(num_layers)],
        y=[f"H{head}" for head in range(num_heads)],
        text=np.array(heads.said()).reshape(values.shape).T.tolist(),
        colorscale=colorscale(colours.diverging if signed else colours.sequential),
        zmin=lowest,
        zmax=highest,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{text}<extra></extra>",
        colorbar=graphs.colorbar(colours, "<br>".join(picked.axis.rsplit(" ", 1))),
    )
    axis = {"type": "category", "showgrid": False, "ticks": "", "fixedrange": True, "tickangle": 0}
    return graphs.figure(
        colours,
        [cells],
        margin={"l": LEFT, "r": 92, "t": 4, "b": 20},
        dragmode=False,
        xaxis=axis | {"tickvals": cells.x[:: 1 + num_layers // MOST_NAMED_LAYERS]},
        yaxis=axis | {"autorange": "reversed"},
    )


def is_signed(picked: HeadNumber, values: Array) -> bool:
    """Whether zero is in the middle of the colours: where the number says so, or a value is negative."""
    return picked.signed or bool((values < 0).any())


def limits(values: Array, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: from 0, or alike on both sides of it for a signed metric; never empty."""
    known = np.abs(values[np.isfinite(values)])
    highest = float(known.max()) if known.size and known.max() > 0 else 1.0
    return (-highest if signed else 0.0), highest


def grid_reading(heads: Heads, chosen: Selection) -> str:
    """How to read the grid, and what is not in it."""
    picked = HEAD_NUMBERS[chosen.metric]
    whose = f"{ONCE}." if not picked.per_image else "Mean of the set." if heads.of_image is None else "This image."
    return f"{picked.reading} {whose}{_missing(heads, 'blank')}"


# --- what leaves the page ---


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """What is drawn, a row a head in the order of the model."""
    heads = Heads.of(facts, chosen)
    num_layers, num_heads = heads.over_set.mean.shape
    columns = {
        "layer": np.repeat(np.arange(num_layers), num_heads),
        "head": np.tile(np.arange(num_heads), num_layers),
        "mean": heads.over_set.mean.ravel(),
        "sd": heads.over_set.sd.ravel(),
        "counted": heads.over_set.counted.ravel(),
    }
    return columns if heads.of_image is None else columns | {"image": heads.of_image.ravel()}


def python(facts: StudyFacts, chosen: Selection) -> str:
    """Lines that give `numbers` from the store alone."""
    name, metric = array_of(chosen)
    lead = repr(name) if metric is None else f"{name!r}, study.metric_index({metric!r})"
    per_image = HEAD_NUMBERS[chosen.metric].per_image
    lines = [
        *opening(facts, chosen),
        *(over_images(lead) if per_image else of_study(lead)),
        'numbers["counted"] = values.count(axis=0).ravel()',
    ]
    if chosen.image is not None and per_image:
        lines.append(f'numbers["image"] = study.read({lead}, study.image_index({chosen.image!r})).ravel()')
    return "\n".join(lines) + "\n"


EXPORTS = (Export("head-importance", "head-importance", "Head importance", numbers, python, f"graph:{GRAPH}"),)


ABOUT = r"""
What changes when one head is pruned: its attention matrix is set to 0 after the softmax, nothing is renormalised.

**Read it.** A point a head, layer by layer. With an image: its own values over the mean. Without: the mean over the
image set and one standard deviation (of the set itself, not estimated). *Probability* draws what is left of
P(target), so low means that the head matters (Sec. 5.2.4), and the map of layers and heads draws the drop. Of the
other metrics, high means that it matters. They disagree: later layers make up for a head, so it can change its own
layer much and the prediction little (Sec. 5.2.2).

**Computed**, of head $j$ in layer $i$, $P$ before and $P_{i,j}$ after:

$$
I^{\mathrm{prob}}_{i,j} = P[\mathrm{target}] - P_{i,j}[\mathrm{target}] \qquad \text{(Eq. 3)}
$$

$$
I^{\mathrm{JSD}}_{i,j} = \tfrac12 \sum_c P(c) \log_2 \frac{P(c)}{M(c)}
+ \tfrac12 \sum_c P_{i,j}(c) \log_2 \frac{P_{i,j}(c)}{M(c)} \qquad \text{(Eq. 4)}
$$

with $M = \tfrac12 (P + P_{i,j})$, in bits, 0 to 1: the divergence, not its root. With $z$ the layer's output after
$W_O$ and its bias, $z'$ the same with the head pruned, and $D_{\cos}(a, b) = 1 - \cos\angle(a, b)$, 0 to 2:

$$
I^{\mathrm{CLS}}_{i,j} = D_{\cos}(z[\mathrm{CLS}], z'[\mathrm{CLS}]) \qquad \text{(Eq. 5)}
$$

$$
I^{\mathrm{patch}}_{i,j} = \frac{1}{p^2} \sum_{q \,\in\, \mathrm{patches}} D_{\cos}(z[q], z'[q])
\qquad \text{(Eq. 6)}
$$

Computed in `precompute/importance.py`, `precompute/metrics.py` · arrays `importance`, `pruned_probability`
"""

VIEW = View(
    "head-importance",
    layout,
    drawings=(DRAWING,),
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    row="",
    place=1,
)
