"""What is drawn from arrays: curves, maps and points say what the arrays say, and leave a gap at a NaN."""

import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard import graphs
from dashboard.data import Summary, first_of, ranks
from dashboard.density import Window, density
from dashboard.graphs import Colouring
from dashboard.selection import Selection
from dashboard.theme import DARK, LIGHT, PALETTES, Palette, colorscale, css, palette
from dashboard.views import (
    head_attention,
    head_card,
    head_grid,
    head_importance,
    header,
    image_overview,
    pattern_map,
)
from dashboard.views.image_overview import Overview
from dashboard.views.pattern_map import DENSITY, HEADS, OWN, RING, WHOLE, PatternMap
from dashboard.words import METRICS, count, number, percent, share, short_name

NAN = float("nan")
CHOSEN = Selection("demo", None, 1, 0, "jsd", "class", "patch", "layer", "numbers", "all", None)
MEAN = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
SUMMARY = Summary(MEAN, np.full((2, 3), 0.05), np.full((2, 3), 9))
HOLED = np.array([[0.1, NAN, 0.3], [NAN, NAN, 0.6]])


def curve(mean: np.ndarray = MEAN, counted: int = 9, own: np.ndarray | None = None, unpruned: float | None = None):
    spread = Summary(mean, np.where(np.isfinite(mean), 0.05, NAN), np.where(np.isfinite(mean), counted, 0))
    return head_importance.Curve(spread, own, unpruned)


