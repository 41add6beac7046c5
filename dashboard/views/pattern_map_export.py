"""What of the pattern map can leave? Its picture, the places of its heads, and the Python lines that give them."""

from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from analyses.vocabulary import MAPS, MIXED
from dashboard import graphs
from dashboard.data import Array, StudyFacts, indices_of, large
from dashboard.exports import Columns, Export
from dashboard.selection import Selection
from dashboard.theme import Palette, palette
from dashboard.views.pattern_map import (
    SHADES,
    PatternMap,
    Scale,
    absence,
    marks_of,
    pattern_words,
    picture,
)
from dashboard.words import count, number
from store.errors import StoreError

MOST_ROWS = 2_000_000  # of numbers that leave; 100 MB as CSV


def exported(facts: StudyFacts, chosen: Selection) -> go.Figure:
    """The whole map as it is on the page, of shapes that stay sharp in print."""
    colours = palette(chosen.theme)
    if MAPS[chosen.map].layout not in facts.study:
        raise StoreError(absence(facts))
    found = PatternMap.of_selection(facts, chosen)
    heads, scale = marks_of(facts, chosen)
    fig = found.figure(colours, "")
    fig.data = ()
    if found.heads is not None:
        fig.add_trace(found.points(found.heads, go.Scatter, "skip", **_key(scale, colours)))
    of_image = chosen.image is not None
    rank = chosen.layer * facts.num_heads + chosen.head
    ringed = heads.places % (facts.num_layers * facts.num_heads) == rank
    if of_image:
        line = {"color": colours.text, "width": 1}
        fig.add_trace(found.points(heads, go.Scatter, "skip", size=9, opacity=1, line=line))
    x, y = np.ascontiguousarray(heads.xy[ringed].T)
    ring = {"symbol": "circle-open", "color": colours.accent, "size": 16 if of_image else 6}
    fig.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=ring | {"line": {"width": 2.5 if of_image else 1.5}}))
    asked = {field: getattr(chosen, field) for field in ("map", "images", "map_colour", "theme")}
    asked |= {"x0": "0", "x1": "1", "y0": "0", "y1": "1", "width": "1200", "height": "1200"}
    if found.heads is not None:
        asked |= {"outline": "", "images": ""}
    behind = {"x": 0, "y": 1, "sizex": 1, "sizey": 1, "xref": "x", "yref": "y", "sizing": "stretch", "layer": "below"}
    fig.add_layout_image(source=Image.open(BytesIO(picture(facts, asked))), **behind)
    return fig


def _key(scale: Scale, colours: Palette) -> dict[str, Any]:
    """The colour bar of an exported map."""
    bar = graphs.colorbar(colours, scale.axis)
    if scale.by == "importance":
        ends = (-scale.limit if scale.signed else 0.0, scale.limit)
        bar |= {"tickvals": [0, SHADES - 1], "ticktext": [number(end) for end in ends]}
    else:
        bar |= {"tickvals": list(range(len(scale.words))), "ticktext": list(scale.words)}
    return {"showscale": True, "colorbar": bar}


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """Place and pattern of every head of every image, or, of more than MOST_ROWS, of the image set's.

    Raises:
        StoreError: The study has no such map, or the set is too large too.
    """
    study, array = facts.study, MAPS[chosen.map].layout
    if array not in study:
        raise StoreError(absence(facts))
    images, inside = _leaving(facts, chosen)
    heads = facts.num_layers * facts.num_heads
    layer, head = np.divmod(np.tile(np.arange(heads), len(images)), facts.num_heads)
    xy = large(study, array)[images].reshape(-1, 2)
    columns = {
        "image": np.repeat(np.array(facts.image_ids)[images], heads),
        "layer": layer,
        "head": head,
        "x": xy[:, 0],
        "y": xy[:, 1],
    }
    if MAPS[chosen.map].pattern in study:
        words = np.array([*pattern_words(study, chosen.map), MIXED])
        columns["pattern"] = words[large(study, MAPS[chosen.map].pattern)[images].ravel()]
    return columns | {"in_set": np.repeat(np.isin(images, inside), heads)}


def _leaving(facts: StudyFacts, chosen: Selection) -> tuple[Array, Array]:
    """Indices of the images whose heads leave, and of the set's."""
    inside, heads = indices_of(facts.study, chosen.images), facts.num_layers * facts.num_heads
    if len(facts.image_ids) * heads <= MOST_ROWS:
        return np.arange(len(facts.image_ids)), inside
    if len(inside) * heads > MOST_ROWS:
        raise StoreError(
            f"{count(len(inside) * heads, 'row')} are more than the {MOST_ROWS:,} that leave as CSV; choose a set of "
            f"up to {count(MOST_ROWS // heads, 'image')}, or read {MAPS[chosen.map].layout} in Python"
        )
    return inside, inside


def python(facts: StudyFacts, chosen: Selection) -> str:
    """Lines that give `numbers`."""
    images, inside = _leaving(facts, chosen)
    every = len(facts.image_ids)
    listed = f"np.array({inside.tolist()}, int)" if len(inside) < every else f"np.arange({every})"
    lines = [
        "import headscope",
        "import numpy as np",
        "",
        f'study = headscope.open_study("{facts.name}")',
        f"in_set = {listed}  # the image set" + (f": {chosen.images!r}" if chosen.images else ""),
        "images = in_set" if len(images) < every else f"images = np.arange({every})",
        f'xy = study.read("{MAPS[chosen.map].layout}")[images]  # (image, layer, head, 2)',
        "image, layer, head = np.indices(xy.shape[:3]).reshape(3, -1)",
        "numbers = {",
        '    "image": np.array(study.image_ids)[images[image]],',
        '    "layer": layer,',
        '    "head": head,',
        '    "x": xy[..., 0].ravel(),',
        '    "y": xy[..., 1].ravel(),',
    ]
    of = MAPS[chosen.map]
    if of.pattern in facts.study:
        lines.insert(-6, f'words = np.array([*study.read("{of.patterns}"), "{MIXED}"])  # -1 is the last')
        lines.append(f'    "pattern": words[study.read("{of.pattern}")[images].ravel()],')
    return "\n".join([*lines, '    "in_set": np.isin(images[image], in_set),', "}", ""])


EXPORTS = (Export("pattern-map", "pattern-map", "Heads", numbers, python, picture="figure", figure=exported),)
