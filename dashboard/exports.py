"""What can leave the page? For each view: its picture, its numbers, and the Python lines that give the same numbers.

A view lists its exports; the addresses here give what one of them is for a selection, which is the query of the
page's own address: /export/NAME.csv?study=… the numbers, .py the lines, .json what is written beside the picture.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import plotly.graph_objects as go
from flask import Flask, Response, abort, request
from plotly.io.json import to_json_plotly

from analyses.registry import HEAD_NUMBERS
from dashboard.about import SOURCE
from dashboard.data import Shelf, StudyFacts, facts, indices_of
from dashboard.image_sets import conditions_of
from dashboard.selection import Selection, asked_for, resolve
from dashboard.views.header import chip_words
from dashboard.words import count
from store.errors import StoreError

Columns = Mapping[str, Any]  # columns by name, lists or arrays, all of one length; ids come first

ROWS = 10_000  # of a CSV that are written at a time
# Where a spreadsheet takes a text for a formula, which an apostrophe prevents: at its beginning, and after what parts
# cells in some countries. Those of East Asia take wide signs too; blanks and quotes before a sign are passed over.
FORMULA = re.compile(r"""^(?=[\t\r\n])|(?:^|(?<=[;\t\r\n]))(?=[\s"]*[=+\-@＝＋－＠﹦﹢﹣﹫])""")
LONGEST_PART = 40  # of a file's name


@dataclass(frozen=True)
class Export:
    """One thing that can leave the page.

    Attributes:
        panel: Whose menu has it.
        name: In addresses; of all exports one.
        label: In that menu.
        numbers: Its columns, for a selection. A StoreError says why there are none, as "no image is selected".
        python: Lines that give the same columns from the store alone, as a dict `numbers`.
        picture: "graph:ID", the Plotly graph of that id; "canvas:NAME", what headscope.painters[NAME] paints;
            "figure", what `figure` gives.
        figure: A figure that is made to leave, for a view that is plain HTML.
    """

    panel: str
    name: str
    label: str
    numbers: Callable[[StudyFacts, Selection], Columns]
    python: Callable[[StudyFacts, Selection], str]
    picture: str
    figure: Callable[[StudyFacts, Selection], go.Figure] | None = None


# --- what is written ---


def caption(known: StudyFacts, chosen: Selection) -> str:
    """What a picture is of, so that one that is found later tells it."""
    model = known.study.attrs["model"]["name"]
    conditions = [chip_words(known, each) for each in conditions_of(chosen.images)]
    images = count(len(known.image_ids), "image")
    if conditions:
        images = f"{', '.join(conditions)}: {len(indices_of(known.study, chosen.images)):,} of {images}"
    return " · ".join(
        [
            f"study {known.name}, {model}",
            f"set: {images}" if conditions else f"all {images}",
            f"image {chosen.image}" if chosen.image is not None else "no image selected",
            f"head {chosen.label}",
            f"metric {HEAD_NUMBERS[chosen.metric].title}",
        ]
    )


def file_name(known: StudyFacts, chosen: Selection, name: str) -> str:
    """Of a file without its ending: study, export, head and image, of letters that every system takes."""
    image = PurePosixPath(chosen.image).stem if chosen.image is not None else ""
    parts = (known.name, name, f"L{chosen.layer}H{chosen.head}", image)
    safe = (re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.")[:LONGEST_PART] for part in parts)
    return "-".join(part for part in safe if part)


def csv_lines(columns: Columns) -> Iterator[str]:
    """The columns as CSV (RFC 4180), all cells in quotes, some thousand rows at a time. NaN is an empty cell.

    A number has as many digits as tell it from its neighbours of its type. A text that a spreadsheet would take for a
    formula, in whole or from a sign in it on, gets an apostrophe there.

    Raises:
        ValueError: The columns differ in length.
    """
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"columns differ in length: {', '.join(f'{name} {size}' for name, size in sizes.items())}")
    return _lines(columns, max(sizes.values(), default=0))


def _lines(columns: Columns, rows: int) -> Iterator[str]:
    yield _written([map(_cell, columns)])
    for start in range(0, rows, ROWS):
        yield _written(zip(*(_cells(column[start : start + ROWS]) for column in columns.values()), strict=True))


def _written(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


def _cells(column: Any) -> list[Any]:
    values = np.asarray(column)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), "", values.astype(str))
    elif values.dtype.kind not in "iub":
        return [_cell(value) for value in column]
    return list(values.tolist())


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    return FORMULA.sub("'", value) if isinstance(value, str) else str(value)


