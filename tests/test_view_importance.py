"""The curve and the grid of importance say what the arrays say, in either order, and leave a gap at a NaN."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analyses.vocabulary import METRICS
from dashboard.data import Shelf, StudyFacts, Summary, facts
from dashboard.selection import Selection, default
from dashboard.theme import DARK, LIGHT, Palette
from dashboard.views import head_importance
from dashboard.views.head_importance import Heads
from dashboard.words import number, ordinal
from store.errors import DamagedError
from tests.studies import compute, tiny_study

NAN = float("nan")
MEAN = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])
HOLED = np.array([[0.1, NAN, 0.3], [NAN, NAN, 0.6]])


def heads(mean: np.ndarray = MEAN, counted: int = 9, own: np.ndarray | None = None, **more: Any) -> Heads:
    known = np.isfinite(mean)
    return Heads(Summary(mean, np.where(known, 0.05, NAN), np.where(known, counted, 0)), own, **more)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("studies")
    compute(folder / "demo", tiny_study(images=8, layers=3, heads=2, labelled=8))
    compute(folder / "one-image", tiny_study(images=1, labelled=1))
    compute(folder / "no-cls", tiny_study(has_cls=False, prefix=0, classes=0, labelled=0))
    return Shelf(folder)


@pytest.fixture(scope="module")
def known(shelf: Shelf) -> StudyFacts:
    return facts(shelf.open("demo"))


@pytest.fixture
def chosen(known: StudyFacts) -> Selection:
    return replace(default(known), metric="jsd", image=None, curve="line", sort="model")


def drawn(fig: go.Figure) -> dict[str, Any]:
    """The figure as the browser gets it; it must be JSON, with no NaN in it."""
    return json.loads(fig.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def answering(fig: go.Figure) -> Any:
    """The one trace that the pointer can hit; importance.js finds it by its name."""
    (trace,) = (each for each in fig.data if each.hoverinfo != "skip")
    assert trace.name == "heads"
    return trace


# --- the curve ---


def test_the_curve_has_every_head_in_the_order_of_the_layers(chosen: Selection):
    line = answering(head_importance.curve_figure(heads(), chosen, LIGHT))
    np.testing.assert_array_equal(line.x, np.arange(6))
    np.testing.assert_array_equal(line.y, MEAN.astype(np.float32).ravel())
    np.testing.assert_array_equal(line.customdata, np.arange(6))
    assert line.text[3] == "<b>L1·H0</b> · mean of the set 0.600 ± 0.0500"


def test_by_importance_the_most_important_head_is_first_and_its_place_tells_its_rank(chosen: Selection):
    sorted_ = replace(chosen, sort="importance")
    fig = head_importance.curve_figure(heads(), sorted_, LIGHT)
    line = answering(fig)
    np.testing.assert_allclose(line.y, [0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert line.customdata.tolist() == [3, 4, 5, 2, 1, 0]
    assert [said[3:8] for said in line.text] == ["L1·H0", "L1·H1", "L1·H2", "L0·H2", "L0·H1", "L0·H0"]
    assert fig.layout.xaxis.ticktext == ("1st", "5th")
    assert fig.layout.xaxis.tickvals == (0, 4)


def test_by_importance_there_is_room_for_the_strip_of_layers_and_there_are_no_bands(chosen: Selection):
    by_importance = replace(chosen, sort="importance")
    fig = head_importance.curve_figure(heads(), by_importance, LIGHT)
    assert fig.layout.yaxis.range[0] < 0
    assert [shape for shape in fig.layout.shapes if shape.type == "rect"] == []
    banded = head_importance.curve_figure(heads(), chosen, LIGHT)
    assert banded.layout.yaxis.range[0] == 0
    assert [(each.x0, each.x1) for each in banded.layout.shapes if each.type == "rect"] == [(2.5, 5.5)]
    said = str(head_importance.curve_reading(heads(), by_importance, LIGHT))
    assert "Strip: L0" in said
    assert "L1." in said


def test_of_the_pruned_probability_the_lowest_is_first_and_a_head_without_a_value_last():
    left = heads(np.array([[0.9, 0.2, NAN], [0.5, 0.7, 0.2]]), low_matters=True)
    assert left.order().tolist() == [1, 5, 3, 4, 0, 2]
    assert left.peaks() == [1, 5, 3, 4, 0]
    gone = heads(HOLED)
    assert gone.order().tolist() == [5, 2, 0, 1, 3, 4]
    assert gone.peaks() == [5, 2, 0]


def test_an_image_is_sorted_by_its_own_values_and_the_means_follow(chosen: Selection):
    own = MEAN[::-1]
    fig = head_importance.curve_figure(heads(own=own), replace(chosen, sort="importance"), LIGHT)
    assert answering(fig).customdata.tolist() == [0, 1, 2, 5, 4, 3]
    behind = fig.data[-2]
    np.testing.assert_allclose(behind.y, MEAN.ravel()[[0, 1, 2, 5, 4, 3]])


def test_an_images_own_curve_answers_the_pointer_in_words_and_the_mean_is_behind_it(chosen: Selection):
    fig = head_importance.curve_figure(heads(own=MEAN * 2), chosen, LIGHT)
    line = answering(fig)
    np.testing.assert_allclose(line.y, MEAN.ravel() * 2)
    assert line.text[1] == "<b>L0·H1</b> · this image: 0.400; mean of the set 0.200 ± 0.0500"
    behind = [trace for trace in fig.data if trace.mode == "lines" and len(trace.y) == 6]
    np.testing.assert_allclose(behind[0].y, MEAN.ravel())


def test_a_head_without_a_value_is_a_gap_and_is_counted(chosen: Selection):
    own = heads(own=HOLED)
    line = answering(head_importance.curve_figure(own, chosen, LIGHT))
    assert np.isnan(line.y[[1, 3, 4]]).all()
    assert not line.connectgaps
    assert line.text[1].endswith("this image: –; mean of the set 0.200 ± 0.0500")
    assert head_importance.curve_reading(own, chosen, LIGHT)[0].endswith("3 gaps: not finite.")


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("sort", ["model", "importance"])
def test_nothing_but_nan_still_is_a_figure(chosen: Selection, colours: Palette, sort: str):
    nothing = heads(np.full((2, 3), NAN), own=np.full((2, 3), NAN))
    picked = replace(chosen, sort=sort)
    assert drawn(head_importance.curve_figure(nothing, picked, colours))["layout"]["meta"]["peaks"] == []
    drawn(head_importance.grid_figure(nothing, picked, colours))


def test_the_band_is_the_mean_and_one_deviation_around_it():
    x, y = head_importance.band(MEAN.ravel(), np.full(6, 0.05), np.full(6, 9))
    np.testing.assert_allclose(x[:6], np.arange(6))
    np.testing.assert_allclose(y[:6], MEAN.ravel() + 0.05, rtol=1e-6)
    np.testing.assert_allclose(y[6:12], MEAN.ravel()[::-1] - 0.05, rtol=1e-6)


def test_the_band_has_a_part_for_each_run_of_heads_and_ends_at_zero():
    x, y = head_importance.band(HOLED.ravel(), np.full(6, 0.5), np.full(6, 9))
    parts = np.split(x, np.flatnonzero(np.isnan(x)))
    assert [sorted(set(part[np.isfinite(part)].tolist())) for part in parts] == [[0], [2], [5], []]
    assert np.nanmin(y) == 0


def test_one_image_has_no_deviation(chosen: Selection):
    one = heads(counted=1)
    fig = head_importance.curve_figure(one, chosen, LIGHT)
    assert len(fig.data[0].x) == 0
    assert answering(fig).text[0] == "<b>L0·H0</b> · mean of the set 0.100"


def test_the_figure_says_nothing_of_the_selected_head(chosen: Selection):
    for curve in ("line", "grid"):
        for sort in ("model", "importance"):
            looks = replace(chosen, curve=curve, sort=sort)
            draw = head_importance.grid_figure if curve == "grid" else head_importance.curve_figure
            first, other = (
                draw(heads(), replace(looks, layer=layer, head=head), LIGHT) for layer, head in ((0, 0), (1, 2))
            )
            assert drawn(first) == drawn(other)
            assert LIGHT.accent not in first.to_json()
    assert not {"layer", "head"} & set(head_importance.DRAWING.fields)


def test_probability_is_drawn_as_what_is_left_with_a_line_for_nothing_pruned(chosen: Selection):
    picked = replace(chosen, metric="probability")
    left = heads(low_matters=True, unpruned=0.7)
    fig = head_importance.curve_figure(left, picked, LIGHT)
    assert METRICS["probability"].curve == "pruned_probability"
    assert fig.layout.yaxis.title.text == "P(target),<br>head pruned"
    assert [shape.y0 for shape in fig.layout.shapes if shape.line.dash == "dash"] == [0.7]
    assert "Dashed, 0.700: none pruned." in head_importance.curve_reading(left, picked, LIGHT)[0]


@pytest.mark.parametrize("low_matters", [False, True])
def test_names_have_room_where_the_important_heads_are(low_matters: bool):
    values = np.array([[0.5, 0.9, NAN]])
    one = heads(values, counted=1, low_matters=low_matters)
    assert head_importance.ends(one) == pytest.approx((0.42, 0.916) if low_matters else (0, 1.08))
    at_zero = heads(np.array([[0.0, 1.0]]), counted=1, low_matters=True)
    assert head_importance.ends(at_zero)[0] == 0  # no probability is below 0
    for flat in (NAN, 0.0, 0.5):
        low, high = head_importance.ends(heads(np.array([[flat]]), low_matters=low_matters))
        assert low < high


def test_a_deviation_that_would_flatten_the_curve_is_cut_off_and_that_is_said(chosen: Selection):
    mean = np.array([[0.5, 0.6]])
    narrow, wide = (
        replace(
            heads(mean, low_matters=True, unpruned=0.6), over_set=Summary(mean, np.full((1, 2), sd), np.full((1, 2), 9))
        )
        for sd in (0.04, 0.3)
    )
    low, high = head_importance.ends(narrow)
    assert low < 0.5 - 0.04
    assert high > 0.6 + 0.04
    low, high = head_importance.ends(wide)
    assert 0.1 / (high - low) > 0.35
    picked = replace(chosen, metric="probability")
    assert "cut off" in head_importance.curve_reading(wide, picked, LIGHT)[0]
    assert "cut off" not in head_importance.curve_reading(narrow, picked, LIGHT)[0]


@pytest.mark.parametrize(("layers", "heads_", "places"), [(2, 3, [1, 5]), (12, 12, [1, 20, 40, 60, 80, 100, 120, 140])])
def test_places_of_the_sorted_curve_are_ticked_now_and_then(layers: int, heads_: int, places: list[int]):
    axis = head_importance._x_axis(layers, heads_, in_model=False)
    assert axis["tickvals"] == [place - 1 for place in places]
    assert axis["ticktext"] == [ordinal(place) for place in places]


@pytest.mark.parametrize(("layers", "heads_"), [(24, 16), (32, 20)])
def test_hundreds_of_heads_have_no_dots_and_few_ticks(chosen: Selection, layers: int, heads_: int):
    values = np.random.default_rng(0).uniform(size=(layers, heads_))
    for sort in ("model", "importance"):
        fig = head_importance.curve_figure(heads(values), replace(chosen, sort=sort), LIGHT)
        line = answering(fig)
        assert line.mode == "lines"
        assert sorted(line.customdata.tolist()) == list(range(layers * heads_))
        assert len(fig.layout.xaxis.tickvals) <= 33


def test_a_place_is_said_in_words():
    said = [ordinal(place) for place in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 113)]
    assert said == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th", "113th"]


# --- the grid ---


def test_the_grid_has_a_column_a_layer_and_its_first_head_at_the_top(chosen: Selection):
    fig = head_importance.grid_figure(heads(), chosen, LIGHT)
    cells = answering(fig)
    np.testing.assert_array_equal(cells.z, MEAN.T.astype(np.float32))
    assert (cells.x, cells.y) == (("L0", "L1"), ("H0", "H1", "H2"))
    assert fig.layout.yaxis.autorange == "reversed"
    assert cells.text[0][1].startswith("<b>L1·H0</b> · ")
    assert cells.colorbar.title.text == METRICS["jsd"].axis.replace(" ", "<br>")


def test_a_signed_metric_has_zero_in_the_middle_of_its_colours(chosen: Selection):
    signed = head_importance.grid_figure(heads(MEAN - 0.25), replace(chosen, metric="probability"), LIGHT).data[0]
    assert signed.zmin == -signed.zmax == pytest.approx(-0.35)
    assert [colour for at, colour in signed.colorscale if at == 0.5] == [LIGHT.diverging[3]]
    plain = head_importance.grid_figure(heads(), chosen, LIGHT).data[0]
    assert (plain.zmin, plain.zmax) == (0, pytest.approx(0.6))


def test_a_blank_cell_is_counted(chosen: Selection):
    assert head_importance.grid_reading(heads(own=HOLED), chosen).endswith("This image. 3 blanks: not finite.")


# --- of a study ---


def test_the_means_are_of_the_image_set_and_so_is_the_dashed_line(known: StudyFacts, chosen: Selection):
    study = known.study
    picked = replace(chosen, images="class:1,3", metric="probability")
    inside = np.isin(study.read("label"), (1, 3))
    assert 0 < inside.sum() < len(inside)
    left = Heads.of(known, picked)
    np.testing.assert_allclose(left.over_set.mean, study.read("pruned_probability")[inside].mean(axis=0), rtol=1e-6)
    before = study.read("probability")[np.arange(len(inside)), study.read("target")]
    assert left.unpruned == pytest.approx(before[inside].mean(), rel=1e-6)
    grid = Heads.of(known, replace(picked, curve="grid"))
    np.testing.assert_allclose(grid.over_set.mean, study.read("importance", 0)[inside].mean(axis=0), rtol=1e-5)
    own = Heads.of(known, replace(picked, image=study.image_ids[2]))
    np.testing.assert_array_equal(own.of_image, study.read("pruned_probability", 2))
    assert own.unpruned == pytest.approx(before[2])


def test_a_set_of_no_images_is_gaps(known: StudyFacts, chosen: Selection):
    for curve in ("line", "grid"):
        fig, said = head_importance.draw(known, replace(chosen, images="p:2..3", curve=curve))
        drawn(fig)
        assert "6 " in str(said)


def test_every_face_of_every_study_is_drawn(shelf: Shelf):
    for name in ("demo", "one-image", "no-cls"):
        of = facts(shelf.open(name))
        for metric in of.metrics:
            for image in (None, of.image_ids[0]):
                for curve, sort in (("line", "model"), ("line", "importance"), ("grid", "model")):
                    fig, said = head_importance.draw(
                        of, replace(default(of), metric=metric, image=image, curve=curve, sort=sort)
                    )
                    drawn(fig)
                    assert said


def test_a_metric_that_the_model_cannot_have_says_why(shelf: Shelf):
    assert head_importance.reasons(facts(shelf.open("no-cls"))) == {
        **dict.fromkeys(["probability", "jsd"], "the model has no classifier"),
        "cls_distance": "the model has no class token",
    }


def test_a_damaged_metric_is_told_and_another_is_drawn(tmp_path: Path):
    compute(tmp_path / "hurt", tiny_study(images=4, labelled=4, unit_images=4))
    path = tmp_path / "hurt" / "attempt-1" / "importance" / "c.1.0.0.0"
    path.write_bytes(path.read_bytes()[:-3])
    of = facts(Shelf(tmp_path).open("hurt"))
    jsd = replace(default(of), metric="jsd")
    with pytest.raises(DamagedError, match="verify hurt"):
        head_importance.draw(of, jsd)
    head_importance.draw(of, replace(jsd, metric="cls_distance"))


# --- what leaves ---


@pytest.mark.parametrize("changes", [{}, {"image": True}, {"images": "class:1,3"}, {"metric": "probability"}])
@pytest.mark.parametrize("curve", ["line", "grid"])
def test_the_python_lines_give_the_numbers_that_are_drawn(
    shelf: Shelf,
    known: StudyFacts,
    chosen: Selection,
    changes: dict[str, Any],
    curve: str,
    monkeypatch: pytest.MonkeyPatch,
):
    image = known.image_ids[3] if changes.get("image") else None
    picked = replace(chosen, **(changes | {"image": image, "curve": curve}))
    columns = head_importance.numbers(known, picked)
    monkeypatch.setattr("headscope.open_study", shelf.open)
    scope: dict[str, Any] = {}
    exec(head_importance.python(known, picked), scope)
    assert list(scope["numbers"]) == list(columns)
    for name, column in columns.items():
        np.testing.assert_allclose(scope["numbers"][name], column, rtol=1e-5, atol=1e-9, err_msg=name)
    shown = answering(head_importance.draw(known, picked)[0])
    values = np.transpose(shown.z) if curve == "grid" else shown.y
    np.testing.assert_allclose(np.ravel(values), columns["image" if image else "mean"], rtol=1e-6)
    assert (columns["layer"][2], columns["head"][2]) == (1, 0)


def test_numbers_are_sent_as_bytes(chosen: Selection):
    line = drawn(head_importance.curve_figure(heads(), chosen, LIGHT))["data"][-1]
    assert base64.b64decode(line["customdata"]["bdata"]) == bytes(np.arange(6, dtype=np.uint16))
    assert set(line["y"]) == {"dtype", "bdata"}
    assert number(0.6) in line["text"][3]
