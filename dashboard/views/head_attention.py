"""Where does the selected head look? Its attention on one image (Fig. 1D2-D5): masks, two axes, matrix, histogram.

The browser fetches the numbers from `routes` and draws everything from them (assets/attention*.js), so that following
the pointer asks for nothing. Drawn here is what stands there without an image: those on which the head matters most.
"""

from typing import Any

import numpy as np
from dash import Output, html

from analyses.registry import HEAD_NUMBERS
from dashboard.data import Array, StudyFacts, indices_of, per_image
from dashboard.drawing import BODY, Drawing
from dashboard.exports import Columns, Export
from dashboard.routes import image_words, pictures_url
from dashboard.selection import Selection
from dashboard.theme import Palette
from dashboard.view import View
from dashboard.views.panel import panel
from dashboard.words import number
from store.errors import StoreError

NAME = "head-attention"
READING = "head-attention-reading"
SUGGESTED = "attention-suggested"
# Ids that attention.js paints into, and of what it puts there to be exported.
VIEWS = "head-attention-views"
SAID = "head-attention-said"
TOKENS = "attention-tokens"
MASKS = "attention-masks"
AXES = "two-axes"
MATRIX = "attention-matrix"
HISTOGRAM = "attention-histogram"

MOST_SUGGESTED = 12
# Of the histogram: its bins, and where its axis ends: below, float16 has hardly any numbers, and bars would be a comb.
BINS, LEAST = 60, 1e-6


def layout() -> html.Section:
    """What is painted is put by attention.js into the element that is empty here."""
    body = [
        html.Div(id=VIEWS, className="attention-views none"),
        html.Div(id=SUGGESTED, className="suggested"),
        html.P(id=SAID, className="said problem", role="alert"),
    ]
    tokens = html.Div(id=TOKENS, className="choice", role="group", **{"aria-label": "Token of the masks"})
    return panel(NAME, "Attention of the head", READING, body, tokens)


def draw(facts: StudyFacts, chosen: Selection) -> tuple[list[html.Button], Any]:
    """The images to pick from, if none is, and how to read what the browser draws."""
    if chosen.image is None:
        words = f"Pick an image to see where {chosen.label} looks. Most {HEAD_NUMBERS[chosen.metric].axis}:"
        return suggestions(facts, chosen), words
    rebuilt = facts.study.attention_source == "rebuilt"
    how = "Computed again from the residual stream, in float32" if rebuilt else "As the model computed it, in float16"
    words = f"{chosen.label}: each token shares out 1 among the tokens that it looks at."
    return [], html.Span(f"{words}{' Rebuilt.' if rebuilt else ''}", title=how)


def blank(colours: Palette) -> tuple[list[html.Button]]:
    return ([],)


DRAWING = Drawing(
    outputs=(Output(SUGGESTED, BODY), Output(READING, BODY)),
    fields=("images", "image", "layer", "head", "metric"),
    draw=draw,
    blank=blank,
)


def suggested(facts: StudyFacts, chosen: Selection) -> list[int]:
    """Images of the set on which the head matters most by the metric, best first; none that is not finite."""
    effect = per_image(facts.study, chosen.metric, chosen.layer, chosen.head)
    members = indices_of(facts.study, chosen.images)
    known = members[np.isfinite(effect[members])]
    return [int(index) for index in known[np.argsort(-effect[known], kind="stable")][:MOST_SUGGESTED]]


def suggestions(facts: StudyFacts, chosen: Selection) -> list[html.Button]:
    effect = per_image(facts.study, chosen.metric, chosen.layer, chosen.head)
    return [_suggestion(facts, index, float(effect[index])) for index in suggested(facts, chosen)]


def _suggestion(facts: StudyFacts, index: int, effect: float) -> html.Button:
    words = image_words(facts.study, index)
    name = words.get("true") or words["id"].rsplit("/", 1)[-1]
    return html.Button(
        [html.Img(src=f"{pictures_url(facts)}/thumbnail/{index}.webp", alt=""), html.Span(f"{number(effect)} {name}")],
        title=f"{words['id']}: {number(effect)}",
        **{"data-index": str(index)},
    )


# --- what can leave ---


def attention(facts: StudyFacts, chosen: Selection) -> Array:
    """Of the selected head and image, (query, key).

    Raises:
        StoreError: No image is selected, or it is damaged.
    """
    if chosen.image is None:
        raise StoreError(f"attention is of one image: pick one to see where {chosen.label} looks")
    return facts.study.attention(facts.image_indices[chosen.image], chosen.layer, chosen.head)


def least_shown(attn: Array, top: float) -> float:
    """The least value among the strongest `top` per cent of them, as the browser has them: in float16."""
    count = max(1, int(top / 100 * attn.size + 0.5))
    return float(np.sort(attn.astype(np.float16), axis=None)[-count])


def edges_of(attn: Array) -> Array:
    """Of the histogram's bins: evenly spaced by log, from the least value, or `LEAST`, to the largest."""
    most = float(attn.max())
    return np.geomspace(min(max(LEAST, float(attn.min())), most / 1.2), most, BINS + 1)