# --- lines that give the same numbers ---


def opening(known: StudyFacts, chosen: Selection) -> list[str]:
    """Lines that open the study as `study`, and name the images of the set `images`."""
    rows = indices_of(known.study, chosen.images).tolist()
    images = f"{rows}  # {chosen.images!r}" if chosen.images else "slice(None)"
    return [
        "import headscope",
        "import numpy as np",
        "",
        f"study = headscope.open_study({known.name!r})",
        f"images = {images}",
    ]


def over_images(array: str) -> list[str]:
    """Lines that give `numbers` a row a head: the mean of an array over the images of the set, and its deviation.

    Args:
        array: What study.read is given for something of (image, layer, head).
    """
    return [
        f"values = np.ma.masked_invalid(study.read({array})[images].astype(float))  # (image, layer, head)",
        "mean, sd = (each.filled(np.nan).ravel() for each in (values.mean(axis=0), values.std(axis=0)))",
        "layer, head = np.indices(values.shape[1:]).reshape(2, -1)",
        'numbers = {"layer": layer, "head": head, "mean": mean, "sd": sd}',
    ]


def of_study(array: str) -> list[str]:
    """The same of an array of (layer, head), which is its own mean and has no deviation."""
    return [
        f"values = np.ma.masked_invalid(study.read({array})[None].astype(float))  # one number a head of the study",
        "mean = values[0].filled(np.nan).ravel()",
        "layer, head = np.indices(values.shape[1:]).reshape(2, -1)",
        'numbers = {"layer": layer, "head": head, "mean": mean, "sd": np.full(mean.shape, np.nan)}',
    ]


# --- addresses ---


def add_routes(server: Flask, shelf: Shelf, exports: Iterable[Export], texts: Mapping[str, str]) -> None:
    """What leaves, and what the views say of themselves. What is not there is 404, what cannot be meant 400.

    Args:
        texts: What each panel says of itself, in Markdown.
    Raises:
        ValueError: Two exports have one name.
    """
    by_name: dict[str, Export] = {}
    for export in exports:
        if by_name.setdefault(export.name, export) is not export:
            raise ValueError(f"two exports are called {export.name}; an address needs one")
    made: dict[str, Callable[[Export, StudyFacts, Selection], Response]] = {"csv": _csv, "py": _python, "json": _words}

    @server.get("/export/<name>.<form>")
    def leave(name: str, form: str) -> Response:
        if name not in by_name:
            abort(404, f"there is no export {name[:LONGEST_PART]}; there are {', '.join(by_name)}")
        if form not in made:
            abort(404, f"an export leaves as {', '.join(made)}, not as {form[:LONGEST_PART]}")
        try:
            known, chosen = _asked(shelf, request.query_string.decode(errors="replace"))
            response = made[form](by_name[name], known, chosen)
        except StoreError as error:
            abort(404, str(error))
        response.cache_control.no_cache = True
        return response

    @server.get("/about/<panel>.md")
    def about(panel: str) -> Response:
        if panel not in texts:
            abort(404, f"nothing is said about {panel[:LONGEST_PART]}; there are {', '.join(texts)}")
        return Response(f"{texts[panel]}\n{SOURCE}\n", mimetype="text/markdown")


def _asked(shelf: Shelf, search: str) -> tuple[StudyFacts, Selection]:
    """The selection of a query string, which the study must have as it is."""
    asked = asked_for(search)
    if "study" not in asked:
        abort(400, "the address names no study; take the query of the page's own address")
    known = facts(shelf.open(asked["study"]))
    chosen, problems = resolve(asked, known)
    if problems:
        abort(400, "; ".join(problems))
    return known, chosen


def _csv(export: Export, known: StudyFacts, chosen: Selection) -> Response:
    response = Response(csv_lines(export.numbers(known, chosen)), mimetype="text/csv")
    response.headers.set("Content-Disposition", "attachment", filename=f"{file_name(known, chosen, export.name)}.csv")
    return response


def _python(export: Export, known: StudyFacts, chosen: Selection) -> Response:
    return Response(export.python(known, chosen), mimetype="text/plain")


def _words(export: Export, known: StudyFacts, chosen: Selection) -> Response:
    """What a picture needs beside the screen: its file's name, its caption, the figure that is made for it."""
    figure = export.figure(known, chosen).to_dict() if export.figure else None
    words = {"file": file_name(known, chosen, export.name), "caption": caption(known, chosen), "figure": figure}
    return Response(to_json_plotly(words), mimetype="application/json")
