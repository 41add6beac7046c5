"""Attention strength: what is drawn and what leaves, against the arrays themselves, computed another way."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from dashboard.data import Shelf, StudyFacts, facts
from dashboard.selection import Selection, default
from dashboard.theme import DARK, LIGHT, colorscale
from dashboard.views import attention_strength as view
from dashboard.views.attention_strength import Distribution, Heads, Hops
from tests.studies import TinyStudy, compute, tiny_study

NAN = float("nan")
IMAGES, LAYERS, HEADS, GRID = 7, 3, 2, (2, 4)
LAYER, HEAD = 1, 1


@pytest.fixture(scope="module")
def tiny() -> TinyStudy:
    """Seven images; the third has no number for one head, a layer later none has."""
    made = tiny_study(images=IMAGES, layers=LAYERS, heads=HEADS, grid=GRID, labelled=IMAGES, maps=False)
    for name in ("strength", "entropy"):
        made.arrays[name][2, LAYER, HEAD] = NAN
        made.arrays[name][:, 2, 0] = NAN
    return made


@pytest.fixture(scope="module")
def known(tiny: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> StudyFacts:
    return published(tmp_path_factory.mktemp("studies"), tiny)


def published(folder: Path, made: TinyStudy) -> StudyFacts:
    compute(folder / "tiny", made)
    return facts(Shelf(folder).open("tiny"))


def chosen(known: StudyFacts, image: int | None = None, images: str = "", place: tuple[int, int] = (LAYER, HEAD)):
    name = None if image is None else known.image_ids[image]
    return replace(default(known), image=name, images=images, layer=place[0], head=place[1])


def shown(fig: go.Figure) -> dict:
    """The figure as the browser gets it: JSON, with no NaN in it."""
    return json.loads(fig.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def exact(tiny: TinyStudy, name: str) -> np.ndarray:
    return tiny.arrays[name].astype(np.float64)


# --- every head ---


def test_heads_of_a_layer_lie_beside_each_other_in_order_within_their_layer():
    for num_heads in (1, 2, 3, 16):
        places = view.across(num_heads)
        assert len(set(places.tolist())) == num_heads
        assert (np.diff(places) > 0).all()
        assert np.abs(places).max() < 0.5
        assert places.sum() == pytest.approx(0, abs=1e-6)
        assert (places == view.across(num_heads)).all(), "no chance in it"


def test_a_point_is_a_head_at_its_entropy_in_the_colour_of_its_layer(tiny: TinyStudy, known: StudyFacts):
    fig = Heads.of(known, chosen(known, image=4)).figure(LIGHT)
    (points,) = fig.data
    np.testing.assert_array_equal(points.y, tiny.arrays["entropy"][4].ravel())
    np.testing.assert_array_equal(np.round(points.x), np.repeat(range(LAYERS), HEADS))
    np.testing.assert_array_equal(points.marker.color, np.repeat(range(LAYERS), HEADS))
    assert (points.marker.cmin, points.marker.cmax) == (0, LAYERS - 1)
    assert points.marker.colorscale == tuple(map(tuple, colorscale(LIGHT.layers)))
    assert points.text[3].startswith("L1·H1 · entropy ")
    assert points.text[3].endswith(", this image")
    assert points.error_y.visible is False
    shown(fig)


def test_without_an_image_a_point_is_the_mean_over_the_set_with_its_sd(tiny: TinyStudy, known: StudyFacts):
    for images, rows in (("", range(IMAGES)), ("id:00", range(IMAGES)), ("id:4", [4])):
        (points,) = Heads.of(known, chosen(known, images=images)).figure(DARK).data
        for rank, (layer, head) in enumerate(np.ndindex(LAYERS, HEADS)):
            values = [value for value in exact(tiny, "entropy")[list(rows), layer, head] if math.isfinite(value)]
            if not values:
                assert math.isnan(points.y[rank])
                continue
            mean = sum(values) / len(values)
            assert points.y[rank] == pytest.approx(mean, abs=1e-6)
            sd = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
            assert points.error_y.array[rank] == pytest.approx(sd, abs=1e-6)


def test_the_axis_is_of_the_study_and_says_what_its_ends_mean(known: StudyFacts, tiny: TinyStudy):
    lowest = float(np.nanmin(tiny.arrays["entropy"]))
    for selection in (chosen(known), chosen(known, image=0), chosen(known, images="id:4")):
        axis = Heads.of(known, selection).figure(LIGHT).layout.yaxis
        assert 0 <= axis.range[0] <= lowest < axis.range[0] + 0.1
        assert axis.range[1] == 1
    assert view._entropy_ticks(0.0)["ticktext"] == ["one hop 0", "0.5", "all alike 1"]
    assert view._entropy_ticks(0.9)["ticktext"] == ["0.9", "0.95", "all alike 1"], "0.9 is no single hop"


def test_what_is_not_finite_is_not_drawn_and_is_told(known: StudyFacts):
    reading = Heads.of(known, chosen(known, image=2)).reading(7)
    assert reading == "Entropy of attention over hops, on this image. 2 heads not drawn: not finite."
    assert Heads.of(known, chosen(known, image=0)).reading(7).endswith("1 head not drawn: not finite.")
    shown(Heads.of(known, chosen(known, image=2)).figure(LIGHT))


# --- by hop ---


def test_bars_are_the_images_strength_and_the_line_the_sets_mean(tiny: TinyStudy, known: StudyFacts):
    rows = [0, 1, 3, 4, 5, 6]  # the third has no number
    mean = exact(tiny, "strength")[rows, LAYER, HEAD].mean(axis=0)
    fig = Hops.of(known, chosen(known, image=5)).figure(LIGHT)
    bars, line = fig.data
    np.testing.assert_array_equal(bars.y, tiny.arrays["strength"][5, LAYER, HEAD])
    np.testing.assert_array_equal(bars.x, range(max(GRID)))
    np.testing.assert_allclose(line.y[:-1], mean, rtol=1e-6)
    np.testing.assert_allclose(line.x, np.arange(max(GRID) + 1) - 0.5)
    assert bars.text[3].startswith("hop 3: 0.")
    assert "; set 0." in bars.text[3]
    (alone,) = Hops.of(known, chosen(known)).figure(LIGHT).data
    np.testing.assert_allclose(alone.y, mean, rtol=1e-6)
    assert alone.text[0].endswith(", set")


def test_the_sets_mean_follows_the_set(tiny: TinyStudy, known: StudyFacts):
    (bars,) = Hops.of(known, chosen(known, images="id:4")).figure(LIGHT).data
    np.testing.assert_allclose(bars.y, tiny.arrays["strength"][4, LAYER, HEAD], rtol=1e-6)


def test_a_grid_of_one_hop_and_a_head_without_numbers_are_told():
    assert Hops(np.array([0.2]), np.array([0.1])).reading() == "One patch: one hop, entropy 0"
    assert Hops(np.full(3, NAN), np.ones(3)).reading() == "Strength is not finite here"
    shown(Hops(np.full(3, NAN), np.array([0.1, NAN, 0.2])).figure(LIGHT))
    shown(Hops(None, np.array([0.1])).figure(LIGHT))


@pytest.mark.parametrize("num_hops", [1, 2, 5, 14, 37])
def test_few_hops_are_named(num_hops: int):
    ticks = view._hop_ticks(num_hops)
    assert ticks[0] == 0
    assert ticks[-1] < num_hops
    assert len(ticks) <= 6


# --- over images ---


def test_the_bins_hold_every_image_once_and_both_areas_are_one():
    rng = np.random.default_rng(0)
    entropy = rng.beta(8, 3, size=400).astype(np.float32)
    entropy[7] = NAN
    inside = rng.random(400) < 0.2
    found = Distribution.of(entropy, inside)
    known = np.isfinite(entropy)
    within, every = found.counts
    assert (within.sum(), every.sum()) == ((inside & known).sum(), known.sum())
    for each, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
        last = each == len(every) - 1
        in_bin = [low <= value < high or (last and value == high) for value in entropy.astype(np.float64)]
        assert every[each] == sum(in_bin)
        assert within[each] == np.sum(in_bin & inside)
    width = np.diff(found.edges)
    assert (found.every * width).sum() == pytest.approx(1)
    assert (found.in_set * width).sum() == pytest.approx(1)
    assert found.span[0] < np.nanmin(entropy)
    assert found.span[1] > np.nanmax(entropy)
    assert len(every) <= view.MOST_BINS


def test_an_area_ends_at_zero_on_both_sides_and_the_set_stands_before_all():
    entropy = np.linspace(0.2, 0.6, 50, dtype=np.float32)
    found = Distribution.of(entropy, entropy > 0.5)
    behind, front = found.figure(LIGHT).data
    for area, density in ((behind, found.every), (front, found.in_set)):
        np.testing.assert_array_equal(area.y, [0, *density, 0])
        np.testing.assert_array_equal(area.x, [found.edges[0], *found.edges])
        assert len(area.text) == len(area.x)
        assert area.text[-2].endswith(f": {found.counts[0, -1]} of {found.counts[1, -1]}")
    assert len(Distribution.of(entropy, None).figure(LIGHT).data) == 1, "all images have one area"


def test_the_needle_of_a_small_set_leaves_all_images_legible():
    entropy = np.linspace(0.2, 0.6, 500, dtype=np.float32)
    found = Distribution.of(entropy, np.arange(500) == 3)
    top = found.figure(LIGHT).layout.yaxis.range[1]
    assert found.in_set.max() > top
    assert found.every.max() > top / (view.STEEPEST * 1.1)


def test_alike_entropies_are_one_bin_in_a_window_that_does_not_magnify_rounding():
    for values in ([0.7] * 9, [0.7, 0.7000001], [0.99]):
        found = Distribution.of(np.array(values, np.float32), None)
        assert len(found.every) == 1
        assert found.counts[1].sum() == len(values)
        assert found.span[1] - found.span[0] == pytest.approx(view.NARROWEST, rel=0.01)
        shown(found.figure(LIGHT))


def test_an_empty_set_has_no_area_and_no_image_none_at_all():
    entropy = np.array([0.1, 0.2, 0.4], np.float32)
    assert (Distribution.of(entropy, np.zeros(3, bool)).in_set == 0).all()
    assert Distribution.of(np.full(3, NAN, np.float32), None) is None


def test_a_brush_does_not_cut_off_what_it_brushes(known: StudyFacts):
    both = chosen(known, images=f"id:00;entropy:{LAYER}.{HEAD}:0.1..0.2;entropy:0.0:0..1")
    assert view.other_conditions(both) == "id:00;entropy:0.0:0..1"
    assert view.own_range(both) == (0.1, 0.2)
    assert view.own_range(chosen(known, images="entropy:0.0:0..1")) is None
    brushed, others = (drawings(known, replace(both, images=images))[2] for images in (both.images, "id:00"))
    assert brushed[0].data[-1].text == others[0].data[-1].text
    assert (brushed[2], others[2]) == ((0.1, 0.2), None)


def test_the_lens_is_where_the_graph_is_between_zero_and_one():
    shown_part, lens = view.place((0.25, 0.75))
    assert shown_part.style == {"left": "25.00%", "width": "50.00%"}
    assert lens.style["clipPath"] == "polygon(25.00% 0, 75.00% 0, 100% 100%, 0 100%)"
    assert view.place((-0.1, 1.2))[0].style == {"left": "0.00%", "width": "100.00%"}


# --- the drawings ---


def drawings(known: StudyFacts, selection: Selection) -> list[tuple]:
    return [each.values(known, selection) for each in view.DRAWINGS]


def test_a_head_leaves_the_graph_of_all_heads_and_an_image_the_graph_over_images():
    heads, hops, images = (set(each.fields) for each in view.DRAWINGS)
    assert not heads & {"layer", "head"}
    assert "image" not in images
    assert hops == {"images", "image", "layer", "head"}


def test_each_drawing_has_a_value_for_each_output(known: StudyFacts):
    for selection in (chosen(known), chosen(known, image=1), chosen(known, image=2), chosen(known, place=(2, 0))):
        for each, values in zip(view.DRAWINGS, drawings(known, selection), strict=True):
            assert len(values) == len(each.outputs)
            assert "problem" not in str(values[-1]), "no error"
            shown(values[0])


def test_the_line_is_at_the_entropy_of_the_image(tiny: TinyStudy, known: StudyFacts):
    assert drawings(known, chosen(known, image=5))[1][1] == pytest.approx(float(exact(tiny, "entropy")[5, LAYER, HEAD]))
    assert drawings(known, chosen(known, image=2))[1][1] is None, "not finite"
    assert drawings(known, chosen(known))[1][1] is None


def test_a_head_without_a_finite_entropy_says_so(known: StudyFacts):
    assert drawings(known, chosen(known, place=(2, 0)))[2][-1] == "Entropy is not finite on any image"
    said = drawings(known, chosen(known))[2][-1]
    assert said.children == "Entropy on 6 images, 1 not finite"
    assert said.title == "Entropy of L1·H1 on 6 images, 1 not finite. Drag over it to pick images."


def test_one_image_is_no_distribution_but_is_drawn(tmp_path: Path):
    one = published(tmp_path, tiny_study(images=1, labelled=1, maps=False))
    assert drawings(one, chosen(one, place=(0, 0)))[2][-1].children == "Entropy on 1 image"


def test_a_study_without_strength_says_why(tmp_path: Path):
    made = tiny_study(maps=False)
    arrays = {name: array for name, array in made.arrays.items() if name not in ("strength", "entropy")}
    why = dict.fromkeys(["strength", "entropy"], "attention is not on a grid")
    left_out = made.attrs | {"left_out": made.attrs["left_out"] | why}
    bare = published(tmp_path, replace(made, arrays=arrays, attrs=left_out))
    for values in drawings(bare, chosen(bare, place=(0, 0))):
        assert "attention is not on a grid" in values[-1].children
        assert not values[0].data


# --- what leaves ---


@pytest.mark.parametrize("image", [None, 4])
@pytest.mark.parametrize("images", ["", "id:00", f"entropy:{LAYER}.{HEAD}:0..0.9", "id:nothing"])
def test_the_lines_give_the_numbers(known: StudyFacts, monkeypatch: pytest.MonkeyPatch, image, images):
    import headscope

    monkeypatch.setattr(headscope, "open_study", lambda name: known.study)
    selection = chosen(known, image=image, images=images)
    for export in view.EXPORTS:
        numbers, space = export.numbers(known, selection), {}
        exec(export.python(known, selection), space)
        assert list(space["numbers"]) == list(numbers)
        for name, column in numbers.items():
            found = space["numbers"][name]
            if name == "image" and export.name == "entropy-distribution":
                assert list(found) == list(column)
            else:
                np.testing.assert_allclose(np.asarray(found, float), np.asarray(column, float), rtol=0, atol=1e-7)


def test_the_distribution_leaves_with_who_is_in_the_set(tiny: TinyStudy, known: StudyFacts):
    numbers = view.EXPORTS[2].numbers(known, chosen(known, images="id:4"))
    assert numbers["image"] == known.image_ids
    np.testing.assert_array_equal(numbers["entropy"], tiny.arrays["entropy"][:, LAYER, HEAD])
    assert numbers["in_set"].tolist() == ["4" in image for image in known.image_ids]
