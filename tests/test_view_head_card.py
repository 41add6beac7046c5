"""The card of the selected head: its numbers, their places, its patterns; here and over the image set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.vocabulary import MAPS
from dashboard.data import Shelf, StudyFacts, Summary, facts
from dashboard.selection import Selection, default
from dashboard.views import head_card
from dashboard.views.head_card import Named, Row
from dashboard.words import ordinal
from store.errors import DamagedError
from tests.studies import compute, tiny_study

NAN = float("nan")
IN_SET = "class:1,3"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("studies")
    compute(folder / "demo", tiny_study(images=8, layers=3, heads=2, labelled=8))
    compute(folder / "no-maps", tiny_study(maps=False))
    compute(folder / "no-cls", tiny_study(has_cls=False, prefix=0, classes=0, labelled=0))
    holed = tiny_study(images=4, labelled=4)
    for name in ("importance", "entropy", "object_auc"):
        holed.arrays[name][..., 1, 1] = np.nan
    holed.arrays["content_relevance"][1, 1] = np.nan
    compute(folder / "holed", holed)
    return Shelf(folder)


@pytest.fixture(scope="module")
def known(shelf: Shelf) -> StudyFacts:
    return facts(shelf.open("demo"))


@pytest.fixture
def chosen(known: StudyFacts) -> Selection:
    return replace(default(known), metric="jsd", image=known.image_ids[2], layer=1, head=0)


def by_label(known: StudyFacts, chosen: Selection) -> dict[str, Row]:
    return {row.label: row for row in head_card.rows(known, chosen)}


def in_set(known: StudyFacts) -> np.ndarray:
    return np.isin(known.study.read("label"), (1, 3))


# --- numbers ---


def test_a_row_has_values_and_places_by_size(chosen: Selection):
    mean = np.array([[0.1, 0.2], [0.4, 0.5]])
    over_set = Summary(mean, np.full((2, 2), 0.05), np.full((2, 2), 9))
    here = np.array([[0.5, -0.9], [NAN, 0.1]])
    row = head_card.row("JSD", here, over_set, chosen)
    assert (row.mean, row.mean_place, row.heads) == (0.4, 2, 4)
    assert np.isnan(row.here)
    assert row.here_place == 0
    first = head_card.row("JSD", here, over_set, replace(chosen, layer=0, head=1))
    assert (first.here, first.here_place) == (-0.9, 1)


def test_numbers_over_the_set_are_of_its_images_and_here_is_the_image(known: StudyFacts, chosen: Selection):
    inside, study = in_set(known), known.study
    picked = by_label(known, replace(chosen, images=IN_SET))
    for label, values in {"JSD": study.read("importance", 1), "Entropy": study.read("entropy")}.items():
        row = picked[label]
        assert row.mean == pytest.approx(values[inside, 1, 0].mean(), rel=1e-5)
        assert row.sd == pytest.approx(values[inside, 1, 0].std(), rel=1e-4)
        assert row.here == pytest.approx(values[2, 1, 0])
        assert row.here_place == 1 + (np.abs(values[2]) > abs(values[2, 1, 0])).sum()
        of_set = np.abs(values[inside].mean(axis=0))
        assert row.mean_place == 1 + (of_set > of_set[1, 0]).sum()


def test_the_line_says_the_heads_place_by_the_metric(known: StudyFacts, chosen: Selection):
    row = by_label(known, chosen)["JSD"]
    said = head_card.draw(known, chosen)[-1]
    places = [ordinal(place) for place in (row.here_place, row.mean_place)]
    assert said == f"JSD: {places[0]} here, {places[1]} in the set, of 6 heads."
    assert head_card.draw(known, replace(chosen, image=None))[-1] == f"JSD: {places[1]} in the set, of 6 heads."


def test_without_an_image_its_columns_are_not_there(known: StudyFacts, chosen: Selection):
    for image, columns in ((chosen.image, 5), (None, 3)):
        table = head_card.draw(known, replace(chosen, image=image))[0]
        assert len(table.children[0].children.children) == columns
        assert all(len(line.children) == columns for line in table.children[1].children)


def test_a_row_without_numbers_says_why(known: StudyFacts, chosen: Selection, shelf: Shelf):
    without = facts(shelf.open("no-maps"))
    rows = by_label(without, replace(default(without), metric="jsd"))
    assert rows["Object AUC"].why == "left out with --skip patterns"
    assert "CLS object AUC" not in rows  # one line says for both why
    bare = facts(shelf.open("no-cls"))
    assert by_label(bare, default(bare))["JSD"].why == "the model has no classifier"
    assert "the model has no classifier" in str(head_card.draw(bare, default(bare))[0])
    assert len(head_card.rows(known, chosen)) == 7


def test_a_head_of_nan_has_dashes_and_no_place(shelf: Shelf):
    holed = facts(shelf.open("holed"))
    picked = replace(default(holed), layer=1, head=1, metric="jsd", image=holed.image_ids[0])
    table, patterns, name, said = head_card.draw(holed, picked)
    assert name == "L1·H1"
    assert said.startswith("JSD: no place, of ")
    assert "'–'" in str(table)
    assert "–" in str(patterns)


def test_damage_of_one_quantity_is_told_in_its_row(tmp_path: Path):
    compute(tmp_path / "hurt", tiny_study(images=4, labelled=4, unit_images=4))
    path = tmp_path / "hurt" / "attempt-1" / "entropy" / "c.0.0.0"
    path.write_bytes(path.read_bytes()[:-3])
    of = facts(Shelf(tmp_path).open("hurt"))
    rows = by_label(of, default(of))
    assert "verify hurt" in rows["Entropy"].why
    assert rows["JSD"].why == ""
    with pytest.raises(DamagedError):
        of.study.read("entropy")


# --- patterns ---


def test_a_pattern_is_said_with_its_score_and_how_often_the_head_has_it():
    name, score, share = Named("self", 0.931, 0.98).said()
    assert (name.children, score) == ("self", " 0.931 ·")
    first, more = share.children
    assert first + more.children == " 98\u202f% of images"
    assert Named(None, NAN, 0.4).said()[0].children == "mixed"


@pytest.mark.parametrize("part", MAPS)
def test_shares_are_over_the_images_of_the_set(known: StudyFacts, chosen: Selection, part: str):
    study, inside = known.study, in_set(known)
    names = study.read(MAPS[part].pattern)[:, 1, 0]
    words = [*map(str, study.read(MAPS[part].patterns))]
    for images, there in (("", np.full(len(names), True)), (IN_SET, inside)):
        here = Named.of(known, replace(chosen, images=images), MAPS[part])
        own = names[2]
        assert here.name == (words[own] if own >= 0 else None)
        assert here.share == pytest.approx((names[there] == own).mean())
        most = Named.of(known, replace(chosen, images=images, image=None), MAPS[part])
        counts = np.bincount(names[there] + 1)
        assert most.share == pytest.approx(counts.max() / there.sum())
        assert np.isnan(most.score)


def test_of_a_set_of_no_images_there_are_dashes(known: StudyFacts, chosen: Selection):
    nobody = replace(chosen, images="p:2..3", image=None)
    table, patterns, _, said = head_card.draw(known, nobody)
    assert said.startswith("JSD: no place, of ")
    assert str(patterns).count(" –") == 2
    assert "'–'" in str(table)


def test_what_a_study_lacks_of_patterns_says_why(shelf: Shelf):
    for name, why in (("no-maps", "left out with --skip patterns"), ("no-cls", "the model has no class token")):
        of = facts(shelf.open(name))
        assert why in str(head_card.draw(of, default(of))[1])


# --- what leaves ---


@pytest.mark.parametrize("name", ["demo", "no-maps", "no-cls", "holed"])
@pytest.mark.parametrize("with_image", [False, True])
def test_the_python_lines_give_the_numbers_of_the_table(
    shelf: Shelf, name: str, with_image: bool, monkeypatch: pytest.MonkeyPatch
):
    of = facts(shelf.open(name))
    images = IN_SET if of.has_labels else ""
    picked = replace(default(of), layer=1, head=1, images=images, image=of.image_ids[0] if with_image else None)
    columns = head_card.numbers(of, picked)
    monkeypatch.setattr("headscope.open_study", shelf.open)
    scope: dict[str, Any] = {}
    exec(head_card.python(of, picked), scope)
    assert set(scope["numbers"]) == set(columns)
    assert scope["numbers"].pop("quantity") == columns["quantity"]
    for column, values in scope["numbers"].items():
        np.testing.assert_allclose(values, columns[column], rtol=1e-5, atol=1e-7, err_msg=column)
    assert len(head_card.figure(of, picked).data[0].cells.values) == len(columns)
