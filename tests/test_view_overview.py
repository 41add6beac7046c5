"""The image overview says what the arrays say: places, colours, who is in the set, and what a legend entry does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.drawing import problem
from dashboard.graphs import Colouring
from dashboard.image_sets import Lasso
from dashboard.selection import Selection, default
from dashboard.theme import DARK, LIGHT, Palette
from dashboard.views import image_overview as view
from dashboard.views.image_overview import Points
from store.errors import StoreError
from store.study import Study
from tests.studies import compute, tiny_study

NAN = float("nan")
IMAGES = 40
MANY = 20  # classes, more than there are colours
XY = np.array([[0, 0], [1, 1], [2, 0], [3, NAN]], np.float32)
WRONG = np.array([False, True, False, False])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("studies")
    few = tiny_study(images=IMAGES, layers=3, labelled=IMAGES - 1)
    few.arrays["image_layout"][:, 5] = NAN
    few.arrays["importance"][0, 7, 1, 1] = NAN
    compute(folder / "few", few)
    compute(folder / "many", tiny_study(images=IMAGES, classes=MANY, labelled=IMAGES))
    compute(folder / "unlabelled", tiny_study(labelled=0))
    compute(folder / "no-classifier", tiny_study(classes=0, labelled=0))
    return Shelf(folder)


@pytest.fixture(scope="module")
def few(shelf: Shelf) -> StudyFacts:
    return facts(shelf.open("few"))


@pytest.fixture(scope="module")
def many(shelf: Shelf) -> StudyFacts:
    return facts(shelf.open("many"))


def picked(known: StudyFacts, **changes: Any) -> Selection:
    return replace(default(known), **{"image": None, "layer": 1, "head": 1} | changes)


def sent(fig: go.Figure) -> dict[str, Any]:
    """The figure as the browser gets it; it must be JSON, with no NaN in it."""
    return json.loads(fig.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def traces(fig: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in fig.data}


def images_of(fig: go.Figure) -> dict[str, list[int]]:
    return {name: trace.customdata.tolist() for name, trace in traces(fig).items()}


def points(values: list[float], inside: np.ndarray | None = None, lassos: tuple[Lasso, ...] = ()) -> Points:
    return Points(XY, Colouring(np.array(values), LIGHT.sequential, (0.0, 1.0)), WRONG, inside, lassos, "same")


def parts(entries: list[Any]) -> dict[str, Any]:
    """The entries of a legend by what they say."""
    return {said(entry): entry for entry in entries}


def said(entry: Any) -> str:
    children = entry.children if isinstance(entry.children, list) else [entry.children]
    return "".join(
        each if isinstance(each, str) else said(each) if hasattr(each, "children") else "" for each in children
    )


def gesture(entry: Any) -> tuple[str, str, str]:
    told = entry.to_plotly_json()["props"]
    return told["data-kind"], told["data-value"], told["aria-pressed"]


# --- the points ---


def test_a_point_knows_its_image_and_an_image_without_a_place_is_not_drawn():
    fig = points([0.1, 0.2, 0.3, 0.4]).figure(LIGHT)
    assert images_of(fig) == {"outside": [], "right": [0, 2], "wrong": [1]}
    right = traces(fig)["right"]
    np.testing.assert_array_equal(np.stack([right.x, right.y], axis=1), XY[[0, 2]])
    assert (right.marker.symbol, traces(fig)["wrong"].marker.symbol) == ("circle", "x")
    sent(fig)


def test_images_outside_the_set_are_small_grey_and_behind_the_others():
    fig = points([0.1, 0.2, 0.3, 0.4], inside=np.array([True, True, False, True])).figure(LIGHT)
    assert images_of(fig) == {"outside": [2], "right": [0], "wrong": [1]}
    outside, right = fig.data[0], traces(fig)["right"]
    assert outside.name == "outside"
    assert outside.marker.color == LIGHT.unknown
    assert outside.marker.size < right.marker.size


def test_another_set_moves_no_point():
    whole, part = (points([0.1] * 4, inside).figure(LIGHT) for inside in (None, np.array([False, True, False, False])))
    assert whole.layout.xaxis.autorangeoptions == part.layout.xaxis.autorangeoptions
    assert whole.layout.yaxis.autorangeoptions == part.layout.yaxis.autorangeoptions
    assert whole.layout.uirevision == part.layout.uirevision


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_nothing_that_has_a_place_still_is_a_figure(colours: Palette):
    nowhere = replace(points([NAN] * 4), xy=np.full((4, 2), NAN, np.float32))
    fig = nowhere.figure(colours)
    assert images_of(fig) == {"outside": [], "right": [], "wrong": []}
    sent(fig)


def test_a_lasso_is_outlined_on_the_layout_that_it_was_drawn_on_only():
    text = "class:1;lasso:jsd:0,0,2,0,2,1.5"
    (lasso,) = view.lassos(text, "jsd")
    (outline,) = points([0.1] * 4, lassos=(lasso,)).figure(LIGHT).layout.shapes
    assert outline.path == "M0,0L2,0L2,1.5Z"
    assert view.lassos(text, "probability") == ()


def test_the_reading_counts_the_set_and_what_is_not_drawn(few: StudyFacts):
    _, reading = view.draw(few, picked(few, images="class:0"))
    label = few.study.read("label")
    assert reading.startswith(f"{(label == 0).sum()} of {IMAGES} images. 1 image not drawn: not finite. ")
    _, reading = view.draw(few, picked(few, images=""))
    assert " of 40" not in reading


def test_a_set_that_no_image_is_in_is_drawn_in_grey(few: StudyFacts):
    fig, reading = view.draw(few, picked(few, images="id:nobody"))
    assert reading.startswith("0 of 40 images. ")
    assert len(images_of(fig)["outside"]) == IMAGES - 1


def test_a_layout_that_is_damaged_says_so_where_the_line_is(few: StudyFacts, monkeypatch: pytest.MonkeyPatch):
    def damaged(study: Study, name: str, *index: int) -> np.ndarray:
        raise StoreError("image_layout is damaged")

    monkeypatch.setattr(view, "read", damaged)
    figure, reading = view.DRAWING.values(few, picked(few))
    assert len(figure.data) == 0
    assert str(reading) == str(problem("image_layout is damaged"))


# --- colours ---


def test_a_colour_is_a_byte_and_nought_is_for_no_value():
    told = Colouring(np.array([0.0, 0.5, 1.0, NAN, 7.0]), LIGHT.sequential, (0.0, 1.0))
    assert view.shades(told).tolist() == [1, 128, 255, 0, 255]


def test_the_scale_of_the_bytes_has_the_unknown_below_and_steps_where_names_are():
    scale = view.colorscale(Colouring(np.zeros(1), ("#aaaaaa", "#bbbbbb"), (-0.5, 1.5), ("a", "b")), LIGHT)
    edges = [edge for edge, _ in scale]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (0, 1)

    def colour_at(byte: int) -> str:
        return [colour for edge, colour in scale if edge <= byte / 255][-1]

    shades = view.shades(Colouring(np.array([NAN, 0, 1]), ("#aaaaaa", "#bbbbbb"), (-0.5, 1.5), ("a", "b")))
    assert [colour_at(byte) for byte in shades] == [LIGHT.unknown, "#aaaaaa", "#bbbbbb"]


def test_signed_importance_diverges_about_zero_and_the_rest_starts_there():
    signed = view.by_importance(np.array([-0.1, 0.0, 0.4]), True, LIGHT)
    assert signed.limits == (-0.4, 0.4)
    assert signed.ramp[0] == LIGHT.diverging[0]
    assert view.shades(signed)[1] == 128  # the middle
    assert view.by_importance(np.array([0.1, NAN]), False, LIGHT).limits == (0.0, 0.1)
    assert view.by_importance(np.array([NAN, 0.0]), True, LIGHT).limits == (-1.0, 1.0)


def test_few_images_beyond_the_scale_do_not_take_its_colours(few: StudyFacts):
    values = np.concatenate([np.linspace(0, 0.1, 99), [5.0]])
    told = view.by_importance(values, False, LIGHT)
    assert 0.09 < told.limits[1] < 0.11
    assert view.shades(told)[-1] == 255
    assert "≥ 0.0" in said(view._ramp(told, picked(few, metric="jsd", colour="importance")))


def test_few_classes_all_have_a_colour(few: StudyFacts):
    told = view.colouring(few, picked(few, colour="class"))
    assert told.ramp == LIGHT.classes[:6]
    label = few.study.read("label")
    np.testing.assert_array_equal(told.values[label >= 0], label[label >= 0])
    assert np.isnan(told.values[label < 0]).all()


def test_of_many_classes_those_of_the_set_have_a_colour(many: StudyFacts):
    none = view.colouring(many, picked(many, colour="class"))
    assert none.ramp == (LIGHT.faint,)
    told = view.colouring(many, picked(many, colour="class", images="class:7,3"))
    assert told.ramp == (LIGHT.faint, *LIGHT.classes[:2])
    label = many.study.read("label")
    assert {*told.values[label == 7], *told.values[label == 3]} == {1.0, 2.0}
    assert set(told.values[~np.isin(label, (3, 7))]) == {0.0}


def test_no_more_classes_than_colours_are_coloured(many: StudyFacts):
    images = "class:" + ",".join(map(str, range(15)))
    told = view.colouring(many, picked(many, colour="class", images=images))
    assert told.ramp == (LIGHT.faint, *LIGHT.classes)


# --- what is beside the points ---


def test_a_class_in_the_legend_is_a_button_that_filters(few: StudyFacts):
    *_, entries = view.draw_legend(few, picked(few, colour="class", images="class:2"))
    by_name = parts(entries)
    assert gesture(by_name["class 2"]) == ("class", "2", "true")
    assert gesture(by_name["class 3"]) == ("class", "3", "false")
    assert "unknown" in by_name
    assert (few.study.read("label") == 3).sum() == int(by_name["class 3"].title.split(": ")[1].split()[0])


def test_wrong_and_right_are_buttons_and_wrong_is_in_every_colour(few: StudyFacts):
    for colour in ("class", "probability", "importance"):
        *_, entries = view.draw_legend(few, picked(few, colour=colour))
        assert gesture(parts(entries)["✕wrong"]) == ("prediction", "wrong", "false")
    *_, entries = view.draw_legend(few, picked(few, colour="prediction", images="prediction:right"))
    assert gesture(parts(entries)["right"]) == ("prediction", "right", "true")
    assert gesture(parts(entries)["✕wrong"]) == ("prediction", "wrong", "false")


def test_of_many_classes_the_selected_images_is_listed_and_painted_by_the_browser(many: StudyFacts):
    label = many.study.read("label")
    marks, _, entries = view.draw_legend(many, picked(many, colour="class", image=many.image_ids[5]))
    assert parts(entries).keys() == {f"class {label[5]}", "19 other classes", "✕wrong"}
    assert marks["same"]["colour"] == LIGHT.classes[0]
    same = view.same_class(many, picked(many, colour="class", image=many.image_ids[5]), LIGHT)
    assert same is not None
    assert same.images.tolist() == np.flatnonzero(label == label[5]).tolist()
    chosen = picked(many, colour="class", image=many.image_ids[5], images=f"class:{label[5]}")
    assert view.draw_legend(many, chosen)[0]["same"] is None


def test_selecting_an_image_changes_neither_points_nor_the_height_of_the_legend(many: StudyFacts):
    assert not {"image", "layer", "head"} & {*view.DRAWING.fields}
    before, after = (
        view.draw_legend(many, picked(many, colour="class", image=each)) for each in (None, many.image_ids[5])
    )
    assert before[1] == after[1]


def test_the_colours_of_another_head_are_sent_without_the_points(few: StudyFacts):
    chosen = picked(few, colour="importance", metric="probability")
    marks, *_ = view.draw_legend(few, chosen)
    fig, _ = view.draw(few, chosen)
    assert marks["drawn_for"] == fig.layout.meta["drawn_for"]
    other, *_ = view.draw_legend(few, replace(chosen, head=0))
    assert other["drawn_for"] == marks["drawn_for"]
    assert other["shades"] != marks["shades"]
    assert view.draw_legend(few, replace(chosen, colour="class"))[0]["shades"] is None
    told = view.shades(view.colouring(few, chosen))
    assert told[7] == 0  # not finite
    for trace in fig.data[1:]:
        np.testing.assert_array_equal(trace.marker.color, told[trace.customdata])


@pytest.mark.parametrize("name", ["few", "many", "unlabelled", "no-classifier"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_every_kind_of_study_is_drawn(shelf: Shelf, name: str, theme: str):
    known = facts(shelf.open(name))
    for colour in known.colours:
        for image in (None, known.image_ids[0]):
            chosen = picked(known, colour=colour, theme=theme, image=image)
            fig = view.draw(known, chosen)[0]
            assert sent(fig)["layout"]["meta"]["drawn_for"]
            has_place = np.isfinite(known.study["image_layout"][0]).all(axis=-1)
            drawn = sorted(image for each in images_of(fig).values() for image in each)
            assert drawn == np.flatnonzero(has_place).tolist()
            marks, *_ = view.draw_legend(known, chosen)
            assert marks["drawn_for"] == fig.layout.meta["drawn_for"]


def test_what_a_study_cannot_be_coloured_by_has_a_reason(shelf: Shelf):
    assert set(view.reasons(facts(shelf.open("unlabelled")))) == {"class", "prediction"}
    reasons = view.reasons(facts(shelf.open("no-classifier")))
    assert set(reasons) == {"class", "probability", "prediction"}
    assert set(reasons.values()) == {"the model has no classifier"}


# --- what leaves the page ---


@pytest.mark.parametrize("name", ["few", "many", "unlabelled", "no-classifier"])
def test_the_python_lines_give_the_numbers(shelf: Shelf, name: str, monkeypatch: pytest.MonkeyPatch):
    import headscope

    known = facts(shelf.open(name))
    monkeypatch.setattr(headscope, "open_study", shelf.open)
    for images in ("", "id:photo 00"):
        chosen = picked(known, colour="importance", images=images)
        lines: dict[str, Any] = {}
        exec(view.python(known, chosen), lines)
        numbers = view.numbers(known, chosen)
        assert lines["numbers"].keys() == numbers.keys()
        for column, values in numbers.items():
            np.testing.assert_array_equal(np.asarray(lines["numbers"][column]), np.asarray(values), err_msg=column)


def test_the_numbers_have_a_row_an_image_and_who_is_in_the_set(few: StudyFacts, tmp_path: Path):
    numbers = view.numbers(few, picked(few, images="class:1", colour="probability"))
    assert list(numbers) == ["image", "x", "y", "in_set", "label", "predicted", "probability"]
    assert {len(column) for column in numbers.values()} == {IMAGES}
    np.testing.assert_array_equal(numbers["in_set"], few.study.read("label") == 1)
