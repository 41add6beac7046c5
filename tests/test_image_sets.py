"""Which images a set has: the text and the conditions are one thing, and every view follows the same images."""

from pathlib import Path

import numpy as np
import pytest

from dashboard.data import Shelf, StudyFacts, facts, indices_of, members, predictions, strength_mean, summary, table
from dashboard.image_sets import (
    MOST_CORNERS,
    Classes,
    Entropy,
    Ids,
    Lasso,
    Prediction,
    Probability,
    conditions_of,
    corners_of,
    text_of,
    with_class,
    with_condition,
    without,
)
from tests.studies import write_tiny_study

EVERY = (
    Classes((88, 281)),
    Prediction(False),
    Probability(0.2, 0.6),
    Ids("a;b:c %20/ü日"),
    Lasso("jsd", ((1.5, 2.0), (3.0, -2e-5), (3.0, 4.0))),
    Entropy(3, 2, 0.1, 0.3),
)


def test_a_set_is_its_text_and_its_text_the_set():
    assert conditions_of(text_of(EVERY)) == EVERY
    for condition in EVERY:
        assert conditions_of(text_of([condition])) == (condition,)
    assert conditions_of("") == ()


@pytest.mark.parametrize(
    "odd",
    [
        *("x", "class", "class:", "class:-1", "class:1.5", "class:1,", "class:99999999999", "p:", "p:0.2", "p:a..b"),
        *("p:nan..1", "prediction:maybe", "id:", "lasso:", "lasso:jsd", "lasso:jsd:1,2", "lasso:jsd:1,2,3,4,5"),
        *("entropy:1:0..1", "entropy:1.2:", "entropy:a.b:0..1", ";", "class:1;", "p:0..1;;p:0..1", "id:" + "x" * 5000),
        "lasso:jsd:" + ",".join(["1"] * 2 * (MOST_CORNERS + 1)),
    ],
)
def test_what_is_no_set_is_refused(odd: str):
    with pytest.raises(ValueError, match=r"should|is no condition|a lasso has|letters"):
        conditions_of(odd)


def test_a_condition_takes_the_place_of_the_one_of_its_kind_and_of_its_head():
    text = with_condition("p:0..0.5;class:1", Probability(0.5, 1))
    assert text == "p:0.5..1;class:1"
    text = with_condition(with_condition(text, Entropy(0, 1, 0, 0.5)), Entropy(1, 1, 0, 0.5))
    assert with_condition(text, Entropy(0, 1, 0.2, 0.5)) == "p:0.5..1;class:1;entropy:0.1:0.2..0.5;entropy:1.1:0..0.5"
    assert without(text, "entropy:0.1") == "p:0.5..1;class:1;entropy:1.1:0..0.5"
    assert without(text, "id") == text


def test_a_class_is_toggled():
    assert with_class("", 3) == "class:3"
    assert with_class("class:3;prediction:wrong", 5) == "class:3,5;prediction:wrong"
    assert with_class("class:3,5;prediction:wrong", 3) == "class:5;prediction:wrong"
    assert with_class("class:5;prediction:wrong", 5) == "prediction:wrong"


def test_a_drawn_lasso_keeps_its_shape_with_few_corners():
    turn = np.linspace(0, 2 * np.pi, 2000)
    circle = np.stack([3 + 10 * np.cos(turn), -2 + 10 * np.sin(turn)], axis=1)
    corners = np.array(corners_of(circle.ravel().tolist()))
    assert 8 <= len(corners) <= MOST_CORNERS
    assert np.abs(np.hypot(*(corners - [3, -2]).T) - 10).max() < 1e-6
    assert corners_of([0, 0, 1, 0, 1, 1]) == ((0, 0), (1, 0), (1, 1))


@pytest.mark.parametrize(
    "odd", [[], [1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 1, 0, 1, "1"], [0, 0, 1, 0, 1, float("nan")]]
)
def test_what_is_no_lasso_has_no_corners(odd: list[object]):
    assert corners_of(odd) == ()


# --- which images ---


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> StudyFacts:
    folder = tmp_path_factory.mktemp("data")
    write_tiny_study(folder / "studies" / "tiny", images=30, labelled=25)
    return facts(Shelf(folder / "studies").open("tiny"))


def test_no_condition_is_all_images(known: StudyFacts):
    assert members(known.study, "") is None
    assert indices_of(known.study, "").tolist() == list(range(30))


