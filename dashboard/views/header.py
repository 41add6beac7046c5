"""Which study is this, and what must be known before it is believed? Also the theme and the help."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dash_bootstrap_components as dbc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboard.data import Shelf, StudyFacts
from dashboard.selection import SELECTION, Selection
from dashboard.views.panel import shown
from dashboard.words import count, percent
from store.study import StudyEntry

STUDY = "study"
STUDIES = "studies-mark"  # changes whenever a study is published or removed
JOBS = "jobs-count"
FACTS = "study-facts"
CAVEATS = "study-caveats"
THEME = "theme"  # "light" or "dark"; kept in this browser, no part of the selection
TOGGLE = "theme-toggle"
HELP = "help"
HELP_OPEN = "help-open"

MOST_LISTED = 200
OF_MASKS = ("object", "object_auc", "cls_object_auc")  # most images have none: that is no caveat
PAPER = "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt (TVCG 2023)"


def layout(entries: list[StudyEntry]) -> html.Header:
    return html.Header(
        [
            html.H1(html.A([html.I(className="mark"), "Headscope"], href="/"), className="brand"),
            dbc.Select(
                id=STUDY, options=options(entries), size="sm", className="study-picker", placeholder="open a study"
            ),
            html.Div(id=FACTS, className="study-facts"),
            html.Div(id=CAVEATS, className="caveats"),
            html.Nav([html.A("New study", href="/new"), html.A("Jobs", href="/jobs", id=JOBS)], className="pages"),
            html.Button("◐", id=TOGGLE, className="icon", title="Light or dark", **{"aria-label": "Light or dark"}),
            html.Button("?", id=HELP_OPEN, className="icon", title="Help (?)", **{"aria-label": "Help"}),
            dcc.Store(id=THEME),
            dcc.Store(id=STUDIES),
            help_window(),
        ],
        className="top",
    )


def register(app: Dash, shelf: Shelf) -> None:
    @app.callback(Output(FACTS, "children"), Output(CAVEATS, "children"), Input(SELECTION, "data"))
    def draw(data: object) -> tuple[Any, Any]:
        def view(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            found = caveats(facts.study.attrs, facts.image_ids)
            return study_line(facts), [part for caveat in found for part in _chip(caveat)]

        return shown(shelf, data, view, "")

    @app.callback(Output(STUDY, "options"), Input(STUDIES, "data"), prevent_initial_call=True)
    def offer(mark: object) -> list[dict[str, Any]]:
        return options(shelf.entries())

    app.clientside_callback(ClientsideFunction("page", "theme"), Output(THEME, "data"), Input(TOGGLE, "n_clicks"))

    @app.callback(
        Output(HELP, "is_open"),
        Input(HELP_OPEN, "n_clicks"),
        State(HELP, "is_open"),
        prevent_initial_call=True,
    )
    def open_help(clicks: object, is_open: object) -> bool:
        return not is_open


def options(entries: Iterable[StudyEntry]) -> list[dict[str, Any]]:
    """The studies to pick from; those that cannot be opened say why not."""
    picks = []
    for entry in entries:
        why = ""
        if entry.problem is not None:
            why = " (damaged)"
        elif entry.manifest is None:
            why = f" ({entry.units_done} of {entry.units_total} units)"
        picks.append({"label": entry.name + why, "value": entry.name, "disabled": bool(why)})
    return picks


def study_line(facts: StudyFacts) -> str:
    """The study in one line."""
    rows, columns = facts.grid
    accuracy = facts.study.attrs.get("accuracy")
    parts = [
        facts.study.attrs["model"]["name"],
        f"{facts.num_layers} × {facts.num_heads} heads",
        f"{rows} × {columns} patches",
        count(len(facts.image_ids), "image"),
    ]
    if accuracy:
        parts.append(f"top-1 {percent(accuracy['top1'])}")
    return " · ".join(parts)


@dataclass(frozen=True)
class Caveat:
    """Something that must be known before the study is believed.

    Attributes:
        kind: Of what: a word for ids.
        label: In the header.
        said: What it means, a paragraph a line.
        loud: Whether it makes the whole study doubtful.
    """

    kind: str
    label: str
    said: tuple[str, ...]
    loud: bool = False


def caveats(attrs: dict[str, Any], image_ids: list[str]) -> list[Caveat]:
    """All caveats of a study, from its root attributes, the loud ones first."""
    found = [_random(attrs), _near_chance(attrs), _quarantined(attrs), _nonfinite(attrs, image_ids)]
    return [caveat for caveat in (*found, _left_out(attrs)) if caveat is not None]


def _random(attrs: dict[str, Any]) -> Caveat | None:
    if attrs["weights"]["kind"] != "random":
        return None
    said = "The weights were drawn from a seed, never trained: this study says nothing about a trained model."
    return Caveat("random", "weights: RANDOM", (said,), loud=True)


def _near_chance(attrs: dict[str, Any]) -> Caveat | None:
    accuracy = attrs.get("accuracy")
    if not accuracy or not accuracy["near_chance"]:
        return None
    images = count(accuracy["images"], "labelled image")
    said = (
        f"Top-1 is {percent(accuracy['top1'])} on {images}, which guessing reaches too. The weights may not "
        "be this model's, or the labels may be matched to the wrong classes: check both."
    )
    return Caveat("chance", "accuracy near chance", (said,), loud=True)


def _quarantined(attrs: dict[str, Any]) -> Caveat | None:
    pictures = attrs["images"]["quarantined"]
    if not pictures:
        return None
    said = f"{count(len(pictures), 'picture')} could not be read; in no number here:"
    listed = _some(f"{each['image']}: {each['reason']}" for each in pictures)
    return Caveat("quarantined", f"{len(pictures):,} unreadable", (said, *listed))


def _nonfinite(attrs: dict[str, Any], image_ids: list[str]) -> Caveat | None:
    images = attrs.get("nonfinite", {}).get("images", [])
    if not images:
        return None
    said = "Some numbers of these images are NaN or infinite: gaps in the views, and never first in a ranking."
    listed = _some(image_ids[image] for image in images)
    return Caveat("nonfinite", f"{len(images):,} not finite", (said, *listed))


def _left_out(attrs: dict[str, Any]) -> Caveat | None:
    left_out = {name: why for name, why in attrs.get("left_out", {}).items() if name not in OF_MASKS}
    by_reason = defaultdict(list)
    for name, reason in left_out.items():
        by_reason[reason].append(name)
    if not by_reason:
        return None
    said = tuple(f"{', '.join(names)}: {reason}." for reason, names in by_reason.items())
    return Caveat("left-out", f"{len(left_out):,} left out", said)


def _some(lines: Iterable[str]) -> tuple[str, ...]:
    every = list(lines)
    more = len(every) - MOST_LISTED
    return (*every[:MOST_LISTED], *([f"… and {more:,} more; `headscope info` lists all"] if more > 0 else []))


def _chip(caveat: Caveat) -> tuple[html.Button, dbc.Popover]:
    button_id = f"caveat-{caveat.kind}"
    button = html.Button(caveat.label, id=button_id, className="chip loud" if caveat.loud else "chip")
    body = dbc.PopoverBody([html.P(line) for line in caveat.said])
    return button, dbc.Popover(body, target=button_id, trigger="legacy", placement="bottom", class_name="caveat")


def help_window() -> dbc.Modal:
    keys = [
        ("← →", "head before, head after, through the layers"),
        ("↑ ↓", "layer above, layer below"),
        ("[ ]", "image before, image after"),
        ("Esc", "release the image: means over all images"),
        ("/", "find an image by its id"),
        ("?", "this help"),
    ]
    views = [
        (
            "Images",
            "A point an image; near means that the heads matter alike. Click selects, click again releases.",
        ),
        (
            "Attention patterns",
            "A point a head on an image; near means that they attend alike. Click selects both.",
        ),
        (
            "Head importance",
            "What changes when one head is pruned: its attention set to 0. Click selects the nearest head.",
        ),
        (
            "Layers and heads",
            "The same metric as a map. Green: the head matters. Violet: the prediction is better without it.",
        ),
        (
            "Attention matrix",
            "Rows look, columns are looked at. Blue: from or to CLS. Orange: between patches.",
        ),
        (
            "Attention on the image",
            "Brighter is stronger. Hover a patch to follow its attention, click to pin it.",
        ),
        (
            "Selected head, pruning",
            "What happens when parts of its matrix are switched off; hatched is off. Click a bar for its predictions.",
        ),
    ]
    return dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("How to read this page")),
            dbc.ModalBody(
                [
                    html.Dl([part for name, said in views for part in (html.Dt(name), html.Dd(said))]),
                    html.Table(html.Tbody([html.Tr([html.Td(html.Kbd(key)), html.Td(said)]) for key, said in keys])),
                    html.P("The page's address holds everything that is picked: copy it to share what you see."),
                    html.P(f"After {PAPER}.", className="source"),
                ]
            ),
        ],
        id=HELP,
        class_name="help",
        scrollable=True,
    )