def drawn(fig: go.Figure) -> dict:
    """The figure as the browser gets it; it must be JSON, with no NaN in it."""
    return json.loads(fig.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def answering(fig: go.Figure) -> list:
    """The traces that the pointer can hit."""
    return [trace for trace in fig.data if trace.hoverinfo != "skip"]


# --- ranks ---


def test_a_rank_is_a_place_from_the_largest_and_nan_has_none():
    assert ranks(np.array([[0.2, NAN], [0.9, 0.2]])).tolist() == [[2, 0], [1, 3]]


def test_nan_and_infinity_never_come_first():
    assert first_of(np.array([[NAN, 1.0], [3.0, np.inf]])) == 2
    assert first_of(np.full((2, 2), NAN)) == 0
    assert first_of(np.empty(0)) == 0


# --- the curve ---


def test_the_curve_has_the_mean_of_every_head_in_the_order_of_the_layers():
    (line,) = answering(head_importance.importance_figure(curve(), CHOSEN, LIGHT))
    np.testing.assert_array_equal(line.x, np.arange(6))
    np.testing.assert_array_equal(line.y, MEAN.astype(np.float32).ravel())
    assert line.text[3] == "L1·H0 · mean"


def test_an_images_own_curve_answers_the_pointer_and_the_mean_is_behind_it():
    fig = head_importance.importance_figure(curve(own=MEAN * 2), CHOSEN, LIGHT)
    (line,) = answering(fig)
    np.testing.assert_allclose(line.y, MEAN.ravel() * 2)
    behind = [trace for trace in fig.data if trace.mode == "lines" and len(trace.y) == 6]
    np.testing.assert_allclose(behind[0].y, MEAN.ravel())


def test_a_head_without_a_value_is_a_gap_and_is_counted():
    own = curve(own=HOLED)
    fig = head_importance.importance_figure(own, CHOSEN, LIGHT)
    (line,) = answering(fig)
    assert np.isnan(line.y[[1, 3, 4]]).all()
    assert not line.connectgaps
    assert head_importance.reading(own, CHOSEN).endswith("3 gaps: not finite.")


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_nothing_but_nan_still_is_a_figure(colours: Palette):
    nothing = np.full((2, 3), NAN)
    drawn(head_importance.importance_figure(curve(nothing, own=nothing), CHOSEN, colours))
    drawn(head_grid.grid_figure(nothing, CHOSEN, colours))


def test_the_band_is_the_mean_and_one_deviation_around_it():
    x, y = head_importance.band(SUMMARY)
    np.testing.assert_allclose(x[:6], np.arange(6))
    np.testing.assert_allclose(y[:6], MEAN.ravel() + 0.05, rtol=1e-6)
    np.testing.assert_allclose(y[6:12], MEAN.ravel()[::-1] - 0.05, rtol=1e-6)


def test_the_band_has_a_part_for_each_run_of_heads_and_ends_at_zero():
    holed = curve(HOLED).over_set
    x, y = head_importance.band(replace(holed, sd=holed.sd * 10))
    parts = np.split(x, np.flatnonzero(np.isnan(x)))
    assert [sorted(set(part[np.isfinite(part)].tolist())) for part in parts] == [[0], [2], [5], []]
    assert np.nanmin(y) == 0


def test_one_image_has_no_deviation():
    x, _ = head_importance.band(curve(counted=1).over_set)
    assert len(x) == 0


def test_the_line_and_its_label_stand_at_the_selected_head():
    fig = head_importance.importance_figure(curve(), CHOSEN, LIGHT)
    (line,) = (shape for shape in fig.layout.shapes if shape.line.color == LIGHT.accent)
    assert (line.x0, line.x1) == (3, 3)
    assert fig.layout.annotations[0].text == "<b>L1·H0</b> 0.400"


def test_probability_is_drawn_as_what_is_left_with_a_line_for_nothing_pruned():
    chosen = replace(CHOSEN, metric="probability")
    left = curve(unpruned=0.7)
    fig = head_importance.importance_figure(left, chosen, LIGHT)
    assert METRICS["probability"].curve == "pruned_probability"
    assert fig.layout.yaxis.title.text == "P(target), head pruned"
    assert [shape.y0 for shape in fig.layout.shapes if shape.line.dash == "dash"] == [0.7]
    assert "Dashed, 0.700: none pruned." in head_importance.reading(left, chosen)


# --- the map ---


def test_the_map_has_a_row_a_layer_from_the_top():
    fig = head_grid.grid_figure(MEAN, CHOSEN, LIGHT)
    np.testing.assert_array_equal(fig.data[0].z, MEAN.astype(np.float32))
    assert fig.layout.yaxis.range == pytest.approx((1.52, -0.52))


def test_a_signed_metric_has_zero_in_the_middle_of_its_colours():
    signed = head_grid.grid_figure(MEAN - 0.25, replace(CHOSEN, metric="probability"), LIGHT).data[0]
    assert signed.zmin == -signed.zmax == pytest.approx(-0.35)
    assert [colour for at, colour in signed.colorscale if at == 0.5] == [LIGHT.diverging[3]]
    plain = head_grid.grid_figure(MEAN, CHOSEN, LIGHT).data[0]
    assert (plain.zmin, plain.zmax) == (0, pytest.approx(0.6))


def test_a_blank_cell_is_counted():
    assert head_grid.reading(head_grid.Grid(HOLED, "This image")) == "This image. 3 blanks: not finite."


def test_the_selected_cell_is_outlined():
    (cell,) = head_grid.grid_figure(MEAN, CHOSEN, LIGHT).layout.shapes
    assert (cell.x0, cell.x1, cell.y0, cell.y1) == (-0.5, 0.5, 0.5, 1.5)
    assert cell.line.color == LIGHT.accent


# --- the points ---

XY = np.array([[0, 1], [2, 3], [NAN, NAN], [4, 5]], np.float32)
WRONG = np.array([False, True, False, False])


def overview(values: list[float], selected: int | None = None, names: tuple[str, ...] = ()) -> Overview:
    ramp = LIGHT.classes[: len(names)] if names else LIGHT.sequential
    colouring = Colouring(np.array(values), ramp, (-0.5, len(names) - 0.5) if names else (0, 1), names)
    return Overview(XY, colouring, WRONG, selected, "", "same")


def test_a_points_place_in_its_trace_is_its_images_index():
    right, wrong, unknown, _ = overview([0.1, 0.2, 0.3, NAN]).figure(LIGHT).data
    np.testing.assert_array_equal(right.x, [0, NAN, NAN, NAN])
    np.testing.assert_array_equal(wrong.x, [NAN, 2, NAN, NAN])
    np.testing.assert_array_equal(unknown.x, [NAN, NAN, NAN, 4])


def test_a_wrong_prediction_has_another_shape():
    right, wrong, *_ = overview([0.1, 0.2, 0.3, 0.4]).figure(LIGHT).data
    assert right.marker.symbol != wrong.marker.symbol


def test_the_ring_is_around_the_selected_image_and_moves_without_a_new_figure():
    fig = overview([0.1, 0.2, 0.3, 0.4], selected=3).figure(LIGHT)
    ring = fig.data[image_overview.RING]
    assert (ring.x.tolist(), ring.y.tolist(), ring.marker.color) == ([4], [5], LIGHT.accent)
    (moved, *_) = overview([0.1, 0.2, 0.3, 0.4], selected=1).moved_ring().to_plotly_json()["operations"]
    assert moved["location"] == ["data", image_overview.RING, "x"]
    assert np.frombuffer(base64.b64decode(moved["params"]["value"]["bdata"]), np.float32) == 2


def test_images_without_a_place_are_counted():
    assert "1 image not drawn: not finite" in str(overview([0.1, 0.2, NAN, 0.4]).legend(LIGHT))


def test_a_colour_a_class_steps_between_the_classes():
    scale = overview([0, 1, 2, 1], names=("a", "b", "c")).colouring.colorscale
    assert [colour for _, colour in scale] == [c for c in LIGHT.classes[:3] for _ in range(2)]
    assert [at for at, _ in scale] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def by_class(label: list[int], selected: int | None) -> Colouring:
    names = [f"class {index}, also so" for index in range(40)]
    return image_overview._by_class(np.array(label), names, selected, LIGHT)


def test_few_classes_have_a_colour_each_and_no_label_has_none():
    few = by_class([7, 3, -1, 7], None)
    np.testing.assert_array_equal(few.values, [1, 0, NAN, 1])
    assert few.names == ("class 3", "class 7")


def test_of_many_classes_only_that_of_the_selected_image_is_coloured():
    many = by_class([*range(20), 4], selected=4)
    assert np.flatnonzero(many.values).tolist() == [4, 20]
    assert many.names == ("19 other classes", "class 4")
    assert not by_class([*range(20), 4], selected=None).values.any()


# --- the pattern map ---

PLACES = np.arange(3 * 2 * 2 * 2, dtype=np.float32).reshape(3, 2, 2, 2) / 32
NAMES = np.array([[[0, 1], [2, -1]], [[0, 0], [2, 2]], [[0, 1], [1, 2]]], np.int8)


def pattern_figure(colours: Palette = LIGHT, **changes: object) -> go.Figure:
    found = pattern(**changes)
    return found.figure(found.raster(WHOLE), colours)


def pattern(**changes: object) -> PatternMap:
    given = {
        "xy": PLACES,
        "names": NAMES,
        "words": ("self", "left", "vertical"),
        "colour": "layer",
        "image": 1,
        "head": (1, 0),
        "uirevision": "same",
    }
    return PatternMap(**(given | changes))


def received(value: dict[str, str]) -> np.ndarray:
    """An array of a change, as the browser reads it."""
    kinds = {"f4": np.float32, "u1": np.uint8}
    flat = np.frombuffer(base64.b64decode(value["bdata"]), kinds[value["dtype"]])
    return flat.reshape([int(size) for size in value["shape"].split(",")]) if "shape" in value else flat


def changes(patch: object) -> dict[str, object]:
    """What a change changes, by place."""
    operations = patch.to_plotly_json()["operations"]
    return {" ".join(map(str, each["location"])): each["params"]["value"] for each in operations}


def test_a_points_place_on_the_map_counts_through_images_layers_and_heads():
    heads = pattern_figure().data[HEADS]
    np.testing.assert_array_equal(heads.x * 32, np.arange(0, 24, 2))
    np.testing.assert_array_equal(heads.y * 32, np.arange(1, 24, 2))
    np.testing.assert_array_equal(heads.marker.color, [0, 0, 1, 1] * 3)


def test_the_selected_images_heads_are_on_top_and_the_selected_one_is_ringed():
    fig = pattern_figure()
    np.testing.assert_array_equal(fig.data[OWN].x * 32, [8, 10, 12, 14])
    np.testing.assert_array_equal(fig.data[OWN].marker.color, [0, 0, 1, 1])
    ring = fig.data[RING]
    assert (ring.x.tolist(), ring.y.tolist(), ring.marker.color) == ([12 / 32], [13 / 32], LIGHT.accent)
    assert [trace.hoverinfo for trace in fig.data] == ["skip", "none", "none", "skip"]


def test_without_an_image_the_selected_head_is_ringed_on_all_images():
    alone = pattern(image=None)
    fig = alone.figure(alone.raster(WHOLE), LIGHT)
    assert len(fig.data[OWN].x) == 0
    np.testing.assert_array_equal(fig.data[RING].x * 32, [4, 12, 20])
    assert "L1·H0" in str(alone.legend(LIGHT))


@pytest.mark.parametrize("image", [None, 2])
@pytest.mark.parametrize("colour", ["layer", "pattern", "density"])
def test_a_changed_map_is_the_map_drawn_anew(colour: str, image: int | None):
    before, after = pattern(colour=colour), pattern(colour=colour, image=image, head=(0, 1))
    fig = before.figure(before.raster(WHOLE), LIGHT)
    wanted = after.figure(after.raster(WHOLE), LIGHT)
    for place, value in changes(after.moved()).items():
        _, trace, *path = place.split(" ")
        sent = received(value) if isinstance(value, dict) and "bdata" in value else value
        if isinstance(sent, np.ndarray):
            sent = sent.tolist()
        target = fig.data[int(trace)]
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = sent
    for trace in (HEADS, OWN, RING):
        np.testing.assert_array_equal(fig.data[trace].x, wanted.data[trace].x)
        np.testing.assert_array_equal(fig.data[trace].y, wanted.data[trace].y)
        np.testing.assert_array_equal(fig.data[trace].marker.color, wanted.data[trace].marker.color)
        assert fig.data[trace].marker.size == wanted.data[trace].marker.size


def test_every_pattern_has_a_colour_of_its_own_and_mixed_is_grey():
    thirteen = pattern_map.pattern_colours(13, LIGHT)
    assert thirteen[0] == LIGHT.unknown
    assert len(set(thirteen)) == 14
    heads = pattern_figure(colour="pattern").data[HEADS]
    np.testing.assert_array_equal(heads.marker.color, NAMES.ravel())
    at = (np.array([-1, 0, 1, 2]) - heads.marker.cmin) / (heads.marker.cmax - heads.marker.cmin)
    scale = np.array([stop for stop, _ in heads.marker.colorscale])
    drawn_in = [heads.marker.colorscale[int(np.searchsorted(scale, each))][1] for each in at]
    assert drawn_in == list(pattern_map.pattern_colours(3, LIGHT))


def test_the_legend_has_the_patterns_that_are_drawn_the_most_frequent_first():
    entries = pattern(colour="pattern").legend(LIGHT)
    assert [entry.children[1] for entry in entries] == ["self", "vertical", "left", "mixed"]
    assert [entry.title for entry in entries][:2] == ["33\u202f% of 12 heads"] * 2
    own = pattern(colour="pattern", xy=np.zeros((3, 2, 2, 2), np.float32)).legend(LIGHT)
    assert len(own) == 4


def test_too_many_heads_are_a_density_with_the_images_own_on_top(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pattern_map, "MOST_POINTS", 11)
    fig = pattern_figure()
    assert (len(fig.data[HEADS].x), len(fig.data[OWN].x)) == (0, 4)
    assert (len(fig.data[HEADS].marker.color), len(fig.data[OWN].marker.color)) == (0, 4)
    assert pattern().told(SimpleNamespace(name="s", content="0" * 64, num_heads=2, num_layers=2))["names"]["1"] is None
    monkeypatch.setattr(pattern_map, "MOST_POINTS", 12)
    assert len(pattern_figure().data[HEADS].x) == 12
    assert len(pattern_figure(colour="density").data[HEADS].x) == 0


def test_the_raster_lies_where_its_heads_lie():
    found = pattern()
    cells = found.figure(found.raster(WHOLE), LIGHT).data[DENSITY]
    rows, columns = cells.z.shape
    assert cells.x0 - cells.dx / 2 == pytest.approx(0)
    assert cells.x0 + (columns - 0.5) * cells.dx == pytest.approx(1)
    assert cells.y0 + (rows - 0.5) * cells.dy == pytest.approx(1)
    for x, y in PLACES.reshape(-1, 2):
        row, column = int(float(y) / cells.dy + 1e-9), int(float(x) / cells.dx + 1e-9)
        assert cells.z[row, column] == 255


@pytest.mark.parametrize(("images", "cells"), [(1, (24, 32)), (900, (37, 49)), (20_000, (120, 160))])
def test_a_raster_has_cells_for_its_heads_but_not_too_many(images: int, cells: tuple[int, int]):
    raster = pattern(xy=np.full((images, 2, 2, 2), 0.5, np.float32)).raster(WHOLE)
    assert raster.counts.shape == cells
    assert raster.inside == images * 4


def test_a_zoomed_map_gets_the_density_of_what_is_seen():
    window = Window(-0.5, 5.5, 0.0, 6.0)
    changed = changes(pattern_map.refined(density(PLACES * 32, window, (2, 3))))
    np.testing.assert_array_equal(received(changed["data 0 z"]), [[255, 0, 0], [0, 255, 255]])
    assert (changed["data 0 x0"], changed["data 0 dx"], changed["data 0 y0"], changed["data 0 dy"]) == (0.5, 2, 1.5, 3)


def test_four_edges_are_a_window_and_anything_else_is_none():
    assert pattern_map.window_of([-1, 2.5, 0, 1]) == Window(-1.0, 2.5, 0.0, 1.0)
    for odd in (
        *(None, {}, [], "x", 3, [0, 1], [0, 1, 0, 1, 2]),
        *([1, 0, 0, 1], [0, 1, 0, "1"], [0, True, 0, 1], [0, 1, 0, 10**400], [0, 1, 0, None]),
    ):
        assert pattern_map.window_of(odd) is None


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("colour", ["layer", "pattern", "density"])
def test_heads_without_a_place_are_counted_and_nothing_but_them_is_a_figure(colours: Palette, colour: str):
    holed = PLACES.copy()
    holed[1] = NAN
    assert "4 heads not drawn: not finite" in str(pattern(xy=holed).legend(colours))
    nothing = np.full_like(PLACES, NAN)
    drawn(pattern_figure(colours, xy=nothing, colour=colour))


def test_a_study_without_names_is_coloured_by_layer():
    unnamed = pattern(names=None, words=(), colour="pattern")
    np.testing.assert_array_equal(
        unnamed.figure(unnamed.raster(WHOLE), LIGHT).data[HEADS].marker.color, [0, 0, 1, 1] * 3
    )


# --- attention for the browser ---


def test_what_the_browser_decodes_is_the_attention():
    rng = np.random.default_rng(0)
    attn = rng.dirichlet(np.full(10, 0.2), size=10).astype(np.float32)
    sent = head_attention.encoded(attn, num_prefix=1)
    steps = np.frombuffer(base64.b64decode(sent["weights"]), np.uint8).reshape(10, 10)
    most = np.full((10, 10), sent["most"]["patch"])
    most[0] = most[:, 0] = sent["most"]["cls"]
    np.testing.assert_allclose((steps / 255) ** 2 * most, attn, atol=most.max() / 255)
    np.testing.assert_allclose(sent["to_prefix"], attn[:, 0], atol=1e-4)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_a_head_that_looks_nowhere_is_black_not_an_error(num_prefix: int):
    sent = head_attention.encoded(np.zeros((6, 6), np.float32), num_prefix)
    assert not any(base64.b64decode(sent["weights"]))
    assert len(sent["to_prefix"]) == 6


# --- the table ---


def test_a_row_of_the_table_has_values_and_places_by_size():
    row = head_card.row("JSD", np.array([[0.5, -0.9], [NAN, 0.1]]), replace(SUMMARY, mean=MEAN[:, :2]), CHOSEN)
    assert (row.mean, row.mean_place, row.heads) == (0.4, 2, 4)
    assert np.isnan(row.here)
    assert row.here_place == 0
    first = head_card.row("JSD", np.array([[0.5, -0.9], [NAN, 0.1]]), SUMMARY, replace(CHOSEN, layer=0, head=1))
    assert (first.here, first.here_place) == (-0.9, 1)


def test_a_pattern_is_said_with_its_score_and_how_often_the_head_has_it():
    named = head_card.Named("self", 0.931, 0.98, on_image=True)
    assert [part if isinstance(part, str) else part.children for part in named.said()] == [
        "self",
        " 0.931",
        "on 98\u202f% of images",
    ]
    assert head_card.Named(None, NAN, 0.4, on_image=False).said()[0].children == "mixed"


def test_a_row_without_numbers_says_why():
    said = str(head_card.table([head_card.Row("JSD", why="the model has no classifier")], CHOSEN))
    assert "the model has no classifier" in said


# --- what must be known of a study ---

QUIET = {
    "weights": {"kind": "pretrained"},
    "accuracy": {"top1": 0.8, "top5": 0.9, "images": 10, "near_chance": False},
    "images": {"quarantined": []},
    "nonfinite": {"images": []},
    "left_out": {},
}


def test_a_sound_study_has_no_caveats():
    assert header.caveats(QUIET, ["a"]) == []
    assert header.caveats(QUIET | {"accuracy": None}, ["a"]) == []


def test_random_weights_and_chance_are_loud_and_come_first():
    attrs = QUIET | {
        "weights": {"kind": "random"},
        "accuracy": {"top1": 0.1, "top5": 0.5, "images": 10, "near_chance": True},
        "images": {"quarantined": [{"image": "x.png", "reason": "cut short"}]},
        "nonfinite": {"images": [1]},
        "left_out": {"jsd": "no classifier", "logits": "no classifier"},
    }
    found = header.caveats(attrs, ["a.png", "b.png"])
    assert [(caveat.label, caveat.loud) for caveat in found] == [
        ("weights: RANDOM", True),
        ("accuracy near chance", True),
        ("1 unreadable", False),
        ("1 not finite", False),
        ("2 left out", False),
    ]
    assert "x.png: cut short" in found[2].said
    assert "b.png" in found[3].said
    assert found[4].said == ("jsd, logits: no classifier.",)


def test_a_long_list_is_cut_and_says_so():
    broken = [{"image": f"{n}.png", "reason": "cut short"} for n in range(header.MOST_LISTED + 5)]
    (caveat,) = header.caveats(QUIET | {"images": {"quarantined": broken}}, [])
    assert caveat.said[-1].startswith("… and 5 more")


def test_a_study_that_cannot_be_opened_cannot_be_picked():
    entries = [
        SimpleNamespace(name="a", problem=None, manifest=object(), units_done=0, units_total=0),
        SimpleNamespace(name="b", problem=None, manifest=None, units_done=3, units_total=12),
        SimpleNamespace(name="c", problem="cut short", manifest=None, units_done=0, units_total=0),
    ]
    assert [(pick["label"], pick["disabled"]) for pick in header.options(entries)] == [
        ("a", False),
        ("b (3 of 12 units)", True),
        ("c (damaged)", True),
    ]


# --- words and colours ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(
            (0.0, "0"),
            (0.5346, "0.535"),
            (-0.0253, "−0.0253"),
            (12.345, "12.3"),
            (1.0, "1.00"),
            (0.00099, "9.9e−4"),
        ),
        *((123.456, "123"), (-3e-9, "−3.0e−9"), (NAN, "–"), (float("inf"), "–"), (99999.0, "1.0e5")),
    ],
)
def test_numbers_have_three_figures_and_a_true_minus(value: float, text: str):
    assert number(value) == text


def test_words_are_counted_and_shortened():
    assert (count(1, "image"), count(1200, "image")) == ("1 image", "1,200 images")
    assert short_name("tench, Tinca tinca") == "tench"
    assert percent(0.8324) == "83.2\u202f%"
    assert (share(0.8374), share(NAN)) == ("84\u202f%", "–")


def test_both_themes_have_every_colour():
    for name in PALETTES:
        assert f"[data-bs-theme={name}]" in css()
    assert palette("dark") is DARK
    assert palette(None) is palette("light") is palette(["dark"]) is LIGHT


def test_the_selections_colour_is_used_for_nothing_else():
    for colours in PALETTES.values():
        others = [value for name, value in vars(colours).items() if name != "accent"]
        assert colours.accent not in str(others)


def test_a_ramp_spans_its_scale():
    assert colorscale(("#000000", "#888888", "#ffffff")) == [[0, "#000000"], [0.5, "#888888"], [1, "#ffffff"]]


def test_no_graph_offers_to_upload_its_data():
    for zoom in (False, True):
        config = graphs.graph("x", zoom).config
        assert config["showSendToCloud"] is False
        assert config["plotlyServerURL"] == ""
        assert config["displaylogo"] is False