def matrix_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    attn = attention(facts, chosen)
    query, key = np.indices(attn.shape)
    return {"query": query.ravel(), "key": key.ravel(), "attention": attn.ravel()}


def lines_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    attn = attention(facts, chosen)
    query, key = np.nonzero(attn.astype(np.float16) >= least_shown(attn, chosen.top))
    return {"query": query, "key": key, "attention": attn[query, key]}


def histogram_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    attn = attention(facts, chosen).astype(np.float16).astype(np.float64)
    edges = edges_of(attn)
    return {"from": edges[:-1], "to": edges[1:], "count": np.histogram(attn.clip(edges[0], edges[-1]), edges)[0]}


def mask_numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    attn = attention(facts, chosen)
    first = len(facts.prefix_tokens)
    row, column = np.divmod(np.arange(len(attn) - first), facts.grid[1])
    places = {"row": row, "column": column}
    token = _token(facts, chosen)
    if token is None:
        return places | {"target": attn[first:, first:].mean(axis=0)}
    return places | {"source": attn[first:, token], "target": attn[token, first:]}


def _token(facts: StudyFacts, chosen: Selection) -> int | None:
    """The token of the masks; None is the mean over patches."""
    return 0 if chosen.token is None and facts.has_cls else chosen.token


def _opened(facts: StudyFacts, chosen: Selection) -> str:
    """Python lines that read the attention as `attn`."""
    attention(facts, chosen)  # says what is missing, if so
    return f"""import headscope
import numpy as np

study = headscope.open_study({facts.name!r})
attn = study.attention(study.image_index({chosen.image!r}), layer={chosen.layer}, head={chosen.head})  # (query, key)
"""


def matrix_python(facts: StudyFacts, chosen: Selection) -> str:
    return f"""{_opened(facts, chosen)}query, key = np.indices(attn.shape)
numbers = {{"query": query.ravel(), "key": key.ravel(), "attention": attn.ravel()}}
"""


def lines_python(facts: StudyFacts, chosen: Selection) -> str:
    return f"""{_opened(facts, chosen)}drawn = attn.astype(np.float16)  # as the page has it
count = max(1, int({chosen.top} / 100 * drawn.size + 0.5))
query, key = np.nonzero(drawn >= np.sort(drawn, axis=None)[-count])
numbers = {{"query": query, "key": key, "attention": attn[query, key]}}
"""


def histogram_python(facts: StudyFacts, chosen: Selection) -> str:
    return f"""{_opened(facts, chosen)}drawn = attn.astype(np.float16).astype(np.float64)  # as the page has it
edges = np.geomspace(min(max({LEAST}, drawn.min()), drawn.max() / 1.2), drawn.max(), {BINS + 1})
count, _ = np.histogram(drawn.clip(edges[0], edges[-1]), edges)
numbers = {{"from": edges[:-1], "to": edges[1:], "count": count}}
"""


def mask_python(facts: StudyFacts, chosen: Selection) -> str:
    first, token = len(facts.prefix_tokens), _token(facts, chosen)
    mean = f'"target": attn[{first}:, {first}:].mean(axis=0)'
    masks = mean if token is None else f'"source": attn[{first}:, {token}], "target": attn[{token}, {first}:]'
    return f"""{_opened(facts, chosen)}row, column = np.divmod(np.arange(len(attn) - {first}), {facts.grid[1]})
numbers = {{"row": row, "column": column, {masks}}}
"""


EXPORTS = (
    Export(NAME, "attention-masks", "Masks", mask_numbers, mask_python, f"canvas:{MASKS}"),
    Export(NAME, "two-axes", "Two axes", lines_numbers, lines_python, f"canvas:{AXES}"),
    Export(NAME, "attention-matrix", "Matrix", matrix_numbers, matrix_python, f"canvas:{MATRIX}"),
    Export(NAME, "attention-histogram", "Histogram", histogram_numbers, histogram_python, f"canvas:{HISTOGRAM}"),
)


ABOUT = r"""
One head on one image: who looks at whom.

**Read it.** Blue is attention from or to CLS and other prefix tokens, orange attention between patches; darker is
more (on a dark page, lighter). Only the strongest are drawn: drag the line of the histogram. *Two axes*: sources
above, targets below, a line from each source to what it looks at. *Matrix*: rows look, columns are looked at, each
row sums to 1; the row and the column of CLS are widened. *Images*: under the source mask, bright where patches look
at the chosen token; under the target mask, bright where it looks. Hover a token for its attention, click to pin it.

**Computed.** With $q$, $k$ the head's queries and keys, of $d$ numbers each:

$$
A = \operatorname{softmax}\!\left(\frac{q k^{\top}}{\sqrt d}\right) \qquad \text{(Eq. 1)}
$$

stored as float16, or, where a study says *rebuilt*, computed again from the stored residual stream and weights. The
threshold of *top* $x$ % is the quantile $1 - x / 100$ of all values of this matrix (Sec. 5.4.2).

Computed in `precompute/model.py`, `store/rebuild.py` · arrays `attention`, or `residual` and the weights
"""

VIEW = View(
    "head-attention",
    layout,
    drawings=(DRAWING,),
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    row="attention",
    place=7,
)
