"""What leaves the page: numbers as CSV, the lines that give the same numbers, and what is said beside a picture."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import Dash
from dash.development.base_component import Component
from flask import Flask
from flask.testing import FlaskClient

from dashboard.app import create_app
from dashboard.data import Shelf, StudyFacts, facts
from dashboard.exports import ROWS, Export, add_routes, caption, csv_lines, file_name
from dashboard.selection import Selection, default, to_search
from dashboard.view import View
from dashboard.views import export_menu
from dashboard.workspace import VIEWS
from store.errors import StoreError
from store.settings import Settings
from tests.components import components
from tests.studies import compute, tiny_study

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"images": 6, "labelled": 6, "layers": 3},
    "rebuilt": {"images": 4, "attention": "rebuilt", "prefix": 3, "grid": (3, 4)},
    "nocls": {"images": 4, "prefix": 1, "has_cls": False, "classes": 0, "labelled": 0, "maps": False},
}
# What a file's name may be: a formula to a spreadsheet, and more than a line of code.
ODD_IDS = ["=1+1.png", "@sum.png", 'it\'s "odd", truly.png', "two\nlines.png", "größe/後.png", "plain.png"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a study of every kind, and one of odd ids."""
    folder = tmp_path_factory.mktemp("data")
    for name, changes in KINDS.items():
        compute(folder / "studies" / name, tiny_study(**changes))
    odd = tiny_study(images=len(ODD_IDS), labelled=len(ODD_IDS))
    odd.arrays["image"] = np.array(ODD_IDS)
    compute(folder / "studies" / "odd", odd)
    return folder


@pytest.fixture(scope="module")
def shelf(data: Path) -> Shelf:
    return Shelf(data / "studies")


@pytest.fixture(scope="module")
def app(data: Path) -> Dash:
    return create_app(Settings(data=data))


def known_and_chosen(shelf: Shelf, study: str = "plain") -> tuple[StudyFacts, Selection]:
    known = facts(shelf.open(study))
    return known, default(known)


def read_back(columns: dict[str, Any]) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join(csv_lines(columns)), newline="")))


# --- CSV ---


def test_numbers_come_back_from_csv_as_they_were():
    rng = np.random.default_rng(0)
    columns = {
        "head": np.arange(200, dtype=np.int16),
        "small": rng.normal(size=200).astype(np.float32) * 1e-30,
        "half": rng.normal(size=200).astype(np.float16),
        "double": rng.normal(size=200),
        "listed": rng.normal(size=200).tolist(),
    }
    head, *rows = read_back(columns)
    assert head == list(columns)
    for column, cells in zip(columns.values(), zip(*rows, strict=True), strict=True):
        values = np.asarray(column)
        assert (np.array(cells).astype(values.dtype) == values).all()


def test_a_float32_has_no_digits_that_it_does_not_need():
    assert read_back({"value": np.array([0.1, 1e-7, 3], np.float32)})[1:] == [["0.1"], ["1e-07"], ["3.0"]]


def test_what_is_no_number_is_an_empty_cell():
    columns = {"array": np.array([1, np.nan]), "list": [math.nan, 2.5], "mixed": [None, "x"]}
    assert read_back(columns)[1:] == [["1.0", "", ""], ["", "2.5", "x"]]


FORMULAS = {
    **{text: f"'{text}" for text in ("=1+1", "+1", "-1", "@sum(A1)", "\tx", "\rx", "\nx", " =1", '"=1')},
    **{text: f"'{text}" for text in ("＝1+1", "＋1", "－1", "＠sum(A1)", "﹦1")},
    "a;=1": "a;'=1",
    'a; "=1': "a;' \"=1",
    "a\t+1": "a\t'+1",
    "two\n@lines": "two\n'@lines",
    "\n=1": "'\n'=1",
    **{text: text for text in ("a=1", "", "a, -b", "x;y", "\u22121")},
}


def test_a_text_that_a_spreadsheet_would_run_is_made_a_text_and_a_number_stays_one():
    rows = read_back({"text": list(FORMULAS), "number": np.arange(len(FORMULAS)) - 5.0})[1:]
    assert [row[0] for row in rows] == list(FORMULAS.values())
    assert rows[0][1] == "-5.0"
    assert read_back({"=1": [1]})[0] == ["'=1"]


def test_every_cell_is_in_quotes():
    columns = {"a": ["x;y", None], "b": np.array([-1.5, np.nan]), "c": [1, 2]}
    assert "".join(csv_lines(columns)) == '"a","b","c"\r\n"x;y","-1.5","1"\r\n"","","2"\r\n'


def test_commas_quotes_lines_and_other_scripts_survive():
    texts = ['a "b", c', "two\nlines", "größe/後"]
    assert [row[0] for row in read_back({"text": texts})[1:]] == texts


