"""Which study, which of its images, and what must be known before it is believed? Also the theme and the help."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dash_bootstrap_components as dbc
import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from analyses.vocabulary import METRICS
from dashboard import access
from dashboard.data import Shelf, StudyFacts, indices_of, read
from dashboard.drawing import BODY, Drawing
from dashboard.image_sets import Classes, Condition, Entropy, Ids, Lasso, Prediction, Probability, conditions_of
from dashboard.selection import TABS, Selection, head_label
from dashboard.views import choice
from dashboard.words import count, day_and_time, number, percent, short_name
from store import pictures
from store.manifest import Manifest
from store.provenance_text import provenance_rows, questions
from store.study import StudyEntry

STUDY = "study"
STUDIES = "studies-mark"  # changes whenever a study is published or removed
JOBS = "jobs-count"
FACTS = "study-facts"
CAVEATS = "study-caveats"
THEME = "theme"  # "light" or "dark", as last picked in this browser
TOGGLE = "theme-toggle"
HELP = "help"
HELP_OPEN = "help-open"
SEARCH = "search"
SET = "image-set"  # how many images it is about
CHIPS = "image-set-chips"  # its conditions, each with a button that drops it
CLASSES = "image-set-class"
PROBABILITY = "image-set-probability"
FILTER_SAID = "image-set-said"

MOST_LISTED = 200
MOST_NAMED = 3  # classes of a chip
OF_MASKS = ("object", "object_auc", "cls_object_auc")  # most images have none: that is no caveat
PAPER = "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt (TVCG 2023)"


def layout(entries: list[StudyEntry]) -> html.Header:
    return html.Header(
        [
            html.H1(html.A([html.I(className="mark"), "Headscope"], href="/"), className="brand"),
            named(
                "Study",
                dbc.Select(
                    id=STUDY,
                    options=options(entries),
                    size="sm",
                    className="study-picker",
                    placeholder="open a study",
                ),
            ),
            html.Div(
                [html.Span(id=SET, className="set-size"), html.Div(id=CHIPS, className="chips"), filters()],
                className="image-set",
                role="group",
                **{"aria-label": "Image set"},
            ),
            named(
                "Find images by id, or part of it",
                dbc.Input(id=SEARCH, placeholder="find id  /", size="sm", autocomplete="off"),
                "search",
            ),
            html.Div(id=FACTS, className="study-facts"),
            html.Div(id=CAVEATS, className="caveats"),
            html.Div(choice.layout("tab", {tab: tab for tab in TABS}, "Panels"), className="tabs"),
            html.Nav(
                [
                    html.A("Studies", href="/studies"),
                    html.A("New study", href="/new"),
                    html.A("Jobs", href="/jobs", id=JOBS),
                ],
                className="pages",
            ),
            html.Button("◐", id=TOGGLE, className="icon", title="Light or dark", **{"aria-label": "Light or dark"}),
            html.Button("?", id=HELP_OPEN, className="icon", title="Help (?)", **{"aria-label": "Help"}),
            *access.menu(),
            dcc.Store(id=THEME),
            dcc.Store(id=STUDIES),
            help_window(),
        ],
        className="top",
    )


def named(name: str, field: Any, class_name: str = "") -> html.Label:
    """A field with a name that is heard, where there is no room to see it."""
    return html.Label([html.Span(name, className="visually-hidden"), field], title=name, className=class_name)


def filters() -> html.Details:
    """What makes an image set, behind one button: classes, predictions, a range of P(target)."""
    verdicts = [
        html.Button(
            f"predicted {verdict}",
            className="option",
            **{"data-gesture": "prediction", "data-value": json.dumps(verdict)},
        )
        for verdict in ("right", "wrong")
    ]
    return html.Details(
        [
            html.Summary("filter", className="option", title="Views follow a set of images"),
            html.Div(
                [
                    html.P(id=FILTER_SAID),
                    html.Label("Class", htmlFor=CLASSES),
                    dcc.Dropdown(id=CLASSES, placeholder="add a class", options=[], closeOnSelect=True),
                    html.Div(verdicts, className="choice"),
                    html.Label("P(target)"),
                    dcc.RangeSlider(
                        id=PROBABILITY,
                        min=0,
                        max=1,
                        step=0.01,
                        value=[0, 1],
                        marks={0: "0", 0.5: "0.5", 1: "1"},
                        allow_direct_input=False,
                    ),
                    html.P(
                        "Also: lasso in Images, click its legend, brush the entropies of a head, or find a part of "
                        "the ids. The ✕ of a condition drops it; u takes the last one back."
                    ),
                ],
                className="filters",
            ),
        ],
        className="filter",
    )


def draw(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    """The study in one line, its caveats, and the classes that its images are of."""
    found = [
        *_private(facts.study.manifest),
        *caveats(facts.study.attrs, facts.image_ids),
        _how_made(facts.study.attrs),
    ]
    return [part for caveat in found for part in _chip(caveat)], classes_present(facts), study_line(facts)


def classes_present(facts: StudyFacts) -> list[dict[str, Any]]:
    """The classes to pick from, by name."""
    if not facts.has_labels:
        return []
    label, names = read(facts.study, "label"), facts.study.class_names
    found = [{"label": short_name(names[index]), "value": int(index)} for index in np.unique(label[label >= 0])]
    return sorted(found, key=lambda each: str(each["label"]).casefold())


def draw_set(facts: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
    """The image set: its conditions as chips, the range of P(target) that is picked, and how many images it has."""
    every, conditions = len(facts.image_ids), conditions_of(chosen.images)
    size = every if not conditions else len(indices_of(facts.study, chosen.images))
    said = f"{size:,} of {count(every, 'image')}" if conditions else f"all {count(every, 'image')}"
    chips = [chip(facts, each) for each in conditions]
    span = next(([each.low, each.high] for each in conditions if isinstance(each, Probability)), [0, 1])
    lacks = [] if facts.has_labels else ["This study has no labels: there are no classes, and no right or wrong."]
    return chips, span, f"{said}. {' '.join(lacks)}", html.Span(said, className="" if size else "problem")


def chip(facts: StudyFacts, condition: Condition) -> html.Button:
    """One condition; a click drops it."""
    said = chip_words(facts, condition)
    gesture = {"data-gesture": "drop", "data-value": json.dumps(condition.slot)}
    label = {"aria-label": f"Drop the condition {said}"}
    return html.Button([said, html.I("✕")], className="chip", title=f"{said}: click drops it", **gesture, **label)


def chip_words(facts: StudyFacts, condition: Condition) -> str:
    """A condition in words."""
    match condition:
        case Classes(classes):
            names = [short_name(facts.study.class_names[index]) for index in classes]
            return (
                ", ".join(names) if len(names) <= MOST_NAMED else f"{', '.join(names[:2])} + {len(names) - 2} classes"
            )
        case Prediction(right):
            return "predicted right" if right else "predicted wrong"
        case Probability(low, high):
            return f"P(target) {number(low)}–{number(high)}"
        case Ids(part):
            return f"id has {part}"
        case Lasso(vector):
            of = "" if vector not in METRICS or vector == "probability" else f" by {METRICS[vector].title}"
            return f"lasso{of}"
        case Entropy(layer, head, low, high):
            return f"{head_label(layer, head)} entropy {number(low)}–{number(high)}"


def _nothing(colours: Any) -> tuple[Any, ...]:
    return None, []


def _no_set(colours: Any) -> tuple[Any, ...]:
    return None, [0, 1], None


DRAWINGS = (
    Drawing((Output(CAVEATS, "children"), Output(CLASSES, "options"), Output(FACTS, BODY)), (), draw, _nothing),
    Drawing(
        (
            Output(CHIPS, BODY),
            Output(PROBABILITY, "value"),
            Output(FILTER_SAID, BODY),
            Output(SET, BODY),
        ),
        ("images",),
        draw_set,
        _no_set,
    ),
)


def register(app: Dash, shelf: Shelf) -> None:
    app.clientside_callback(
        ClientsideFunction("header", "add_class"), Output(CLASSES, "value"), Input(CLASSES, "value")
    )
    app.clientside_callback(ClientsideFunction("header", "probability"), Input(PROBABILITY, "value"))

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
        label = study_label(entry.name, entry.manifest)
        picks.append({"label": label + why, "value": entry.name, "disabled": bool(why)})
    return picks


def study_label(name: str, manifest: Manifest | None) -> str:
    """What people call a study; of a private one its name says nothing."""
    said = None if manifest is None else pictures.private(manifest)
    if said is None:
        return name
    whose = "your" if said.owner == access.current().name else f"{said.owner}’s"
    return f"{said.of} + {whose} picture {said.image}"


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
        once = accuracy.get("once")
        said = f" ({percent(once['top1'])} with each picture counted once)" if once and once["images"] else ""
        parts.append(f"top-1 {percent(accuracy['top1'])}{said}")
    return " · ".join(parts)


@dataclass(frozen=True)
class Caveat:
    """Something that must be known before the study is believed.

    Attributes:
        kind: Of what: a word for ids.
        label: In the header.
        said: What it means, a paragraph each.
        loud: Whether it makes the whole study doubtful.
    """

    kind: str
    label: str
    said: tuple[Any, ...]
    loud: bool = False


def caveats(attrs: dict[str, Any], image_ids: list[str]) -> list[Caveat]:
    """All caveats of a study, from its root attributes, the loud ones first."""
    found = [_random(attrs), _near_chance(attrs), _copies(attrs), _quarantined(attrs)]
    found += [_nonfinite(attrs, image_ids), _left_out(attrs), _ignored(attrs)]
    return [caveat for caveat in found if caveat is not None]


def _private(manifest: Manifest) -> list[Caveat]:
    said = pictures.private(manifest)
    if said is None:
        return []
    about = (
        f"This is study {said.of} and one picture more, {said.image}: only {said.owner} and admins see it.",
        "What is said of all images, as the accuracy, the t-SNE maps and how far attention follows the content, is "
        f"said of {said.of}; the picture was placed in its maps, which stayed as they were.",
    )
    return [Caveat("private", f"private, until {day_and_time(said.until)}", about)]


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
    if accuracy["top1"] > 0.5:
        few = f"Top-1 is {percent(accuracy['top1'])} on {images}: too few to tell it from guessing."
        return Caveat("chance", "few labelled images", (few,))
    said = (
        f"Top-1 is {percent(accuracy['top1'])} on {images}, which guessing reaches too. The weights may not "
        "be this model's, or the labels may be matched to the wrong classes: check both."
    )
    return Caveat("chance", "accuracy near chance", (said,), loud=True)


def _copies(attrs: dict[str, Any]) -> Caveat | None:
    """Pictures that are there more than once; studies of before they were counted say nothing of them."""
    copies = attrs["images"].get("copies")
    if not copies:
        return None
    files, odd = copies["files"], copies["contradicting"]
    said = [
        f"{count(copies['images'], 'image')} are copies, byte for byte, of {count(files, 'picture')}; each counts in "
        "what is said of all images."
    ]
    if odd:
        said.append(f"Copies of {count(odd, 'picture')} have different labels.")
    listed = [" = ".join(ids) for ids in copies["examples"]]
    said += [*listed, *([] if files <= len(listed) else ["… and more; image_sha256 of the study tells all"])]
    label = f"{odd:,} labelled two ways" if odd else f"{copies['images']:,} copies"
    return Caveat("copies", label, tuple(said))


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


def _how_made(attrs: dict[str, Any]) -> Caveat:
    """What the study's numbers stand on: what a person should check of it first, then all of it."""
    asked = questions(attrs)
    label = "how it was made" + (f" · {len(asked)} to check" if asked else "")
    checked = [html.B("Please check"), *(f"{each[0].upper()}{each[1:]}" for each in asked)] if asked else []
    rows = [[html.B(name), f" {said}"] for name, said in provenance_rows(attrs)]
    return Caveat("made", label, (*checked, *rows))


