"""What is known of the selected image? The picture, its classes and whether the model is right."""

from typing import Any

import dash_bootstrap_components as dbc
from dash import Dash, Input, Output, html

from dashboard.data import Shelf, StudyFacts, predictions, read
from dashboard.routes import image_url, png
from dashboard.selection import SELECTION, Selection
from dashboard.views.panel import panel, problem, shown
from dashboard.words import count, number, percent, short_name
from store.errors import StoreError

CARD = "image-card-body"
READING = "image-card-reading"
RELEASE = "image-card-release"
SEARCH = "image-card-search"

CRISP_BELOW = 150  # pixels a side: smaller pictures are shown with their pixels, larger ones smoothly
TOP = 3


def layout() -> html.Section:
    release = html.Button(
        "release", id=RELEASE, className="option", n_clicks=0, title="Show the means over all images (Esc)"
    )
    search = dbc.Input(id=SEARCH, placeholder="find id ( / )", size="sm", autocomplete="off")
    return panel("image-card", "Selected image", READING, html.Div(id=CARD, className="image-facts"), [search, release])


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(
        Output(CARD, "children"),
        Output(RELEASE, "disabled"),
        Output(READING, "children"),
        Input(SELECTION, "data"),
    )
    def draw(data: object) -> tuple[Any, bool, Any]:
        (body, none_selected), reading = shown(shelf, data, view, ("", True))
        return body, none_selected, reading


def view(facts: StudyFacts, chosen: Selection) -> tuple[tuple[Any, bool], Any]:
    """The card, whether it is of no image, and the image's id."""
    if chosen.image is None:
        return (of_set(facts), True), "None: the views show means over the set."
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
    parts += [
        html.Dt(f"Top {len(best)}"),
        html.Dd([_bar(names[place], float(probabilities[place]), place == label) for place in best]),
    ]
    return parts


def _term(name: str, said: str, kind: str = "") -> list[Any]:
    return [html.Dt(name), html.Dd(said, className=kind, title=said)]


def _bar(name: str, probability: float, is_label: bool) -> html.Div:
    """One class; the true one is bold, as in the paper."""
    bar = html.Div(html.I(className="bar", style={"width": f"{100 * probability:.1f}%"}), className="track")
    words = html.Span([html.Span(short_name(name), className="name"), html.Small(number(probability))], title=name)
    return html.Div([words, bar], className="top label" if is_label else "top")


def of_set(facts: StudyFacts) -> html.Div:
    """What is said of all images, while none is selected."""
    attrs = facts.study.attrs
    images, accuracy = attrs["images"], attrs.get("accuracy")
    parts = [*_term("Pictures", f"{images['kept']:,} of {images['found']:,} read from {images['folder']}")]
    parts += _term(
        "Labelled",
        f"{images['labelled']:,}" if images["labelled"] else "none",
        "" if images["labelled"] else "absent",
    )
    if accuracy:
        parts += _term("Top-1, top-5", f"{percent(accuracy['top1'])}, {percent(accuracy['top5'])}")
    first = f" for the first of {count(len(facts.image_ids), 'image')}."
    hint = html.P([html.B("Click a point"), " above to select an image, or press ", html.Kbd("]"), first])
    return html.Div([html.Dl(parts), hint], className="of-set")
