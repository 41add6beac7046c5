"""What is known of the selected image? The picture, its classes and whether the model is right."""

import base64
import math
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import Output, html

from analyses.numbers import image_numbers
from dashboard import graphs
from dashboard.data import StudyFacts, indices_of, predictions, read
from dashboard.drawing import BODY, Drawing, problem
from dashboard.exports import Columns, Export
from dashboard.routes import image_url, png
from dashboard.selection import Selection
from dashboard.theme import palette
from dashboard.view import View
from dashboard.views.panel import panel
from dashboard.words import count, number, percent, short_name
from store.errors import StoreError

CARD = "image-card-body"
READING = "image-card-reading"
RELEASE = "image-card-release"

CRISP_BELOW = 150  # pixels a side: smaller pictures are shown with their pixels, larger ones smoothly
TOP = 3
FEW = 5  # classes of the picture that leaves


def layout() -> html.Section:
    release = html.Button(
        "release",
        id=RELEASE,
        className="option",
        title="Show the means over all images (Esc)",
        **{"data-gesture": "release"},
    )
    return panel("image-card", "Selected image", READING, html.Div(id=CARD, className="image-facts"), release)


def draw(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    """The card, whether there is nothing to release, and the image's id."""
    (body, none_selected), reading = view(facts, chosen)
    return body, none_selected, reading


DRAWING = Drawing(
    (Output(CARD, BODY), Output(RELEASE, "disabled"), Output(READING, BODY)),
    ("image", "images"),
    draw,
    lambda colours: ("", True),
)


def view(facts: StudyFacts, chosen: Selection) -> tuple[tuple[Any, bool], Any]:
    """The card, whether it is of no image, and the image's id."""
    if chosen.image is None:
        return (of_set(facts, chosen), True), "None: the views show means over the set."
    index = facts.image_indices[chosen.image]
    said = html.Span(chosen.image, title=chosen.image)
    return ([picture(facts, index, chosen.image), html.Dl(image_facts(facts, index))], False), said


def picture(facts: StudyFacts, index: int, name: str) -> html.Img | html.Div:
    """What the model saw; or why it cannot be shown, which the address of a picture could not tell."""
    try:
        png(facts.study, index)
    except StoreError as error:
        return html.Div(problem(str(error)), className="photo")
    small = min(facts.study.sizes["y"], facts.study.sizes["x"]) < CRISP_BELOW
    return html.Img(src=image_url(facts, index), alt=name, className="photo crisp" if small else "photo")


def image_facts(facts: StudyFacts, index: int) -> list[Any]:
    """What is known of one image, as terms and descriptions."""
    return prediction(facts, index) + numbers_of_image(facts, index)


def numbers_of_image(facts: StudyFacts, index: int) -> list[Any]:
    """The numbers of the image that have a title, of packages that are installed here or not."""
    study, parts = facts.study, []
    for name, row in image_numbers(study.specs).items():
        try:
            value = float(read(study, name)[index])
            parts += [html.Dt(row.title, title=row.doc), html.Dd(number(value), title=row.unit or row.doc)]
        except StoreError as error:
            parts += _term(row.title, str(error), "absent")
    return parts


def prediction(facts: StudyFacts, index: int) -> list[Any]:
    """Its true class, and what the model says of it."""
    study = facts.study
    if "probability" not in study:
        why = study.attrs.get("left_out", {}).get("probability", "not in this study")
        return _term("Prediction", why, "absent")
    told, names = predictions(study), study.class_names
    label, predicted = int(told.label[index]), int(told.predicted[index])
    probabilities = read(study, "probability", index)
    parts = _term("True class", short_name(names[label]) if label >= 0 else "no label", "" if label >= 0 else "absent")
    if predicted < 0:
        return parts + _term("Predicted", "not finite", "wrong")
    verdict = "" if label < 0 else "right" if label == predicted else "wrong"
    mark = {"right": " ✓", "wrong": " ✕", "": ""}[verdict]
    parts += _term("Predicted", short_name(names[predicted]) + mark, verdict)
    parts += _term("P(target)" if label < 0 else "P(true class)", number(float(told.probability[index])))
    best = [int(place) for place in (-probabilities).argsort(kind="stable")[:TOP]]
    parts.append(
        html.Dd([_bar(names[place], float(probabilities[place]), place == label) for place in best], className="best")
    )
    return parts


def _term(name: str, said: str, kind: str = "") -> list[Any]:
    return [html.Dt(name), html.Dd(said, className=kind, title=said)]


def _bar(name: str, probability: float, is_label: bool) -> html.Div:
    """One class; the true one is bold, as in the paper."""
    bar = html.Div(html.I(className="bar", style={"width": f"{100 * probability:.1f}%"}), className="track")
    words = html.Span([html.Span(short_name(name), className="name"), html.Small(number(probability))], title=name)
    return html.Div([words, bar], className="top label" if is_label else "top")


def of_set(facts: StudyFacts, chosen: Selection) -> html.Div:
    """What is said of the image set, while none of it is selected."""
    study, every = facts.study, len(facts.image_ids)
    inside = indices_of(study, chosen.images)
    parts = _term("Images", f"{len(inside):,} of {every:,}" if chosen.images else f"all {every:,}")
    if "probability" in study:
        told = predictions(study)
        if told.right is not None:
            known = told.label[inside] >= 0
            right = int(told.right[inside].sum())
            part = f" of {count(int(known.sum()), 'labelled image')}, {percent(right / max(1, int(known.sum())))}"
            parts += _term("Right", f"{right:,}{part}")
        probability = told.probability[inside]
        probability = probability[np.isfinite(probability)]
        parts += _term("P(target)", f"mean {number(float(probability.mean()) if len(probability) else math.nan)}")
    parts += _term("Read from", study.attrs["images"]["folder"])
    hint = html.P([html.B("Click a point"), " to select an image, or press ", html.Kbd("]"), "."])
    return html.Div([html.Dl(parts), hint], className="of-set", tabIndex="0")


# --- to take away ---


def index_of(facts: StudyFacts, chosen: Selection) -> int:
    """The selected image.

    Raises:
        StoreError: There is none.
    """
    if chosen.image is None:
        raise StoreError("no image is selected; click a point of the image overview first")
    return facts.image_indices[chosen.image]


def numbers(facts: StudyFacts, chosen: Selection) -> Columns:
    """What the model gives every class on the image."""
    probability = read(facts.study, "probability", index_of(facts, chosen))
    names = facts.study.class_names
    return {"class": list(range(len(names))), "name": names, "probability": probability}


def python(facts: StudyFacts, chosen: Selection) -> str:
    return f"""import headscope
study = headscope.open_study({facts.name!r})

names = study.class_names
probability = study.read("probability", study.image_index({chosen.image!r}))
numbers = {{"class": list(range(len(names))), "name": names, "probability": probability}}
"""


def figure(facts: StudyFacts, chosen: Selection) -> go.Figure:
    """The image, and its most probable classes beside it; the true one is bold."""
    index, colours = index_of(facts, chosen), palette(chosen.theme)
    probability, names = read(facts.study, "probability", index), facts.study.class_names
    best = (-probability).argsort(kind="stable")[:FEW][::-1]
    label = int(predictions(facts.study).label[index])
    words = [escape(short_name(names[at])) for at in best]  # Plotly takes some of what is in a text for HTML
    said = [f"<b>{word}</b>" if at == label else word for at, word in zip(best, words, strict=True)]
    bars = go.Bar(
        x=probability[best],
        y=list(range(len(said))),
        orientation="h",
        width=0.5,
        marker={"color": colours.muted},
        text=[number(float(probability[at])) for at in best],
        textposition="outside",
        cliponaxis=False,
    )
    seen = {
        "source": f"data:image/png;base64,{base64.b64encode(png(facts.study, index)).decode()}",
        "xref": "paper",
        "yref": "paper",
        "x": -1.55,
        "y": 1,
        "sizex": 1.05,
        "sizey": 1,
    }
    xaxis = {"text": "probability", "range": [0, 1.15], "domain": [0, 1]}
    room = {"width": 720, "height": 280, "margin": {"l": 420, "r": 24, "t": 8, "b": 40}, "images": [seen]}
    yaxis = {"tickvals": list(range(len(said))), "ticktext": said, "showgrid": False}
    return graphs.figure(colours, [bars], xaxis=xaxis, yaxis=yaxis, **room)


EXPORTS = (Export("image-card", "image-card", "Prediction", numbers, python, "figure", figure),)


ABOUT = r"""
The selected image as the model saw it, after resize and crop, with its true class and its most probable ones.

**Read it.** *P(target)* is what the model gives the true class, or the predicted one where no label is known. The
true class is bold. Without an image, everything is a mean over the image set.

**Computed.** The softmax of the model's output, nothing pruned:

$$
P(c) = \frac{e^{o_c}}{\sum_k e^{o_k}}
$$

Computed in `precompute/metrics.py`, `probabilities` · arrays `pixels`, `label`, `logits`, `probability`
"""

VIEW = View(
    "image-card",
    layout,
    drawings=(DRAWING,),
    about=ABOUT,
    exports=lambda desk: EXPORTS,
    row="low",
    place=4,
)