def _left_out(attrs: dict[str, Any]) -> Caveat | None:
    left_out = {name: why for name, why in attrs.get("left_out", {}).items() if name not in OF_MASKS}
    by_reason = defaultdict(list)
    for name, reason in left_out.items():
        by_reason[reason].append(name)
    if not by_reason:
        return None
    said = tuple(f"{', '.join(names)}: {reason}." for reason, names in by_reason.items())
    return Caveat("left-out", f"{len(left_out):,} left out", said)


def _ignored(attrs: dict[str, Any]) -> Caveat | None:
    ignored = attrs["images"].get("ignored")
    if not ignored:
        return None
    files, first = ignored["files"], ignored["first"]
    said = f"{count(files, 'file')} of the folder counted as no picture, by name:"
    more = [f"… and {files - len(first):,} more"] if files > len(first) else []
    return Caveat("ignored", f"{files:,} ignored", (said, *first, *more))


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
        ("[ ]", "image before, image after, of the set"),
        ("b", "the head into the basket, or out of it: heads there are pruned together"),
        ("f", "the panel under the pointer fills the screen, or goes back"),
        ("u", "take the last condition of the image set back"),
        ("Esc", "one step back: the large panel, the token, the image, the set"),
        ("/", "find an image by its id, or several by a part of it"),
        ("?", "this help"),
    ]
    views = [
        ("Images", "A point an image; near means that its heads matter alike. Click selects, a lasso makes a set."),
        ("Head importance", "What changes when one head is pruned. Drag the line, or click, to select a head."),
        ("Pruning", "The selected head, or those in the basket, pruned in parts; hatched is off. Click a bar."),
        ("Attention strength", "How far patches look: one hop, or all alike. Brush the distribution for a set."),
        ("Attention patterns", "A point a head on an image; near means that they attend alike. Click selects both."),
        ("Attention", "Blue: from or to CLS. Orange: between patches. Drag the threshold; hover a token or a patch."),
    ]
    return dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("How to read this page")),
            dbc.ModalBody(
                [
                    html.Dl([part for name, said in views for part in (html.Dt(name), html.Dd(said))]),
                    html.Table(html.Tbody([html.Tr([html.Td(html.Kbd(key)), html.Td(said)]) for key, said in keys])),
                    html.P(
                        "Hover previews, click selects, click again releases. A set of images is followed by every "
                        "view. The page's address holds everything that is picked: copy it to share what you see."
                    ),
                    html.P("ⓘ of a panel has its definition; ⋯ takes its picture, numbers and Python lines away."),
                    html.P(f"After {PAPER}.", className="source"),
                ]
            ),
        ],
        id=HELP,
        class_name="help",
        scrollable=True,
    )