def test_a_large_export_is_written_in_pieces():
    pieces = list(csv_lines({"row": np.arange(2 * ROWS + 1)}))
    assert [piece.count("\r\n") for piece in pieces] == [1, ROWS, ROWS, 1]
    assert "".join(csv_lines({"row": []})) == '"row"\r\n'


def test_columns_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="a 2, b 3"):
        csv_lines({"a": [1, 2], "b": [1, 2, 3]})


# --- what is said beside it ---


def test_a_caption_tells_what_a_picture_is_of(shelf: Shelf):
    known, chosen = known_and_chosen(shelf)
    said = caption(known, chosen)
    for part in ("study plain, vit_tiny_test", "all 6 images", chosen.image, chosen.label, "metric Probability"):
        assert str(part) in said
    said = caption(known, Selection(**chosen.data() | {"images": "prediction:wrong", "image": None}))
    assert re.search(r"set: predicted wrong: \d of 6 images", said)
    assert "no image selected" in said


@pytest.mark.parametrize("image", ODD_IDS)
def test_a_file_has_a_name_that_every_system_takes(shelf: Shelf, image: str):
    known, chosen = known_and_chosen(shelf, "odd")
    name = file_name(known, Selection(**chosen.data() | {"image": image, "layer": 1, "head": 0}), "head-importance")
    assert re.fullmatch(r"odd-head-importance-L1H0(-[A-Za-z0-9._-]+)?", name)


# --- addresses ---


def echo(name: str = "echo", **changes: Any) -> Export:
    """An export of the selection itself."""
    parts = {
        "label": "Echo",
        "numbers": lambda known, chosen: {"image": known.image_ids, "value": [chosen.layer] * len(known.image_ids)},
        "python": lambda known, chosen: f"numbers = {{'value': {chosen.layer}}}\n",
        "picture": "graph:echo",
    }
    return Export("head-card", name, **parts | changes)


def server_with(shelf: Shelf, *exports: Export) -> FlaskClient:
    server = Flask("exports")
    add_routes(server, shelf, exports, {view.name: view.about for view in VIEWS})
    return server.test_client()


def test_the_query_of_the_page_is_the_query_of_its_exports(shelf: Shelf):
    client, (known, chosen) = server_with(shelf, echo()), known_and_chosen(shelf, "odd")
    query = to_search(Selection(**chosen.data() | {"layer": 1, "image": "two\nlines.png"}), known)
    answer = client.get(f"/export/echo.csv{query}")
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert rows == [["image", "value"], *([("'" + each) if each[0] in "=@" else each, "1"] for each in ODD_IDS)]
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=odd-echo-L1H")
    assert client.get(f"/export/echo.py{query}").text == "numbers = {'value': 1}\n"
    words = client.get(f"/export/echo.json{query}").json
    assert words["file"].startswith("odd-echo-L1H")
    assert "two\nlines.png" in words["caption"]
    assert words["figure"] is None


