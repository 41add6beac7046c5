"""Where does the selected head look? Its attention on one image, as a matrix and as masks on the picture.

The server sends one head, a byte a value; assets/attention.js paints it, so that following the pointer asks
for nothing.
"""

import base64
from typing import Any

import numpy as np
from dash import ALL, ClientsideFunction, Dash, Input, Output, ctx, dcc, html

from dashboard.data import Array, Shelf, StudyFacts, per_image
from dashboard.routes import image_url, image_words, pictures_url
from dashboard.selection import SELECTION, Selection
from dashboard.views.header import THEME
from dashboard.views.panel import panel, problem, shown
from dashboard.words import METRICS, number

ATTENTION = "attention"  # dcc.Store with what `payload` gives
TOKEN = "attention-token"  # dcc.Store that attention.js writes: the query token that was clicked
MATRIX_READING = "attention-matrix-reading"
MASK_READING = "attention-mask-reading"
# Ids that attention.js paints into.
MATRIX = "attention-matrix"
MATRIX_LEGEND = "attention-matrix-legend"
MATRIX_READOUT = "attention-matrix-readout"
MASKS = "attention-masks"
TOKENS = "attention-tokens"

SUGGESTED = "attention-suggested"
LABEL = "attention-label"

STEPS = 255
MOST_SUGGESTED = 12


