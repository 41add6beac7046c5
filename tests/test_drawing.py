"""What is drawn anew: a view whose fields changed, and no other; and an error stays in its view."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from dash import Output, html, no_update

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.drawing import BODY, TOLD, Drawing, anew, sent
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


def drawn(
    shelf: Shelf, chosen: Selection, last: dict[str, Any] | None = None, of: list[Drawing] | None = None
) -> list[Any]:
    return anew(of or [LAYER, METRIC], facts(shelf.open(chosen.study)), chosen, last or {})


def holding(shelf: Shelf, chosen: Selection) -> dict[str, Any]:
    """What a page holds that has drawn a selection."""
    return {"content": shelf.open(chosen.study).manifest.content, "selection": chosen.data()}


def test_everything_is_drawn_the_first_time(shelf: Shelf):
    chosen = start(shelf)
    assert drawn(shelf, chosen) == [(chosen.layer, "layer of one"), (chosen.metric, "metric of one")]


def test_a_view_is_left_alone_while_its_fields_stay(shelf: Shelf):
    chosen = start(shelf)
    last = holding(shelf, chosen)
    assert drawn(shelf, chosen, last) == [LEFT, LEFT]
    other = replace(chosen, layer=1 - chosen.layer)
    assert drawn(shelf, other, last) == [(other.layer, "layer of one"), LEFT]


@pytest.mark.parametrize("field", ["theme", "study"])
def test_another_theme_or_study_draws_everything(shelf: Shelf, field: str):
    chosen = start(shelf)
    other = replace(chosen, theme="dark") if field == "theme" else start(shelf, "two")
    assert no_update not in [value for each in drawn(shelf, other, holding(shelf, chosen)) for value in each]


def test_another_content_under_the_same_name_draws_everything(shelf: Shelf):
    chosen = start(shelf)
    assert LEFT not in drawn(shelf, chosen, holding(shelf, chosen) | {"content": "0" * 64})


@pytest.mark.parametrize("odd", [{}, {"content": None}, {"selection": 3}, {"selection": []}])
def test_what_the_browser_makes_up_draws_everything(shelf: Shelf, odd: dict[str, Any]):
    content = shelf.open("one").manifest.content
    assert LEFT not in drawn(shelf, start(shelf), {"content": content, **odd})


def test_an_error_of_the_store_is_said_in_its_view_and_the_others_are_drawn(shelf: Shelf):
    chosen = start(shelf)
    (blank, said), layer = drawn(shelf, chosen, of=[failing(StoreError("tile 3 is damaged")), LAYER])
    assert blank == "blank on #ffffff"
    assert (said.children, said.role) == ("tile 3 is damaged", "alert")
    assert layer == (chosen.layer, "layer of one")


def test_an_error_of_a_view_is_logged_and_the_others_are_drawn(shelf: Shelf, caplog: pytest.LogCaptureFixture):
    values = drawn(shelf, start(shelf), of=[failing(KeyError("left")), LAYER])
    assert "server's log" in values[0][1].children
    assert "KeyError: 'left'" in caplog.text
    assert "failing-reading.children cannot be drawn" in caplog.text
    assert values[1][1] == "layer of one"


def of_values(**values: Any) -> tuple[list[Drawing], list[tuple[Any, ...]]]:
    """A drawing with an output a property, and its values."""
    outputs = tuple(Output("view", name) for name in values)
    return [Drawing(outputs, (), lambda known, chosen: (), lambda colours: ())], [tuple(values.values())]


def test_only_what_the_page_does_not_show_yet_is_sent():
    scripted, others, digests = sent(*of_values(**{BODY: [html.P("one")]}, title="a", hidden=False), None)
    assert json.loads(scripted)[f"view.{BODY}"][0]["props"] == {"children": "one"}
    assert others == ["a", False]
    assert len(set(digests)) == 3
    scripted, others, same = sent(*of_values(**{BODY: [html.P("one")]}, title="b", hidden=False), digests)
    assert (scripted, others) == ("{}", ["b", no_update])
    assert [now == was for now, was in zip(same, digests, strict=True)] == [True, False, True]


def test_what_is_left_alone_keeps_its_digest():
    *_, digests = sent(*of_values(**{BODY: "one"}, title="a"), None)
    assert sent(*of_values(**{BODY: no_update}, title=no_update), digests) == ("{}", [no_update], digests)
    assert sent(*of_values(**{BODY: "one"}, title="a"), digests) == ("{}", [no_update], digests)
    assert sent(*of_values(**{BODY: no_update}), None) == ("{}", [], [None])


def test_a_figure_is_always_sent():
    figure = go.Figure()
    *_, digests = sent(*of_values(figure=figure), None)
    assert sent(*of_values(figure=figure), digests) == ("{}", [figure], [None])


def test_what_scripts_take_is_one_text():
    drawings, values = of_values(**{TOLD: {"same": np.arange(2)}, BODY: html.P("é </script>", className="x")})
    scripted, others, digests = sent(drawings, values, None)
    told = json.loads(scripted)
    assert told[f"view.{TOLD}"] == {"same": [0, 1]}
    assert told[f"view.{BODY}"]["props"] == {"children": "é </script>", "className": "x"}
    assert (others, len(digests)) == ([], 2)


@pytest.mark.parametrize("odd", [None, 3, [], ["x"], [1, 2, 3], {"a": 1}, [[None], {}]])
def test_digests_that_the_browser_makes_up_send_all(odd: object):
    assert sent(*of_values(**{BODY: "one"}, title="a"), odd)[:2] == (f'{{"view.{BODY}":"one"}}', ["a"])