def test_a_figure_that_is_made_to_leave_travels_as_typed_arrays(shelf: Shelf):
    made = echo(picture="figure", figure=lambda known, chosen: go.Figure(go.Bar(y=np.arange(3, dtype=np.float32))))
    figure = server_with(shelf, made).get("/export/echo.json?study=plain").json["figure"]
    assert figure["data"][0]["type"] == "bar"
    assert figure["data"][0]["y"]["dtype"] == "f4"


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/export/nothing.csv?study=plain", 404, "there is no export nothing; there are echo"),
        ("/export/echo.xls?study=plain", 404, "an export leaves as csv, py, json, not as xls"),
        ("/export/echo.csv", 400, "the address names no study"),
        ("/export/echo.csv?study=other", 404, "other"),
        ("/export/echo.csv?study=..%2Fplain", 404, ".."),
        ("/export/echo.csv?study=plain&layer=3", 400, "layers 0 to 2"),
        ("/export/echo.csv?study=plain&layer=x&head=-1", 400, "layers 0 to 2"),
        ("/export/echo.csv?study=plain&metric=%FF", 400, "metric"),
        ("/export/echo.csv?study=plain&images=nonsense", 400, "images"),
        ("/about/nothing.md", 404, "there are image-overview"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(shelf: Shelf, address: str, status: int, said: str):
    answer = server_with(shelf, echo()).get(address)
    assert (answer.status_code, said in answer.text) == (status, True)


def test_why_there_are_no_numbers_is_told(shelf: Shelf):
    def none(known: StudyFacts, chosen: Selection) -> Any:
        raise StoreError("no image is selected; click one")

    answer = server_with(shelf, echo(numbers=none)).get("/export/echo.csv?study=plain")
    assert answer.status_code == 404
    assert "no image is selected; click one" in answer.text


def test_two_exports_cannot_have_one_name(shelf: Shelf):
    with pytest.raises(ValueError, match="two exports are called echo"):
        server_with(shelf, echo(), echo(label="Another"))


# --- what the page's own views give ---


def properties(component: Component) -> dict[str, Any]:
    return component.to_plotly_json()["props"]


@pytest.fixture(scope="module")
def exported(app: Dash) -> list[str]:
    """Names of all exports in the menus of the page."""
    [menu] = [properties(each) for each in components(app.layout()) if getattr(each, "id", None) == export_menu.MENU]
    return [export["name"] for export in json.loads(menu["data-exports"])]


def test_every_panel_explains_itself_and_enlarges(app: Dash):
    every = [properties(each) for each in components(app.layout())]
    assert {each["data-about"] for each in every if "data-about" in each} == {view.name for view in VIEWS}
    assert {each["data-menu"] for each in every if "data-menu" in each} == {view.name for view in VIEWS}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_what_a_panel_says_names_files_that_compute_it(view: View):
    root, text = Path(__file__).parents[1], view.about
    named = re.findall(r"`((?:precompute|store|workers|docs)/\w+\.\w+)`", text)
    assert named
    assert [name for name in named if not (root / name).is_file()] == []
    assert text.count("$") % 2 == 0
    for heading in ("**Read it.**", "**Computed"):
        assert heading in text


def test_every_panel_has_something_to_leave_with(app: Dash):
    [menu] = [properties(each) for each in components(app.layout()) if getattr(each, "id", None) == export_menu.MENU]
    assert {export["panel"] for export in json.loads(menu["data-exports"])} == {view.name for view in VIEWS}


def queries(shelf: Shelf, study: str) -> list[str]:
    """Of the default, one without an image and of a part of the images, and one of another of everything."""
    known, chosen = known_and_chosen(shelf, study)
    whole = chosen.data()
    some = "prediction:wrong" if known.has_labels else "id:1"
    last = {"image": known.image_ids[-1], "layer": known.num_layers - 1, "head": known.num_heads - 1}
    changes = (
        {},
        {"image": None, "images": some, "metric": known.metrics[-1]},
        last | {"token": known.num_tokens - 1, "map": known.maps[-1], "theme": "dark"},
    )
    return [to_search(Selection(**whole | each), known) for each in changes]


@pytest.mark.parametrize("study", [*KINDS, "odd"])
def test_the_lines_of_every_export_run_and_give_its_numbers(
    app: Dash, shelf: Shelf, data: Path, exported: list[str], study: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADSCOPE_DATA", str(data))
    client = app.server.test_client()
    for query in queries(shelf, study):
        for name in exported:
            answer, lines = client.get(f"/export/{name}.csv{query}"), client.get(f"/export/{name}.py{query}")
            assert answer.status_code in (200, 404), f"{name}: {answer.text}"
            if answer.status_code == 404:
                assert len(answer.text) > 20, f"{name} says nothing of why it has no numbers"
                continue
            assert lines.status_code == 200, f"{name}: {lines.text}"
            assert lines.text.startswith("import headscope\n"), name
            namespace: dict[str, Any] = {}
            exec(compile(lines.text, f"{name}.py", "exec"), namespace)
            told = list(csv.reader(io.StringIO(answer.text, newline="")))
            assert_same(name, told, read_back(namespace["numbers"]))


def test_a_set_that_an_address_made_up_adds_no_line(app: Dash, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADSCOPE_DATA", str(data))
    query = urlencode({"study": "plain", "image": "", "images": "id:0\nraise SystemExit"})
    lines = app.server.test_client().get(f"/export/head-importance.py?{query}").text
    assert "raise SystemExit" in lines
    exec(compile(lines, "lines.py", "exec"), {})


def assert_same(name: str, told: list[list[str]], given: list[list[str]]) -> None:
    """Two CSVs, of texts that are equal and numbers that are equal to float32's rounding."""
    assert told[0] == given[0], name
    assert len(told) == len(given), name
    for at, column in enumerate(told[0]):
        one, other = ([row[at] for row in rows[1:]] for rows in (told, given))
        try:
            np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-5, atol=1e-7, err_msg=f"{name}, {column}")
        except ValueError:
            assert one == other, f"{name}, {column}"


def numbers(cells: list[str]) -> np.ndarray:
    return np.array([float(cell or "nan") for cell in cells])


def test_every_export_leaves_for_some_study(app: Dash, shelf: Shelf, exported: list[str]):
    client = app.server.test_client()
    asked = [query for study in KINDS for query in queries(shelf, study)]
    on_demand = {"pruning", "predictions"}  # a worker computes them when they are asked for
    silent = [
        name
        for name in exported
        if name not in on_demand
        and not any(client.get(f"/export/{name}.csv{query}").status_code == 200 for query in asked)
    ]
    assert silent == []


def test_urls_of_the_page_cannot_say_more_than_a_selection(app: Dash, exported: list[str]):
    query = urlencode({"study": "plain", "image": "nothing like it", "evil": "x"})
    for name in exported:
        assert app.server.test_client().get(f"/export/{name}.csv?{query}").status_code == 400