def layout() -> list[html.Section]:
    matrix = [
        html.Div([html.Canvas(className="paint"), html.Canvas(className="cross")], id=MATRIX, className="matrix"),
        html.Div([html.Div(id=MATRIX_LEGEND, className="legend"), html.Div(id=MATRIX_READOUT, className="readout")]),
    ]
    masks = html.Div(
        [
            html.Figure(
                [html.Div([html.Img(alt=""), html.Canvas()], className="frame"), html.Figcaption()],
                className=kind,
            )
            for kind in ("picture", "source", "target")
        ],
        id=MASKS,
        className="masks",
    )
    buttons = [html.Button(id=suggested_id(slot), n_clicks=0) for slot in range(MOST_SUGGESTED)]
    suggestions = html.Div(buttons, id=SUGGESTED, className="suggested", hidden=True)
    tokens = html.Div(id=TOKENS, className="choice")
    return [
        panel(
            "attention-matrix",
            "Attention matrix",
            MATRIX_READING,
            matrix,
            html.Span(id=LABEL, className="selected"),
        ),
        panel("attention-masks", "Attention on the image", MASK_READING, [masks, suggestions], tokens),
        html.Div([dcc.Store(id=ATTENTION), dcc.Store(id=TOKEN)], hidden=True),
    ]


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(ATTENTION, "data"),
        Output(LABEL, "children"),
        Output(MATRIX_READING, "children"),
        Output(MASK_READING, "children"),
        Input(SELECTION, "data"),
    )
    def send(data: object) -> tuple[Any, Any, Any, Any]:
        sent, said = shown(shelf, data, view, None)
        if sent is None:
            return None, "", "Of one head on one image.", said
        return sent, sent["label"], said, MASK_WORDS

    @app.callback(
        Output({"suggested": ALL}, "children"),
        Output({"suggested": ALL}, "hidden"),
        Output(SUGGESTED, "hidden"),
        Input(SELECTION, "data"),
    )
    def suggest(data: object) -> tuple[Any, list[bool], bool]:
        slots = len(ctx.outputs_list[0])
        none = ([None] * slots, [True] * slots, True)

        def pictures(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            if chosen.image is not None:
                return none, None
            effect = per_image(facts.study, chosen.metric, chosen.layer, chosen.head)
            found = [_suggestion(facts, index, float(effect[index])) for index in suggested(facts, chosen)]
            shown_, empty = found[:slots], max(0, slots - len(found))
            return (shown_ + [None] * empty, [False] * len(shown_) + [True] * empty, not found), None

        return shown(shelf, data, pictures, none)[0]

    # Redraws on a new head, another pinned token, and another theme.
    app.clientside_callback(
        ClientsideFunction("attention", "show"),
        Input(ATTENTION, "data"),
        Input(SELECTION, "data"),
        Input(THEME, "data"),
    )


MASK_WORDS = "Brighter is stronger; each mask is scaled to its own strongest patch."


def view(facts: StudyFacts, chosen: Selection) -> tuple[dict[str, Any] | None, Any]:
    """What the browser paints, and how to read it; without an image or numbers None, and what to do."""
    if chosen.image is None:
        return (
            None,
            f"Pick an image to see where {chosen.label} looks. Most {METRICS[chosen.metric].axis}:",
        )
    index = facts.image_indices[chosen.image]
    attn = facts.study.attention(index, chosen.layer, chosen.head)
    if not np.isfinite(attn).all():
        return None, problem(f"attention of {chosen.label} on {chosen.image} is not finite; other heads may be")
    sent = encoded(attn, len(facts.prefix_tokens)) | {
        "label": chosen.label,
        "image": image_url(facts, index),
        "grid": list(facts.grid),
        "prefix": list(facts.prefix_tokens),
        "has_cls": facts.has_cls,
        "aspect": facts.study.sizes["x"] / facts.study.sizes["y"],
        "small": facts.study.sizes["y"],
    }
    rebuilt = facts.study.attention_source == "rebuilt"
    how = "Computed again from the residual stream, in float32" if rebuilt else "As the model computed it, in float16"
    return sent, html.Span(f"Rows look at columns, and sum to 1.{' Rebuilt.' if rebuilt else ''}", title=how)


def suggested_id(slot: int) -> dict[str, int]:
    return {"suggested": slot}


def suggested(facts: StudyFacts, chosen: Selection) -> list[int]:
    """Images on which the head matters most by the chosen metric, best first; none that is not finite."""
    effect = per_image(facts.study, chosen.metric, chosen.layer, chosen.head)
    known = np.flatnonzero(np.isfinite(effect))
    return [int(index) for index in known[np.argsort(-effect[known], kind="stable")][:MOST_SUGGESTED]]


def suggested_at(facts: StudyFacts, chosen: Selection, slot: int) -> int | None:
    """The image in one place of `suggested`, if there is one."""
    images = suggested(facts, chosen)
    return images[slot] if 0 <= slot < len(images) else None


def _suggestion(facts: StudyFacts, index: int, effect: float) -> list[Any]:
    words = image_words(facts.study, index)
    name = words.get("true") or words["id"].rsplit("/", 1)[-1]
    said = html.Span(f"{number(effect)} {name}", title=f"{words['id']}: {number(effect)}")
    return [html.Img(src=f"{pictures_url(facts)}/thumbnail/{index}.webp", alt=""), said]


def encoded(attn: Array, num_prefix: int) -> dict[str, Any]:
    """One head, (query, key), for the browser.

    Returns:
        weights: base64 of a byte a value, √(value / most) · 255 rounded: finest where most values are. It
            errs by at most most / 255.
        most: The largest value from or to a prefix token ("cls"), and between patches ("patch").
        to_prefix: Share of each query that goes to prefix tokens, exact.
    """
    tokens = np.arange(len(attn))
    is_prefix = (tokens[:, None] < num_prefix) | (tokens < num_prefix)
    most = {name: float(attn[part].max(initial=0)) for name, part in (("cls", is_prefix), ("patch", ~is_prefix))}
    scale = np.where(is_prefix, most["cls"] or 1, most["patch"] or 1)
    steps = np.round(STEPS * np.sqrt(np.clip(attn / scale, 0, 1))).astype(np.uint8)
    return {
        "weights": base64.b64encode(steps.tobytes()).decode(),
        "most": most,
        "to_prefix": [round(float(share), 4) for share in attn[:, :num_prefix].sum(axis=1)],
    }
