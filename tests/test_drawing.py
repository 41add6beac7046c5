"""What is drawn anew: a view whose fields changed, and no other; and an error stays in its view."""

from dataclasses import replace
from typing import Any

import pytest
from dash import Output, no_update
from dash.exceptions import PreventUpdate
from werkzeug.exceptions import BadRequest

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.drawing import Drawing, anew, facts_of, selection_of
from dashboard.selection import Selection, default
from store.errors import StoreError
from tests.studies import write_tiny_study


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("data")
    for name in ("one", "two"):
        write_tiny_study(folder / "studies" / name)
    return Shelf(folder / "studies")


def of_field(field: str) -> Drawing:
    def draw(known: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
        return getattr(chosen, field), f"{field} of {known.name}"

    outputs = (Output(f"{field}-graph", "figure"), Output(f"{field}-reading", "children"))
    return Drawing(outputs, (field,), draw, lambda colours: ("blank",))


def failing(error: Exception) -> Drawing:
    def draw(known: StudyFacts, chosen: Selection) -> tuple[Any, ...]:
        raise error

    outputs = (Output("failing-graph", "figure"), Output("failing-reading", "children"))
    return Drawing(outputs, ("head",), draw, lambda colours: (f"blank on {colours.panel}",))


LAYER, METRIC = of_field("layer"), of_field("metric")
LEFT = (no_update, no_update)


def start(shelf: Shelf, name: str = "one") -> Selection:
    return default(facts(shelf.open(name)))


def drawn_from(shelf: Shelf, drawings: list[Drawing], chosen: Selection, drawn: object = None) -> tuple[list[Any], Any]:
    return anew(drawings, facts(shelf.open(chosen.study)), chosen, drawn)


def test_everything_is_drawn_the_first_time(shelf: Shelf):
    chosen = start(shelf)
    values, now = drawn_from(shelf, [LAYER, METRIC], chosen)
    assert values == [(chosen.layer, "layer of one"), (chosen.metric, "metric of one")]
    assert now == {"content": shelf.open("one").manifest.content, "selection": chosen.data()}


def test_a_view_is_left_alone_while_its_fields_stay(shelf: Shelf):
    chosen = start(shelf)
    drawn = drawn_from(shelf, [LAYER, METRIC], chosen)[1]
    assert drawn_from(shelf, [LAYER, METRIC], chosen, drawn)[0] == [LEFT, LEFT]
    other = replace(chosen, layer=1 - chosen.layer)
    assert drawn_from(shelf, [LAYER, METRIC], other, drawn)[0] == [(other.layer, "layer of one"), LEFT]


@pytest.mark.parametrize("field", ["theme", "study"])
def test_another_theme_or_study_draws_everything(shelf: Shelf, field: str):
    chosen = start(shelf)
    drawn = drawn_from(shelf, [LAYER, METRIC], chosen)[1]
    other = replace(chosen, theme="dark") if field == "theme" else replace(start(shelf, "two"))
    assert no_update not in [value for each in drawn_from(shelf, [LAYER, METRIC], other, drawn)[0] for value in each]


def test_another_content_under_the_same_name_draws_everything(shelf: Shelf):
    chosen = start(shelf)
    drawn = {"content": "0" * 64, "selection": chosen.data()}
    assert LEFT not in drawn_from(shelf, [LAYER, METRIC], chosen, drawn)[0]


@pytest.mark.parametrize("odd", [3, "x", [], {}, {"content": None}, {"selection": 3}])
def test_what_the_browser_makes_up_draws_everything(shelf: Shelf, odd: object):
    content = shelf.open("one").manifest.content
    given = {**odd, "content": content} if isinstance(odd, dict) else odd
    assert LEFT not in drawn_from(shelf, [LAYER, METRIC], start(shelf), given)[0]


def test_an_error_of_the_store_is_said_in_its_view_and_the_others_are_drawn(shelf: Shelf):
    chosen = start(shelf)
    values, now = drawn_from(shelf, [failing(StoreError("tile 3 is damaged")), LAYER], chosen)
    (blank, said), layer = values
    assert blank == "blank on #ffffff"
    assert (said.children, said.role) == ("tile 3 is damaged", "alert")
    assert layer == (chosen.layer, "layer of one")
    assert now is not None


def test_an_error_of_a_view_is_logged_and_the_others_are_drawn(shelf: Shelf, caplog: pytest.LogCaptureFixture):
    values, _ = drawn_from(shelf, [failing(KeyError("left")), LAYER], start(shelf))
    assert "server's log" in values[0][1].children
    assert "KeyError: 'left'" in caplog.text
    assert "failing-reading.children cannot be drawn" in caplog.text
    assert values[1][1] == "layer of one"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"study": "three"}, "there is no study three"), ({"layer": 9}, "study one was computed anew; reload the page")],
)
def test_a_selection_of_what_is_no_longer_there_is_refused(shelf: Shelf, change: dict[str, Any], said: str):
    with pytest.raises(StoreError, match=said):
        facts_of(shelf, replace(start(shelf), **change))


def test_a_selection_that_is_none_is_waited_for_or_refused():
    with pytest.raises(PreventUpdate):
        selection_of(None)
    for odd in (3, [], {}, {"study": "one"}):
        with pytest.raises(BadRequest, match="reload the page"):
            selection_of(odd)
