"""Numbers that a package adds, of heads on each image, of heads of the whole study and of images, in every view."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import HEADS, ArraySpec, registry
from analyses.numbers import head_numbers, image_numbers
from dashboard import about
from dashboard.data import Shelf, StudyFacts, facts
from dashboard.selection import Selection, default, resolve
from dashboard.view import View
from dashboard.views import (
    head_attention,
    head_card,
    head_importance,
    image_card,
    image_overview,
    pattern_map,
    pattern_map_export,
    studies,
)
from dashboard.workspace import VIEWS
from store.attempt import Attempt
from tests.components import components
from tests.studies import RUN, write_tiny_study

ROWS = {
    "acme:each": ArraySpec(
        HEADS, "float32", "Of a head on an image", unit="0 to 1", title="Each", computed_by="acme:each"
    ),
    "acme:once": ArraySpec(HEADS[1:], "float32", "Of a head <b>once</b>.", unit="-1 to 1", title="Once and for all"),
    "acme:bright": ArraySpec(("image",), "float32", "Mean of the pixels.", unit="0 to 255", title="Brightness"),
}
IMAGES, LAYERS, NUM_HEADS = 6, 3, 2


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"acme:each": (IMAGES, LAYERS, NUM_HEADS), "acme:once": (LAYERS, NUM_HEADS), "acme:bright": (IMAGES,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """The tables as they are where a package declares ROWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name, row in ROWS.items():
            patch.setitem(registry.ARRAYS, name, row)
        for name, number in head_numbers(ROWS).items():
            patch.setitem(registry.HEAD_NUMBERS, name, number)
            patch.setitem(registry.PICKED_NUMBERS, name, number)
        for name, row in image_numbers(ROWS).items():
            patch.setitem(registry.IMAGE_NUMBERS, name, row)
            patch.setitem(image_overview.COLOUR_LABELS, name, row.title)
        yield


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, installed: None, values: dict[str, np.ndarray]) -> StudyFacts:
    folder = tmp_path_factory.mktemp("studies")
    write_tiny_study(folder / "tiny", images=IMAGES, layers=LAYERS, heads=NUM_HEADS, labelled=IMAGES)
    with Attempt.extend(folder / "tiny", {"seed": 0}) as attempt:
        attempt.write_stage("acme", values, {})
        attempt.publish({}, RUN)
    return facts(Shelf(folder).open("tiny"))


@pytest.fixture
def chosen(known: StudyFacts) -> Selection:
    return replace(default(known), layer=2, head=1, image=known.image_ids[3])


def test_the_study_offers_them_and_an_address_can_name_them(known: StudyFacts):
    assert known.choices["metric"][-2:] == ("acme:each", "acme:once")
    assert known.colours[-1] == "acme:bright"
    picked, problems = resolve({"metric": "acme:once", "colour": "acme:bright"}, known)
    assert (picked.metric, picked.colour, problems) == ("acme:once", "acme:bright", [])


def test_the_first_metric_is_still_importance(known: StudyFacts):
    assert default(known).metric == known.metrics[0] == "probability"


def test_the_card_has_a_row_for_each_image_and_the_value_itself_else(
    known: StudyFacts, chosen: Selection, values: dict[str, np.ndarray]
):
    rows = {row.name: row for row in head_card.rows(known, chosen)}
    each = values["acme:each"]
    assert rows["acme:each"].here == pytest.approx(each[3, 2, 1])
    assert rows["acme:each"].mean == pytest.approx(each[:, 2, 1].mean(), rel=1e-5)
    assert rows["acme:each"].here_place == 1 + (np.abs(each[3]) > abs(each[3, 2, 1])).sum()
    assert "acme:once" not in rows
    said = str(head_card.patterns(known, chosen))
    assert "'Once'" in said
    assert "(-1 to 1)" in said
    assert list(rows)[-1] == "acme:each"
    picked = head_card.rows(known, replace(chosen, metric="acme:each"))
    assert [picked[0].name, picked[1].name] == ["acme:each", "probability"]
    line = head_card.draw(known, replace(chosen, metric="acme:once"))[-1]
    assert line == "Once and for all: one number a head, of the whole study."


