"""The pattern map: points are heads of the set, marks those of the image; clicks and exports name the same heads."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash import Dash

from dashboard.app import create_app
from dashboard.data import Shelf, StudyFacts, facts, indices_of
from dashboard.density import whole
from dashboard.routes import pictures_url
from dashboard.selection import MAP_COLOURS, MAP_LOOKS, Selection, default
from dashboard.theme import DARK, LIGHT
from dashboard.views import pattern_map, pattern_map_export
from dashboard.views.pattern_map import Heads, PatternMap, Scale
from headscope import open_study
from store.errors import StoreError
from store.settings import Settings
from tests.studies import CLS_PATTERNS, PATTERNS, compute, tiny_study, write_tiny_study

IMAGES, LAYERS, HEADS = 12, 3, 4
EACH = LAYERS * HEADS


def holed() -> Any:
    """A study with an image without places, an importance that is no number and a CLS map whose seeds disagree."""
    tiny = tiny_study(images=IMAGES, layers=LAYERS, heads=HEADS, labelled=IMAGES, unit_images=IMAGES)
    tiny.arrays["patch_layout"][2] = np.nan
    tiny.arrays["importance"][0, 3, 1, 1] = np.nan
    tiny.late_attrs["maps"]["cls"]["seed_agreement"] = 0.2
    return tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    compute(folder / "studies" / "first", holed())
    write_tiny_study(folder / "studies" / "no-cls", has_cls=False, prefix=0, classes=0, labelled=0)
    write_tiny_study(folder / "studies" / "no-maps", maps=False)
    return folder


@pytest.fixture(scope="module")
def shelf(data: Path) -> Shelf:
    return Shelf(data / "studies")


@pytest.fixture
def known(shelf: Shelf) -> StudyFacts:
    return facts(shelf.open("first"))


@pytest.fixture(scope="module")
def app(data: Path) -> Dash:
    return create_app(Settings(data=data))


def picked(known: StudyFacts, **changes: Any) -> Selection:
    return replace(default(known), image=known.image_ids[5], layer=1, head=2, **changes)


def unpacked(sent: Any) -> np.ndarray:
    kinds = {"f4": np.float32, "i4": np.int32, "u1": np.uint8, "i1": np.int8}
    return np.frombuffer(base64.b64decode(sent["bdata"]), kinds[sent["dtype"]])


def drawn(known: StudyFacts, chosen: Selection) -> dict[str, Any]:
    """What the browser is told of the map, by output."""
    names = ("told", "legend", "caution", "absent", "hidden", "reading")
    return dict(zip(names, pattern_map.draw(known, chosen), strict=True))


# --- which heads ---


def test_a_point_is_the_head_that_its_place_counts_to(known: StudyFacts):
    heads = Heads.of_set(known, picked(known), Scale.of(known, picked(known)))
    np.testing.assert_array_equal(heads.places, np.arange(IMAGES * EACH))
    layout = known.study.read("patch_layout")
    image, rank = divmod(7 * EACH + HEADS + 2, EACH)
    own = layout[image, rank // HEADS, rank % HEADS]
    window = whole(layout)
    wide, high = window.x1 - window.x0, window.y1 - window.y0
    x, y = heads.xy[7 * EACH + HEADS + 2]
    assert (window.x0 + x * wide, window.y0 + y * high) == pytest.approx(own.tolist(), rel=1e-4)
    np.testing.assert_array_equal(heads.codes, np.tile(np.repeat(range(LAYERS), HEADS), IMAGES))


def test_a_set_has_its_own_heads_and_no_others(known: StudyFacts):
    chosen = picked(known, images="id:photo 00")
    images = indices_of(known.study, chosen.images)
    assert 0 < len(images) < IMAGES
    heads = Heads.of_set(known, chosen, Scale.of(known, chosen))
    assert set(heads.places // EACH) == set(images.tolist())
    every = Heads.of_set(known, picked(known), Scale.of(known, chosen))
    np.testing.assert_array_equal(heads.xy, every.xy[heads.places])
    assert "of 12" in str(PatternMap.of_selection(known, chosen).legend(LIGHT))


def test_every_map_fills_the_same_window_and_keeps_its_order(known: StudyFacts):
    for name in ("patch", "cls"):
        before = known.study.read(f"{name}_layout")
        after = pattern_map.scaled(known.study, name, before)
        np.testing.assert_array_equal(np.isnan(before), np.isnan(after))
        for axis in (0, 1):
            x, y = before[..., axis].ravel(), after[..., axis].ravel()
            assert (np.nanmin(y), np.nanmax(y)) == pytest.approx((0.04 / 1.08, 1.04 / 1.08), abs=1e-5)
            np.testing.assert_array_equal(np.argsort(x), np.argsort(y))


def test_the_images_heads_are_those_of_the_map(known: StudyFacts):
    for colour in MAP_COLOURS:
        chosen = picked(known, map_colour=colour)
        scale = Scale.of(known, chosen)
        own, every = Heads.of_image(known, chosen, 5, scale), Heads.of_set(known, chosen, scale)
        where = [int(np.flatnonzero(every.places == place)[0]) for place in own.places]
        np.testing.assert_array_equal(own.places, 5 * EACH + np.arange(EACH))
        for name in ("xy", "codes", "names", "values"):
            mine, its = getattr(own, name), getattr(every, name)
            assert (mine is None) == (its is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, its[where])


def test_one_image_is_marked_without_reading_the_others(known: StudyFacts, monkeypatch: pytest.MonkeyPatch):
    pattern_map.bounds(known.study, "patch")  # of the map, once
    monkeypatch.setattr(pattern_map, "large", None)
    marks, _ = pattern_map.draw_marks(known, picked(known, map_colour="pattern"))
    assert marks["image"] == 5
    np.testing.assert_array_equal(unpacked(marks["places"]), 5 * EACH + np.arange(EACH))


def test_without_an_image_the_selected_head_is_marked_on_all_of_the_set(known: StudyFacts):
    chosen = replace(picked(known), image=None)
    marks, said = pattern_map.draw_marks(known, chosen)
    assert marks["image"] is None
    np.testing.assert_array_equal(unpacked(marks["places"]), np.arange(IMAGES) * EACH + HEADS + 2)
    assert "L1·H2 on 12 images" in str(said)
    some = replace(chosen, images="id:photo 00")
    assert "L1·H2 on 10 images" in str(pattern_map.draw_marks(known, some)[1])


def test_of_many_images_some_are_marked_evenly_spaced_and_that_is_said(
    known: StudyFacts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pattern_map, "MOST_MARKS", 4)
    marks, said = pattern_map.draw_marks(known, replace(picked(known), image=None))
    np.testing.assert_array_equal(unpacked(marks["places"]) // EACH, [0, 3, 7, 11])
    assert "L1·H2 on 4 of 12 images" in str(said)


def test_the_map_is_not_drawn_again_for_an_image_or_a_head():
    of_map, of_marks = pattern_map.DRAWINGS
    assert not {"image", "layer", "head", "token"} & set(of_map.fields)
    assert {"image", "layer", "head"} <= set(of_marks.fields)


# --- colours ---


def test_importance_goes_about_zero_and_what_is_no_number_has_a_colour_of_its_own(known: StudyFacts):
    chosen = picked(known, map_colour="importance", metric="probability")
    scale = Scale.of(known, chosen)
    values = np.array([-scale.limit, 0, scale.limit, 9 * scale.limit, np.nan], np.float32)
    shades = pattern_map.SHADES
    assert scale.shades(values)[[0, 2, 3, 4]].tolist() == [0, shades - 1, shades - 1, shades]
    assert abs(int(scale.shades(values)[1]) - shades / 2) <= 1
    assert (scale.colours[0], scale.colours[-2], scale.colours[-1]) == (
        LIGHT.diverging[0],
        LIGHT.diverging[-1],
        LIGHT.unknown,
    )
    jsd = Scale.of(known, replace(chosen, metric="jsd"))
    assert jsd.shades(np.zeros(1, np.float32)).tolist() == [0]
    assert not jsd.signed


def test_the_most_important_heads_are_drawn_last(known: StudyFacts):
    chosen = picked(known, map_colour="importance", metric="probability")
    heads = Heads.of_set(known, chosen, Scale.of(known, chosen))
    assert np.isnan(heads.values[0])
    assert (np.diff(np.abs(heads.values[1:])) >= 0).all()
    values = known.study.read("importance", known.study.metric_index("probability"))
    np.testing.assert_array_equal(values.ravel()[heads.places], heads.values)


def test_every_pattern_has_a_colour_of_its_own_and_mixed_is_grey(known: StudyFacts):
    thirteen = pattern_map.pattern_colours(13, LIGHT)
    assert thirteen[0] == LIGHT.unknown
    assert len(set(thirteen)) == 14
    chosen = picked(known, map_colour="pattern")
    scale = Scale.of(known, chosen)
    heads = Heads.of_set(known, chosen, scale)
    assert scale.words == ("mixed", *PATTERNS)
    np.testing.assert_array_equal(heads.codes.astype(int) - 1, heads.names)
    assert Scale.of(known, replace(chosen, map="cls")).words == ("mixed", *CLS_PATTERNS)


def test_plotly_gets_the_colour_of_each_code(known: StudyFacts):
    chosen = picked(known, map_colour="pattern")
    found = PatternMap.of_selection(known, chosen)
    marker = found.figure(LIGHT, "same").data[0].marker
    at = (np.arange(len(found.scale.colours)) - marker.cmin) / (marker.cmax - marker.cmin)
    stops = np.array([stop for stop, _ in marker.colorscale])
    seen = [marker.colorscale[int(np.searchsorted(stops, each))][1] for each in at]
    assert tuple(seen) == found.scale.colours


def test_the_legend_has_the_patterns_that_are_drawn_the_most_frequent_first(known: StudyFacts):
    chosen = picked(known, map_colour="pattern", images="id:photo 003")
    found = PatternMap.of_selection(known, chosen)
    buttons = [entry for entry in found.legend(LIGHT) if "data-part" in entry.to_plotly_json()["props"]]
    shown = [int(button.to_plotly_json()["props"]["data-part"].removeprefix("pattern=")) for button in buttons]
    own = known.study.read("pattern_name", 3).ravel()
    assert sorted(shown) == sorted(set(own.tolist()))
    counts = [int((own == name).sum()) for name in shown]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("colour", MAP_COLOURS)
@pytest.mark.parametrize("look", MAP_LOOKS)
@pytest.mark.parametrize("image", [None, "set/photo 002.png"])
def test_everything_that_can_be_picked_is_drawn(known: StudyFacts, colour: str, look: str, image: str | None):
    for images in ("", "id:photo 01", "id:nobody"):
        chosen = replace(
            picked(known, map_colour=colour, map_as=look, images=images, metric="probability"), image=image
        )
        told = drawn(known, chosen)["told"]
        assert (told["points"] is None) == (look == "density")
        assert told["part"] == bool(images)
        assert pattern_map.draw_marks(known, chosen)[0]["colours"]
        assert pattern_map.picture(known, told["asked"] | EDGES)[:4] == b"\x89PNG"


def test_heads_without_a_place_are_counted(known: StudyFacts):
    assert "12 heads not drawn: not finite" in str(drawn(known, picked(known))["legend"])
    assert "not drawn" not in str(drawn(known, picked(known, map="cls"))["legend"])


def test_too_many_heads_are_a_density_and_the_browser_is_told_why(known: StudyFacts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern_map, "MOST_POINTS", IMAGES * EACH - 1)
    told = drawn(known, picked(known))["told"]
    assert told["points"] is None
    assert told["why"] == "144 heads are too many for points: up to 143"
    few = drawn(known, picked(known, images="id:photo 00"))["told"]
    assert few["points"] is not None
    assert few["why"] == ""


# --- the density's picture ---

EDGES = {"x0": "0", "x1": "1", "y0": "0", "y1": "1", "width": "40", "height": "50"}


def test_the_picture_is_asked_for_by_address(app: Dash, known: StudyFacts):
    client = app.server.test_client()
    told = drawn(known, picked(known))["told"]
    answer = client.get(f"{told['pictures']}/density.png", query_string=told["asked"] | EDGES)
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert answer.cache_control.immutable
    layer = client.get(f"{told['pictures']}/density.png", query_string=told["asked"] | EDGES | {"layer": "1"})
    assert layer.data != answer.data
    outline = client.get(f"{told['pictures']}/density.png", query_string={"map": "patch", "outline": "1"} | EDGES)
    assert outline.status_code == 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"x1": "0"}, "no window"),
        ({"x0": "nan"}, "no window"),
        ({"x0": "left"}, "could not convert"),
        ({"width": "9999"}, "9999 pixels"),
        ({"height": "-1"}, "-1 pixels"),
        ({"width": ""}, "invalid literal"),
        ({"images": "colour:red"}, "'colour:red'"),
        ({"map": "moon"}, "moon"),
        ({"layer": "3"}, "layer 3 is not in a map"),
        ({"pattern": "77", "map_colour": "pattern"}, "no colour 78"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_with_the_reason(app: Dash, known: StudyFacts, wrong: Any, said: str):
    told = drawn(known, picked(known))["told"]
    answer = app.server.test_client().get(f"{told['pictures']}/density.png", query_string=told["asked"] | EDGES | wrong)
    assert answer.status_code == 400
    assert said in answer.text


def test_a_picture_of_another_content_or_of_no_map_is_not_there(app: Dash, shelf: Shelf):
    client = app.server.test_client()
    assert client.get("/studies/first/0123456789abcdef/density.png", query_string=EDGES).status_code == 404
    none = pictures_url(facts(shelf.open("no-maps")))
    answer = client.get(f"{none}/density.png", query_string=EDGES)
    assert answer.status_code == 404
    assert "patch_layout" in answer.text


# --- what there is, and how far it can be trusted ---


def test_a_study_without_maps_says_so_and_how_to_add_them(shelf: Shelf):
    known = facts(shelf.open("no-maps"))
    assert set(pattern_map.map_reasons(known)) == {"patch", "cls"}
    assert set(pattern_map.colour_reasons(known)) == set(MAP_COLOURS)
    assert set(pattern_map.look_reasons(known)) == set(MAP_LOOKS)
    shown = drawn(known, default(known))
    assert not shown["hidden"]
    assert "headscope precompute vit_tiny_test pictures" in str(shown["absent"])
    assert shown["reading"] == "Not in this study: left out with --skip patterns."
    assert "asked" not in shown["told"]
    assert pattern_map.draw_marks(known, default(known)) == (None, None)


def test_a_study_without_a_class_token_has_one_map_and_says_why(shelf: Shelf):
    known = facts(shelf.open("no-cls"))
    assert pattern_map.map_reasons(known) == {"cls": "the model has no class token"}
    assert "No map of CLS: the model has no class token." in pattern_map.reading(known, "patch").children


def test_a_map_whose_seeds_disagree_is_marked_and_says_what_that_means(known: StudyFacts):
    assert pattern_map.caution(known, "patch") == []
    button, _ = pattern_map.caution(known, "cls")
    assert "80\u202f% of the neighbours of a head are others" in button.title
    assert "Trustworthiness 0.970." in pattern_map.reading(known, "patch").children


# --- what leaves ---


def run(lines: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    monkeypatch.setenv("HEADSCOPE_DATA", str(data))
    names: dict[str, Any] = {}
    exec(lines, names)
    assert open_study("first").name == "first"
    return names["numbers"]


@pytest.mark.parametrize("changes", [{}, {"map": "cls"}, {"images": "id:photo 00"}, {"images": "id:nobody"}])
@pytest.mark.parametrize("most", [pattern_map_export.MOST_ROWS, IMAGES * EACH - 1])
def test_the_python_lines_give_the_numbers(
    known: StudyFacts, data: Path, changes: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pattern_map_export, "MOST_ROWS", most)
    chosen = picked(known, **changes)
    if most < IMAGES * EACH and not chosen.images:
        with pytest.raises(StoreError, match="144 rows are more than the 143 that leave as CSV; choose a set of up to"):
            pattern_map_export.numbers(known, chosen)
        return
    numbers = pattern_map_export.numbers(known, chosen)
    again = run(pattern_map_export.python(known, chosen), data, monkeypatch)
    assert list(numbers) == list(again) == ["image", "layer", "head", "x", "y", "pattern", "in_set"]
    for name, column in numbers.items():
        np.testing.assert_array_equal(column, again[name])


def test_the_numbers_are_the_stores(known: StudyFacts):
    numbers = pattern_map_export.numbers(known, picked(known, images="id:photo 01"))
    row = 7 * EACH + 2 * HEADS + 3
    assert (numbers["image"][row], numbers["layer"][row], numbers["head"][row]) == (known.image_ids[7], 2, 3)
    stored = known.study.read("patch_layout", 7)[2, 3]
    assert (numbers["x"][row], numbers["y"][row]) == tuple(stored.tolist())
    name = int(known.study.read("pattern_name", 7)[2, 3])
    assert numbers["pattern"][row] == (*PATTERNS, "mixed")[name]
    assert numbers["in_set"].sum() == 2 * EACH
    assert not numbers["in_set"][row]


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("look", MAP_LOOKS)
def test_the_exported_picture_has_the_density_the_points_the_marks_and_the_ring(
    known: StudyFacts, colours: Any, look: str
):
    theme = "light" if colours is LIGHT else "dark"
    chosen = picked(known, map_as=look, theme=theme)
    fig = pattern_map_export.exported(known, chosen)
    *points, marks, ring = fig.data
    assert [len(each.x) for each in points] == ([IMAGES * EACH] if look == "points" else [])
    assert (len(marks.x), ring.marker.color) == (EACH, colours.accent)
    np.testing.assert_array_equal([ring.x[0], ring.y[0]], [marks.x[HEADS + 2], marks.y[HEADS + 2]])
    assert {trace.type for trace in fig.data} == {"scatter"}  # sharp in print
    assert fig.layout.images[0].source.startswith("data:image/png")
    alone = pattern_map_export.exported(known, replace(chosen, image=None))
    assert len(alone.data[-1].x) == IMAGES


def test_a_map_that_is_not_there_does_not_leave(shelf: Shelf):
    known = facts(shelf.open("no-maps"))
    with pytest.raises(StoreError, match="left out with --skip patterns"):
        pattern_map_export.numbers(known, default(known))
    with pytest.raises(StoreError, match="left out with --skip patterns"):
        pattern_map_export.exported(known, default(known))