def test_each_condition_has_the_images_that_it_says(known: StudyFacts):
    study = known.study
    label, probability = study.read("label"), study.read("probability")
    first, xy = probability.argmax(axis=1), study.read("image_layout", 0)
    middle = np.median(xy, axis=0)
    square = [(-1e3, -1e3), (middle[0], -1e3), (middle[0], 1e3), (-1e3, 1e3)]
    entropy = study.read("entropy")[:, 1, 0]
    low, high = sorted(float(f"{value:.4g}") for value in np.quantile(entropy, [0.2, 0.7]))
    target = probability[np.arange(30), study.read("target")]
    expected = {
        Classes((0, 2)): np.isin(label, [0, 2]),
        Prediction(True): (label == first) & (label >= 0),
        Prediction(False): (label != first) & (label >= 0),
        Probability(0.0, 0.3): target <= 0.3,
        Ids("1"): np.array(["1" in image for image in known.image_ids]),
        Lasso(study.vectors[0], tuple(square)): xy[:, 0] < middle[0],
        Entropy(1, 0, low, high): (entropy >= low * 0.9995) & (entropy <= high * 1.0005),
    }
    for condition, inside in expected.items():
        found = members(study, text_of([condition]))
        assert found is not None and found.tolist() == inside.tolist(), condition
        assert 0 < inside.sum() < 30, condition


def test_all_conditions_of_a_set_hold(known: StudyFacts):
    each = [members(known.study, text) for text in ("class:0,1,2", "prediction:wrong")]
    both = members(known.study, "class:0,1,2;prediction:wrong")
    assert both is not None and both.tolist() == np.logical_and(*each).tolist()


def test_a_lasso_that_crosses_itself_has_what_lies_inside(known: StudyFacts):
    xy = known.study.read("image_layout", 0)
    middle, size = xy.mean(axis=0), float(np.abs(xy - xy.mean(axis=0)).max()) * 1.1
    x, y = map(float, middle)
    bow = ((x - size, y - size), (x + size, y + size), (x + size, y - size), (x - size, y + size))
    inside = members(known.study, text_of([Lasso(known.study.vectors[0], bow)]))
    across, along = np.abs(xy - middle).T
    clear = np.abs(across - along) > 0.01 * size  # not on its edge
    assert inside is not None
    assert (inside == (along < across))[clear].all()
    assert 0 < inside.sum() < len(inside)


# --- numbers of a set ---


@pytest.mark.parametrize("name", ["entropy", "pruned_probability", "object_auc"])
def test_mean_and_deviation_of_a_set_are_numpys(known: StudyFacts, name: str):
    inside = indices_of(known.study, "class:0,1")
    values = known.study.read(name)[inside].astype(np.float64)
    found = summary(known.study, name, None, "class:0,1")
    np.testing.assert_allclose(found.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, np.nanstd(values, axis=0), rtol=1e-9)
    assert (found.counted == np.isfinite(values).sum(axis=0)).all()


def test_importance_of_a_set_is_of_its_metric(known: StudyFacts):
    inside = indices_of(known.study, "prediction:wrong")
    values = known.study.read("importance", known.study.metric_index("jsd"))[inside].astype(np.float64)
    np.testing.assert_allclose(summary(known.study, "importance", "jsd", "prediction:wrong").mean, values.mean(axis=0))
    assert (table(known.study, "importance", "jsd")[inside] == values.astype(np.float32)).all()


def test_strength_of_a_set_is_the_mean_of_its_images(known: StudyFacts):
    inside = indices_of(known.study, "class:1")
    expected = known.study.read("strength")[inside].astype(np.float64)
    np.testing.assert_allclose(strength_mean(known.study, "class:1"), np.nanmean(expected, axis=0), rtol=1e-12)


def test_a_set_without_images_has_no_numbers(known: StudyFacts):
    nobody = "id:nobody"
    assert len(indices_of(known.study, nobody)) == 0
    assert np.isnan(summary(known.study, "entropy", None, nobody).mean).all()
    assert (summary(known.study, "entropy", None, nobody).counted == 0).all()
    assert np.isnan(strength_mean(known.study, nobody)).all()


def test_a_prediction_that_is_no_number_is_neither_right_nor_wrong(known: StudyFacts):
    told = predictions(known.study)
    both = [members(known.study, f"prediction:{verdict}") for verdict in ("right", "wrong")]
    assert (np.logical_or(*both) == ((told.label >= 0) & (told.predicted >= 0))).all()


def test_what_a_set_gives_is_kept_and_read_only(known: StudyFacts):
    assert members(known.study, "class:1") is members(known.study, "class:1")
    with pytest.raises(ValueError, match="read-only"):
        members(known.study, "class:1")[0] = True


def test_the_first_image_is_the_most_typical_and_the_head_its_most_important(known: StudyFacts, tmp_path: Path):
    effect = known.study.read("importance", 0).astype(np.float64)
    vectors = effect.reshape(len(effect), -1)
    apart = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    right = predictions(known.study).right
    apart[~right] = np.inf
    layer, head, image = known.interesting
    assert image == known.image_ids[int(apart.argmin())]
    assert (layer, head) == np.unravel_index(effect[apart.argmin()].argmax(), effect[0].shape)