@pytest.mark.parametrize("metric", ["acme:each", "acme:once"])
@pytest.mark.parametrize("curve", ["line", "grid"])
@pytest.mark.parametrize("with_image", [True, False])
def test_the_curve_and_the_grid_draw_them_and_the_lines_give_them(
    known: StudyFacts,
    chosen: Selection,
    values: dict[str, np.ndarray],
    metric: str,
    curve: str,
    with_image: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    picked = replace(chosen, metric=metric, curve=curve, image=chosen.image if with_image else None)
    wanted = (
        values[metric] if metric == "acme:once" else values[metric][3] if with_image else values[metric].mean(axis=0)
    )
    figure, reading = head_importance.draw(known, picked)
    drawn = figure.data[-1]
    shown = np.asarray(drawn.z).T if curve == "grid" else np.asarray(drawn.y).reshape(LAYERS, NUM_HEADS)
    np.testing.assert_allclose(shown, wanted, rtol=1e-5)
    assert ("of the whole study" in str(reading)) == (metric == "acme:once")
    for view in (head_importance, head_card):
        columns = view.numbers(known, picked)
        monkeypatch.setattr("headscope.open_study", lambda name: known.study)
        scope: dict[str, Any] = {}
        exec(view.python(known, picked), scope)
        assert set(scope["numbers"]) == set(columns)
        for name, column in columns.items():
            if name == "quantity":
                assert scope["numbers"][name] == column
            else:
                np.testing.assert_allclose(scope["numbers"][name], column, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_number_below_zero_is_coloured_about_zero(known: StudyFacts, chosen: Selection):
    grid, _ = head_importance.draw(known, replace(chosen, metric="acme:each", curve="grid"))
    assert grid.data[0].zmin == -grid.data[0].zmax
    scale = pattern_map.Scale.of(known, replace(chosen, metric="acme:each", map_colour="importance"))
    assert (scale.signed, scale.axis) == (True, "Each")


@pytest.mark.parametrize("metric", ["acme:each", "acme:once"])
def test_heads_of_the_map_and_suggested_images_follow_them(known: StudyFacts, chosen: Selection, metric: str):
    picked = replace(chosen, metric=metric, map_colour="importance")
    for values in (pattern_map.draw(known, picked), pattern_map.draw_marks(known, picked)):
        assert values[0] is not None
    assert pattern_map_export.exported(known, picked).data
    assert len(head_attention.suggested(known, replace(picked, image=None))) == IMAGES


def test_the_overview_is_coloured_by_a_number_of_images_and_the_card_has_it(
    known: StudyFacts, chosen: Selection, values: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    for colour, metric in (("acme:bright", "jsd"), ("importance", "acme:each"), ("importance", "acme:once")):
        picked = replace(chosen, colour=colour, metric=metric)
        wanted = values[metric] if colour == "importance" else values[colour]
        if colour == "importance":
            wanted = np.broadcast_to(wanted[..., 2, 1], IMAGES)
        np.testing.assert_allclose(image_overview.colouring(known, picked).values, wanted)
        image_overview.draw(known, picked)
        _, _, legend = image_overview.draw_legend(known, picked)
        assert ("Brightness" if colour == "acme:bright" else "L2·H1") in str(legend)
        monkeypatch.setattr("headscope.open_study", lambda name: known.study)
        scope: dict[str, Any] = {}
        exec(image_overview.python(known, picked), scope)
        column = colour if colour in values else "importance"
        np.testing.assert_allclose(scope["numbers"][column], image_overview.numbers(known, picked)[column])
    body = str(image_card.draw(known, chosen)[0])
    assert "'Brightness'" in body
    assert "'0 to 255'" in body


def view_of(name: str) -> View:
    return next(view for view in VIEWS if view.name == name)


def test_the_buttons_and_the_texts_are_those_of_the_rows(known: StudyFacts):
    values = [getattr(each, "data-value", "") for each in components([head_importance.layout()])]
    assert json.dumps(["metric", "acme:each"]) in values
    for panel, name in (("head-importance", "acme:once"), ("image-card", "acme:bright")):
        assert f"array `{name}`" in about.text_of(view_of(panel)).replace("Array", "array")
    assert r"\<b\>once\</b\>" in about.text_of(view_of("head-card"))  # text of another package is no markup
    assert about.text_of(view_of("pruning")) == view_of("pruning").about


def test_a_study_without_them_says_so(tmp_path: Path, installed: None):
    write_tiny_study(tmp_path / "bare")
    bare = facts(Shelf(tmp_path).open("bare"))
    assert head_importance.reasons(bare) == dict.fromkeys(("acme:each", "acme:once"), "not in this study")
    assert image_overview.reasons(bare) == {"acme:bright": "not in this study"}
    assert "acme:each" not in bare.choices["metric"]


def test_packages_that_are_left_out_have_a_line_on_the_page_of_studies(monkeypatch: pytest.MonkeyPatch):
    assert studies.left_out() == []
    monkeypatch.setitem(studies.PROBLEMS, "acme", "acme:ANALYSIS: no such thing")
    assert "acme: acme:ANALYSIS: no such thing" in str(studies.left_out())
